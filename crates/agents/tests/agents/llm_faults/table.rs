//! The table of failures in `docs/providers.md`, and whether an upstream's fault has the effects that its row promises.

use std::{any::Any, thread};

use phoenix_agents::{
    ActionResponse,
    llm::{LlmRouter, Proxies},
    serve,
};
use phoenix_domain::{
    FailureClass,
    llm::{LlmSettings, ProviderKind, ProviderSettings},
};
use serde_json::json;

use crate::{llm_answers::settings, provider::Provider, request};

const DOCUMENT: &str = include_str!("../../../../../docs/providers.md");

/// Failures in a row after which a chain passes over a provider.
const FAILURES: usize = 3;

/// Rules of a row that are those of the status of the provider's error.
const OF_STATUS: &str = "as that status";

/// A row of the table.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) fault: String,
    class: String,
    messages: Vec<String>,
    retried: String,
    counts: String,
    passed_over: String,
    elsewhere: String,
    /// Name of its test.
    pub(super) test: String,
}

impl Row {
    pub(super) fn all() -> Vec<Self> {
        let lines = DOCUMENT.lines().skip_while(|line| !line.starts_with("| fault |")).skip(2);
        lines.take_while(|line| line.starts_with('|')).map(Self::parse).collect()
    }

    pub(super) fn of(fault: &str) -> Self {
        let found = Self::all().into_iter().find(|row| row.fault == fault);
        found.unwrap_or_else(|| panic!("docs/providers.md has no row `{fault}`"))
    }

    fn parse(line: &str) -> Self {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [fault, class, message, retried, counts, passed_over, elsewhere, test] = cells[..] else {
            panic!("a row with {} cells: {line}", cells.len())
        };
        Self {
            fault: fault.into(),
            class: class.into(),
            messages: message.split("; ").map(str::to_owned).collect(),
            retried: retried.into(),
            counts: counts.into(),
            passed_over: passed_over.into(),
            elsewhere: elsewhere.into(),
            test: test.trim_matches('`').into(),
        }
    }

    /// Checks that every case has the effects of this row, and that each of its messages occurs.
    pub(super) fn check(&self, cases: Vec<Case>) {
        assert!(!cases.is_empty());
        let said: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = cases.iter().map(|case| scope.spawn(|| self.check_case(case))).collect();
            running.into_iter().map(|case| case.join().unwrap()).collect()
        });
        for message in &self.messages {
            let occurs = said.iter().any(|said| said.contains(message.as_str()));
            assert!(occurs || self.class == "that of the error's own status", "{message}: {said:?}");
        }
    }

    /// Returns what the agent said about the fault.
    fn check_case(&self, case: &Case) -> String {
        let rules = case.rules_of.map_or_else(|| self.clone(), Self::of);
        let failed = case.ask_alone();
        let error = failed.error.clone().unwrap_or_default();
        let what = format!("{}, {case:?}: {} {error}", self.fault, failed.code);

        let class = FailureClass::of_response_code(failed.code);
        let (name, code) = rules.class.split_once(" (").map_or((&*rules.class, None), |(name, code)| {
            (name, code.split_once(')').map(|(code, _)| code.parse::<u16>().unwrap()))
        });
        assert_eq!(name.trim_matches('`'), class.as_str(), "{what}");
        assert!(code.is_none_or(|code| code == failed.code), "{what}");
        assert!(rules.messages.iter().any(|message| error.contains(message.as_str())), "{what}");
        assert_eq!(is_yes(&rules.retried), class.is_retried(), "{what}");
        assert_eq!(is_yes(&rules.counts), class.counts_against_agent(), "{what}");

        let (asked_elsewhere, passed_over) = case.ask_in_a_chain();
        let elsewhere = match &*self.elsewhere {
            "before the first piece" => !case.has_begun,
            OF_STATUS => is_yes(&rules.elsewhere),
            _ => is_yes(&self.elsewhere),
        };
        assert_eq!(asked_elsewhere, elsewhere && !case.has_begun, "asked elsewhere: {what}");
        let expected = match &*rules.passed_over {
            "if it had 10 s" => case.deadline_ms >= 20_000,
            cell => is_yes(cell),
        };
        assert_eq!(passed_over, expected, "passed over: {what}");
        error
    }
}

/// Whether a cell says yes. Every other one says no.
fn is_yes(cell: &str) -> bool {
    let yes = cell.starts_with("yes") || cell == "in its share of the time";
    assert!(yes || cell.starts_with("no"), "a cell must begin with yes or no: {cell}");
    yes
}

