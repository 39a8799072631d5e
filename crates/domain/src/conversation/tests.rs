use serde_json::json;

use super::*;
use crate::limits::MAX_CONTEXT_BYTES;

fn conversation(messages: serde_json::Value) -> Result<Conversation, OrchestratorError> {
    Conversation::new(messages.into(), Json::Null, Json::Null)
}

#[test]
fn last_user_message_is_the_message_and_the_rest_is_context() {
    let conversation = conversation(json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Bonn\"}"}}
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "assistant", "content": "Rain."},
        {"role": "user", "content": [
            {"type": "text", "text": "and here?"}, {"type": "image_url", "image_url": {"url": "data:,x"}}, {"type": "file"}
        ]},
    ]))
    .unwrap();
    assert_eq!(conversation.message().unwrap(), "and here?\n[image]\n[file]");
    assert_eq!(
        conversation.context(),
        "system: be brief\n\nuser: weather?\n\nassistant: [calls weather with {\"city\":\"Bonn\"}]\n\ntool: rain\n\n\
         assistant: Rain."
    );
}

#[test]
fn tool_results_after_the_last_user_message_are_context() {
    let conversation = conversation(json!([
        {"role": "user", "content": "weather?"},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]))
    .unwrap();
    assert_eq!(
        (conversation.message().unwrap(), conversation.context()),
        ("weather?".into(), "tool: rain".into())
    );
}

#[test]
fn invalid_member_of_a_conversation_is_named() {
    let deep =
        serde_json::from_str::<serde_json::Value>(&format!("{}{}", "[".repeat(63), "]".repeat(63))).unwrap();
    for (messages, field) in [
        (json!("hi"), "messages"),
        (json!([]), "messages"),
        (json!([1]), "messages[0]"),
        (json!([{"role": "user", "content": "a"}, {"content": "a"}]), "messages[1].role"),
        (json!([{"role": "robot", "content": "a"}]), "messages[0].role"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "user", "content": 7}]), "messages[0].content"),
        (json!([{"role": "user", "content": " \n"}]), "messages[0].content"),
        (json!([{"role": "user", "content": []}]), "messages[0].content"),
        (json!([{"role": "user", "content": [{"text": "a"}]}]), "messages[0].content[0].type"),
        (json!([{"role": "user", "content": ["a"]}]), "messages[0].content[0].type"),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "a"}]}]),
            "messages[0].content[1].image_url.url",
        ),
        (json!([{"role": "tool", "content": "a"}]), "messages[0].tool_call_id"),
        (json!([{"role": "assistant", "tool_calls": {}}]), "messages[0].tool_calls"),
        (json!([{"role": "assistant", "tool_calls": ["a"]}]), "messages[0].tool_calls[0]"),
        (json!([{"role": "user", "content": "a", "extra": deep}]), "messages[0]"),
        (json!([{"role": "user", "content": "x".repeat(MAX_CONVERSATION_BYTES)}]), "messages"),
        (json!(vec![json!({"role": "user", "content": "a"}); MAX_CONVERSATION_MESSAGES + 1]), "messages"),
    ] {
        let error = conversation(messages).unwrap_err();
        assert_eq!(error.details["field"], field, "{error}");
    }
    for (model, options, field) in [
        (json!(" "), json!(null), "model"),
        (json!(5), json!(null), "model"),
        (json!("m".repeat(MAX_MODEL_BYTES + 1)), json!(null), "model"),
        (json!(null), json!([]), "options"),
        (json!(null), json!({"x": "x".repeat(MAX_CONVERSATION_BYTES)}), "options"),
    ] {
        let error = Conversation::new(Json::Null, model.into(), options.into()).unwrap_err();
        assert_eq!(error.details["field"], field, "{error}");
    }
}

#[test]
fn transcript_keeps_the_latest_messages_that_fit() {
    let long = "x".repeat(MAX_CONTEXT_BYTES / 2 - 100);
    let conversation = conversation(json!([
        {"role": "user", "content": format!("first{long}")},
        {"role": "assistant", "content": format!("second{long}")},
        {"role": "user", "content": format!("third{long}")},
        {"role": "user", "content": "last"},
    ]))
    .unwrap();
    let context = conversation.context();
    assert!(context.len() <= MAX_CONTEXT_BYTES, "{}", context.len());
    assert!(
        context.starts_with("[earlier messages are left out]\n\nassistant: second"),
        "{}",
        &context[..80]
    );
    assert!(context.contains("third") && !context.contains("first"));
}

#[test]
fn members_are_read_back_with_their_digits_and_order() {
    let text = r#"{"messages":[{"role":"user","content":"a","name":"z"}],"model":"ollama/a:b","options":{"top_p":0.10,"seed":12345678901234567890123}}"#;
    let mut object = Object::parse(text).unwrap();
    let conversation = Conversation::take_from(&mut object).unwrap();
    assert!(object.is_empty() && !conversation.is_empty());
    assert_eq!(conversation.into_members().to_string(), text);
    assert!(Conversation::default().is_empty() && Conversation::default().into_members().is_empty());
}

#[test]
fn images_have_a_limit_of_their_own() {
    let image = |bytes: usize| {
        let url = format!("data:{}", "x".repeat(bytes));
        json!([{"role": "user", "content": [
            {"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": url}},
        ]}])
    };
    let new = |messages| Conversation::new(Json::from(messages), Json::Null, Json::Null);
    assert!(new(image(MAX_CONVERSATION_FILE_BYTES - "data:".len())).is_ok());
    let error = new(image(MAX_CONVERSATION_FILE_BYTES)).unwrap_err();
    assert_eq!(error.details["field"], "messages");
    assert!(error.message.contains("2097157 bytes of files and images"), "{error}");
}
