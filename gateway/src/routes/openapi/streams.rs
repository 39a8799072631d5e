//! Schemas of streams of server-sent events.

use serde_json::{Value, json};
use utoipa::openapi::{
    ContentBuilder, ObjectBuilder, RefOr, Response, ResponseBuilder, Schema,
    extensions::Extensions,
    path::Operation,
    schema::{SchemaType, Type},
};

use crate::{
    routes::{
        anthropic::messages::PATH as MESSAGES, openai::completions::PATH as COMPLETIONS,
        responses::create::PATH as RESPONSES,
    },
    wire::{
        chat::RESPONSE,
        event::{KINDS, LIVE_KINDS},
    },
};

const EVENT_STREAM: &str = "text/event-stream";

/// Adds the stream of events to operations that respond with one.
pub(super) fn add(path: &str, operation: &mut Operation) {
    let (events, description) = match path {
        "/api/v1/plans/{plan_id}/events" => (plan_events(false), "The events"),
        "/api/v1/chat" => (plan_events(true), "The agent's answer"),
        COMPLETIONS => (ContentBuilder::new().schema(Some(chunks())), "The answer"),
        RESPONSES => (ContentBuilder::new().schema(Some(response_events())), "The response"),
        MESSAGES => (ContentBuilder::new().schema(Some(message_events())), "The answer"),
        _ => return,
    };
    let response = operation.responses.responses.entry("200".to_owned());
    let response =
        response.or_insert_with(|| RefOr::T(ResponseBuilder::new().description(description).build()));
    if let RefOr::T(Response { content, .. }) = response {
        content.insert(EVENT_STREAM.to_owned(), events.build().into());
    }
}

fn plan_events(answers: bool) -> ContentBuilder {
    ContentBuilder::new().schema(Some(schema(answers))).extensions(Some(names(answers)))
}

/// The chunks of a completion, as events without a name.
fn chunks() -> Schema {
    answer_events(
        ["ChatCompletionChunk", "OpenAiError"],
        "With `stream`: server-sent events whose `data` is a `ChatCompletionChunk`. The last one is `[DONE]`, or an \
         `OpenAiError` when the answer breaks off. Comments keep the stream open.",
    )
}

/// The events of a message. Their name is their type.
fn message_events() -> Schema {
    answer_events(
        ["MessageEvent", "AnthropicError"],
        "With `stream`: server-sent events whose `data` is a `MessageEvent`, and whose name is its type. The last one is \
         `message_stop`, or `error` with an `AnthropicError` when the answer breaks off. Comments keep the stream open.",
    )
}

/// The events of a response. Their name is their type.
fn response_events() -> Schema {
    answer_events(
        ["ResponseEvent", "OpenAiError"],
        "With `stream`: server-sent events whose `data` is a `ResponseEvent`, and whose name is its type. The last one is \
         `response.completed`, `response.incomplete`, or `response.failed` after `error`. Comments keep the stream open.",
    )
}

/// A stream whose events carry one of `schemas`.
fn answer_events(schemas: [&str; 2], description: &str) -> Schema {
    let data = json!({"anyOf": schemas.map(reference)});
    let content = [("contentMediaType", json!("application/json")), ("contentSchema", data)];
    let payload =
        ObjectBuilder::new().schema_type(Type::String).extensions(Some(Extensions::from_iter(content)));
    ObjectBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::String, Type::Object]))
        .description(Some(description))
        .property("data", payload)
        .into()
}

/// The stream is a string of events, whose `data` is JSON.
fn schema(answers: bool) -> Schema {
    let schemas: &[&str] = if answers {
        &["PlanEventV1", "LiveEventV1", "ChatResponseV1"]
    } else {
        &["PlanEventV1", "LiveEventV1"]
    };
    let data = json!({"anyOf": schemas.iter().map(|schema| reference(schema)).collect::<Vec<_>>()});
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let content = [("contentMediaType", json!("application/json")), ("contentSchema", data)];
    let payload = text().description(Some("JSON.")).extensions(Some(Extensions::from_iter(content)));
    ObjectBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::String, Type::Object]))
        .description(Some(
            "Text: server-sent events, as in <https://html.spec.whatwg.org/multipage/server-sent-events.html>. Each has a \
             name (`event`) and a JSON value (`data`); `x-events` lists both. Comments keep the stream open.",
        ))
        .property("event", text().description(Some("Kind of the event.")))
        .property("id", text().description(Some("Journal position; `response`, `output`, `output_reset` and `progress` have none.")))
        .property("data", payload)
        .into()
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// Schema of the data of each event, by name.
fn names(answers: bool) -> Extensions {
    let mut events: serde_json::Map<String, Value> =
        KINDS.iter().map(|kind| ((*kind).to_owned(), reference("PlanEventV1"))).collect();
    events.extend(LIVE_KINDS.iter().map(|kind| ((*kind).to_owned(), reference("LiveEventV1"))));
    if answers {
        events.insert(RESPONSE.to_owned(), reference("ChatResponseV1"));
    }
    Extensions::from_iter([("x-events", Value::Object(events))])
}
