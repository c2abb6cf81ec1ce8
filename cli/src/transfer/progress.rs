//! A progress bar with rate and remaining time on a terminal; nothing anywhere else.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::context::Context;

/// How often a bar that doesn't move is drawn.
const TICK: Duration = Duration::from_millis(200);

/// Progress of a transfer. Clones move the same bar.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar, where a person looks at standard error and wants one.
    pub(crate) fn new(context: &Context) -> Self {
        let wanted = std::io::stderr().is_terminal() && !context.global.json && !context.global.quiet;
        let bar = if wanted { ProgressBar::no_length() } else { ProgressBar::hidden() };
        if wanted {
            bar.set_style(style("{spinner} {bytes} {binary_bytes_per_sec} {wide_msg}"));
            bar.enable_steady_tick(TICK);
        }
        Self { bar }
    }

    /// Whether anything is shown: only then is it worth counting what is to come.
    pub(crate) fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// So many bytes are to come in all.
    pub(crate) fn expect(&self, bytes: u64) {
        self.bar.set_length(bytes);
        self.bar.set_style(style("{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left"));
    }

    /// So many bytes are done.
    pub(crate) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Bytes that are done.
    pub(crate) fn position(&self) -> u64 {
        self.bar.position()
    }

    /// So many bytes have to be done again.
    pub(crate) fn retreat(&self, bytes: u64) {
        self.bar.set_position(self.bar.position().saturating_sub(bytes));
    }

    /// What is being done.
    pub(crate) fn message(&self, text: String) {
        self.bar.set_message(text);
    }

    /// Prints by `print` without tearing the bar.
    pub(crate) fn around<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are well-formed")
}
