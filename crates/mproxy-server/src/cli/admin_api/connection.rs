//! One request of HTTP/1.0, and what comes back, within a deadline. Knows nothing of what is asked.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::place::AdminPlace;
use super::socket::{AdminSocket, late, left};
use crate::config::authority;

/// The largest answer that is read; the API's pages end at about 1 MiB.
const LARGEST_ANSWER: u64 = 16 << 20;

/// The largest head of an answer.
const LARGEST_HEAD: usize = 16 << 10;

/// What is asked of whom.
pub(in crate::cli) struct Call<'a> {
    pub(super) place: &'a AdminPlace,
    pub(in crate::cli) method: &'a str,
    pub(in crate::cli) target: &'a str,
    pub(in crate::cli) body: &'a str,
    /// For everything: finding its address, connecting, asking, reading.
    pub(in crate::cli) deadline: Duration,
}

/// What came back.
#[derive(Debug)]
pub(in crate::cli) struct HttpAnswer {
    pub(in crate::cli) status: u16,
    pub(in crate::cli) body: Vec<u8>,
}

/// Something else than our admin API has answered.
pub(in crate::cli) fn not_ours() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "it does not answer as an admin API does: is another program at this port?",
    )
}

impl Call<'_> {
    /// The whole answer.
    ///
    /// # Errors
    /// It could not be reached in time, or has not answered in HTTP.
    pub(in crate::cli) fn answer(&self) -> io::Result<HttpAnswer> {
        let (status, begun, stream) = self.begin()?;
        let mut body = begun;
        stream.take(LARGEST_ANSWER).read_to_end(&mut body)?;
        Ok(HttpAnswer { status, body })
    }

    /// An answer that goes on: its status, what has come of it so far, and where the rest comes from. The deadline is for its
    /// beginning.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub(super) fn long_answer(&self) -> io::Result<(u16, Vec<u8>, AnswerStream)> {
        let (status, begun, stream) = self.begin()?;
        Ok((status, begun, AnswerStream { stream, part: Box::new([0; 16 << 10]) }))
    }

    /// The status, what was read of the body, and where the rest comes from.
    fn begin(&self) -> io::Result<(u16, Vec<u8>, TimedStream)> {
        let until = Instant::now() + self.deadline;
        let host = self.place.reachable();
        let stream = connect(&host, self.place.port, until)?;
        let mut socket = AdminSocket::over(stream, self.place.tls.as_ref(), until)?;
        socket.write_all(self.request(&host).as_bytes(), until)?;
        let mut stream = TimedStream { socket, until };
        let mut read = Vec::new();
        let mut part = [0; 4096];
        loop {
            if let Some((status, body)) = split(&read) {
                return Ok((status, body.to_vec(), stream));
            }
            let length = stream.read(&mut part)?;
            if length == 0 || read.len() > LARGEST_HEAD {
                return Err(not_ours());
            }
            read.extend_from_slice(&part[..length]);
        }
    }

    fn request(&self, host: &str) -> String {
        let Self { method, target, body, .. } = self;
        // 1.0: the answer is as long as its connection, and never in chunks.
        let mut request = format!(
            "{method} {target} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n",
            authority(host, self.place.port)
        );
        // Writing to a String cannot fail.
        if let Some(token) = &self.place.token {
            let _ = write!(request, "Authorization: Bearer {}\r\n", token.expose());
        }
        if !body.is_empty() {
            let _ = write!(request, "Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        request.push_str("\r\n");
        request.push_str(body);
        request
    }
}

/// What comes of an answer that goes on.
pub(super) struct AnswerStream {
    stream: TimedStream,
    part: Box<[u8; 16 << 10]>,
}

impl AnswerStream {
    /// What comes next, within this time; empty where it has ended.
    pub(super) fn read_part(&mut self, patience: Duration) -> io::Result<&[u8]> {
        self.stream.until = Instant::now() + patience;
        let length = self.stream.read(self.part.as_mut_slice())?;
        Ok(&self.part[..length])
    }
}

/// The status and what follows the head, once that is there.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end + 4)?;
    let head = std::str::from_utf8(head).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some((status, body))
}

fn connect(host: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses(host, port, until)? {
        match TcpStream::connect_timeout(&address, left(until)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn addresses(host: &str, port: u16, until: Instant) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![(ip, port).into()]);
    }
    // The system's resolver has no deadline. One that is late ends with the process.
    let (send, receive) = mpsc::channel();
    let host = host.to_owned();
    std::thread::spawn(move || {
        send.send((host.as_str(), port).to_socket_addrs().map(Iterator::collect)).ok();
    });
    receive.recv_timeout(left(until)?).map_err(|_| late())?
}

/// A connection that is done by then.
struct TimedStream {
    socket: AdminSocket,
    until: Instant,
}

impl Read for TimedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer, self.until)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_has_a_head_that_ends() {
        assert_eq!(split(b"HTTP/1.1 403 Forbidden\r\nx: y\r\n\r\n{}"), Some((403, &b"{}"[..])));
        assert_eq!(split(b"HTTP/1.0 200 OK\r\n\r\n"), Some((200, &b""[..])));
        for other in [&b""[..], b"\x20\x02\0\x05", b"HTTP/1.1 200 OK\r\nx", b"HTTP/1.1\r\n\r\n{}"] {
            assert_eq!(split(other), None, "{other:?}");
        }
    }

    #[test]
    fn who_never_answers_is_given_up_in_time() {
        // It takes connections (the system does), and reads nothing.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = silent.local_addr().expect("an address").port();
        let place = AdminPlace { host: "127.0.0.1".to_owned(), port, token: None, tls: None };
        let call =
            Call { place: &place, method: "GET", target: "/", body: "", deadline: Duration::from_millis(50) };
        assert_eq!(call.answer().expect_err("nobody answers").kind(), io::ErrorKind::TimedOut);
    }
}
