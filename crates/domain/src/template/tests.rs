use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn payload(input: Value) -> Object {
    Object::from_iter([("x".to_owned(), input.into())])
}

fn rendered(input: Value) -> Result<Json, TemplateError> {
    let status = json!({"files": [{"name": "a.rs"}, {"name": "b.rs"}], "clean": false}).into();
    let text = "On branch main".into();
    let outputs = |key: &str| match key {
        "status" => Referent::Answer(&status),
        "text" => Referent::Answer(&text),
        _ => Referent::Failed,
    };
    render(&payload(input), &outputs).map(|payload| payload["x"].clone())
}

#[test]
fn single_reference_keeps_its_type_and_embedded_one_is_text() {
    for (input, expected) in [
        (json!("{{tasks.status.output.clean}}"), json!(false)),
        (json!("{{ tasks.status.output.files.1.name }}"), json!("b.rs")),
        (json!("It says: {{tasks.text.output}}!"), json!("It says: On branch main!")),
        (json!("{{tasks.status.output.clean}}, {{tasks.text.output}}"), json!("false, On branch main")),
        (
            json!(["{{tasks.text.output}}", {"y": "{{tasks.status.output.files}}"}]),
            json!(["On branch main", {"y": [{"name": "a.rs"}, {"name": "b.rs"}]}]),
        ),
        (json!("{{ user.name }} and { {tasks"), json!("{{ user.name }} and { {tasks")),
        (json!(""), json!("")),
        (json!(7), json!(7)),
    ] {
        assert_eq!(rendered(input.clone()), Ok(expected.into()), "{input}");
    }
}

#[test]
fn braces_next_to_a_reference_are_text() {
    for (input, expected) in [
        ("{{{tasks.text.output}}}", "{On branch main}"),
        ("{{{tasks.text.output}}: 1}", "{On branch main: 1}"),
        ("{{{{tasks.text.output}}}}", "{{On branch main}}"),
        ("{ {{tasks.text.output}} }", "{ On branch main }"),
        ("{{x}}{{tasks.text.output}}", "{{x}}On branch main"),
    ] {
        assert_eq!(rendered(json!(input)), Ok(expected.into()), "{input}");
        let found = references(&payload(json!(input))).unwrap();
        assert_eq!(found, [Reference { key: "text".into(), path: vec![] }], "{input}");
    }
}

#[test]
fn backslash_escapes_a_reference() {
    for (input, expected, count) in [
        (r"Use \{{tasks.KEY.output}} in a plan", "Use {{tasks.KEY.output}} in a plan", 0),
        (r"\{{tasks.text.output}}", "{{tasks.text.output}}", 0),
        (r"\{{tasks.text.output}} is {{tasks.text.output}}", "{{tasks.text.output}} is On branch main", 1),
        (r"\\{{tasks.text.output}}", r"\On branch main", 1),
        (r"\\\{{tasks.text.output}}", r"\{{tasks.text.output}}", 0),
        (r"\{{ tasks.unclosed", "{{ tasks.unclosed", 0),
        (r"C:\dir \{{ user }} \\", r"C:\dir \{{ user }} \\", 0),
    ] {
        assert_eq!(rendered(json!(input)), Ok(expected.into()), "{input}");
        assert_eq!(references(&payload(json!(input))).unwrap().len(), count, "{input}");
    }
}

#[test]
fn path_into_a_failed_task_is_null() {
    for input in ["{{tasks.failed.output}}", "{{tasks.failed.output.k}}", "{{tasks.failed.output.0.a.b}}"] {
        assert_eq!(rendered(json!(input)), Ok(Json::Null), "{input}");
        assert_eq!(rendered(json!(format!("it: {input}"))), Ok("it: null".into()), "{input}");
    }
}

#[test]
fn path_without_target_is_named() {
    let nowhere = rendered(json!("{{tasks.status.output.files.9}}")).unwrap_err();
    assert_eq!(
        nowhere.to_string(),
        "task `status` has no `files.9` in its output: `files` is an array of 2 elements"
    );
    for bad in
        ["{{tasks.x}}", "{{tasks.x.input}}", "{{tasks..output}}", "{{tasks.x.output.}}", "{{tasks.x.output"]
    {
        assert!(rendered(json!(bad)).is_err(), "{bad}");
    }
}

#[test]
fn path_leads_into_an_output_that_is_json_text() {
    let answer = Json::String("\n {\"items\": [{\"name\": \"a\"}, 2], \"text\": \"[1]\"}\n".into());
    let rendered = |input: &str| {
        let rendered = render(&payload(json!(input)), &|_| Referent::Answer(&answer));
        rendered.map(|payload| payload["x"].clone()).map_err(|error| error.to_string())
    };
    for (input, expected) in [
        ("{{tasks.a.output.items.0}}", json!({"name": "a"})),
        ("{{tasks.a.output.items.0.name}} and {{tasks.a.output.items}}", json!("a and [{\"name\":\"a\"},2]")),
        ("{{tasks.a.output.items.1}}", json!(2)),
        ("{{tasks.a.output.text}}", json!("[1]")),
        // Without a path the output is what it is.
        ("{{tasks.a.output}}", json!(answer.as_str())),
    ] {
        assert_eq!(rendered(input), Ok(expected.into()), "{input}");
    }
    for (input, problem) in [
        ("{{tasks.a.output.item}}", "no `item` in its output: the output is an object with `items`, `text`"),
        ("{{tasks.a.output.items.2}}", "no `items.2` in its output: `items` is an array of 2 elements"),
        ("{{tasks.a.output.items.0.name.0}}", "no `items.0.name.0` in its output: `items.0.name` is text"),
        // Only the output itself is parsed.
        ("{{tasks.a.output.text.0}}", "no `text.0` in its output: `text` is text"),
    ] {
        assert_eq!(rendered(input), Err(format!("task `a` has {problem}")), "{input}");
    }
}

