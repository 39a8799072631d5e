//! Checks on the text of a line before it is parsed: what common JSON writers produce and JSON parsers reject.

/// Numbers of JavaScript and Python that JSON lacks, the longest first.
const NOT_JSON: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// `line` without the byte-order mark that some writers emit.
pub(crate) fn without_byte_order_mark(line: &str) -> &str {
    line.strip_prefix('\u{feff}').unwrap_or(line)
}

/// The first of these numbers in `line`, outside its strings.
pub(super) fn number_outside_json(line: &str) -> Option<&'static str> {
    outside_strings(line)
        .find_map(|index| NOT_JSON.into_iter().find(|number| line[index..].starts_with(number)))
}

/// Nesting depth of objects and arrays.
pub(super) fn depth(line: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for index in outside_strings(line) {
        match line.as_bytes()[index] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Indices of the ASCII characters in `line` outside its strings.
fn outside_strings(line: &str) -> impl Iterator<Item = usize> {
    let (mut in_string, mut escaped) = (false, false);
    line.bytes().enumerate().filter_map(move |(index, byte)| {
        let is_outside = !in_string && byte.is_ascii() && byte != b'"';
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ => {}
        }
        is_outside.then_some(index)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_in_strings_counts_neither_as_number_nor_depth(text in "(NaN|Infinity|[{\\[\"\\\\é]){0,20}") {
            let line = serde_json::json!({ "data": text }).to_string();
            prop_assert_eq!((number_outside_json(&line), depth(&line)), (None, 1));
        }

        #[test]
        fn depth_of_any_value_is_counted(levels in prop::collection::vec(any::<bool>(), 0..50)) {
            let open: String = levels.iter().map(|&array| if array { "[0," } else { "{\"}\":" }).collect();
            let close: String = levels.iter().rev().map(|&array| if array { "]" } else { "}" }).collect();
            prop_assert_eq!(depth(&format!("{open}\"[\"{close}")), levels.len());
        }
    }
}
