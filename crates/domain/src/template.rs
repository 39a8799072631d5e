//! `{{tasks.KEY.output}}` in a task's input: the answer of an earlier task, or a place inside it.
//!
//! A string that is nothing but one reference becomes the referenced JSON value, whatever its type. A reference inside a
//! longer string becomes text: strings as they are, anything else as JSON. `{{tasks.KEY.output.items.0.name}}` goes into
//! objects by name and into arrays by index. Double braces that do not start with `tasks.` are left alone, so that inputs
//! may hold templates of other systems.

use serde_json::{Map, Value};

/// One reference in an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The task whose answer is meant.
    pub key: String,
    /// The way into its answer; empty for all of it.
    pub path: Vec<String>,
}

/// A reference that can't be read or followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is not `tasks.KEY.output` with an optional path.
    #[error("`{{{{{0}}}}}` must look like {{{{tasks.KEY.output}}}} or {{{{tasks.KEY.output.path}}}}")]
    Malformed(String),
    /// The braces do not close.
    #[error("`{{{{tasks.` is never closed by `}}}}`")]
    Unclosed,
    /// The answer has no such place.
    #[error("task `{key}` has no `{path}` in its output")]
    NoSuchPlace {
        /// The task.
        key: String,
        /// The way that leads nowhere.
        path: String,
    },
}

/// Every reference in `payload`.
///
/// # Errors
/// The first that can't be read.
pub fn references(payload: &Map<String, Value>) -> Result<Vec<Reference>, TemplateError> {
    let mut found = Vec::new();
    for value in payload.values() {
        collect(value, &mut found)?;
    }
    Ok(found)
}

/// Where in `payload` references stand, as JSON pointers. What can't be read as a reference is none.
#[must_use]
pub fn places(payload: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = String::new();
    for (name, value) in payload {
        find_places(value, name, &mut at, &mut found);
    }
    found
}

/// Looks in the place called `name` inside the place `at`.
fn find_places(value: &Value, name: &str, at: &mut String, found: &mut Vec<String>) {
    let parent = at.len();
    at.push('/');
    // RFC 6901.
    for c in name.chars() {
        match c {
            '~' => at.push_str("~0"),
            '/' => at.push_str("~1"),
            c => at.push(c),
        }
    }
    match value {
        Value::String(text) => {
            let is_reference = |part: &Part<'_>| matches!(part, Part::Reference(_));
            if parse(text).is_ok_and(|parts| parts.iter().any(is_reference)) {
                found.push(at.clone());
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_places(item, &index.to_string(), at, found);
            }
        }
        Value::Object(entries) => {
            for (name, entry) in entries {
                find_places(entry, name, at, found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    at.truncate(parent);
}

fn collect(value: &Value, found: &mut Vec<Reference>) -> Result<(), TemplateError> {
    match value {
        Value::String(text) => {
            for part in parse(text)? {
                if let Part::Reference(reference) = part {
                    found.push(reference);
                }
            }
        }
        Value::Array(items) => items.iter().try_for_each(|item| collect(item, found))?,
        Value::Object(entries) => entries.values().try_for_each(|entry| collect(entry, found))?,
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

/// `payload` with every reference replaced. `output` gives a task's answer; null for one that failed and was allowed to.
///
/// # Errors
/// When a reference leads nowhere.
pub fn render<'a>(
    payload: &Map<String, Value>,
    output: &impl Fn(&str) -> Option<&'a Value>,
) -> Result<Map<String, Value>, TemplateError> {
    payload.iter().map(|(name, value)| Ok((name.clone(), render_value(value, output)?))).collect()
}

fn render_value<'a>(
    value: &Value,
    output: &impl Fn(&str) -> Option<&'a Value>,
) -> Result<Value, TemplateError> {
    Ok(match value {
        Value::String(text) => render_text(text, output)?,
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| render_value(item, output)).collect::<Result<_, _>>()?)
        }
        Value::Object(entries) => Value::Object(render(entries, output)?),
        other => other.clone(),
    })
}

fn render_text<'a>(text: &str, output: &impl Fn(&str) -> Option<&'a Value>) -> Result<Value, TemplateError> {
    let parts = parse(text)?;
    if let [Part::Reference(reference)] = &parts[..] {
        return follow(reference, output);
    }
    let mut rendered = String::with_capacity(text.len());
    for part in parts {
        match part {
            Part::Text(text) => rendered.push_str(text),
            Part::Reference(reference) => match follow(&reference, output)? {
                Value::String(text) => rendered.push_str(&text),
                other => rendered.push_str(&other.to_string()),
            },
        }
    }
    Ok(Value::String(rendered))
}

