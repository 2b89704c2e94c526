//! A hook service that speaks JSON over HTTP/1.1, inside the test. What it sends is written byte by byte, so that it can
//! be wrong in any way.
#![expect(clippy::unwrap_used, reason = "a service that cannot be played fails its test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::PATIENCE;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct JsonRequest {
    /// Which connection it came over, from 1.
    pub connection: usize,
    /// Its first line.
    pub line: String,
    /// Its headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body; null if it is no JSON.
    pub body: Value,
}

impl JsonRequest {
    /// The call that it is: what comes after the last slash of its path.
    pub fn call(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default().rsplit('/').next().unwrap_or_default()
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| &**value)
    }
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum JsonPlay {
    /// 200 with this.
    Answer(Value),
    /// Another status, without a body.
    Status(&'static str),
    /// These bytes, whatever they are; the connection stays open.
    Raw(Vec<u8>),
    /// These bytes, and then the connection is closed.
    RawAndClose(Vec<u8>),
    /// Nothing, for ever.
    Never,
}

impl JsonPlay {
    /// 200 with this body of this type.
    pub fn page(content_type: &str, body: &[u8]) -> Self {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Self::Raw([head.as_bytes(), body].concat())
    }

    /// 200 with this text, said to be JSON.
    pub fn text(body: &str) -> Self {
        Self::page("application/json", body.as_bytes())
    }
}

type JsonScript = dyn Fn(&JsonRequest) -> JsonPlay + Send + Sync;

/// The service. It ends with all its connections when this is dropped.
#[derive(Debug)]
pub struct JsonService {
    address: SocketAddr,
    scheme: &'static str,
    requests: watch::Receiver<Vec<JsonRequest>>,
    task: tokio::task::AbortHandle,
}

impl Drop for JsonService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl JsonService {
    /// On a free port.
    pub async fn start(script: impl Fn(&JsonRequest) -> JsonPlay + Send + Sync + 'static) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), script).await
    }

    /// At this address.
    pub async fn start_at(
        address: SocketAddr,
        script: impl Fn(&JsonRequest) -> JsonPlay + Send + Sync + 'static,
    ) -> Self {
        Self::play(address, None, Arc::new(script)).await
    }

    /// Behind TLS.
    pub async fn start_tls(
        tls: ServerConfig,
        script: impl Fn(&JsonRequest) -> JsonPlay + Send + Sync + 'static,
    ) -> Self {
        Self::play(([127, 0, 0, 1], 0).into(), Some(TlsAcceptor::from(Arc::new(tls))), Arc::new(script)).await
    }

    async fn play(address: SocketAddr, tls: Option<TlsAcceptor>, script: Arc<JsonScript>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https+json" } else { "http+json" };
        let (log, requests) = watch::channel(Vec::new());
        let task = tokio::spawn(accept(listener, tls, script, Arc::new(log))).abort_handle();
        Self { address, scheme, requests, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address for `MPROXY_POLICY_URL`, by the name `localhost`.
    pub fn url(&self) -> String {
        self.url_below("")
    }

    /// The same with this prefix, `/v1`.
    pub fn url_below(&self, prefix: &str) -> String {
        format!("{}://localhost:{}{prefix}", self.scheme, self.address.port())
    }

    /// The requests of this call, as they came.
    pub fn requests(&self, call: &str) -> Vec<JsonRequest> {
        self.requests.borrow().iter().filter(|request| request.call() == call).cloned().collect()
    }

    /// The same, once there are so many.
    pub async fn requests_when(&self, call: &str, count: usize) -> Vec<JsonRequest> {
        let mut requests = self.requests.clone();
        let enough =
            |all: &Vec<JsonRequest>| all.iter().filter(|request| request.call() == call).count() >= count;
        assert!(timeout(PATIENCE, requests.wait_for(enough)).await.is_ok(), "{:#?}", self.requests(call));
        self.requests(call)
    }
}

/// Admits everybody and allows everything.
pub fn allow_all(request: &JsonRequest) -> JsonPlay {
    JsonPlay::Answer(match request.call() {
        "Hello" => wants(&["AUTH_CONNECT", "AUTH_PUBLISH", "AUTH_SUBSCRIBE"]),
        "AuthSubscribe" => {
            let filters = request.body["filters"].as_array().map_or(0, Vec::len);
            json!({ "verdicts": vec![json!({ "allow": {} }); filters] })
        }
        "AuthConnect" | "AuthPublish" | "AuthDeliver" => json!({ "allow": {} }),
        _ => json!({}),
    })
}

/// An answer to Hello that wants these, with payloads of up to a KiB.
pub fn wants(hooks: &[&str]) -> Value {
    let want = |hook: &&str| json!({ "hook": format!("HOOK_{hook}"), "payloadLimit": 1024 });
    json!({ "name": "json", "wants": hooks.iter().map(want).collect::<Vec<_>>() })
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    script: Arc<JsonScript>,
    log: Arc<watch::Sender<Vec<JsonRequest>>>,
) {
    // They end with this task.
    let mut connections = JoinSet::new();
    for number in 1.. {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (tls, script, log) = (tls.clone(), Arc::clone(&script), Arc::clone(&log));
        connections.spawn(async move {
            match tls {
                None => serve(stream, number, &*script, &log).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, number, &*script, &log).await,
                    Err(_) => None,
                },
            }
        });
    }
}

/// Ends with the connection.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    script: &JsonScript,
    log: &watch::Sender<Vec<JsonRequest>>,
) -> Option<()> {
    let mut read = Vec::new();
    loop {
        let request = read_request(&mut stream, &mut read, connection).await?;
        let play = script(&request);
        log.send_modify(|all| all.push(request));
        match play {
            JsonPlay::Answer(answer) => {
                let JsonPlay::Raw(bytes) = JsonPlay::text(&answer.to_string()) else { return None };
                stream.write_all(&bytes).await.ok()?;
            }
            JsonPlay::Status(status) => {
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.ok()?;
            }
            JsonPlay::Raw(bytes) => stream.write_all(&bytes).await.ok()?,
            JsonPlay::RawAndClose(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                stream.shutdown().await.ok()?;
                return None;
            }
            JsonPlay::Never => tokio::time::sleep(Duration::from_secs(3600)).await,
        }
    }
}

async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    read: &mut Vec<u8>,
    connection: usize,
) -> Option<JsonRequest> {
    let (head, body) = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break (String::from_utf8_lossy(&read[..end]).into_owned(), end + 4);
        }
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    };
    let mut lines = head.split("\r\n");
    let line = lines.next()?.to_owned();
    let header = |line: &str| {
        line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers: Vec<_> = lines.filter_map(header).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let end = body + length.and_then(|(_, length)| length.parse::<usize>().ok()).unwrap_or(0);
    while read.len() < end {
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
    let json = serde_json::from_slice(&read[body..end]).unwrap_or_default();
    read.drain(..end);
    Some(JsonRequest { connection, line, headers, body: json })
}
