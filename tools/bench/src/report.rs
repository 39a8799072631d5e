//! The result of a benchmark, as Markdown for people and as JSON for programs.

use std::{fmt, fs, thread};

use serde::Serialize;

use crate::{
    goals::{self, Goal, megabytes},
    measure::{
        CALLERS, CEILING_CONCURRENCY, Chats, Crowd, InFlight, Lookup, Mcp, Measured, Million, Models,
        PARALLEL, Postgres, RATE, Sample, Start, WAIT, Watchers,
    },
};

/// The result: of each part that was measured. Its JSON keys are stable: new ones may come, none goes or changes its meaning.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: String,
    quick: bool,
    /// Whether data was kept where making it durable costs nothing, so that numbers are too good.
    data_in_memory: bool,
    pub(crate) start: Option<Start>,
    #[serde(flatten)]
    pub(crate) chats: Chats,
    pub(crate) million: Option<Million>,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) watchers: Option<Watchers>,
    pub(crate) models: Option<Models>,
    pub(crate) mcp: Option<Mcp>,
    pub(crate) postgres: Option<Postgres>,
    goals: Vec<Goal>,
}

impl Report {
    /// A report in which nothing has been measured yet.
    pub(crate) fn new(quick: bool, data_in_memory: bool) -> Self {
        Self {
            machine: machine(),
            quick,
            data_in_memory,
            start: None,
            chats: Chats::default(),
            million: None,
            in_flight: None,
            watchers: None,
            models: None,
            mcp: None,
            postgres: None,
            goals: Vec::new(),
        }
    }

    /// Holds what was measured against the goals.
    pub(crate) fn judged(mut self) -> Self {
        self.goals.extend(goals::of_chats(&self.chats));
        self.goals.extend(self.million.iter().flat_map(goals::of_million));
        self.goals.extend(self.in_flight.iter().flat_map(goals::of_in_flight));
        self.goals.extend(self.watchers.iter().flat_map(goals::of_watchers));
        self.goals.extend(self.models.iter().flat_map(goals::of_models));
        self.goals.extend(self.mcp.iter().flat_map(goals::of_mcp));
        self.goals.extend(self.postgres.iter().flat_map(goals::of_postgres));
        self.goals.extend(self.start.iter().flat_map(goals::of_start));
        self
    }

    /// Goals that were missed.
    pub(crate) fn missed(&self) -> usize {
        self.goals.iter().filter(|goal| !goal.met).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extent = if self.quick { " (quick: an estimate, not a result)" } else { "" };
        writeln!(f, "Machine: {}{extent}", self.machine)?;
        if self.data_in_memory {
            writeln!(
                f,
                "The folder for temporary files is in memory, where fsync costs nothing: set TMPDIR."
            )?;
        }
        self.throughput(f)?;
        self.listings(f)?;
        self.crowd(f)?;
        self.models(f)?;
        self.mcp(f)?;
        self.databases(f)?;
        writeln!(f, "\n| goal | measured | wanted | |\n|---|--:|--:|---|")?;
        self.goals.iter().try_for_each(|goal| writeln!(f, "{goal}"))
    }
}

impl Report {
    fn throughput(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chats: Chats { comparisons, disk, spawning }, million, .. } = self;
        if comparisons.is_empty() && spawning.is_none() && million.is_none() {
            return Ok(());
        }
        writeln!(f, "\n| | concurrency | req/s | p50 ms | p99 ms | of the row above |")?;
        writeln!(f, "|---|--:|--:|--:|--:|--:|")?;
        if let Some(disk) = disk {
            sample(f, "append 4 KiB and `fdatasync`, alone", 1, disk, None)?;
        }
        for row in comparisons {
            sample(f, "bare chain", row.concurrency, &row.bare, None)?;
            sample(f, "Phoenix", row.concurrency, &row.phoenix, Some(row.share()))?;
        }
        if let Some(spawning) = spawning {
            let at = CEILING_CONCURRENCY.get();
            sample(f, "`phoenix agent echo` alone", at, &spawning.ceiling, None)?;
            sample(f, "Phoenix, a process per chat", at, &spawning.oneshot, Some(spawning.share()))?;
        }
        if let Some(million) = million {
            sample(f, "Phoenix, empty journal", 64, &million.empty, None)?;
            let full = format!("Phoenix, {} finished plans", million.plans);
            sample(f, &full, 64, &million.full, Some(million.share()))?;
        }
        Ok(())
    }

    fn listings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(million) = &self.million else { return Ok(()) };
        writeln!(f, "\n| `GET /api/v1/plans?status=…`, one at a time | requests | p50 ms | p99 ms |")?;
        writeln!(f, "|---|--:|--:|--:|")?;
        for row in &million.listings {
            let page = if row.later_page { "later pages" } else { "first page" };
            let (status, requests, p50, p99) = (row.status, row.requests, row.p50_ms, row.p99_ms);
            writeln!(f, "| `{status}`, {page} | {requests} | {p50:.2} | {p99:.2} |")?;
        }
        let Lookup { requests, p50_ms, p99_ms } = &million.statistics;
        writeln!(f, "| `GET /api/v1/stats?window=24h` | {requests} | {p50_ms:.2} | {p99_ms:.2} |")?;
        Ok(())
    }

    fn crowd(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(crowd) = &self.in_flight else { return Ok(()) };
        let (planner, executor) = (megabytes(crowd.planner_peak_bytes), megabytes(crowd.executor_peak_bytes));
        writeln!(f, "\n| {} plans in flight at once | |\n|---|--:|", crowd.plans)?;
        writeln!(f, "| all accepted after | {:.1} s |", crowd.accepting_secs)?;
        writeln!(f, "| all ended after another | {:.1} s |", crowd.ending_secs)?;
        writeln!(f, "| longest from acceptance to end | {:.1} s |", crowd.longest_secs)?;
        writeln!(f, "| resident at the peak, planner | {planner:.1} MB |")?;
        writeln!(f, "| resident at the peak, executor | {executor:.1} MB |")
    }
}

