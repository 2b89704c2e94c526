//! Keeps one endpoint connected: dials, asks Hello, waits for the end of the connection, and begins again after a
//! pause that grows and is never the same for two mproxies.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{info, warn};

use super::decide::{DecideStreams, Keeper, Keepers, stream_count};
use super::dialer::{Dialer, GrpcDialer, Reads};
use super::health::{Endpoints, ServiceConnection};
use super::pause::{STEADY, pause};
use super::shared_timeout::SharedTimeout;
use super::status::describe_status;
use super::strikes::Strikes;
use crate::causes::with_causes;
use crate::contract::{Complaints, Hello, Rpc, ServiceClient, Wants};
use crate::watch::Watch;

/// Dialling, the TLS handshake and Hello together. Longer than a question may take, as it is paid once.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

/// How often a service is asked Hello again that has no connection whose end would be noticed.
const HELLO_EVERY: Duration = Duration::from_secs(10);

/// What becomes of an answer in HTTP/1.1 that is read as HTTP/2: its letters are taken for a length.
const NO_HTTP2: &str = "frame with invalid size";

pub(super) struct Connector {
    pub(super) at: usize,
    pub(super) url: String,
    pub(super) dialer: Dialer,
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) complaints: Arc<Complaints>,
    pub(super) version: Arc<str>,
    pub(super) instance: Arc<str>,
    /// How long a question may take.
    pub(super) timeout: SharedTimeout,
    /// Whether streams are used, where the service serves them.
    pub(super) streams: bool,
    /// When a stream is replaced at the earliest.
    pub(super) stream_lifetime: Duration,
    pub(super) watch: Arc<dyn Watch>,
}

/// A connection that stands.
struct GreetedConnection {
    connection: ServiceConnection,
    keepers: Option<Keepers>,
    /// `None`: UNIMPLEMENTED.
    hello: Option<Hello>,
}