#[test]
fn path_into_other_text_is_rejected_with_what_was_found() {
    let deep = "[".repeat(MAX_DEPTH + 1) + &"]".repeat(MAX_DEPTH + 1);
    for (text, problem) in [
        ("Sure! Here are the items.", "the output is text that is not JSON: "),
        ("```json\n{}\n```", "the output is text that is not JSON: "),
        ("{\"items\": [1]", "the output is text that is not JSON: "),
        ("", "the output is text that is not JSON: "),
        (&deep, "the output is text that is not JSON: "),
        ("7", "the output is text that holds a number"),
        ("\"[1]\"", "the output is text that holds text"),
    ] {
        let answer = Json::String(text.into());
        let error = render(&payload(json!("{{tasks.a.output.items}}")), &|_| Referent::Answer(&answer));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(problem) && error.len() < 512, "{text}: {error}");
    }
}

#[test]
fn json_text_is_parsed_once_for_any_number_of_references() {
    let items = vec!["x"; 1024 * 1024].join("\",\"");
    let answer = Json::String(format!("{{\"items\": [\"{items}\"]}}"));
    let input = json!(vec!["{{tasks.a.output.items.1048575}}"; 10_000]);
    let rendered = render(&payload(input), &|_| Referent::Answer(&answer)).unwrap();
    assert_eq!(rendered["x"], json!(vec!["x"; 10_000]));
}

#[test]
fn pointers_select_the_strings_with_references() {
    let input = json!({
        "a": "{{tasks.t.output}}", "b": ["no {{ user }}", {"c/d~": "x {{ tasks.t.output.y }}"}], "e": "{{tasks.t",
        "f": 1, "g": r"\{{tasks.t.output}}"
    });
    let Json::Object(payload) = input.clone().into() else { panic!("an object") };
    let pointers = pointers(&payload);
    assert_eq!(pointers.len(), 2);
    for pointer in ["/a", "/b/1/c~1d~0"] {
        assert!(
            pointers.iter().any(|found| found == pointer) && input.pointer(pointer).is_some(),
            "{pointer}"
        );
    }
}

#[test]
fn output_that_looks_like_a_reference_is_not_rendered() {
    let evil = "{{tasks.secret.output}}".into();
    let once = render(&payload(json!("{{tasks.a.output}}")), &|_| Referent::Answer(&evil)).unwrap();
    assert_eq!(once["x"], evil);
}

#[test]
fn rendered_input_is_bounded_for_any_number_of_references() {
    let large = Json::String("x".repeat(7 * 1024 * 1024));
    let fill = |count: usize| {
        let text = "{{tasks.a.output}}".repeat(count);
        render(&payload(json!(text)), &|_| Referent::Answer(&large))
    };
    assert_eq!(fill(1).unwrap()["x"], large);
    let found = 8 + 150 * 7 * 1024 * 1024;
    assert_eq!(fill(150), Err(TemplateError::TooLarge { found, limit: MAX_FILLED_INPUT_BYTES }));
}

#[test]
fn rendered_input_over_the_depth_limit_is_rejected() {
    let answer =
        |levels: usize| Json::parse_stored(&format!("{}{}", "[".repeat(levels), "]".repeat(levels))).unwrap();
    let deep = answer(MAX_DEPTH);
    let too_deep = render(&payload(json!("{{tasks.a.output}}")), &|_| Referent::Answer(&deep));
    assert_eq!(too_deep, Err(TemplateError::TooDeep { found: MAX_DEPTH + 1, limit: MAX_DEPTH }));
    let fits = answer(MAX_DEPTH - 1);
    render(&payload(json!("{{tasks.a.output}}")), &|_| Referent::Answer(&fits)).unwrap();
    // As text it adds no level.
    render(&payload(json!("is {{tasks.a.output}}")), &|_| Referent::Answer(&deep)).unwrap();
}

proptest! {
    #[test]
    fn measured_size_equals_the_written_size(
        before in any::<String>(), after in any::<String>(), answer in any::<String>(), number in any::<i64>()
    ) {
        let answer: Json = json!({"text": answer, "list": [number, answer]}).into();
        let output = |_: &str| Referent::Answer(&answer);
        let input = json!({
            "a": format!("{before}{{{{tasks.a.output}}}}{after}"), "b": "{{tasks.a.output.text}}",
            "c": [format!("{before} {{{{tasks.a.output.list}}}}")]
        });
        let Json::Object(input) = input.into() else { panic!("an object") };
        if let Ok(filled) = render(&input, &output) {
            let parsed = ParsedTexts::default();
            let targets = Targets { output: &output, parsed: &parsed };
            let mut measure = Measure { targets, known: HashMap::new() };
            prop_assert_eq!(measure.object(&input).unwrap().bytes, filled.to_string().len());
        }
    }
}
