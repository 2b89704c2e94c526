//! Somebody asks for the upgrade.

use std::convert::Infallible;
use std::fmt;
use std::future::{poll_fn, ready};
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{HEADER_BYTES, VERSION, accept_key, is_upgrade, members, only};
use crate::{Role, WsStream};

/// Bytes of a refused request that are still read, so that its sender gets to read the answer.
const LINGER_BYTES: usize = 128 << 10;

/// Takes a last digit whose unused bits are not zero: the key that RFC 6455 shows as an example in 4.1,
/// `AQIDBAUGBwgJCgsMDQ4PEC==`, has such a one, and stands in clients as it is there.
const KEYS: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// How long for: whoever was refused and does not go is let go of.
const LINGER: Duration = Duration::from_secs(1);

/// Who may come in.
#[derive(Clone, Debug)]
pub struct UpgradeTerms {
    /// The path that leads here; a query behind it is the client's own matter.
    pub path: String,
    /// Subprotocols that are spoken here. The first one that the client offers is taken.
    pub protocols: Vec<String>,
    /// Origins whose pages may come; `None` lets all of them. Clients that are no browsers send none and always may.
    pub origins: Option<Vec<String>>,
    /// Headers that are handed out.
    pub headers: Vec<HeaderName>,
    /// Cookies that are handed out, by name.
    pub cookies: Vec<String>,
}

impl UpgradeTerms {
    /// This path with these subprotocols, from any origin, handing out nothing more.
    pub fn new<P: Into<String>>(path: impl Into<String>, protocols: impl IntoIterator<Item = P>) -> Self {
        Self {
            path: path.into(),
            protocols: protocols.into_iter().map(Into::into).collect(),
            origins: None,
            headers: Vec::new(),
            cookies: Vec::new(),
        }
    }
}

/// What a client asked with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpgradeRequest {
    /// Path and query.
    pub path: String,
    /// The Host header.
    pub host: String,
    /// The subprotocol that was agreed on.
    pub protocol: String,
    /// The page it came from, if a browser told.
    pub origin: Option<String>,
    /// The headers that [`UpgradeTerms::headers`] names, in the order of the request; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The cookies that [`UpgradeTerms::cookies`] names, in the order of the request.
    pub cookies: Vec<(String, String)>,
}

/// Why a request was refused; it got this status for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpgradeRefusal {
    /// Another path: 404.
    Path,
    /// Another method than GET: 405.
    Method,
    /// No request for an upgrade to WebSocket: 426.
    NoUpgrade,
    /// Another version of WebSocket than 13: 426.
    Version,
    /// HTTP/1.0, a body, no host or no proper key: 400.
    Malformed,
    /// No subprotocol, or none that is spoken here: 400.
    Protocol,
    /// A page of an origin that may not come: 403.
    Origin,
}

impl UpgradeRefusal {
    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> u16 {
        self.code().as_u16()
    }

    fn code(self) -> StatusCode {
        match self {
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Malformed | Self::Protocol => StatusCode::BAD_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Path => "there is nothing at this path",
            Self::Method => "a WebSocket request must use GET",
            Self::NoUpgrade => "this is a WebSocket endpoint",
            Self::Version => "only version 13 of WebSocket is supported",
            Self::Malformed => "malformed WebSocket request",
            Self::Protocol => "none of the offered subprotocols is supported",
            Self::Origin => "pages of this origin may not connect",
        }
    }

    fn response(self) -> Response<String> {
        let mut response = Response::new(format!("{}\n", self.text()));
        *response.status_mut() = self.code();
        let headers = response.headers_mut();
        // One request is all a connection has: what follows a refusal is not looked at.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        match self {
            Self::Method => {
                // A 405 has to name them (RFC 7231, 6.5.5).
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            Self::NoUpgrade | Self::Version => {
                // A 426 has to name the protocol (RFC 7231, 6.5.15), and the version that would do (RFC 6455, 4.4).
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
            }
            Self::Path | Self::Malformed | Self::Protocol | Self::Origin => {}
        }
        response
    }
}

impl fmt::Display for UpgradeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text(), self.status())
    }
}

/// Why no WebSocket came of a connection. Each time it was the client's doing, and the connection is closed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// It asked for something that is not had here.
    #[error("the WebSocket request was refused: {0}")]
    Refused(UpgradeRefusal),
    /// Its headers are larger or more than anybody needs; answered with 431.
    #[error("the headers of the WebSocket request are too large")]
    TooLarge,
    /// That was no HTTP/1.1.
    #[error("expected an HTTP request{0}")]
    NotHttp(&'static str, #[source] hyper::Error),
    /// It left, or the connection broke, before its request was whole.
    #[error("the connection ended during the WebSocket handshake")]
    Ended(#[source] Option<hyper::Error>),
}

/// Serves one request for an upgrade, and refuses all others.
///
/// # Errors
/// Whatever the client did wrong. It has been answered then, and the connection ended in order.
///
/// Not cancel safe, and need not be: dropping the future closes the connection.
pub async fn accept<S>(stream: S, terms: &UpgradeTerms) -> Result<(WsStream<S>, UpgradeRequest), AcceptError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // The service is a function of its own to hyper: this is where it leaves what it found.
    let found = Mutex::new(None);
    let service = service_fn(|request: http::Request<Incoming>| {
        let judged = judge(&request, terms);
        let response = match &judged {
            Ok((accepted, key)) => switch(accepted, key),
            Err(refusal) => refusal.response(),
        };
        *found.lock().expect("nobody panics with it") = Some(judged.map(|(accepted, _)| accepted));
        ready(Ok::<_, Infallible>(response))
    });
    let mut connection = http1::Builder::new()
        .max_buf_size(HEADER_BYTES)
        // The caller bounds the whole handshake. Hyper's own bound would need a timer besides.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    let served = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    let found = found.lock().expect("nobody panics with it").take();
    let error = match (found, served) {
        (Some(Ok(request)), Ok(())) => {
            // Copied, so that a few bytes do not keep hyper's whole buffer.
            let early = Bytes::copy_from_slice(&parts.read_buf);
            return Ok((WsStream::new(stream, Role::Server, early), request));
        }
        (Some(Err(refusal)), _) => AcceptError::Refused(refusal),
        (None, Err(error)) if error.is_parse_too_large() => AcceptError::TooLarge,
        (None, Err(error)) if error.is_parse() => AcceptError::NotHttp(instead(&parts.read_buf), error),
        (_, served) => AcceptError::Ended(served.err()),
    };
    // Whichever comes first.
    let _ = timeout(LINGER, part_with(&mut stream)).await;
    Err(error)
}

