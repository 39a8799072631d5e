//! Views that fit into a message, whatever they show.
//!
//! A text that is larger than [`MAX_PREVIEW_BYTES`], or that comes when the texts of the view have used [`MAX_VIEW_BYTES`]
//! together, is cut; its whole size goes along, and it is read whole by a call of its own.

use phoenix_domain::{
    OrchestratorError,
    action::ActionResult,
    json::Json,
    limits::{MAX_PREVIEW_BYTES, MAX_VIEW_BYTES},
};

use crate::common;

/// The room that is left in one view, in bytes.
#[derive(Debug)]
pub(crate) struct Room(usize);

impl Room {
    /// The room of a view.
    pub(crate) const fn new() -> Self {
        Self(MAX_VIEW_BYTES)
    }

    /// The beginning of `text`, and the size of the whole when that is more.
    pub(crate) fn beginning(&mut self, text: &str) -> (String, u64) {
        let (whole, keep) = (text.len(), self.take(text.len()));
        let size = if keep == whole { 0 } else { whole as u64 };
        (text[..text.floor_char_boundary(keep)].to_owned(), size)
    }

    /// The end of `text`, and the size of the whole when that is more.
    pub(crate) fn end(&mut self, text: &str) -> (String, u64) {
        let (whole, keep) = (text.len(), self.take(text.len()));
        let size = if keep == whole { 0 } else { whole as u64 };
        (text[text.ceil_char_boundary(whole - keep)..].to_owned(), size)
    }

    /// An answer, and the size of the whole when it is cut: `data` is a string then, with the beginning of what a reader of
    /// the whole sees, and the metadata are left out when they are large themselves.
    pub(crate) fn output(&mut self, output: &ActionResult) -> (common::ActionOutput, u64) {
        let ActionResult { output_type, data, metadata } = output;
        let metadata_len = metadata.text_len();
        let whole = data.text_len() + metadata_len;
        if whole <= MAX_PREVIEW_BYTES.min(self.0) {
            self.0 -= whole;
            return (output.into(), 0);
        }
        let shows_metadata = self.take(metadata_len) == metadata_len;
        let (preview, size) = match data {
            Json::String(text) => self.beginning(text),
            other => self.beginning(&other.to_string()),
        };
        let wire = common::ActionOutput {
            output_type: output_type.clone(),
            data_json: if size > 0 { Json::from(preview).to_string() } else { data.to_string() },
            metadata_json: if shows_metadata { metadata.to_string() } else { String::new() },
        };
        (wire, size)
    }

    /// An error whose details are cut.
    pub(crate) fn error(&mut self, mut error: OrchestratorError) -> common::Error {
        error.message = self.beginning(&error.message).0;
        for detail in error.details.values_mut() {
            *detail = self.end(detail).0;
        }
        error.into()
    }

    /// The bytes that may be kept of a text of `whole` bytes. Small ones always fit.
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
        fn text_of_any_size_is_cut_at_a_character(text in "[aäÜ\u{10348}]{0,200}", room in 0_usize..300) {
            let mut room = Room(room);
            let (end, size) = room.end(&text);
            prop_assert!(text.ends_with(&end));
            prop_assert_eq!(size, if end == text { 0 } else { text.len() as u64 });
            let (beginning, size) = room.beginning(&text);
            prop_assert!(text.starts_with(&beginning));
            prop_assert_eq!(size, if beginning == text { 0 } else { text.len() as u64 });
        }
    }

    #[test]
    fn a_view_is_bounded_however_many_large_texts_it_has() {
        let mut room = Room::new();
        let large = ActionResult::text("x".repeat(200_000));
        let mut bytes = 0;
        for _ in 0..100 {
            let (output, size) = room.output(&large);
            assert_eq!(size, 200_000);
            let (stderr, size) = room.end(&"y".repeat(70_000));
            assert_eq!(size, 70_000);
            bytes += output.data_json.len() + stderr.len();
        }
        assert!(bytes < MAX_VIEW_BYTES + 100 * 256, "{bytes}");
        let (small, size) = room.output(&ActionResult::text("small"));
        assert_eq!((&*small.data_json, size), ("\"small\"", 0));
    }
}
