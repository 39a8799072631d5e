//! Messages of decoding errors: the full path of the field, what is wrong, what is expected.

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use serde_json::error::Category;

/// Longest part of a caller's own name that a message repeats.
const MAX_NAME_CHARS: usize = 64;

/// Prefix of error texts that are complete requirements; see [`crate::members`].
pub(crate) const REQUIREMENT: &str = "must ";

/// Prefix of error texts that describe the value; see [`phoenix_domain::json::JsonError`].
const FINDING: &str = "is ";

/// The `validation_failed` of a request body that cannot be decoded at all.
pub(crate) fn invalid_body(message: &str) -> OrchestratorError {
    OrchestratorError::new(OrchestratorErrorCode::ValidationFailed, message)
}

/// A caller's own name, short enough to be repeated in a message.
pub(crate) fn shorten(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// The `validation_failed` for `error`, which a decoder found at `path`.
pub(crate) fn explain(path: &str, error: &serde_json::Error) -> OrchestratorError {
    let text = error.to_string();
    let (text, _) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
    if error.classify() != Category::Data {
        if let Some(problem) = not_carried(text) {
            // The path of a name that cannot be read ends with a question mark; the object is named instead.
            let path = path.strip_suffix('?').map_or(path, |object| object.trim_end_matches('.'));
            return at_field(path, problem);
        }
        return invalid_body(&format!("the body is not valid JSON: {text}"))
            .with_detail("line", error.line())
            .with_detail("column", error.column());
    }
    let named = |prefix: &str| text.strip_prefix(prefix)?.strip_suffix('`');
    if let Some(field) = named("missing field `") {
        OrchestratorError::invalid(&below(path, field), "is missing")
    } else if let Some(field) = named("duplicate field `") {
        OrchestratorError::invalid(&below(path, field), "is given twice")
    } else if let Some((field, known)) =
        text.strip_prefix("unknown field `").and_then(|rest| rest.rsplit_once("`, expected "))
    {
        // The path includes the field: the decoder was about to enter it.
        let parent = path.strip_suffix(field).map_or(path, |parent| parent.trim_end_matches('.'));
        let known = known.trim_start_matches("one of ").replace(" or ", ", ");
        let problem = format_args!("is not a known field; known are {known}");
        OrchestratorError::invalid(&below(parent, &shorten(field)), problem)
    } else if text.starts_with(REQUIREMENT) || text.starts_with(FINDING) {
        OrchestratorError::invalid(path, text)
    } else {
        let Some((found, expected)) = text.rsplit_once(", expected ") else {
            return at_field(path, &format!("is not valid: {text}"));
        };
        let (found, expected) = (found_in_words(found), expected_in_words(expected));
        at_field(path, &format!("must be {expected}, not {found}"))
    }
}

/// The problem of a value that is JSON, although the decoder, whose error this is, calls it invalid.
fn not_carried(text: &str) -> Option<&'static str> {
    match text {
        "number out of range" => Some("must be a number within the range of a 64-bit float"),
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => {
            Some("must not contain half of a surrogate pair, such as `\\ud83d` alone: it is no character")
        }
        _ => None,
    }
}

/// The `validation_failed` with `problem` for the value at `path`, which may be the whole body.
fn at_field(path: &str, problem: &str) -> OrchestratorError {
    match path {
        "" | "." => invalid_body(&format!("the body {problem}")),
        path => OrchestratorError::invalid(path, problem),
    }
}

/// The `validation_failed` for `error`, which a decoder found in the JSON object of the header `name`.
pub(crate) fn explain_header(name: &str, error: &serde_json::Error) -> OrchestratorError {
    if error.classify() == Category::Data {
        return explain(name, error);
    }
    let text = error.to_string();
    let (text, _) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
    OrchestratorError::invalid(
        name,
        format_args!("must be a JSON object such as {{\"max_calls\": 2}}: {text}"),
    )
}

/// The full path of `field` of the value at `path`.
fn below(path: &str, field: &str) -> String {
    match path {
        "" | "." => field.to_owned(),
        path => format!("{path}.{field}"),
    }
}

/// The value that was found: itself where it is short and contains no text of the caller.
fn found_in_words(found: &str) -> &str {
    let found = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|prefix| found.strip_prefix(prefix))
        .unwrap_or(found);
    let number = |kind: &str| found.strip_prefix(kind)?.strip_suffix('`');
    match found {
        "map" => "an object",
        "sequence" => "an array",
        "unit value" => "null",
        text if text.starts_with("string ") => "a string",
        other => ["integer `", "floating point `", "boolean `", "number `"]
            .iter()
            .find_map(|kind| number(kind))
            .unwrap_or(other),
    }
}