/// What came where HTTP was to begin, as far as it can be told from its first bytes.
fn instead(first: &[u8]) -> &'static str {
    match first {
        [0x16, 3, ..] => {
            ", received TLS: use the port for WebSocket over TLS (wss), or turn TLS off in the client (ws)"
        }
        [0x10, ..] => ", received MQTT without WebSocket: use a port for MQTT",
        [b'P', b'R', b'O', b'X', b'Y', ..] | [b'\r', b'\n', b'\r', b'\n', 0, ..] => {
            ", received a PROXY header: set proxy_protocol for this listener, or turn it off in the load balancer"
        }
        [b'P', b'R', b'I', b' ', ..] => ", received HTTP/2: WebSocket is supported over HTTP/1.1 only",
        _ => "",
    }
}

/// Ends the connection so that the answer arrives: closing it over unread bytes would reset it.
async fn part_with<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_ok() {
        let mut thrown = 0;
        let mut buffer = [0; 2048];
        while thrown < LINGER_BYTES {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => thrown += n,
            }
        }
    }
}

/// What to make of a request: who asks, and the key to answer with.
fn judge(
    request: &http::Request<Incoming>,
    terms: &UpgradeTerms,
) -> Result<(UpgradeRequest, String), UpgradeRefusal> {
    let headers = request.headers();
    if request.uri().path() != terms.path {
        return Err(UpgradeRefusal::Path);
    }
    if request.method() != Method::GET {
        return Err(UpgradeRefusal::Method);
    }
    if !is_upgrade(headers) {
        return Err(UpgradeRefusal::NoUpgrade);
    }
    // A body would lie where the first frames are looked for.
    if request.version() != Version::HTTP_11 || !request.body().is_end_stream() {
        return Err(UpgradeRefusal::Malformed);
    }
    if only(headers, &header::SEC_WEBSOCKET_VERSION) != Some(VERSION) {
        return Err(UpgradeRefusal::Version);
    }
    let host = only(headers, &header::HOST).ok_or(UpgradeRefusal::Malformed)?;
    let key = only(headers, &header::SEC_WEBSOCKET_KEY).ok_or(UpgradeRefusal::Malformed)?;
    // 16 bytes in base64 (RFC 6455, 4.2.1).
    if KEYS.decode(key).map_or(0, |key| key.len()) != 16 {
        return Err(UpgradeRefusal::Malformed);
    }
    // A page of any site can open a WebSocket here, with its visitor's cookies and from the visitor's network. Only
    // its origin gives it away, which a script cannot choose (RFC 6455, 10.2).
    let origin =
        headers.get(header::ORIGIN).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    if let (Some(origin), Some(permitted)) = (&origin, &terms.origins)
        && !permitted.iter().any(|one| one.eq_ignore_ascii_case(origin))
    {
        return Err(UpgradeRefusal::Origin);
    }
    let protocol = members(headers, &header::SEC_WEBSOCKET_PROTOCOL)
        .find(|offered| terms.protocols.iter().any(|spoken| spoken == offered))
        .ok_or(UpgradeRefusal::Protocol)?;
    let path = request.uri().path_and_query().map_or("", |whole| whole.as_str());
    let request = UpgradeRequest {
        path: path.to_owned(),
        host: host.to_owned(),
        protocol: protocol.to_owned(),
        origin,
        headers: named(headers, &terms.headers),
        cookies: cookies(headers, &terms.cookies),
    };
    Ok((request, accept_key(key.as_bytes())))
}

fn named(headers: &http::HeaderMap, names: &[HeaderName]) -> Vec<(String, String)> {
    let wanted = headers.iter().filter(|(name, _)| names.contains(name));
    wanted
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect()
}

fn cookies(headers: &http::HeaderMap, names: &[String]) -> Vec<(String, String)> {
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let wanted = pairs.filter(|(name, _)| names.iter().any(|one| one == name));
    wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn switch(request: &UpgradeRequest, key: &str) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    for (name, value) in
        [(header::SEC_WEBSOCKET_ACCEPT, key), (header::SEC_WEBSOCKET_PROTOCOL, &request.protocol)]
    {
        headers.insert(name, HeaderValue::from_str(value).expect("base64, or it came as a header"));
    }
    response
}
