use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use crate::limits::{MAX_DEPTH, MAX_STORED_DEPTH};

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// JSON text with numbers of any form and length, any strings, and serde's private names as member names.
fn any_json() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just(r#""$serde_json::private::RawValue""#.to_owned()),
        Just(r#""$serde_json::private::Number""#.to_owned()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        "-?(0|[1-9][0-9]{0,60})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?",
        name.clone(),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::hash_map(name.clone(), inner, 0..8).prop_map(|members| {
                let members: Vec<_> = members.iter().map(|(name, value)| format!("{name}:{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_round_trips_through_text(text in any_json()) {
        let value = Json::parse(&text).unwrap();
        prop_assert_eq!(value.to_string(), text.clone());
        prop_assert_eq!(value.text_len(), text.len());
        let in_struct: Holder = serde_json::from_str(&format!(r#"{{"value":{text}}}"#)).unwrap();
        prop_assert_eq!(serde_json::to_string(&in_struct).unwrap(), format!(r#"{{"value":{text}}}"#));
        prop_assert_eq!(in_struct.value.depth(), value.depth());
    }

    #[test]
    fn text_without_lone_surrogates_is_unchanged(text in any_json()) {
        prop_assert_eq!(&replace_lone_surrogates(&text), &text);
    }
}

#[derive(Serialize, Deserialize)]
struct Holder {
    value: Json,
}

#[test]
fn depth_beyond_the_limit_is_rejected_with_both_numbers() {
    assert_eq!(Json::parse(&nested(MAX_DEPTH)).unwrap().depth(), MAX_DEPTH);
    for levels in [MAX_DEPTH + 1, 124, 100_000] {
        let expected = JsonError::TooDeep { found: levels, limit: MAX_DEPTH };
        assert_eq!(Json::parse(&nested(levels)), Err(expected));
    }
    assert_eq!(Json::parse_stored(&nested(MAX_STORED_DEPTH)).unwrap().depth(), MAX_STORED_DEPTH);
    let error = serde_json::from_str::<Json>(&nested(65)).unwrap_err().to_string();
    assert!(error.starts_with("is nested 65 levels deep; at most 64 are allowed"), "{error}");
}

#[test]
fn invalid_json_is_rejected() {
    for text in
        ["", " ", "{", "[1,]", "{\"a\":1,}", "01", "+1", "NaN", "1 2", "\"\u{1}\"", "'a'", "nul", "{\"a\"}"]
    {
        assert!(matches!(Json::parse(text), Err(JsonError::Syntax { .. })), "{text}");
    }
}

proptest! {
    #[test]
    fn lone_surrogate_anywhere_is_named_as_such(
        before in any_json(), half in "\\\\u[dD][89a-fA-F][0-9a-f]{2}", after in "[a-z]{0,3}"
    ) {
        for text in [
            format!(r#"[{before},"x{half}{after}"]"#),
            format!(r#"{{"{half}{after}":{before}}}"#),
            format!(r#"{{"a":["{half}{after}",{before}]}}"#),
        ] {
            prop_assert_eq!(Json::parse(&text), Err(JsonError::LoneSurrogate), "{}", text);
            prop_assert!(matches!(Json::parse(&text[1..]), Err(JsonError::Syntax { .. })), "{}", text);
        }
    }
}

#[test]
fn last_of_two_members_with_one_name_counts() {
    assert_eq!(Json::parse(r#"{"a":1,"b":2,"a":3}"#).unwrap().to_string(), r#"{"a":3,"b":2}"#);
}

#[test]
fn serde_json_value_keeps_kind_and_magnitude() {
    let value = |text: &str| Json::parse(text).unwrap().to_value();
    assert_eq!(
        value(r#"{"a":[1,-2,18446744073709551615,1.5,"x",null,true]}"#),
        json!({
            "a": [1, -2, 18_446_744_073_709_551_615_u64, 1.5, "x", null, true]
        })
    );
    assert_eq!(value("12345678901234567890123"), json!(12_345_678_901_234_567_890_123.0));
    assert_eq!(value("-1e999"), json!(f64::MIN));
}

#[test]
fn lone_surrogates_are_replaced_and_pairs_are_not() {
    for (text, expected) in [
        (r#""a\ud83d""#, r#""a\ufffd""#),
        (r#""\ude00b""#, r#""\ufffdb""#),
        (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
        (r#""\\ud83d""#, r#""\\ud83d""#),
        (r#""\ud83d\n""#, r#""\ufffd\n""#),
        (r#""\u00e9 \"\\""#, r#""\u00e9 \"\\""#),
        ("\"ä\\", "\"ä\\"),
        (r#""\ud8"#, r#""\ud8"#),
    ] {
        assert_eq!(replace_lone_surrogates(text), expected);
    }
}
