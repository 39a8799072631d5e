use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::json::Json;

fn object(value: Value) -> Object {
    Json::from(value).try_into().unwrap()
}

fn schema(source: Value) -> InputSchema {
    InputSchema::new(source).unwrap()
}

/// The mismatch of `input` as `FIELD PROBLEM`.
fn mismatch(schema: &InputSchema, input: Value) -> String {
    let Mismatch { field, problem } = schema.check(&object(input)).unwrap_err();
    format!("{field} {problem}")
}

#[test]
fn closed_schema_admits_only_the_members_it_lists() {
    let open = schema(json!({"properties": {"message": {}}}));
    let closed = schema(json!({"properties": {"message": {}}, "additionalProperties": false}));
    assert!(open.admits("message") && open.admits("model"));
    assert!(closed.admits("message") && !closed.admits("model"));
}

#[test]
fn mismatch_names_field_and_expected_value() {
    let schema = schema(json!({
        "properties": {
            "text": {"type": "string", "minLength": 1, "maxLength": 3, "pattern": "^[a-z]*$"},
            "count": {"type": ["integer", "null"], "minimum": 1, "maximum": 9},
            "mode": {"enum": ["replace", "append", null]},
            "list": {"type": "array", "minItems": 1, "maxItems": 2, "uniqueItems": true, "items": {"type": "number"}},
            "deep": {"$ref": "#/$defs/deep"},
            "either": {"anyOf": [{"type": "string"}, {"required": ["id"], "type": "object"}]},
            "never": false
        },
        "required": ["text"],
        "additionalProperties": false,
        "$defs": {"deep": {"properties": {"a/b": {"properties": {"x": {"type": "boolean"}}, "additionalProperties": false}}}}
    }));
    for (input, expected) in [
        (json!({}), ".text is missing"),
        (json!({"text": 7}), ".text must be a string"),
        (json!({"text": ""}), ".text must not be empty"),
        (json!({"text": "abcd"}), ".text must be at most 3 characters long"),
        (json!({"text": "A"}), ".text must match the pattern `^[a-z]*$`"),
        (json!({"text": "a", "count": 1.5}), ".count must be null or a whole number"),
        (json!({"text": "a", "count": 0}), ".count must be at least 1"),
        (json!({"text": "a", "count": 10}), ".count must be at most 9"),
        (json!({"text": "a", "mode": "x"}), r#".mode must be one of "replace", "append", null"#),
        (json!({"text": "a", "list": []}), ".list must not be empty"),
        (json!({"text": "a", "list": [1, 2, 3]}), ".list must hold at most 2 items"),
        (json!({"text": "a", "list": [1, 1.0]}), ".list must not hold an item twice"),
        (json!({"text": "a", "list": [1, "b"]}), ".list[1] must be a number"),
        (json!({"text": "a", "deep": {"a/b": {"x": 1}}}), ".deep.a/b.x must be true or false"),
        (json!({"text": "a", "deep": {"a/b": {"y": 1}}}), ".deep.a/b.y is unknown; known fields: x"),
        (
            json!({"text": "a", "either": {}}),
            ".either has none of the forms it may have: `either` must be a string; or `either.id` is missing",
        ),
        (json!({"text": "a", "never": 1}), ".never is not allowed"),
    ] {
        assert_eq!(mismatch(&schema, input.clone()), expected, "{input}");
    }
    schema.check(&object(json!({"text": "a", "count": 2.0, "either": {"id": 1}}))).unwrap();
    let secret = mismatch(&schema, json!({"text": "my secret"}));
    assert!(!secret.contains("my secret"), "{secret}");
    let long = mismatch(&schema, json!({"text": "a", "x".repeat(1 << 20): 1}));
    assert!(long.len() < 500, "{} bytes", long.len());
}

#[test]
fn invalid_schema_error_has_a_position() {
    for (source, field, problem) in [
        (json!({"properties": {"a": {"minimum": "x"}}}), ".properties.a.minimum", "must be a number"),
        (json!({"type": "sting"}), ".type", "has none of the forms"),
        (json!({"required": "a"}), ".required", "must be a list"),
        (json!({"pattern": "("}), ".pattern", "must have the format `regex`"),
        (json!(7), "", "must be true or false or an object"),
        (json!({"$ref": "#/$defs/none"}), "", "holds a reference that leads nowhere"),
        (json!({"$ref": "http://127.0.0.1:1/schema.json"}), "", "holds a reference that leads nowhere"),
        (json!({"$ref": "file:///etc/passwd"}), "", "holds a reference that leads nowhere"),
        (json!({"$schema": "https://example.com/none"}), "", "holds a reference that leads nowhere"),
    ] {
        let error = InputSchema::new(source.clone()).unwrap_err();
        assert_eq!(error.field, field, "{source}: {error}");
        assert!(error.problem.starts_with(problem), "{source}: {error}");
    }
}

/// A schema that rejects by name, by shape, by value, and depending on other values.
fn entangled_schema() -> InputSchema {
    schema(json!({
        "properties": {
            "n": {"type": "integer"},
            "list": {"type": "array", "minItems": 2, "items": {"type": "integer"}, "contains": {"const": 7}},
            "kind": {"enum": ["a", "b"]}
        },
        "required": ["n"],
        "additionalProperties": false,
        "oneOf": [{"required": ["kind"]}, {"properties": {"n": {"const": 1}}}],
        "if": {"properties": {"kind": {"const": "a"}}},
        "then": {"required": ["list"]}
    }))
}

#[test]
fn open_pointer_matches_anything_and_the_rest_is_checked() {
    let schema = entangled_schema();
    let check = |input: Value, open: &[&str]| {
        let open: Vec<_> = open.iter().map(|pointer| (*pointer).to_owned()).collect();
        schema.check_partial(&object(input), &open).map_err(|mismatch| mismatch.field)
    };
    // The open value itself, and assertions about the input that depend on it.
    assert_eq!(check(json!({"n": "?"}), &["/n"]), Ok(()));
    assert_eq!(check(json!({"n": 1, "list": [1, "?"]}), &["/list/1"]), Ok(()));
    assert_eq!(check(json!({"n": 2, "kind": "?"}), &["/kind"]), Ok(()), "whether `then` holds is open");
    // Not repairable: the shape around an open value, and other values.
    assert_eq!(check(json!({"list": [1, "?"]}), &["/list/1"]), Err(".n".into()));
    assert_eq!(check(json!({"n": "?", "x": 1}), &["/n"]), Err(".x".into()));
    assert_eq!(check(json!({"n": "?", "list": ["?"]}), &["/n", "/list/0"]), Err(".list".into()));
    assert_eq!(check(json!({"n": "?", "list": [7, "no"]}), &["/n"]), Err(".list[1]".into()));
    // Without open pointers, as a complete input.
    assert_eq!(check(json!({"n": 2, "kind": "a"}), &[]), Err(".list".into()));
}

/// `value` with every `"?"` replaced by `filling`.
fn filled(value: &Value, filling: &Value) -> Value {
    match value {
        Value::String(text) if text == "?" => filling.clone(),
        Value::Array(items) => items.iter().map(|item| filled(item, filling)).collect(),
        Value::Object(entries) => {
            entries.iter().map(|(name, entry)| (name.clone(), filled(entry, filling))).collect()
        }
        other => other.clone(),
    }
}

/// A value for one field, or none; `"?"` is an open pointer.
fn field() -> impl Strategy<Value = Option<Value>> {
    let values =
        [json!("?"), json!(1), json!(2), json!("a"), json!(["?", 7]), json!(["?"]), json!({"n": "?"})];
    prop::option::of(prop::sample::select(values.to_vec()))
}

proptest! {
    #[test]
    fn partial_mismatch_remains_for_any_replacement(n in field(), list in field(), kind in field()) {
        let fields = [("n", n), ("list", list), ("kind", kind)];
        let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let input = Value::Object(fields.collect());
        let open = ["n", "list", "kind"].into_iter().flat_map(|name| ["", "/0", "/n"].map(|below| format!("/{name}{below}")));
        let open: Vec<_> = open.filter(|pointer| input.pointer(pointer) == Some(&json!("?"))).collect();
        if let Err(mismatch) = entangled_schema().check_partial(&object(input.clone()), &open) {
            for filling in [json!(null), json!(1), json!(7), json!("a"), json!("b"), json!([7, 7]), json!({"n": 1})] {
                let filled = filled(&input, &filling);
                prop_assert!(entangled_schema().check(&object(filled.clone())).is_err(), "{filled} matches: {mismatch:?}");
            }
        }
    }
}

#[test]
fn large_input_is_validated_without_search() {
    let schema =
        schema(json!({"properties": {"list": {"items": {"type": "string"}}, "n": {"type": "integer"}}}));
    let input = object(json!({"list": vec![1; 300_000], "n": "?"}));
    assert_eq!(schema.check(&input).unwrap_err().field, ".list[0]");
    assert_eq!(schema.check_partial(&input, &["/list/0".into()]), Ok(()), "validated after rendering");
    let forms = [json!({"items": {"type": "string"}}), json!({"items": {"type": "boolean"}})];
    let schema = InputSchema::new(json!({"properties": {"list": {"anyOf": forms}}})).unwrap();
    assert!(schema.check(&input).unwrap_err().problem.contains("too large"));
    assert_eq!(schema.check_partial(&input, &["/n".into()]), Ok(()));
}
