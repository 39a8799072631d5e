//! Progress of a copy on a terminal; no output elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use phoenix_platform::sqlite::backup::Progress;

/// A progress bar on standard error. Dropping it removes it.
pub(super) struct CopyBar(Option<ProgressBar>);

impl CopyBar {
    /// A bar for the copy of `name`.
    pub(super) fn new(name: &str) -> Self {
        let style =
            ProgressStyle::with_template("{prefix:<12} {bar:32} {percent:>3} %  {decimal_bytes}  {msg}");
        let bar = style.ok().filter(|_| std::io::stderr().is_terminal()).map(|style| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            bar.with_style(style).with_prefix(name.to_owned())
        });
        Self(bar)
    }

    /// Shows `progress`.
    pub(super) fn update(&self, progress: Progress) {
        let Some(bar) = &self.0 else { return };
        match progress {
            Progress::Written { bytes, of } => {
                // The source may have grown since its size was read.
                bar.set_length(of.max(bytes));
                bar.set_position(bytes);
            }
            Progress::Checking => {
                bar.set_position(bar.length().unwrap_or_default());
                bar.set_message("verifying");
            }
        }
    }
}

impl Drop for CopyBar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
