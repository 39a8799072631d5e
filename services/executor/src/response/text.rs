//! The text of a line before it is parsed: what common JSON writers produce and JSON parsers reject.

/// Numbers that JavaScript and Python know and JSON does not, the longest first.
const NOT_JSON: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// `line` without the byte-order mark that some writers put first.
pub(super) fn without_byte_order_mark(line: &str) -> &str {
    line.strip_prefix('\u{feff}').unwrap_or(line)
}

/// The first word in `line`, outside its strings, that is a number to other languages and not to JSON.
pub(super) fn number_outside_json(line: &str) -> Option<&'static str> {
    outside_strings(line).find_map(|at| NOT_JSON.into_iter().find(|word| line[at..].starts_with(word)))
}

/// Levels of objects and arrays inside each other.
pub(super) fn depth(line: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for at in outside_strings(line) {
        match line.as_bytes()[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The places of the ASCII characters in `line` that are in no string.
fn outside_strings(line: &str) -> impl Iterator<Item = usize> {
    let (mut in_string, mut escaped) = (false, false);
    line.bytes().enumerate().filter_map(move |(at, byte)| {
        let is_outside = !in_string && byte.is_ascii() && byte != b'"';
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ => {}
        }
        is_outside.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn words_in_strings_are_neither_numbers_nor_levels(text in "(NaN|Infinity|[{\\[\"\\\\é]){0,20}") {
            let line = serde_json::json!({ "data": text }).to_string();
            prop_assert_eq!((number_outside_json(&line), depth(&line)), (None, 1));
        }

        #[test]
        fn levels_of_any_value_are_counted(levels in prop::collection::vec(any::<bool>(), 0..50)) {
            let open: String = levels.iter().map(|&array| if array { "[0," } else { "{\"}\":" }).collect();
            let close: String = levels.iter().rev().map(|&array| if array { "]" } else { "}" }).collect();
            prop_assert_eq!(depth(&format!("{open}\"[\"{close}")), levels.len());
        }
    }
}