impl Connector {
    /// Ends when `stop` is cancelled, and the connection with it.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        let mut failures = 0;
        // Of connections that are over, too, until what was open there is answered.
        let mut streams = JoinSet::new();
        loop {
            // A set keeps what has ended until it is asked for: it would grow with each connection.
            while streams.try_join_next().is_some() {}
            if failures > 0 {
                sleep(pause(failures)).await;
            }
            let GreetedConnection { connection, keepers, hello } =
                match timeout(CONNECTED_WITHIN, self.connect()).await {
                    Ok(Ok(connected)) => connected,
                    Ok(Err(why)) => {
                        failures += 1;
                        self.endpoints.set_unhealthy(self.at, &why);
                        continue;
                    }
                    Err(_) => {
                        failures += 1;
                        self.endpoints.set_unhealthy(self.at, "no connection within 5 s");
                        continue;
                    }
                };
            let since = Instant::now();
            let connection = self.endpoints.set_healthy(self.at, connection);
            if let Some(keepers) = keepers {
                streams.spawn(keepers.run());
            }
            let why = self.lose(&connection, &hello).await;
            connection.gone.cancel();
            // A service that accepts and hangs up at once would otherwise be dialled without any pause.
            failures = if since.elapsed() >= STEADY { 0 } else { failures + 1 };
            // The first time the next connection is so near that questions better wait for it.
            if failures <= 1 {
                self.endpoints.set_lost(self.at, &why);
            } else {
                self.endpoints.set_unhealthy(self.at, &format!("{why}, again and again"));
            }
        }
    }

    /// Waits until the connection is over, and says why it is.
    async fn lose(&self, connection: &ServiceConnection, hello: &Option<Hello>) -> Cow<'static, str> {
        if connection.service.is_one_connection() {
            connection.gone.cancelled().await;
            return match connection.strikes.last() {
                Some(last) => format!("calls fail: {last}").into(),
                None => "connection closed".into(),
            };
        }
        // No connection ends with the service, so that it would be known to be gone, or to be another one.
        loop {
            let pause = connection.gone.run_until_cancelled(sleep(HELLO_EVERY)).await;
            if pause.is_none() {
                return match connection.strikes.last_noted() {
                    Some(last) => format!("calls fail: {last}").into(),
                    None => "calls fail".into(),
                };
            }
            match timeout(CONNECTED_WITHIN, self.ask_hello(&connection.service)).await {
                Ok(Ok(again)) if again == *hello => {}
                Ok(Ok(_)) => return "Hello is answered differently".into(),
                Ok(Err(why)) => return why.into(),
                Err(_) => return "Hello is not answered within 5 s".into(),
            }
        }
    }

    async fn connect(&self) -> Result<GreetedConnection, String> {
        let (gone, reads) = (CancellationToken::new(), Arc::new(Reads::new()));
        let channel = self.dialer.dial_for_calls(&gone, &reads).await.map_err(|error| with_causes(&error))?;
        let service = ServiceClient::new(channel, Arc::clone(&self.complaints));
        let hello = self.ask_hello(&service).await?;
        let (wants, streams) = match &hello {
            Some(Hello { name, wants: Some(wants), streams }) => {
                (self.accept_hello(name, wants.clone()), *streams)
            }
            Some(Hello { wants: None, streams, .. }) => (self.accept_no_hello(), *streams),
            None => (self.accept_no_hello(), false),
        };
        let streams = self.dialer.for_streams().filter(|_| streams && self.streams);
        let strikes = Arc::new(Strikes::new(gone.clone()));
        // Before the first question, so that a service that serves nothing but streams is never asked by calls.
        let keepers = match streams {
            Some(dialer) => Some(self.keeper(dialer, &strikes, &gone).open(stream_count()).await),
            None => None,
        };
        let decide = keepers.as_ref().map_or_else(|| Arc::new(DecideStreams::none()), Keepers::streams);
        let connection = ServiceConnection {
            service,
            name: hello.as_ref().map(|hello| hello.name.as_str().into()).unwrap_or_default(),
            wants: ArcSwap::from_pointee(wants),
            gone,
            reads,
            observe: AtomicBool::new(streams.is_some()),
            streams: streams.cloned(),
            decide,
            strikes,
            url: self.url.as_str().into(),
            unimplemented: AtomicU32::new(0),
        };
        Ok(GreetedConnection { connection, keepers, hello })
    }

    /// What the service says; `None`: UNIMPLEMENTED.
    async fn ask_hello(&self, service: &ServiceClient) -> Result<Option<Hello>, String> {
        match service.hello(&self.version, &self.instance, CONNECTED_WITHIN).await {
            Ok(hello) => Ok(Some(hello?)),
            // Hello is younger than the hooks: services that were written without it are served as before.
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => {
                // In TLS 1.3 a service refuses our certificate only after the handshake, by hanging up.
                let hung_up = self.dialer.is_tls() && status.source().is_some();
                let told = describe_status(&status);
                let hint = if told.contains(NO_HTTP2) {
                    " (is it a service that speaks JSON? then write http+json:// or https+json://)"
                } else if hung_up {
                    " (does the service accept mproxy's certificate?)"
                } else {
                    ""
                };
                Err(format!("Hello: {told}{hint}"))
            }
        }
    }

    fn keeper(&self, dialer: &GrpcDialer, strikes: &Arc<Strikes>, gone: &CancellationToken) -> Keeper {
        Keeper {
            url: self.url.as_str().into(),
            dialer: dialer.clone(),
            strikes: Arc::clone(strikes),
            gone: gone.clone(),
            timeout: self.timeout.get(),
            lifetime: self.stream_lifetime,
            watch: Arc::clone(&self.watch),
        }
    }

    /// What it wants that did not say.
    fn accept_no_hello(&self) -> Wants {
        let wants = self.endpoints.last_or_default_wants();
        info!(
            endpoint = self.url,
            role = self.endpoints.role(),
            wants = names(&wants).join(","),
            "Hello unimplemented or empty, using previous or default hooks"
        );
        wants
    }

    fn accept_hello(&self, service: &str, wants: Wants) -> Wants {
        let calls = names(&wants);
        // For a connection on which the service does not say, see `accept_no_hello`.
        self.endpoints.remember_wants(&wants);
        let role = self.endpoints.role();
        info!(endpoint = self.url, role, service, wants = calls.join(","), "Hello answered");
        // Right where the rule file knows the users, and a mistake with open doors where nothing else does.
        if self.endpoints.is_in_force() && !calls.contains(&Rpc::AuthConnect.name()) {
            warn!(
                endpoint = self.url,
                "AuthConnect not wanted, the policy service does not decide who connects"
            );
        }
        wants
    }
}

/// The calls that are wanted.
fn names(wants: &Wants) -> Vec<&'static str> {
    Rpc::ALL.iter().filter(|rpc| wants.of(**rpc).is_some()).map(|rpc| rpc.name()).collect()
}
