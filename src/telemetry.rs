//! Logging: structured lines on standard error. Metrics: [`metrics`].

mod catalog;
pub mod metrics;

use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing::{debug, error};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Sends the log of this process to standard error; `level` is a level or tracing directives.
/// Without effect where a logger is set already.
pub fn init(level: &str, format: LogFormat) {
    std::panic::set_hook(Box::new(panicked));
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Otherwise a log that can't be written is complained of on standard error, with a panic
        // where that is the log.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let _ = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}

/// A panic's message may quote what a client has sent: it is for those who ask for it.
fn panicked(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let place = place.unwrap_or_default();
    error!(place, "panicked; LOG_LEVEL=debug shows the message");
    let payload = panic.payload();
    let message = payload.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| payload.downcast_ref::<&str>().copied());
    debug!(reason = message, place, "panicked");
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_logged_with_its_place_and_without_its_message() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_writer(move || writer.clone())
            .finish();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(panicked));
        tracing::subscriber::with_default(log, || {
            let _ = std::panic::catch_unwind(|| panic!("what a client has sent"));
        });
        std::panic::set_hook(before);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(
            text.contains("panicked") && text.contains(file!()),
            "{text}"
        );
        assert!(!text.contains("client"), "{text}");
    }
}