fn expected_in_words(expected: &str) -> &str {
    match expected {
        "map" | "a map" => "an object",
        "a sequence" => "an array",
        "f64" | "f32" => "a number",
        "bool" => "a boolean",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::members::Members;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "it is only read")]
    struct Outer {
        items: Vec<Members<Inner>>,
        flag: Option<bool>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "it is only read")]
    struct Inner {
        key: String,
        rate: Option<f64>,
    }

    fn problem(text: &str) -> (String, String) {
        let mut json = serde_json::Deserializer::from_str(text);
        let error = serde_path_to_error::deserialize::<_, Outer>(&mut json).unwrap_err();
        let path = error.path().to_string();
        let error = explain(&path, &error.into_inner());
        (error.details["field"].clone(), error.message)
    }

    #[test]
    fn error_of_a_nested_member_names_its_full_path() {
        for (text, field, message) in [
            (
                r#"{"items":[{"key":"a","kez":1}]}"#,
                "items[0].kez",
                "`items[0].kez` is not a known field; known are `key`, `rate`",
            ),
            (r#"{"items":[{"key":"a"},{}]}"#, "items[1].key", "`items[1].key` is missing"),
            (r#"{"items":[{"key":"a","key":"b"}]}"#, "items[0].key", "`items[0].key` is given twice"),
            (r#"{"items":[{"key":-1}]}"#, "items[0].key", "`items[0].key` must be a string, not -1"),
            (r#"{"items":[["a"]]}"#, "items[0]", "`items[0]` must be an object, not an array"),
            (r#"{"items":null}"#, "items", "`items` must be an array, not null"),
            (r#"{"items":{}}"#, "items", "`items` must be an array, not an object"),
            (
                r#"{"items":[{"key":"a","rate":"x"}]}"#,
                "items[0].rate",
                "`items[0].rate` must be a number, not a string",
            ),
            (r#"{"items":[],"flag":1.5}"#, "flag", "`flag` must be a boolean, not 1.5"),
            (r#"{"itemz":[]}"#, "itemz", "`itemz` is not a known field; known are `items`, `flag`"),
        ] {
            assert_eq!(problem(text), (field.to_owned(), message.to_owned()), "{text}");
        }
    }

    #[test]
    fn value_that_cannot_be_carried_is_named() {
        let message = |text: &str| {
            let mut json = serde_json::Deserializer::from_str(text);
            let error = serde_path_to_error::deserialize::<_, Outer>(&mut json).unwrap_err();
            let path = error.path().to_string();
            let error = explain(&path, &error.into_inner());
            (error.details.get("field").cloned().unwrap_or_default(), error.message)
        };
        for (text, field, says) in [
            (r#"{"items":[{"key":"a","rate":1e400}]}"#, "items[0].rate", "within the range"),
            (r#"{"items":[{"key":"a","rate":-1e999}]}"#, "items[0].rate", "within the range"),
            (r#"{"items":[{"key":"a\ud83d"}]}"#, "items[0].key", "half of a surrogate pair"),
            (r#"{"items":[{"key":"\udc00a"}]}"#, "items[0].key", "half of a surrogate pair"),
            (r#"{"items":[{"key":"\ud83d\n"}]}"#, "items[0].key", "half of a surrogate pair"),
            (r#"{"items":[{"\udfff":1}]}"#, "items[0]", "half of a surrogate pair"),
            (r#"{"\ud83d":1}"#, "", "the body must not contain half of a surrogate pair"),
        ] {
            let (named, message) = message(text);
            assert_eq!(named, field, "{text}: {message}");
            assert!(message.contains(says), "{text}: {message}");
        }
        assert!(message(r#"{"items":[{"key":"\u12"}]}"#).1.contains("is not valid JSON"));
    }

    proptest! {
        #[test]
        fn unknown_member_of_any_name_is_named_with_its_path(name in "\\PC{1,40}") {
            prop_assume!(!matches!(name.as_str(), "key" | "rate"));
            let text = serde_json::json!({"items": [{"key": "a", name.clone(): 1}]}).to_string();
            prop_assert_eq!(problem(&text).0, format!("items[0].{}", shorten(&name)));
        }
    }
}
