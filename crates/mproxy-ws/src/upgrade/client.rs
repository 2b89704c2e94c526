//! We ask for the upgrade.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{HEADER_BYTES, VERSION, accept_key, is_upgrade, only};
use crate::{Role, WsStream, random};

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The Host header: `name` or `name:port`.
    pub host: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// The subprotocol that has to be agreed on.
    pub protocol: &'a str,
}

/// Why no WebSocket came of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Host, path or subprotocol do not make a request. It is ours, not the peer's.
    #[error("host, path or subprotocol is invalid in an HTTP request")]
    Ask(#[source] http::Error),
    /// The connection broke, or what came is no HTTP.
    #[error("the WebSocket handshake failed")]
    Http(#[source] hyper::Error),
    /// The peer does not want to.
    #[error("the WebSocket request was answered with {0}")]
    Status(StatusCode),
    /// The peer agreed to something else than it was asked for.
    #[error("the answer to the WebSocket request is wrong: {0}")]
    Answer(&'static str),
}

/// Asks for an upgrade on a connection that is there.
///
/// Not cancel safe, and need not be: dropping the future closes the connection.
///
/// # Errors
/// When the peer refuses, answers wrongly, or goes.
pub async fn connect<S>(stream: S, ask: &Ask<'_>) -> Result<WsStream<S>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut nonce = [0; 16];
    random::fill(&mut nonce);
    let key = STANDARD.encode(nonce);
    let request = http::Request::get(ask.path)
        .header(header::HOST, ask.host)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, VERSION)
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, ask.protocol)
        .body(String::new())
        .map_err(ConnectError::Ask)?;
    let (mut sender, mut connection) = http1::Builder::new()
        .max_buf_size(HEADER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Http)?;
    let mut answer = pin!(sender.send_request(request));
    // What it ended with: a future that is ready must not be polled again.
    let mut over = None;
    // One task for both: the connection moves, the answer comes out of it.
    let answer = poll_fn(|cx| {
        if over.is_none()
            && let Poll::Ready(end) = connection.poll_without_shutdown(cx)
        {
            over = Some(end);
        }
        answer.as_mut().poll(cx)
    });
    let answer = answer.await.map_err(ConnectError::Http)?;
    check(&answer, &key, ask)?;
    // The answer can be there before the connection has let go of its stream.
    match over {
        Some(end) => end,
        None => poll_fn(|cx| connection.poll_without_shutdown(cx)).await,
    }
    .map_err(ConnectError::Http)?;
    let parts = connection.into_parts();
    // Copied, so that a few bytes do not keep hyper's whole buffer.
    let early = Bytes::copy_from_slice(&parts.read_buf);
    Ok(WsStream::new(parts.io.into_inner(), Role::Client, early))
}

fn check<B>(answer: &http::Response<B>, key: &str, ask: &Ask<'_>) -> Result<(), ConnectError> {
    let headers = answer.headers();
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(ConnectError::Status(answer.status()));
    }
    if !is_upgrade(headers) {
        return Err(ConnectError::Answer("it upgrades to something else"));
    }
    if only(headers, &header::SEC_WEBSOCKET_ACCEPT) != Some(accept_key(key.as_bytes()).as_str()) {
        return Err(ConnectError::Answer("Sec-WebSocket-Accept does not fit the key"));
    }
    // RFC 6455 would let a server name none. [MQTT-6.0.0-4] does not.
    if only(headers, &header::SEC_WEBSOCKET_PROTOCOL) != Some(ask.protocol) {
        return Err(ConnectError::Answer("another subprotocol, or none"));
    }
    if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err(ConnectError::Answer("an extension that was not offered"));
    }
    Ok(())
}
