//! Arguments of a tool call: a text in OpenAI's shape, an object in the shape of other APIs.

use crate::json::{Json, Object};

/// Member with the arguments of a call that are no JSON object. Models write such arguments now and then; Anthropic's documentation
/// suggests this name for them.
pub const NO_OBJECT: &str = "INVALID_JSON";

/// The arguments in `text` as an object, with every number and name as it is written. A text that is no JSON object is kept whole,
/// in the member [`NO_OBJECT`]; a blank one, and null, are no arguments.
#[must_use]
pub fn arguments_object(text: &str) -> Object {
    if text.trim().is_empty() {
        return Object::new();
    }
    match Json::parse_stored(text) {
        Ok(Json::Object(arguments)) => arguments,
        Ok(Json::Null) => Object::new(),
        _ => Object::from_iter([(NO_OBJECT.to_owned(), text.into())]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_text_of_arguments_is_lost() {
        let deep = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
        for (text, expected) in [
            (r#"{"a":1.10,"b":-0,"c":1e400,"d":123456789012345678901234567890}"#, None),
            (&*deep(300), None),
            ("", Some("{}")),
            (" \n", Some("{}")),
            ("null", Some("{}")),
            ("[1]", Some(r#"{"INVALID_JSON":"[1]"}"#)),
            ("{\"a\":", Some(r#"{"INVALID_JSON":"{\"a\":"}"#)),
            (r#"{"a":"\ud83d"}"#, Some(r#"{"INVALID_JSON":"{\"a\":\"\\ud83d\"}"}"#)),
        ] {
            assert_eq!(arguments_object(text).to_string(), expected.unwrap_or(text));
        }
        let too_deep = deep(crate::limits::MAX_STORED_DEPTH + 1);
        assert_eq!(arguments_object(&too_deep)[NO_OBJECT], Json::from(too_deep.as_str()));
    }

    proptest! {
        #[test]
        fn any_text_is_in_the_object(text in ".{1,40}") {
            let object = arguments_object(&text);
            let is_blank = text.trim().is_empty() || text.trim() == "null";
            let whole = object.get(NO_OBJECT).and_then(Json::as_str);
            prop_assert!(is_blank || whole == Some(&*text) || Json::parse(&text) == Ok(object.into()));
        }
    }
}
