//! Log lines: text for people or JSON for machines, on standard error, at a level that can be changed while
//! mproxy runs. `debug` tells of connections; a line per packet is `trace`. What a line may hold is said in `line`; that
//! nobody waits for who reads it, in `queue`.

mod line;
mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use self::line::LineFormat;
use self::queue::LogQueue;
use super::export_counts::ExportCounts;
use super::otlp_logs::OtlpLogs;
use super::traces::{TARGET as SPANS, Traces};
use crate::config::{Log, LogLevel};

/// Changes the level of the running process. Clones share it.
#[derive(Clone)]
pub struct LogHandle {
    level: Arc<Mutex<LogLevel>>,
    apply: Arc<dyn Fn(LogLevel) + Send + Sync>,
    queue: Option<LogQueue>,
    counts: LogCounts,
}

/// What the log counts of itself. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct LogCounts {
    /// Lines that were left out, because they came faster than they were read.
    pub lines_dropped: Counter,
    /// Panics of any task or thread.
    pub panics: Counter,
    /// Lines that are sent by OTLP.
    pub sent: ExportCounts,
}

impl LogCounts {
    pub(super) fn register(&self, metrics: &mut prometheus_client::registry::Registry) {
        let help = "Log lines dropped because they were written faster than they were read";
        metrics.register("log_lines_dropped", help, self.lines_dropped.clone());
        let help = "Panics; a panic in a connection ends that connection only";
        metrics.register("panics", help, self.panics.clone());
        self.sent.register_log_records(metrics);
    }
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

    /// Waits until all that was logged is written, but no longer than this.
    pub fn flush(&self, within: Duration) {
        // What nobody reads by then is not read at all.
        let _ = self.queue.as_ref().is_none_or(|queue| queue.flush(within));
    }

    /// What the log counts of itself.
    #[must_use]
    pub const fn counts(&self) -> &LogCounts {
        &self.counts
    }

    /// A handle that changes nothing but itself; for tests, and for a process that logs in another way.
    #[must_use]
    pub fn detached(level: LogLevel) -> Self {
        Self {
            level: Arc::new(Mutex::new(level)),
            apply: Arc::new(|_| {}),
            queue: None,
            counts: LogCounts::default(),
        }
    }
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogHandle").field(&self.level()).finish()
    }
}

/// Starts logging for the whole process, panics included, and traces and logs by OTLP where there are some. A second call changes
/// nothing and gives a handle without effect.
#[must_use]
pub fn start(log: Log, traces: Option<&Traces>, sent: Option<&OtlpLogs>) -> LogHandle {
    let counts = LogCounts {
        sent: sent.map(|sent| sent.counts().clone()).unwrap_or_default(),
        ..LogCounts::default()
    };
    let queue = LogQueue::start(log.format, standard_error(), counts.lines_dropped.clone());
    let (subscriber, handle) = subscriber(log, queue.clone(), io::stderr().is_terminal());
    let mut set_sent = None;
    // Not there at all where nobody asked for it: a layer that does nothing would be asked about every line.
    let started = match (traces, sent) {
        (None, None) => subscriber.try_init(),
        (Some(traces), None) => subscriber.with(traces.layer()).try_init(),
        (None, Some(sent)) => {
            let (layer, set) = sent.layer(log.level);
            set_sent = Some(set);
            subscriber.with(layer).try_init()
        }
        (Some(traces), Some(sent)) => {
            let (layer, set) = sent.layer(log.level);
            set_sent = Some(set);
            subscriber.with(traces.layer()).with(layer).try_init()
        }
    };
    if started.is_err() {
        return LogHandle::detached(log.level);
    }
    let panics = counts.panics.clone();
    // Its default writes to standard error itself, and would wait for whoever reads that.
    panic::set_hook(Box::new(move |panic| tell_panic(panic, &panics)));
    let apply: Arc<dyn Fn(LogLevel) + Send + Sync> = match set_sent {
        None => handle.apply,
        Some(set_sent) => Arc::new(move |level| {
            (handle.apply)(level);
            set_sent(level);
        }),
    };
    LogHandle { level: handle.level, apply, queue: Some(queue), counts }
}

/// Standard error, but not its lock: a thread that holds it while nobody reads would hold up all others.
fn standard_error() -> Box<dyn Write + Send> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(copy) => Box::new(File::from(copy)),
        Err(_) => Box::new(io::stderr()),
    }
}

/// Lines of a backtrace at most.
const FRAMES: usize = 64;

fn tell_panic(panic: &panic::PanicHookInfo<'_>, count: &Counter) {
    // First: the line below may find no room.
    count.inc();
    let at = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    let payload = panic.payload();
    let said = payload.downcast_ref::<&str>().copied();
    let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    tracing::error!(at, thread = thread.name(), error = said.unwrap_or("no message"), "panicked");
    // Where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        for line in backtrace.to_string().lines().take(FRAMES) {
            tracing::error!("{line}");
        }
    }
}

/// A subscriber that writes to `writer`, and the handle on its level.
pub fn subscriber<W>(
    log: Log,
    writer: W,
    colour: bool,
) -> (impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync, LogHandle)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, reload) = reload::Layer::new(targets(log.level));
    let lines = lines(LineFormat(log.format), writer, colour).with_filter(filter);
    let apply = move |level| {
        // Fails only when the subscriber is gone, and then nobody logs.
        let _ = reload.reload(targets(level));
    };
    let level = Arc::new(Mutex::new(log.level));
    let handle = LogHandle { level, apply: Arc::new(apply), queue: None, counts: LogCounts::default() };
    (Registry::default().with(lines), handle)
}

