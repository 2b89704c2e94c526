//! A key set over HTTP: one GET on a connection of its own, bounded in bytes and time, and never sent elsewhere.

use std::future::pending;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::uri::{Authority, Scheme};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::causes::with_causes;
use crate::remote::{HttpDialer, RemoteTls, RemoteTlsError};

/// Bytes of the largest key set. Those of identity providers have some thousand.
const SET_MOST: usize = 1 << 20;

/// How long all of it may take. A client that waits for it has its connect deadline.
const WITHIN: Duration = Duration::from_secs(4);

/// Where a key set is fetched.
#[derive(Clone, Debug)]
pub(crate) struct KeyUrl {
    ca: Option<Vec<u8>>,
    text: Box<str>,
    uri: Uri,
    host: Box<str>,
    dialer: HttpDialer,
}

/// Why a text is no such place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyUrlError {
    #[error("is no URL such as https://id.example.org/jwks.json")]
    NoUrl,
    #[error(
        "fetches keys without TLS, where anybody on the way can replace them; only a loopback address may do so"
    )]
    Plain,
    #[error(transparent)]
    Tls(#[from] RemoteTlsError),
}

/// Why there is no key set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("no connection: {0}")]
    NoConnection(io::Error),
    #[error("no answer: {0}")]
    NoAnswer(String),
    #[error("HTTP status {0}{1}")]
    Status(StatusCode, &'static str),
    #[error("the answer has more than {SET_MOST} bytes")]
    TooLarge,
    #[error("not done within {} s", WITHIN.as_secs())]
    TooLate,
}

impl KeyUrl {
    /// Reads a URL. `ca`: certificates that are trusted in the place of the system's, in PEM format.
    ///
    /// # Errors
    /// It is none, or of no use.
    pub(crate) fn parse(text: &str, ca: Option<Vec<u8>>) -> Result<Self, KeyUrlError> {
        let uri: Uri = text.parse().map_err(|_| KeyUrlError::NoUrl)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(KeyUrlError::NoUrl);
        };
        // A user and a password would stand in a log.
        if authority.as_str().contains('@') {
            return Err(KeyUrlError::NoUrl);
        }
        let tls = *scheme == Scheme::HTTPS;
        if !tls && *scheme != Scheme::HTTP {
            return Err(KeyUrlError::NoUrl);
        }
        if !tls && !is_loopback(authority) {
            return Err(KeyUrlError::Plain);
        }
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let dialer = HttpDialer::new(host, port, tls, &RemoteTls { ca: ca.clone(), identity: None })?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = authority.as_str().into();
        let uri_of_request = path.parse().map_err(|_| KeyUrlError::NoUrl)?;
        Ok(Self { ca, text: text.into(), uri: uri_of_request, host, dialer })
    }

    /// As it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether both mean the same place, with the same trust.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.text == other.text && self.ca == other.ca
    }

    /// What is there now.
    ///
    /// # Errors
    /// Nothing that could be a key set, or not in time.
    pub(crate) async fn fetch(&self) -> Result<Bytes, FetchError> {
        timeout(WITHIN, self.exchange()).await.unwrap_or(Err(FetchError::TooLate))
    }

    async fn exchange(&self) -> Result<Bytes, FetchError> {
        let stream = self.dialer.open().await.map_err(FetchError::NoConnection)?;
        let no_answer = |error: hyper::Error| FetchError::NoAnswer(with_causes(&error));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)?;
        let mut request = Request::get(self.uri.clone()).body(Empty::<Bytes>::new()).unwrap_or_default();
        for (name, value) in [
            (HOST, &*self.host),
            (ACCEPT, "application/json, application/jwk-set+json"),
            (USER_AGENT, "mproxy"),
        ] {
            if let Ok(value) = value.parse() {
                request.headers_mut().insert(name, value);
            }
        }
        let answered = async {
            let answer = sender.send_request(request).await.map_err(no_answer)?;
            match answer.status() {
                StatusCode::OK => {}
                // Whoever can redirect it can name keys of their own.
                status if status.is_redirection() => {
                    return Err(FetchError::Status(status, ", redirects are not followed"));
                }
                status => return Err(FetchError::Status(status, "")),
            }
            match Limited::new(answer.into_body(), SET_MOST).collect().await {
                Ok(body) => Ok(body.to_bytes()),
                Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge),
                Err(error) => Err(FetchError::NoAnswer(with_causes(&*error))),
            }
        };
        // How the connection ends is heard of by the request.
        let driven = async {
            let _ = connection.await;
            pending().await
        };
        tokio::select! {
            answer = answered => answer,
            () = driven => Err(FetchError::TooLate),
        }
    }
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