/// A chat with an upstream that has a fault.
pub(super) struct Case {
    kind: ProviderKind,
    is_streamed: bool,
    url: String,
    deadline_ms: u64,
    /// Whether a piece of the answer comes before the fault.
    has_begun: bool,
    /// The row whose rules apply.
    rules_of: Option<&'static str>,
    adjust: fn(&mut LlmSettings),
    /// A variable and the proxy that it names.
    proxy: Option<(&'static str, String)>,
    /// Ends on drop.
    _server: Option<Box<dyn Any + Send + Sync>>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, is_streamed, has_begun, url, .. } = self;
        write!(f, "{kind} at {url}, streamed: {is_streamed}, begun: {has_begun}")
    }
}

impl Case {
    /// A chat with the server at `url`.
    pub(super) fn at(kind: ProviderKind, url: impl Into<String>) -> Self {
        Self {
            kind,
            is_streamed: false,
            url: url.into(),
            deadline_ms: 60_000,
            has_begun: false,
            rules_of: None,
            adjust: |_| {},
            proxy: None,
            _server: None,
        }
    }

    /// A chat with `server`, which ends with the case.
    pub(super) fn with(kind: ProviderKind, url: String, server: impl Any + Send + Sync) -> Self {
        Self { _server: Some(Box::new(server)), ..Self::at(kind, url) }
    }

    pub(super) fn streamed(self) -> Self {
        Self { is_streamed: true, ..self }
    }

    pub(super) fn begun(self, has_begun: bool) -> Self {
        Self { has_begun, is_streamed: true, ..self }
    }

    pub(super) fn within(self, deadline_ms: u64) -> Self {
        Self { deadline_ms, ..self }
    }

    pub(super) fn by_the_rules_of(self, fault: &'static str) -> Self {
        Self { rules_of: Some(fault), ..self }
    }

    pub(super) fn adjusted(self, adjust: fn(&mut LlmSettings)) -> Self {
        Self { adjust, ..self }
    }

    pub(super) fn through(self, variable: &'static str, proxy: impl Into<String>) -> Self {
        Self { proxy: Some((variable, proxy.into())), ..self }
    }

    fn settings(&self) -> LlmSettings {
        let mut settings = settings(self.kind, self.url.clone());
        (self.adjust)(&mut settings);
        settings
    }

    /// The failure of a chat without a fallback.
    fn ask_alone(&self) -> ActionResponse {
        let mut answers = self.ask(self.settings(), 1);
        answers.remove(0)
    }

    /// Whether the next model of a chain is asked, and whether the provider is passed over after [`FAILURES`] chats. The next
    /// model fails, too, so that its error names what came before it.
    fn ask_in_a_chain(&self) -> (bool, bool) {
        let next = Provider::answering(503, "{}");
        let mut settings = self.settings();
        let own = ProviderSettings {
            base_url: Some(next.url("/v1")),
            model_name: Some("next".into()),
            ..ProviderSettings::default()
        };
        settings.providers.insert("next".into(), own);
        settings.fallback = vec!["next/next".into()];
        let mut answers = self.ask(settings, FAILURES + 1);
        let first = answers.remove(0);
        let was_asked = first.error.unwrap_or_default().starts_with("next failed (503); before it failed");
        let last = answers.pop().and_then(|last| last.error).unwrap_or_default();
        (was_asked, last.contains("was passed over"))
    }

    /// What one process answers to this many chats, one after the other.
    fn ask(&self, settings: LlmSettings, chats: usize) -> Vec<ActionResponse> {
        let lines: Vec<u8> = (0..chats).flat_map(|_| self.line()).collect();
        let proxies = Proxies::from_lookup(|name| {
            self.proxy.as_ref().filter(|(variable, _)| *variable == name).map(|(_, proxy)| proxy.clone())
        });
        let mut written = Vec::new();
        serve(LlmRouter::with_proxies(settings, proxies), &*lines, &mut written).unwrap();
        let lines = written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let is_chunk = |line: &&[u8]| line.starts_with(b"{\"type\":");
        let answers: Vec<ActionResponse> =
            lines.filter(|line| !is_chunk(line)).map(|line| serde_json::from_slice(line).unwrap()).collect();
        assert_eq!(answers.len(), chats, "{self:?}");
        answers
    }

    fn line(&self) -> Vec<u8> {
        let mut request = request("chat", json!({"message": "m"}));
        request.meta.stream = self.is_streamed;
        request.meta.deadline_ms = self.deadline_ms;
        let mut line = serde_json::to_vec(&request).unwrap();
        line.push(b'\n');
        line
    }
}
