//! Previews: views that fit into a message.
//!
//! A text over [`MAX_PREVIEW_BYTES`], or beyond the total of [`MAX_VIEW_BYTES`] per view, is cut. The view has the size of the
//! complete text, which another call returns.

use phoenix_domain::{
    OrchestratorError,
    action::ActionResult,
    json::{Json, Object},
    limits::{MAX_OUTPUT_TYPE_BYTES, MAX_PREVIEW_BYTES, MAX_VIEW_BYTES},
};

use crate::common;

/// Remaining bytes of one view.
#[derive(Debug)]
pub(crate) struct PreviewBudget(usize);

impl PreviewBudget {
    /// The budget of a view.
    pub(crate) const fn new() -> Self {
        Self(MAX_VIEW_BYTES)
    }

    /// The beginning of `text`, and the complete size if it is cut, else 0.
    pub(crate) fn beginning(&mut self, text: &str) -> (String, u64) {
        let (whole, keep) = (text.len(), self.take(text.len()));
        let size = if keep == whole { 0 } else { whole as u64 };
        (text[..text.floor_char_boundary(keep)].to_owned(), size)
    }

    /// The end of `text`, and the complete size if it is cut, else 0.
    pub(crate) fn end(&mut self, text: &str) -> (String, u64) {
        let (whole, keep) = (text.len(), self.take(text.len()));
        let size = if keep == whole { 0 } else { whole as u64 };
        (text[text.ceil_char_boundary(whole - keep)..].to_owned(), size)
    }

    /// A result, and the complete size if it is cut, else 0. `data` of a cut result is a string with the beginning of its text
    /// for display; large metadata is omitted.
    pub(crate) fn output(&mut self, output: &ActionResult) -> (common::ActionOutput, u64) {
        let ActionResult { output_type, data, metadata } = output;
        let metadata_len = metadata.text_len();
        let whole = data.text_len() + metadata_len;
        // Journals from before the limit may hold a longer type.
        let output_type = &output_type[..output_type.floor_char_boundary(MAX_OUTPUT_TYPE_BYTES)];
        if whole <= MAX_PREVIEW_BYTES.min(self.0) {
            self.0 -= whole;
            let wire = common::ActionOutput { output_type: output_type.into(), ..output.into() };
            return (wire, 0);
        }
        let shows_metadata = self.take(metadata_len) == metadata_len;
        let (preview, size) = match data {
            Json::String(text) => self.beginning(text),
            other => self.beginning(&other.to_string()),
        };
        let wire = common::ActionOutput {
            output_type: output_type.into(),
            data_json: if size > 0 { Json::from(preview).to_string() } else { data.to_string() },
            metadata_json: if shows_metadata { metadata.to_string() } else { String::new() },
        };
        (wire, size)
    }

    /// An object as JSON, if it fits.
    pub(crate) fn whole(&mut self, object: &Object) -> Option<String> {
        let whole = object.text_len();
        if whole > MAX_PREVIEW_BYTES.min(self.0) {
            return None;
        }
        self.0 -= whole;
        Some(object.to_string())
    }

    /// An error with cut message and details.
    pub(crate) fn error(&mut self, mut error: OrchestratorError) -> common::Error {
        error.message = self.beginning(&error.message).0;
        for detail in error.details.values_mut() {
            *detail = self.end(detail).0;
        }
        error.into()
    }

    /// Takes the bytes for a text of `whole` bytes from the budget. Small texts always fit.
    fn take(&mut self, whole: usize) -> usize {
        const SMALL: usize = 64;
        let keep = whole.min(MAX_PREVIEW_BYTES).min(self.0.max(SMALL));
        self.0 = self.0.saturating_sub(keep);
        keep
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_is_cut_at_a_character_boundary(text in "[aäÜ\u{10348}]{0,200}", bytes in 0_usize..300) {
            let mut budget = PreviewBudget(bytes);
            let (end, size) = budget.end(&text);
            prop_assert!(text.ends_with(&end));
            prop_assert_eq!(size, if end == text { 0 } else { text.len() as u64 });
            let (beginning, size) = budget.beginning(&text);
            prop_assert!(text.starts_with(&beginning));
            prop_assert_eq!(size, if beginning == text { 0 } else { text.len() as u64 });
        }
    }

    #[test]
    fn view_is_bounded_for_any_number_of_large_texts() {
        let mut budget = PreviewBudget::new();
        let large = ActionResult::text("x".repeat(200_000));
        let mut bytes = 0;
        for _ in 0..100 {
            let (output, size) = budget.output(&large);
            assert_eq!(size, 200_000);
            let (stderr, size) = budget.end(&"y".repeat(70_000));
            assert_eq!(size, 70_000);
            bytes += output.data_json.len() + stderr.len();
        }
        assert!(bytes < MAX_VIEW_BYTES + 100 * 256, "{bytes}");
        let large = ActionResult { output_type: "ä".repeat(4_000_000), ..ActionResult::text("small") };
        for mut budget in [PreviewBudget::new(), PreviewBudget(0)] {
            let (output, _) = budget.output(&large);
            assert_eq!(output.output_type, "ä".repeat(MAX_OUTPUT_TYPE_BYTES / 2));
        }
        let (small, size) = budget.output(&ActionResult::text("small"));
        assert_eq!((&*small.data_json, size), ("\"small\"", 0));
    }
}
