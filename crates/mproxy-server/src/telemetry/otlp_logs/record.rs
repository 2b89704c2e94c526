//! One event, one log record: its message is the body, its fields are attributes, as long as in a line of the log at most.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use opentelemetry::Key;
use opentelemetry::logs::{AnyValue, LogRecord, Logger, Severity};
use opentelemetry_sdk::logs::SdkLogger;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::count_full;
use crate::telemetry::export_counts::ExportCounts;
use crate::telemetry::field_lengths::longest;

/// Makes log records of what is logged.
pub(super) struct OtlpLogLayer {
    pub(super) logger: SdkLogger,
    pub(super) counts: ExportCounts,
    /// So many wait at most.
    pub(super) queue: usize,
}

impl<S: Subscriber> Layer<S> for OtlpLogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Before anything is made of it. The SDK's own queue is bounded, too, but does not say what it drops.
        if !self.counts.take_place(self.queue) {
            return count_full(&self.counts, self.queue);
        }
        let metadata = event.metadata();
        let (number, name) = severity(*metadata.level());
        let mut record = self.logger.create_log_record();
        let now = SystemTime::now();
        record.set_timestamp(now);
        record.set_observed_timestamp(now);
        record.set_target(metadata.target());
        record.set_severity_number(number);
        record.set_severity_text(name);
        event.record(&mut OtlpFields(&mut record));
        self.logger.emit(record);
    }
}

const fn severity(level: Level) -> (Severity, &'static str) {
    match level {
        Level::ERROR => (Severity::Error, "ERROR"),
        Level::WARN => (Severity::Warn, "WARN"),
        Level::INFO => (Severity::Info, "INFO"),
        Level::DEBUG => (Severity::Debug, "DEBUG"),
        Level::TRACE => (Severity::Trace, "TRACE"),
    }
}

/// Puts the fields of an event into a record.
struct OtlpFields<'a, R>(&'a mut R);

impl<R: LogRecord> OtlpFields<'_, R> {
    fn add(&mut self, field: &Field, value: impl Into<AnyValue>) {
        match field.name() {
            "message" => self.0.set_body(value.into()),
            // Of a field whose name is a word of Rust's.
            name => self.0.add_attribute(Key::from_static_str(name.trim_start_matches("r#")), value),
        }
    }

    fn add_text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        let mut cut = CutText { text: String::new(), longest: longest(field.name()) };
        // Where it says no, there is more than fits.
        if cut.write_fmt(text).is_err() {
            cut.text.push('…');
        }
        self.add(field, cut.text);
    }
}

impl<R: LogRecord> Visit for OtlpFields<'_, R> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        // OTLP knows no larger ones.
        self.add(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add_text(field, format_args!("{value:?}"));
    }
}

/// Takes so many bytes, and says no to more, so that nobody goes on formatting what is not sent.
struct CutText {
    text: String,
    longest: usize,
}

impl fmt::Write for CutText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.longest.saturating_sub(self.text.len());
        if text.len() <= room {
            self.text.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        self.text.push_str(&text[..end]);
        Err(fmt::Error)
    }
}
