//! How far a copy is, for a person at a terminal; nothing elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use phoenix_platform::sqlite::backup::Progress;

/// A bar on standard error. Gone when it is dropped.
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    /// A bar for the copy of `name`.
    pub(super) fn of(name: &str) -> Self {
        let style =
            ProgressStyle::with_template("{prefix:<12} {bar:32} {percent:>3} %  {decimal_bytes}  {msg}");
        let bar = style.ok().filter(|_| std::io::stderr().is_terminal()).map(|style| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            bar.with_style(style).with_prefix(name.to_owned())
        });
        Self(bar)
    }

    /// Shows how far it is.
    pub(super) fn show(&self, progress: Progress) {
        let Some(bar) = &self.0 else { return };
        match progress {
            Progress::Written { bytes, of } => {
                // The source may have grown since its size was asked for.
                bar.set_length(of.max(bytes));
                bar.set_position(bytes);
            }
            Progress::Checking => {
                bar.set_position(bar.length().unwrap_or_default());
                bar.set_message("reading it again");
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
