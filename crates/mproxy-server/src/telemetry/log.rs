//! Log lines: text for people or JSON for machines, on standard error, at a level that can be changed while
//! mproxy runs. `debug` tells of connections; a line per packet is `trace`.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::Subscriber;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// Changes the level of the running process. Clones share it.
#[derive(Clone)]
pub struct LogHandle {
    level: Arc<Mutex<LogLevel>>,
    apply: Arc<dyn Fn(LogLevel) + Send + Sync>,
}

impl LogHandle {
    /// From now on lines of this level and above are written.
    pub fn set(&self, level: LogLevel) {
        // Held over both, so that what is reported is what is in force.
        let mut current = self.level.lock();
        (self.apply)(level);
        *current = level;
    }

    /// The level in force.
    #[must_use]
    pub fn level(&self) -> LogLevel {
        *self.level.lock()
    }

    /// A handle that changes nothing but itself; for tests, and for a process that logs in another way.
    #[must_use]
    pub fn detached(level: LogLevel) -> Self {
        Self { level: Arc::new(Mutex::new(level)), apply: Arc::new(|_| {}) }
    }
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogHandle").field(&self.level()).finish()
    }
}

/// Starts logging for the whole process. A second call changes nothing and gives a handle without effect.
#[must_use]
pub fn start(log: Log) -> LogHandle {
    let (subscriber, handle) = subscriber(log, io::stderr, io::stderr().is_terminal());
    match subscriber.try_init() {
        Ok(()) => handle,
        Err(_) => LogHandle::detached(log.level),
    }
}

/// A subscriber that writes to `writer`, and the handle on its level.
pub fn subscriber<W>(log: Log, writer: W, colour: bool) -> (impl Subscriber + Send + Sync, LogHandle)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, reload) = reload::Layer::new(targets(log.level));
    let lines = lines(log.format, writer, colour).with_filter(filter);
    let apply = move |level| {
        // Fails only when the subscriber is gone, and then nobody logs.
        let _ = reload.reload(targets(level));
    };
    let handle = LogHandle { level: Arc::new(Mutex::new(log.level)), apply: Arc::new(apply) };
    (Registry::default().with(lines), handle)
}

fn lines<S, W>(format: LogFormat, writer: W, colour: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    match format {
        LogFormat::Text => Box::new(fmt::layer().with_writer(writer).with_ansi(colour).with_target(false)),
        LogFormat::Json => Box::new(
            fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .with_writer(writer),
        ),
    }
}

/// Ours at the level that was asked for; libraries below `warn` only at `trace`, for at `debug` they speak of
/// every frame.
fn targets(level: LogLevel) -> Targets {
    let libraries = match level {
        LogLevel::Error => LogLevel::Error,
        LogLevel::Warn | LogLevel::Info | LogLevel::Debug => LogLevel::Warn,
        LogLevel::Trace => LogLevel::Debug,
    };
    let ours = tracing::level_filters::LevelFilter::from(level);
    Targets::new()
        .with_default(tracing::level_filters::LevelFilter::from(libraries))
        .with_target("mproxy", ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what was written.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).expect("log lines are text")
        }
    }

    fn page(level: LogLevel, format: LogFormat, scene: impl FnOnce(&LogHandle)) -> String {
        let page = Page::default();
        let writer = page.clone();
        let (subscriber, handle) = subscriber(Log { level, format }, move || writer.clone(), false);
        tracing::subscriber::with_default(subscriber, || scene(&handle));
        page.text()
    }

    #[test]
    fn the_level_changes_while_running() {
        let text = page(LogLevel::Info, LogFormat::Text, |handle| {
            tracing::debug!(target: "mproxy_server::serve", "one");
            handle.set(LogLevel::Debug);
            assert_eq!(handle.level(), LogLevel::Debug);
            tracing::debug!(target: "mproxy_server::serve", "two");
            handle.set(LogLevel::Error);
            tracing::warn!(target: "mproxy_server::serve", "three");
        });
        assert!(!text.contains("one") && text.contains("two") && !text.contains("three"), "{text}");
    }

    #[test]
    fn libraries_do_not_speak_of_every_frame_at_debug() {
        let text = page(LogLevel::Debug, LogFormat::Text, |_| {
            tracing::debug!(target: "h2::codec", "a frame");
            tracing::warn!(target: "h2::codec", "a warning");
        });
        assert!(!text.contains("a frame") && text.contains("a warning"), "{text}");
    }

    #[test]
    fn a_json_line_is_an_object() {
        let text = page(LogLevel::Info, LogFormat::Json, |_| {
            tracing::info!(target: "mproxy_server::serve", listener = "mqtt", "listening");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim()).expect("JSON");
        assert_eq!(line["message"], "listening");
        assert_eq!(line["listener"], "mqtt");
        assert_eq!(line["level"], "INFO");
    }
}
