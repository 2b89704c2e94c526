//! One event, one line. Whatever stands in it (a client id, a topic, what a service or a broker said) is escaped, so that
//! it cannot begin a line or a field of its own or steer a terminal, and is cut at a bound, so that nobody can make the
//! log grow by more than it says. All values pass through here: no caller has to think of it.

use std::cell::RefCell;
use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;
use crate::telemetry::field_lengths::{LONGEST_MESSAGE, LONGEST_VALUE, longest};

/// Keys that each line in JSON has of its own; a field of an event that is called so gets a `_` behind its name, so that no
/// key stands twice in a line.
const OWN_KEYS: [&str; 3] = ["timestamp", "level", "target"];

/// Stands where something was cut.
const CUT: char = '…';

/// Writes events as lines of this format.
pub(super) struct LineFormat(pub(super) LogFormat);

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // Libraries that speak by the `log` crate have their names in fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        match self.0 {
            LogFormat::Text => text(out, *metadata.level(), |visit| event.record(visit)),
            LogFormat::Json => json(out, *metadata.level(), metadata.target(), |visit| event.record(visit)),
        }
    }
}

/// A line of our own that no event stands behind.
pub(super) fn of(format: LogFormat, level: Level, message: &str, count: (&str, u64)) -> String {
    let mut line = String::new();
    let mut out = Writer::new(&mut line);
    // Writing to a String cannot fail.
    let _ = match format {
        LogFormat::Text => {
            begin(&mut out, level).and_then(|()| writeln!(out, "{message} {}={}", count.0, count.1))
        }
        LogFormat::Json => begin_json(&mut out, level).and_then(|()| {
            let target = module_path!();
            writeln!(out, ",\"message\":\"{message}\",\"{}\":{},\"target\":\"{target}\"}}", count.0, count.1)
        }),
    };
    line
}

fn begin(out: &mut Writer<'_>, level: Level) -> fmt::Result {
    let (dim, colour, plain) = match (out.has_ansi_escapes(), level) {
        (false, _) => ("", "", ""),
        (true, Level::ERROR) => ("\x1b[2m", "\x1b[31m", "\x1b[0m"),
        (true, Level::WARN) => ("\x1b[2m", "\x1b[33m", "\x1b[0m"),
        (true, Level::INFO) => ("\x1b[2m", "\x1b[32m", "\x1b[0m"),
        (true, _) => ("\x1b[2m", "\x1b[34m", "\x1b[0m"),
    };
    out.write_str(dim)?;
    SystemTime.format_time(out)?;
    write!(out, "{plain} {colour}{level:>5}{plain} ")
}

fn begin_json(out: &mut Writer<'_>, level: Level) -> fmt::Result {
    out.write_str("{\"timestamp\":\"")?;
    SystemTime.format_time(out)?;
    write!(out, "\",\"level\":\"{level}\"")
}

fn text(mut out: Writer<'_>, level: Level, record: impl Fn(&mut dyn Visit)) -> fmt::Result {
    begin(&mut out, level)?;
    let ansi = out.has_ansi_escapes();
    // The message comes first, wherever it stands among the fields.
    let mut said = false;
    let mut message = Fields(|field: &Field, value: FieldValue<'_>| {
        if field.name() == "message" {
            said = true;
            value.with(LONGEST_MESSAGE, |text| escape(&mut out, text, LONGEST_MESSAGE, Quotes::None))?;
        }
        Ok(())
    });
    record(&mut message);
    let mut fields = Fields(|field: &Field, value: FieldValue<'_>| {
        // The latter are what libraries that use the `log` crate have in place of metadata: told already.
        if field.name() == "message" || field.name().starts_with("log.") {
            return Ok(());
        }
        if said {
            out.write_char(' ')?;
        }
        said = true;
        let (italic, plain) = if ansi { ("\x1b[3m", "\x1b[0m") } else { ("", "") };
        write!(out, "{italic}{}{plain}=", field.name().trim_start_matches("r#"))?;
        let longest = longest(field.name());
        match value {
            FieldValue::Plain(value) => out.write_fmt(value),
            FieldValue::Code(code) => write!(out, "{code:#04x}"),
            FieldValue::Text(_) => value.with(longest, |text| quote(&mut out, text, longest)),
            FieldValue::Shown(_) => value.with(longest, |text| {
                let bare = |c: char| !c.is_whitespace() && !matches!(c, '"' | '=' | '\\') && !is_unsafe(c);
                if !text.is_empty() && text.chars().all(bare) {
                    escape(&mut out, text, longest, Quotes::None)
                } else {
                    quote(&mut out, text, longest)
                }
            }),
        }
    });
    record(&mut fields);
    out.write_char('\n')
}

fn quote(out: &mut Writer<'_>, text: &str, longest: usize) -> fmt::Result {
    out.write_char('"')?;
    escape(out, text, longest, Quotes::Text)?;
    out.write_char('"')
}