fn lines<S, W>(lines: LineFormat, writer: W, colour: bool) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    fmt::layer()
        .with_ansi(colour)
        // They would be told on standard error itself.
        .log_internal_errors(false)
        .event_format(lines)
        .with_writer(writer)
}

/// Ours at the level that was asked for; libraries below `warn` only at `trace`, for at `debug` they speak of
/// every frame.
fn targets(level: LogLevel) -> Targets {
    let libraries = match level {
        LogLevel::Error => LogLevel::Error,
        LogLevel::Warn | LogLevel::Info | LogLevel::Debug => LogLevel::Warn,
        LogLevel::Trace => LogLevel::Debug,
    };
    let ours = LevelFilter::from(level);
    Targets::new()
        .with_default(LevelFilter::from(libraries))
        .with_target("mproxy", ours)
        // Traces, which are no lines.
        .with_target(SPANS, LevelFilter::OFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::telemetry::field_lengths::{LONGEST_MESSAGE, LONGEST_VALUE};

    /// Keeps what was written.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
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

    const FORMATS: [LogFormat; 2] = [LogFormat::Text, LogFormat::Json];

    #[test]
    fn nobody_forges_a_line_or_a_field() {
        let foreign = "x\n2026-01-01T00:00:00Z ERROR mproxy is broken\r\u{1b}[2J\u{9b}31m\u{202e}\u{2028}";
        for format in FORMATS {
            let text = page(LogLevel::Info, format, |_| {
                tracing::info!(target: "mproxy", client_id = foreign, error = %foreign, shown = ?foreign, "{foreign}");
                tracing::info!(target: "mproxy", client_id = "a\" username=\"root", error = %"b username=root", "two");
            });
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 2, "{text}");
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
            assert!(!text.contains('\u{202e}') && !text.contains('\u{2028}'), "{text:?}");
            match format {
                LogFormat::Text => {
                    let fields = "two client_id=\"a\\\" username=\\\"root\" error=\"b username=root\"";
                    assert!(lines[1].ends_with(fields), "{text}");
                }
                LogFormat::Json => {
                    let line: serde_json::Value = serde_json::from_str(lines[0]).expect("JSON");
                    assert_eq!((&line["client_id"], &line["error"]), (&foreign.into(), &foreign.into()));
                    let line: serde_json::Value = serde_json::from_str(lines[1]).expect("JSON");
                    assert_eq!(
                        (&line["client_id"], line.get("username")),
                        (&"a\" username=\"root".into(), None)
                    );
                }
            }
        }
    }

    #[test]
    fn whoever_says_much_is_cut() {
        for format in FORMATS {
            for piece in ["x", "\n", "\u{7f}", "\u{1f980}", "\"", "\u{e0041}"] {
                let long = piece.repeat(65_535 / piece.len());
                let text = page(LogLevel::Info, format, |_| {
                    tracing::info!(target: "mproxy", client_id = long, error = %long, shown = ?long, "ended: {long}");
                });
                let most = 2 * LONGEST_MESSAGE + 2 * LONGEST_VALUE + 200;
                assert!(text.len() <= most && text.contains('…'), "{} bytes of {piece:?}", text.len());
                assert_eq!(text.lines().count(), 1, "{text}");
                if format == LogFormat::Json {
                    serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
                }
            }
        }
    }

    #[test]
    fn what_is_just_as_long_as_it_may_be_is_whole() {
        let value = "x".repeat(LONGEST_VALUE);
        for format in FORMATS {
            let text = page(LogLevel::Info, format, |_| {
                tracing::info!(target: "mproxy", client_id = value, error = %value, "said");
            });
            assert_eq!((text.matches(&value).count(), text.contains('…')), (2, false), "{text}");
        }
    }

    #[test]
    fn numbers_and_absent_values_are_what_they_are() {
        let scene = |_: &LogHandle| {
            let nobody: Option<&str> = None;
            tracing::info!(target: "mproxy", client_id = nobody, rules = 2, open = true, "said");
        };
        let text = page(LogLevel::Info, LogFormat::Text, scene);
        assert!(text.ends_with("  INFO said rules=2 open=true\n"), "{text}");
        let text = page(LogLevel::Info, LogFormat::Json, scene);
        assert!(
            text.contains("\"message\":\"said\",\"rules\":2,\"open\":true,\"target\":\"mproxy\"}"),
            "{text}"
        );
    }
    #[test]
    fn no_key_stands_twice_in_a_line() {
        let text = page(LogLevel::Info, LogFormat::Json, |_| {
            tracing::info!(target: "mproxy", target = "other", level = 3, timestamp = "now", "said");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim()).expect("JSON");
        assert_eq!((&line["target"], &line["target_"]), (&"mproxy".into(), &"other".into()), "{text}");
        assert_eq!(
            (&line["level"], &line["level_"], &line["timestamp_"]),
            (&"INFO".into(), &3.into(), &"now".into())
        );
        for key in ["\"target\":", "\"level\":", "\"timestamp\":"] {
            assert_eq!(text.matches(key).count(), 1, "{text}");
        }
    }

    #[test]
    fn reason_codes_are_hex_for_people() {
        let scene = |_: &LogHandle| tracing::info!(target: "mproxy", reason_code = 0x87_u8, "said");
        assert!(page(LogLevel::Info, LogFormat::Text, scene).ends_with("said reason_code=0x87\n"));
        assert!(page(LogLevel::Info, LogFormat::Json, scene).contains("\"reason_code\":135,"));
    }
}