impl Report {
    fn models(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Models { direct, phoenix, direct_closed, phoenix_closed, litellm_closed, streams, .. }) =
            &self.models
        else {
            return Ok(());
        };
        writeln!(f, "\n| `/v1/chat/completions` | load | req/s | p50 ms | p99 ms |\n|---|---|--:|--:|--:|")?;
        let (open, closed) = (format!("{RATE} a second"), format!("{CALLERS} callers"));
        let litellm = litellm_closed.as_ref().map(|litellm| ("LiteLLM's proxy", &closed, litellm));
        let rows = [
            ("the upstream alone", &open, direct),
            ("Phoenix", &open, phoenix),
            ("the upstream alone", &closed, direct_closed),
            ("Phoenix", &closed, phoenix_closed),
        ];
        for (what, load, Sample { req_per_sec, p50_ms, p99_ms }) in rows.into_iter().chain(litellm) {
            writeln!(f, "| {what} | {load} | {req_per_sec:.0} | {p50_ms:.2} | {p99_ms:.2} |")?;
        }
        writeln!(f, "\n| streams | |\n|---|--:|")?;
        let (direct, through) = (streams.first_token_direct_ms, streams.first_token_phoenix_ms);
        writeln!(f, "| first token, the upstream alone, p50 | {direct:.2} ms |")?;
        writeln!(f, "| first token, Phoenix, p50 | {through:.2} ms |")?;
        for (what, crowd) in [("", &streams.crowd), (", with a slow reader", &streams.with_slow_reader)] {
            let (Crowd { whole, p50_ms, p99_ms, last_p99_ms }, all) = (crowd, streams.streams);
            writeln!(f, "| {all} at once{what}: whole | {whole} |")?;
            writeln!(
                f,
                "| … delay of a chunk, p50, p99, p99 in the last second | {p50_ms:.1}, {p99_ms:.1}, {last_p99_ms:.1} ms |"
            )?;
        }
        writeln!(
            f,
            "| a worker of the agent, of which each stream occupies one, proportional | {:.1} MB |",
            megabytes(streams.worker_bytes)
        )
    }
}

impl Report {
    fn mcp(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Mcp { direct, phoenix, added_p99_ms, parallel_ms, .. }) = &self.mcp else { return Ok(()) };
        writeln!(
            f,
            "\n| calls of an MCP server's tool, one at a time | calls/s | p50 ms | p99 ms |\n|---|--:|--:|--:|"
        )?;
        for (what, Sample { req_per_sec, p50_ms, p99_ms }) in
            [("the server alone", direct), ("Phoenix", phoenix)]
        {
            writeln!(f, "| {what} | {req_per_sec:.0} | {p50_ms:.2} | {p99_ms:.2} |")?;
        }
        let wait = WAIT.as_millis();
        writeln!(
            f,
            "\nAdded to the p99: {added_p99_ms:.2} ms. {PARALLEL} calls of {wait} ms at once: {parallel_ms:.0} ms."
        )
    }
}

impl Report {
    fn databases(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Postgres { sqlite, postgres, near, far, added_ms, replicas }) = &self.postgres else {
            return Ok(());
        };
        let far_name = format!("… which adds {added_ms:.1} ms to a round trip");
        let sqlite = sqlite.iter().map(|row| ("SQLite", row));
        let postgres = postgres.iter().map(|row| ("PostgreSQL", row));
        let replicas = ("PostgreSQL, two planners and two executors", replicas);
        let network = [("PostgreSQL, through a proxy", near), (&*far_name, far)];
        let rows: Vec<_> = sqlite.chain(postgres).chain([replicas]).chain(network).collect();
        writeln!(f, "\n| | concurrency | req/s | p50 ms | p99 ms | p99 / p50 |\n|---|--:|--:|--:|--:|--:|")?;
        for (what, Measured { concurrency, sample, .. }) in &rows {
            let Sample { req_per_sec, p50_ms, p99_ms } = sample;
            let times = p99_ms / p50_ms;
            writeln!(
                f,
                "| {what} | {concurrency} | {req_per_sec:.0} | {p50_ms:.2} | {p99_ms:.2} | {times:.1} |"
            )?;
        }
        writeln!(
            f,
            "\n| processor time per chat in ms | concurrency | gateway | planner | executor | agents | health | postgres |"
        )?;
        writeln!(f, "|---|--:|--:|--:|--:|--:|--:|--:|")?;
        for (what, Measured { concurrency, cpu_ms: spent, .. }) in &rows {
            let all =
                [spent.gateway, spent.planner, spent.executor, spent.agents, spent.health, spent.postgres];
            let cells = all.map(|ms| format!("{ms:.3}")).join(" | ");
            writeln!(f, "| {what} | {concurrency} | {cells} |")?;
        }
        Ok(())
    }
}

fn sample(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    concurrency: usize,
    sample: &Sample,
    share: Option<f64>,
) -> fmt::Result {
    let Sample { req_per_sec, p50_ms, p99_ms } = sample;
    let share = share.map(|share| format!("{share:.3}")).unwrap_or_default();
    writeln!(f, "| {what} | {concurrency} | {req_per_sec:.0} | {p50_ms:.2} | {p99_ms:.2} | {share} |")
}

/// Processor and cores, as far as they can be found out.
fn machine() -> String {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{cores} × {}", model.map_or(std::env::consts::ARCH, |(_, model)| model.trim()))
}