fn json(mut out: Writer<'_>, level: Level, target: &str, record: impl Fn(&mut dyn Visit)) -> fmt::Result {
    begin_json(&mut out, level)?;
    let mut fields = Fields(|field: &Field, value: FieldValue<'_>| {
        if field.name().starts_with("log.") {
            return Ok(());
        }
        // Of a field whose name is a word of Rust's.
        let name = field.name().trim_start_matches("r#");
        let longest = longest(name);
        write!(out, ",\"{name}{}\":", if OWN_KEYS.contains(&name) { "_" } else { "" })?;
        match value {
            FieldValue::Plain(value) => out.write_fmt(value),
            FieldValue::Code(code) => write!(out, "{code}"),
            value => {
                out.write_char('"')?;
                value.with(longest, |text| escape(&mut out, text, longest, Quotes::Json))?;
                out.write_char('"')
            }
        }
    });
    record(&mut fields);
    out.write_str(",\"target\":\"")?;
    escape(&mut out, target, LONGEST_VALUE, Quotes::Json)?;
    out.write_str("\"}\n")
}

/// What stands around a text, and has to be escaped in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    None,
    Text,
    Json,
}

/// Whether a character could break the line, hide, or turn what stands around it. U+FEFF and the like are invisible, the
/// bidirectional ones show a line in another order than it was written.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Writes at most `longest` bytes.
fn escape(out: &mut Writer<'_>, text: &str, longest: usize, quotes: Quotes) -> fmt::Result {
    let mut left = longest;
    let mut escaped = Small::default();
    for c in text.chars() {
        escaped.clear();
        let _ = match (c, quotes) {
            ('\n', _) => escaped.write_str("\\n"),
            ('\r', _) => escaped.write_str("\\r"),
            ('\t', _) => escaped.write_str("\\t"),
            ('"' | '\\', Quotes::Text | Quotes::Json) => {
                escaped.write_char('\\').and_then(|()| escaped.write_char(c))
            }
            (c, Quotes::Json) if is_unsafe(c) => {
                // As JSON has it, beyond U+FFFF as two (RFC 8259, 7).
                c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(escaped, "\\u{unit:04x}"))
            }
            (c, Quotes::None | Quotes::Text) if is_unsafe(c) => write!(escaped, "\\u{{{:x}}}", u32::from(c)),
            (c, _) => escaped.write_char(c),
        };
        let Some(rest) = left.checked_sub(escaped.as_str().len()) else { return out.write_char(CUT) };
        left = rest;
        out.write_str(escaped.as_str())?;
    }
    Ok(())
}

/// One character, escaped. The longest is a pair of surrogates.
#[derive(Default)]
struct Small {
    bytes: [u8; 12],
    length: usize,
}

impl Small {
    fn clear(&mut self) {
        self.length = 0;
    }

    fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl Write for Small {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        let place = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// A field's value.
enum FieldValue<'a> {
    /// A number or a truth value.
    Plain(fmt::Arguments<'a>),
    /// A reason code: a number to machines, and as the standard writes it to people.
    Code(u64),
    /// Text.
    Text(&'a str),
    /// What has to be formatted first.
    Shown(&'a dyn fmt::Debug),
}

impl FieldValue<'_> {
    /// Its text; of what has to be formatted no more than is going to be written.
    fn with(&self, longest: usize, write: impl FnOnce(&str) -> fmt::Result) -> fmt::Result {
        thread_local!(static SCRATCH: RefCell<String> = const { RefCell::new(String::new()) });
        let shown = match self {
            Self::Text(text) => return write(text),
            Self::Plain(plain) => return write(&plain.to_string()),
            Self::Code(code) => return write(&code.to_string()),
            Self::Shown(shown) => shown,
        };
        // Not borrowed while it is formatted: what is shown may log, too.
        let mut text = SCRATCH.take();
        text.clear();
        // Where it says no, there is more than fits.
        let _ = write!(Bounded { text: &mut text, longest }, "{shown:?}");
        let written = write(&text);
        SCRATCH.set(text);
        written
    }
}

/// Takes one character more than fits, by which it is seen that something is cut, and then says no, so that nobody goes
/// on formatting what is not written.
struct Bounded<'a> {
    text: &'a mut String,
    longest: usize,
}

impl Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = (self.longest + 1).saturating_sub(self.text.len());
        if text.len() <= room {
            self.text.push_str(text);
            return Ok(());
        }
        let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).find(|end| *end >= room);
        self.text.push_str(end.and_then(|end| text.get(..end)).unwrap_or(text));
        Err(fmt::Error)
    }
}

/// Calls a closure for each field.
struct Fields<F>(F);

impl<F: FnMut(&Field, FieldValue<'_>) -> fmt::Result> Visit for Fields<F> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // NaN and the infinities are no numbers in JSON.
        let _ = if value.is_finite() {
            (self.0)(field, FieldValue::Plain(format_args!("{value}")))
        } else {
            (self.0)(field, FieldValue::Text(&value.to_string()))
        };
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        let _ = (self.0)(field, FieldValue::Plain(format_args!("{value}")));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let _ = match field.name() {
            "reason_code" => (self.0)(field, FieldValue::Code(value)),
            _ => (self.0)(field, FieldValue::Plain(format_args!("{value}"))),
        };
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        let _ = (self.0)(field, FieldValue::Plain(format_args!("{value}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = (self.0)(field, FieldValue::Text(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = (self.0)(field, FieldValue::Shown(value));
    }
}
