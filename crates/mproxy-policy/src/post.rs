//! One POST of JSON over HTTP/1.1 for each call: a pool of connections that stay open, one more try where such a
//! connection turns out to be closed, an answer of bounded size. What comes of it is said in a status of gRPC, which the
//! rest of the house speaks; knows no message.

use std::error::Error;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;

use crate::causes::with_causes;
use crate::trace_context::{TRACEPARENT, TRACESTATE, TraceContext};

/// Bytes of the largest answer: what gRPC takes without being told otherwise.
const ANSWER_MOST: usize = 4 << 20;

/// Connections that are kept open while nothing goes over them. There are never more than calls at a time.
const IDLE_MOST: usize = 64;

/// How long such a connection is kept. Below what servers keep them for (Node and Uvicorn: 5 s), as a call on one that is
/// being closed costs a second try.
const IDLE_FOR: Duration = Duration::from_secs(4);

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// As gRPC names the time that the caller waits.
const TIMEOUT: &str = "grpc-timeout";

/// Opens a connection.
pub(crate) type PostConnector = BoxCloneSyncService<Uri, TokioIo<PostStream>, Box<dyn Error + Send + Sync>>;

type HttpClient = Client<PostConnector, Full<Bytes>>;

/// A service that is called by POST. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct PostChannel(Arc<PostPool>);

#[derive(Debug)]
struct PostPool {
    /// `http://host:port/prefix`, with no slash at its end.
    base: Box<str>,
    pooled: HttpClient,
    /// Keeps no connection open, so that each call has a new one.
    fresh: HttpClient,
    gone: CancellationToken,
}

/// Whether a call may be made once more where its connection was closed before an answer began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    IfClosed,
    Never,
}

impl PostChannel {
    /// Opens no connection yet. `gone` is cancelled when one cannot be opened.
    pub(crate) fn new(base: &str, connector: PostConnector, gone: CancellationToken) -> Self {
        let client = |idle_most| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_FOR)
                .pool_max_idle_per_host(idle_most)
                .build(connector.clone())
        };
        Self(Arc::new(PostPool { base: base.into(), pooled: client(IDLE_MOST), fresh: client(0), gone }))
    }

    /// Sends JSON to the path of this name, and gives what comes back. `within` and `context` are told to the
    /// service; whoever calls sees to it that the time is kept.
    ///
    /// # Errors
    /// There is no answer. Only where no connection could be opened the status has a source: those of
    /// this channel are many, and the end of one is not the end of the service.
    pub(crate) async fn post(
        &self,
        name: &str,
        json: Bytes,
        within: Duration,
        again: Again,
        context: Option<&TraceContext>,
    ) -> Result<PostAnswer, Status> {
        let inner = &*self.0;
        let uri: Uri = format!("{}/{name}", inner.base)
            .parse()
            .map_err(|error| Status::internal(format!("{}/{name}: {error}", inner.base)))?;
        let request = || request(&uri, json.clone(), within, context);
        let answer = match again {
            // Not over a connection that the service may be closing: nobody could tell whether it has come.
            Again::Never => inner.fresh.request(request()).await,
            Again::IfClosed => inner.pooled.request(request()).await,
        };
        let answer = match answer {
            // A service may close a connection that it has kept at any time, and then this call has not reached it. Or it
            // has, and asking twice does no harm, as with an endpoint of gRPC that is lost and found again.
            Err(error) if again == Again::IfClosed && is_closed(&error) => {
                inner.fresh.request(request()).await
            }
            answer => answer,
        };
        match answer {
            Ok(answer) => read(answer).await,
            Err(error) if error.is_connect() => {
                inner.gone.cancel();
                let mut status = Status::unavailable("no connection");
                status.set_source(Arc::new(error));
                Err(status)
            }
            Err(error) => Err(broken(&error)),
        }
    }
}

fn request(uri: &Uri, json: Bytes, within: Duration, context: Option<&TraceContext>) -> Request<Full<Bytes>> {
    let mut request = Request::post(uri).body(Full::new(json)).unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(ACCEPT, JSON);
    // Eight digits at most; longer than a day is as good as for ever.
    let millis = within.as_millis().min(99_999_999);
    if let Ok(timeout) = HeaderValue::from_str(&format!("{millis}m")) {
        headers.insert(TIMEOUT, timeout);
    }
    if let Some(context) = context {
        let state = Some(&*context.state).filter(|state| !state.is_empty());
        for (name, text) in [(TRACEPARENT, Some(&*context.traceparent())), (TRACESTATE, state)] {
            if let Some(Ok(value)) = text.map(HeaderValue::from_str) {
                headers.insert(name, value);
            }
        }
    }
    request
}

/// Whether the connection was closed before an answer began.
fn is_closed(error: &hyper_util::client::legacy::Error) -> bool {
    const CLOSED: [io::ErrorKind; 4] = [
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::BrokenPipe,
        io::ErrorKind::UnexpectedEof,
    ];
    if error.is_connect() {
        return false;
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_canceled() || error.is_closed())
        {
            return true;
        }
        if let Some(error) = cause.downcast_ref::<io::Error>()
            && CLOSED.contains(&error.kind())
        {
            return true;
        }
        source = cause.source();
    }
    false
}

