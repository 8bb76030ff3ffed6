//! The bar, on a terminal; nothing in a pipe.

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt;

pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// `total` connections, or no known number.
    pub(crate) fn new(name: &'static str, total: Option<u64>) -> Self {
        // Drawn on standard error, and hidden where that is no terminal.
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let template = match total {
            Some(_) => "{msg:9} {bar:40} {human_pos} of {human_len} ({rate}, {eta} left)",
            None => "{msg:9} {human_pos} connections ({rate})",
        };
        let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
            // A bar that lacks its rate is still a bar.
            let _ = write!(text, "{:.0}/s", state.per_sec());
        };
        let style = ProgressStyle::with_template(template)
            .expect("a template that is well-formed")
            .with_key("rate", rate);
        Self(bar.with_style(style).with_message(name))
    }

    pub(crate) fn set(&self, opened: u64) {
        self.0.set_position(opened);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
