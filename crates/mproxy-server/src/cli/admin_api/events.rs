//! Server-sent events: an answer that goes on until somebody ends it. Knows nothing of what they say.

use std::io;
use std::time::Duration;

use super::connection::AnswerStream;

/// The longest line that is read. Events of mproxy are shorter by far.
const LONGEST_LINE: usize = 1 << 20;

/// What happened, and its data in JSON.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct ServerEvent {
    pub(in crate::cli) name: String,
    pub(in crate::cli) data: String,
}

/// Events as they come.
pub(in crate::cli) struct EventReader {
    answer: AnswerStream,
    /// What was read and is not a whole line yet begins here.
    buffer: Vec<u8>,
    /// For the next byte; mproxy sends one at least every ten seconds.
    patience: Duration,
}

impl EventReader {
    pub(super) const fn new(answer: AnswerStream, begun: Vec<u8>, patience: Duration) -> Self {
        Self { answer, buffer: begun, patience }
    }

    /// The next event; `None` where the answer has ended.
    ///
    /// # Errors
    /// Nothing came for too long, or what came are no events.
    pub(in crate::cli) fn next_event(&mut self) -> io::Result<Option<ServerEvent>> {
        let mut event = ServerEvent::default();
        loop {
            let Some(line) = self.next_line()? else { return Ok(None) };
            if line.is_empty() {
                if !event.data.is_empty() {
                    return Ok(Some(event));
                }
                event = ServerEvent::default();
            }
            take_field(&mut event, &line);
        }
    }

    fn next_line(&mut self) -> io::Result<Option<String>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                let line = String::from_utf8(line).map_err(|_| super::connection::not_ours())?;
                return Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()));
            }
            searched = self.buffer.len();
            if searched > LONGEST_LINE {
                return Err(super::connection::not_ours());
            }
            let part = self.answer.read_part(self.patience)?;
            if part.is_empty() {
                return Ok(None);
            }
            self.buffer.extend_from_slice(part);
        }
    }
}

/// `name: value`; a line that begins with a colon is a comment, and fields that we do not know mean nothing.
fn take_field(event: &mut ServerEvent, line: &str) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    let value = value.strip_prefix(' ').unwrap_or(value);
    match name {
        "event" => value.clone_into(&mut event.name),
        "data" => {
            if !event.data.is_empty() {
                event.data.push('\n');
            }
            event.data.push_str(value);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_make_an_event_and_comments_none() {
        let mut event = ServerEvent::default();
        for line in ["event: packet", ": still here", "data: {\"a\":", "data:1}", "id: 7", "retry"] {
            take_field(&mut event, line);
        }
        assert_eq!(event, ServerEvent { name: "packet".into(), data: "{\"a\":\n1}".into() });
    }
}