fn follow<'a>(
    reference: &Reference,
    output: &impl Fn(&str) -> Option<&'a Value>,
) -> Result<Value, TemplateError> {
    let Some(mut place) = output(&reference.key) else { return Ok(Value::Null) };
    for step in &reference.path {
        let next = match place {
            Value::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            Value::Object(entries) => entries.get(step),
            _ => None,
        };
        place = next.ok_or_else(|| TemplateError::NoSuchPlace {
            key: reference.key.clone(),
            path: reference.path.join("."),
        })?;
    }
    Ok(place.clone())
}

enum Part<'a> {
    Text(&'a str),
    Reference(Reference),
}

fn parse(text: &str) -> Result<Vec<Part<'_>>, TemplateError> {
    let mut parts = Vec::new();
    let (mut literal, mut search) = (0, 0);
    while let Some(open) = text[search..].find("{{").map(|at| search + at) {
        let inside = &text[open + 2..];
        if !inside.trim_start().starts_with("tasks.") {
            search = open + 2;
            continue;
        }
        let close = inside.find("}}").ok_or(TemplateError::Unclosed)?;
        if literal < open {
            parts.push(Part::Text(&text[literal..open]));
        }
        parts.push(Part::Reference(reference(inside[..close].trim())?));
        search = open + 2 + close + 2;
        literal = search;
    }
    if literal < text.len() || parts.is_empty() {
        parts.push(Part::Text(&text[literal..]));
    }
    Ok(parts)
}

fn reference(text: &str) -> Result<Reference, TemplateError> {
    let mut words = text.split('.');
    match (words.next(), words.next(), words.next()) {
        (Some("tasks"), Some(key), Some("output")) if !key.is_empty() => {
            let path: Vec<String> = words.map(str::to_owned).collect();
            if path.iter().any(String::is_empty) {
                return Err(TemplateError::Malformed(text.into()));
            }
            Ok(Reference { key: key.into(), path })
        }
        _ => Err(TemplateError::Malformed(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(input: Value) -> Result<Value, TemplateError> {
        let status = json!({"files": [{"name": "a.rs"}, {"name": "b.rs"}], "clean": false});
        let text = json!("On branch main");
        let outputs = |key: &str| match key {
            "status" => Some(&status),
            "text" => Some(&text),
            _ => None,
        };
        let payload = Map::from_iter([("x".to_owned(), input)]);
        render(&payload, &outputs).map(|payload| payload["x"].clone())
    }

    #[test]
    fn a_reference_alone_keeps_its_type_and_one_inside_text_becomes_text() {
        for (input, expected) in [
            (json!("{{tasks.status.output.clean}}"), json!(false)),
            (json!("{{ tasks.status.output.files.1.name }}"), json!("b.rs")),
            (json!("It says: {{tasks.text.output}}!"), json!("It says: On branch main!")),
            (json!("{{tasks.status.output.clean}}, {{tasks.text.output}}"), json!("false, On branch main")),
            (
                json!(["{{tasks.text.output}}", {"y": "{{tasks.status.output.files}}"}]),
                json!(["On branch main", {"y": [{"name": "a.rs"}, {"name": "b.rs"}]}]),
            ),
            (json!("{{tasks.failed.output}}"), json!(null)),
            (json!("{{ user.name }} and { {tasks"), json!("{{ user.name }} and { {tasks")),
            (json!(""), json!("")),
            (json!(7), json!(7)),
        ] {
            assert_eq!(rendered(input.clone()), Ok(expected), "{input}");
        }
    }

    #[test]
    fn what_leads_nowhere_is_named() {
        let nowhere = rendered(json!("{{tasks.status.output.files.9}}")).unwrap_err();
        assert_eq!(nowhere.to_string(), "task `status` has no `files.9` in its output");
        for bad in [
            "{{tasks.x}}",
            "{{tasks.x.input}}",
            "{{tasks..output}}",
            "{{tasks.x.output.}}",
            "{{tasks.x.output",
        ] {
            assert!(rendered(json!(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_places_of_references_are_json_pointers() {
        let Value::Object(payload) = json!({
            "a": "{{tasks.t.output}}", "b": ["no {{ user }}", {"c/d~": "x {{ tasks.t.output.y }}"}], "e": "{{tasks.t", "f": 1
        }) else {
            panic!("an object")
        };
        let places = places(&payload);
        assert_eq!(places, ["/a", "/b/1/c~1d~0"]);
        let at = |place: &str| Value::Object(payload.clone()).pointer(place).cloned();
        assert_eq!(at(&places[1]), Some(json!("x {{ tasks.t.output.y }}")));
    }

    #[test]
    fn an_answer_that_looks_like_a_reference_is_not_followed() {
        let evil = json!("{{tasks.secret.output}}");
        let payload = Map::from_iter([("x".to_owned(), json!("{{tasks.a.output}}"))]);
        let once = render(&payload, &|_| Some(&evil)).unwrap();
        assert_eq!(once["x"], evil);
    }
}
