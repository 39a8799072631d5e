//! The answer of an agent as clients of models read it, from the output of its plan and the metadata of the output.

use phoenix_domain::{
    PlanId,
    action::finish_reason,
    json::{Json, Object},
};
use phoenix_proto::{action::json_object, common::ActionOutput, planner::PlanAndExecuteResponse};
use serde::Serialize;
use utoipa::ToSchema;

/// Members of an assistant's message that an agent adds to its text in `metadata.message`.
const MEMBERS: [&str; 6] =
    ["tool_calls", "refusal", "reasoning_content", "reasoning_details", "thinking_blocks", "annotations"];

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// Plan that produced it.
    pub(crate) plan_id: PlanId,
    /// `provider/model`, or the agent that answered.
    pub(crate) model: String,
    /// Text; empty when the answer is nothing but tool calls.
    pub(crate) text: String,
    /// What the message has beside its text, in OpenAI's shape.
    pub(crate) members: Object,
    /// Why the answer ended.
    pub(crate) finish: Finish,
    /// Tokens, if the agent reports them.
    pub(crate) usage: Option<Usage>,
}

/// Why an answer ended: a closed set, since clients decode it as one, and the agent's own word if it is none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finish {
    /// `stop`, `length`, `content_filter` or `tool_calls`.
    pub(crate) reason: &'static str,
    /// The agent's own word.
    pub(crate) native: Option<String>,
    /// The word of the model's provider, if the agent passes it on.
    pub(crate) of_provider: Option<String>,
}

/// Tokens of a request and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = CompletionUsage)]
pub(crate) struct Usage {
    /// Tokens of the request.
    pub(crate) prompt_tokens: u64,
    /// Tokens of the answer, reasoning included.
    pub(crate) completion_tokens: u64,
    /// Sum of both.
    total_tokens: u64,
    /// Parts of the request's tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, required = false)]
    prompt_tokens_details: Option<Object>,
    /// Parts of the answer's tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, required = false)]
    completion_tokens_details: Option<Object>,
    /// Cost in US dollars; absent when the price is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, required = false)]
    cost: Option<Json>,
}

impl Answer {
    /// The answer in a planner's response for `plan_id`.
    pub(crate) fn of(plan_id: PlanId, response: PlanAndExecuteResponse) -> Self {
        let PlanAndExecuteResponse { output, agent, finish_reason, metadata_json, .. } = response;
        // An agent may put anything into its metadata.
        let metadata = json_object("metadata_json", &metadata_json).unwrap_or_default();
        let message = metadata.get("message").and_then(Json::as_object);
        let members = message.into_iter().flatten().filter(|(name, value)| {
            MEMBERS.contains(&name.as_str()) && !value.is_null() && value.as_array() != Some(&[])
        });
        let members: Object = members.map(|(name, value)| (name.clone(), value.clone())).collect();
        let calls_tools = members.contains_key("tool_calls");
        let word = |name: &str| metadata.get(name).and_then(Json::as_str);
        let model = match (word("provider"), word("model")) {
            (Some(provider), Some(model)) => format!("{provider}/{model}"),
            (None, Some(model)) => model.to_owned(),
            (_, None) => agent,
        };
        let finish = Finish::of(finish_reason, word("finish_reason"), calls_tools);
        Self { plan_id, model, text: output, members, finish, usage: Usage::of(&metadata) }
    }

    /// The answer in the output of the task of `agent`.
    pub(crate) fn of_output(plan_id: PlanId, agent: String, output: ActionOutput) -> Self {
        let ActionOutput { output_type: _, data_json, metadata_json } = output;
        let metadata = json_object("metadata_json", &metadata_json).unwrap_or_default();
        let text = Json::parse_stored(&data_json).map_or(data_json, |data| data.to_text());
        let finish_reason = finish_reason(&metadata);
        let response = PlanAndExecuteResponse {
            output: text,
            agent,
            finish_reason,
            metadata_json,
            ..Default::default()
        };
        Self::of(plan_id, response)
    }

    /// A member of the message, unless it has none.
    pub(crate) fn member(&self, name: &str) -> Option<&Json> {
        self.members.get(name)
    }

    /// The tool calls of the message.
    pub(crate) fn tool_calls(&self) -> &[Json] {
        self.member("tool_calls").and_then(Json::as_array).unwrap_or_default()
    }
}

/// When a plan was accepted, in seconds since 1970: the time in its id, so that a replayed answer has the same.
pub(crate) fn created(plan_id: PlanId) -> u64 {
    plan_id.as_uuid().get_timestamp().map_or(0, |at| at.to_unix().0)
}

