//! How a long step is shown: a bar of bytes on a terminal, two log lines anywhere else.

use std::io::IsTerminal as _;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

/// One step of known size. Dropping it before [`Progress::done`] takes the bar away.
#[derive(Debug)]
pub(super) struct Progress {
    step: &'static str,
    bytes: u64,
    begun: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins the step, named as what is being done, e.g. "fetching the engine".
    pub(super) fn begin(step: &'static str, bytes: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(bytes).with_message(step);
            let template = "{msg} [{wide_bar}] {bytes}/{total_bytes}, {eta} left";
            bar.set_style(
                ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        if bar.is_none() {
            tracing::info!(bytes, "{step}");
        }
        Self {
            step,
            bytes,
            begun: Instant::now(),
            bar,
        }
    }

    /// Shows how far the step is.
    pub(super) fn at(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes.min(self.bytes));
        }
    }

    /// Ends the step.
    pub(super) fn done(self) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.bytes);
                bar.finish();
            }
            None => {
                let elapsed_ms =
                    u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(bytes = self.bytes, elapsed_ms, "done {}", self.step);
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.as_ref().filter(|bar| !bar.is_finished()) {
            bar.finish_and_clear();
        }
    }
}
