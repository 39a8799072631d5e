//! Results of `tools/call`.

use phoenix_domain::{
    FailureClass,
    action::ActionResult,
    json::{Json, Object},
    limits::MAX_DEPTH,
};

use super::{
    message::{INVALID_PARAMS, METHOD_NOT_FOUND, RESOURCE_NOT_FOUND, RpcError},
    tools::Tool,
};
use crate::{
    failure::{AttemptFailure, truncate_message},
    redact::Redactor,
};

/// The result of the task whose call of `tool` returned `result`: its structured content, or its texts as one text. Content of
/// other kinds is passed on in the metadata.
///
/// # Errors
/// `invalid_request` for a result that is an error, `backend_failure` for one that is not valid.
pub(super) fn read(result: Json, tool: &Tool, redactor: &Redactor) -> Result<ActionResult, AttemptFailure> {
    let Json::Object(mut result) = result else {
        return Err(broken("answered a call with a result that is no object"));
    };
    let content = match result.shift_remove("content") {
        Some(Json::Array(content)) => content,
        None | Some(Json::Null) => Vec::new(),
        Some(_) => return Err(broken("answered a call with `content` that is no list")),
    };
    let (mut texts, mut others) = (Vec::new(), Vec::new());
    for item in content {
        match text_of(&item) {
            Some(text) => texts.push(text.to_owned()),
            None => others.push(item),
        }
    }
    let text = texts.join("\n");
    if result.get("isError").is_some_and(|is_error| *is_error == true) {
        let text = truncate_message(&redactor.clean(&*text));
        let text = if text.is_empty() { "an error without a text" } else { &text };
        return Err(AttemptFailure::new(FailureClass::InvalidRequest, format!("answered: {text}")));
    }
    let mut metadata = Object::new();
    if !others.is_empty() {
        metadata.insert("content".into(), Json::Array(others));
    }
    let data = match result.shift_remove("structuredContent") {
        Some(Json::Object(mut wrapped)) if tool.wraps_result && wrapped.contains_key("result") => {
            wrapped.shift_remove("result").unwrap_or_default()
        }
        None | Some(Json::Null) => Json::String(text),
        Some(structured) => structured,
    };
    let depth = data.depth().max(metadata.depth());
    if depth > MAX_DEPTH {
        return Err(broken(&format!(
            "answered with a result that is nested {depth} levels deep; at most {MAX_DEPTH} are allowed"
        )));
    }
    let output_type = if matches!(data, Json::String(_)) { "text" } else { "json" };
    Ok(ActionResult { output_type: output_type.into(), data, metadata })
}

/// The text of an item of content.
fn text_of(item: &Json) -> Option<&str> {
    match item["type"].as_str()? {
        "text" => item["text"].as_str(),
        "resource" => item["resource"]["text"].as_str(),
        _ => None,
    }
}

/// The failure behind an error that the server responds with.
pub(super) fn failure(error: &RpcError, redactor: &Redactor) -> AttemptFailure {
    let class = match error.code {
        INVALID_PARAMS | RESOURCE_NOT_FOUND => FailureClass::InvalidRequest,
        METHOD_NOT_FOUND => FailureClass::ActionNotSupported,
        _ => FailureClass::BackendFailure,
    };
    let message = truncate_message(&redactor.clean(&*error.message));
    AttemptFailure::new(class, format!("answered: {message}"))
}

fn broken(description: &str) -> AttemptFailure {
    AttemptFailure::new(FailureClass::BackendFailure, description)
}

#[cfg(test)]
mod tests {
    use phoenix_domain::ActionSpec;
    use serde_json::{Value, json};

    use super::*;

    fn read_json(result: Value, wraps_result: bool) -> Result<ActionResult, AttemptFailure> {
        let tool =
            Tool { name: "t".into(), action: ActionSpec::default(), is_repeatable: false, wraps_result };
        read(result.into(), &tool, &Redactor::default())
    }

    #[test]
    fn texts_or_structured_content_become_the_output() {
        let text = |text: &str| json!({"type": "text", "text": text});
        let image = json!({"type": "image", "data": "AAAA", "mimeType": "image/png"});
        let resource = json!({"type": "resource", "resource": {"uri": "x:y", "text": "c"}});
        let result = read_json(json!({"content": [text("a"), image, text("b"), resource]}), false).unwrap();
        assert_eq!((result.output_type.as_str(), result.to_text().as_str()), ("text", "a\nb\nc"));
        assert_eq!(result.metadata["content"], json!([image]));
        let structured =
            json!({"content": [text("{}")], "structuredContent": {"result": [1]}, "isError": false});
        let result = read_json(structured.clone(), false).unwrap();
        assert_eq!((result.output_type.as_str(), result.to_text().as_str()), ("json", r#"{"result":[1]}"#));
        assert_eq!(read_json(structured, true).unwrap().to_text(), "[1]");
        assert_eq!(read_json(json!({}), false).unwrap().to_text(), "");
    }

    #[test]
    fn errors_and_invalid_results_have_distinct_classes() {
        let error = json!({"content": [{"type": "text", "text": "no such file"}], "isError": true});
        for (result, class, says) in [
            (error, FailureClass::InvalidRequest, "answered: no such file"),
            (json!({"isError": true}), FailureClass::InvalidRequest, "an error without a text"),
            (json!("text"), FailureClass::BackendFailure, "no object"),
            (
                json!({"structuredContent": (0..80).fold(json!(1), |inner, _| json!([inner]))}),
                FailureClass::BackendFailure,
                "nested 80 levels",
            ),
            (json!({"content": 7}), FailureClass::BackendFailure, "no list"),
        ] {
            let failure = read_json(result, false).unwrap_err();
            assert_eq!(failure.class, class, "{says}");
            assert!(failure.description.contains(says), "{}", failure.description);
        }
        for (code, class) in [
            (-32602, FailureClass::InvalidRequest),
            (-32601, FailureClass::ActionNotSupported),
            (-32603, FailureClass::BackendFailure),
            (1, FailureClass::BackendFailure),
        ] {
            let error = RpcError { code, message: "no".into(), data: Json::Null };
            assert_eq!(failure(&error, &Redactor::default()).class, class, "{code}");
        }
    }
}