impl Finish {
    fn of(reason: Option<String>, of_provider: Option<&str>, calls_tools: bool) -> Self {
        let known = ["length", "content_filter"].into_iter().find(|known| reason.as_deref() == Some(known));
        let of_provider = of_provider.map(str::to_owned);
        match (known, calls_tools) {
            (Some(reason), _) => Self { reason, native: None, of_provider },
            (None, true) => Self { reason: "tool_calls", native: None, of_provider },
            (None, false) => Self { reason: "stop", native: reason, of_provider },
        }
    }
}

impl Usage {
    /// The usage in an output's metadata.
    fn of(metadata: &Object) -> Option<Self> {
        let usage = metadata.get("usage")?;
        let count = |name: &str| count(Some(&usage[name]));
        let (input, output) = (count("input_tokens"), count("output_tokens"));
        if input.is_none() && output.is_none() {
            return None;
        }
        let (prompt_tokens, completion_tokens) = (input.unwrap_or(0), output.unwrap_or(0));
        let part =
            |name: &str, of: &str| Some(Object::from_iter([(name.to_owned(), Json::from(count(of)?))]));
        Some(Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: part("cached_tokens", "cached_input_tokens"),
            completion_tokens_details: part("reasoning_tokens", "reasoning_tokens"),
            cost: metadata.get("cost_usd").filter(|cost| cost.as_f64().is_some()).cloned(),
        })
    }

    /// Tokens of the answer that are reasoning.
    pub(crate) fn reasoning_tokens(&self) -> u64 {
        let details = self.completion_tokens_details.as_ref();
        count(details.and_then(|details| details.get("reasoning_tokens"))).unwrap_or(0)
    }

    /// Tokens of the request that were read from a cache.
    pub(crate) fn cached_tokens(&self) -> u64 {
        count(self.prompt_tokens_details.as_ref().and_then(|details| details.get("cached_tokens")))
            .unwrap_or(0)
    }
}

/// A number of tokens.
fn count(value: Option<&Json>) -> Option<u64> {
    let Some(Json::Number(number)) = value else { return None };
    number.as_str().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(metadata: &str, finish_reason: Option<&str>) -> Answer {
        let response = PlanAndExecuteResponse {
            output: "hi".into(),
            agent: "git_agent".into(),
            finish_reason: finish_reason.map(str::to_owned),
            metadata_json: metadata.into(),
            ..Default::default()
        };
        Answer::of(PlanId::generate(), response)
    }

    #[test]
    fn answer_without_metadata_is_complete_and_of_the_agent() {
        for metadata in ["", "{}", r#"{"message":"note","usage":7,"model":3}"#] {
            let answer = answer(metadata, None);
            assert_eq!((answer.model.as_str(), answer.finish.reason), ("git_agent", "stop"), "{metadata}");
            assert_eq!((answer.members, answer.usage), (Object::new(), None), "{metadata}");
        }
    }

    #[test]
    fn usage_counts_cached_and_reasoning_tokens_and_cost() {
        let metadata = r#"{"provider":"openai","model":"m","usage":{"input_tokens":5,"output_tokens":7,
            "cached_input_tokens":2,"reasoning_tokens":3},"cost_usd":0.00010}"#;
        let answer = answer(metadata, None);
        assert_eq!(answer.model, "openai/m");
        assert_eq!(
            serde_json::to_string(&answer.usage).unwrap(),
            r#"{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":2},"completion_tokens_details":{"reasoning_tokens":3},"cost":0.00010}"#
        );
        let partial = super::Usage::of(&Object::parse(r#"{"usage":{"output_tokens":7}}"#).unwrap()).unwrap();
        assert_eq!((partial.prompt_tokens, partial.total_tokens), (0, 7));
    }

    #[test]
    fn finish_reason_is_one_that_clients_know() {
        let calls = r#"{"message":{"role":"assistant","tool_calls":[{"id":"c"}],"other":1}}"#;
        for (metadata, reason, finish, native) in [
            ("", Some("length"), "length", None),
            ("", Some("content_filter"), "content_filter", None),
            ("", Some("paused"), "stop", Some("paused")),
            (calls, Some("tool_use"), "tool_calls", None),
            (calls, Some("length"), "length", None),
            (r#"{"message":{"tool_calls":[]}}"#, None, "stop", None),
        ] {
            let finish_of = answer(metadata, reason).finish;
            assert_eq!(
                (finish_of.reason, finish_of.native.as_deref()),
                (finish, native),
                "{metadata} {reason:?}"
            );
        }
        assert_eq!(answer(calls, None).members.to_string(), r#"{"tool_calls":[{"id":"c"}]}"#);
    }

    #[test]
    fn creation_time_is_that_of_the_plan() {
        let plan_id: PlanId = "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f".parse().unwrap();
        assert_eq!(created(plan_id), 0x0190_a6c1_5b0e / 1000);
    }
}