/// What has come back.
#[derive(Debug)]
pub(crate) struct PostAnswer {
    /// As far as it came.
    pub(crate) body: Bytes,
    /// Why it is no answer in JSON. Whoever knows the messages looks whether it says no all the same.
    pub(crate) fault: Option<Status>,
}

async fn read(answer: Response<Incoming>) -> Result<PostAnswer, Status> {
    let status = answer.status();
    if !may_decide(status) {
        return Err(refused(status));
    }
    let fault = match status {
        StatusCode::OK => check_head(answer.headers()).err(),
        _ => Some(refused(status)),
    };
    let (body, cut) = collect(answer.into_body()).await;
    match (fault, cut) {
        // An answer that is too large refuses. Of what is none by its status, no more is looked at.
        (_, Some(Cut::TooLarge)) if status.is_success() => Err(Status::out_of_range(format!(
            "Error, decoded message length too large: the answer has more than {ANSWER_MOST} bytes"
        ))),
        (Some(fault), _) => Ok(PostAnswer { body, fault: Some(fault) }),
        (None, Some(Cut::Broken(fault))) => Ok(PostAnswer { body, fault: Some(fault) }),
        (None, None | Some(Cut::TooLarge)) => Ok(PostAnswer { body, fault: None }),
    }
}

/// Whether with this status the body may be a decision: 200, and what services say that put one into another status by
/// mistake. Others say that there is none: not here, not now, not of this size, not without asking elsewhere.
fn may_decide(status: StatusCode) -> bool {
    let none = [
        StatusCode::NOT_FOUND,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    status.is_success() || status.is_client_error() && !none.contains(&status)
}

/// Why there is less than all of a body.
enum Cut {
    TooLarge,
    Broken(Status),
}

/// What comes of a body, with the reason why it is not all.
async fn collect(body: Incoming) -> (Bytes, Option<Cut>) {
    let mut body = Limited::new(body, ANSWER_MOST);
    let mut read = BytesMut::new();
    loop {
        match body.frame().await {
            None => return (read.freeze(), None),
            Some(Ok(frame)) => read.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(error)) if error.is::<LengthLimitError>() => {
                return (read.freeze(), Some(Cut::TooLarge));
            }
            Some(Err(error)) => return (read.freeze(), Some(Cut::Broken(broken(&*error)))),
        }
    }
}

/// Whether what follows is JSON, as it is.
fn check_head(headers: &HeaderMap) -> Result<(), Status> {
    check_type(headers)?;
    match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Ok(()),
        // Nobody asked for it, and what it says nobody can tell.
        Some(_) => {
            Err(unusable(format_args!("the answer has a content encoding, for which mproxy did not ask")))
        }
    }
}

/// A page of a proxy, or of a framework that shows what went wrong in it, is no answer, even if it says that all is well.
fn check_type(headers: &HeaderMap) -> Result<(), Status> {
    let told = headers.get(CONTENT_TYPE).map(HeaderValue::to_str);
    let kind = match told {
        Some(Ok(told)) => told.split(';').next().unwrap_or_default().trim(),
        Some(Err(_)) => "that is no text",
        None => "that is not told",
    };
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let kind: String = kind.chars().take(80).collect();
    Err(unreadable(format_args!("content type {kind}, expected application/json")))
}

/// An answer that is not what was asked for.
pub(crate) fn unreadable(what: std::fmt::Arguments<'_>) -> Status {
    Status::internal(format!("{UNREADABLE}: {what}"))
}

/// What says no, or yes within limits, and is no answer of the contract.
pub(crate) fn unusable(what: std::fmt::Arguments<'_>) -> Status {
    Status::internal(format!("{UNUSABLE}: {what}"))
}

/// How the message of such a status begins.
pub(crate) const UNUSABLE: &str = "cannot read the refusal or grant";

/// How the message of the other one begins.
pub(crate) const UNREADABLE: &str = "failed to read JSON";

/// The connection broke, after there was one.
fn broken(error: &dyn Error) -> Status {
    Status::unavailable(with_causes(error))
}

/// Another status than 200, in gRPC's terms. Of the body nothing is told: what frameworks put into it may be the request.
fn refused(http: StatusCode) -> Status {
    let code = match http {
        StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Code::InvalidArgument,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => {
            Code::Unavailable
        }
        StatusCode::INTERNAL_SERVER_ERROR => Code::Internal,
        _ => Code::Unknown,
    };
    let hint = if http.is_redirection() { ", redirects are not followed" } else { "" };
    Status::new(code, format!("HTTP status {http}{hint}"))
}

/// A connection, whatever it goes over.
pub(crate) struct PostStream(Pin<Box<dyn Duplex>>);

trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

impl PostStream {
    pub(crate) fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl Connection for PostStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for PostStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for PostStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }
}
