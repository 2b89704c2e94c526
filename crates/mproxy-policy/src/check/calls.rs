//! One connection to the service, as the proxy makes it: Hello first on each, and no call without a deadline.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mproxy_core::policy::Unusable;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::causes::with_causes;
use crate::contract::{AuthRequest, Complaints, EventRequest, Examine, Examined, Hello, Rpc, ServiceClient};
use crate::remote::{Dialer, Endpoint, Reads, RemoteTls, StartError, describe_status, is_transport_failure};

/// Dialling, the TLS handshake and Hello together, as in the proxy.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

/// As often as one RPC may be left unanswered in a row before it is not called any more.
const UNANSWERED_MOST: u32 = 5;

/// As often as a connection is made again at most.
const CONNECTIONS_MOST: u32 = 20;

/// How long after a broken call we look whether its connection has ended.
const CLOSE_NOTICE: Duration = Duration::from_millis(50);

/// mproxy's name, for Hello and in each client.
pub(super) const INSTANCE: &str = "mproxy-check";

pub(super) struct CheckCalls {
    dialer: Dialer,
    version: Arc<str>,
    timeout: Duration,
    until: Instant,
    connection: Option<CheckConnection>,
    connections: u32,
    /// Why there is no connection, and will be none.
    lost: Option<String>,
    unanswered: HashMap<Rpc, u32>,
}

struct CheckConnection {
    service: ServiceClient,
    gone: CancellationToken,
}

/// A connection stands, and this came of Hello.
pub(super) struct Connected {
    pub(super) hello: Result<Result<Hello, String>, Status>,
    pub(super) took: Duration,
}

/// What became of a call.
pub(super) enum CheckedCall<T> {
    Answered(T, Duration),
    Failed(Status, Duration),
    NotAsked(String),
}

impl CheckCalls {
    /// Nothing is asked after `until`.
    pub(super) fn new(
        endpoint: &Endpoint,
        tls: &RemoteTls,
        version: &Arc<str>,
        timeout: Duration,
        until: Instant,
    ) -> Result<Self, StartError> {
        Ok(Self {
            dialer: Dialer::new(endpoint, tls, 16)?,
            version: Arc::clone(version),
            timeout,
            until,
            connection: None,
            connections: 0,
            lost: None,
            unanswered: HashMap::new(),
        })
    }

    /// Dials, and asks Hello.
    ///
    /// # Errors
    /// There is no connection, or nobody at its other end that speaks gRPC.
    pub(super) async fn connect(&mut self) -> Result<Connected, String> {
        let late = || format!("no connection and no answer to Hello within {CONNECTED_WITHIN:?}");
        // Before it is known how it comes out: a service that refuses each of them is not dialled without end.
        self.connections += 1;
        timeout(CONNECTED_WITHIN, self.dial()).await.unwrap_or_else(|_| Err(late()))
    }

    async fn dial(&mut self) -> Result<Connected, String> {
        let gone = CancellationToken::new();
        let channel = self
            .dialer
            .dial_for_calls(&gone, &Arc::new(Reads::new()))
            .await
            .map_err(|error| with_causes(&error))?;
        let service = ServiceClient::new(channel, Arc::new(Complaints::kept()));
        let started = Instant::now();
        let hello = service.hello(&self.version, INSTANCE, CONNECTED_WITHIN).await;
        // Its own deadline is as long as that of the whole, and either of them may be noticed first.
        let is_late = |status: &Status| matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
        if let Err(status) = &hello
            && (is_transport_failure(status) || is_late(status))
        {
            // In TLS 1.3 a service refuses our certificate only after the handshake, by hanging up.
            let hint = if self.dialer.is_tls() { " (does the service accept the certificate?)" } else { "" };
            return Err(format!("Hello: {}{hint}", describe_status(status)));
        }
        self.connection = Some(CheckConnection { service, gone });
        Ok(Connected { hello, took: started.elapsed() })
    }

    /// When the check ends at the latest.
    pub(super) const fn until(&self) -> Instant {
        self.until
    }

    /// A connection of its own, for a stream, as the proxy makes them.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn dial_another(&self) -> Result<Channel, String> {
        let dialer = self.dialer.for_streams().ok_or("streams go over gRPC only")?;
        let dialed = timeout(CONNECTED_WITHIN, dialer.dial(&CancellationToken::new())).await;
        let channel = dialed.map_err(|_| format!("no connection within {CONNECTED_WITHIN:?}"))?;
        channel.map_err(|error| with_causes(&error))
    }

    pub(super) async fn ask<R: Examine>(
        &mut self,
        request: AuthRequest<R>,
    ) -> CheckedCall<Examined<R::Decision>> {
        if let Err(Unusable { detail, .. }) = request.fits() {
            return CheckedCall::NotAsked(detail.into());
        }
        self.call(R::HOOK.into(), |service, within| async move { service.examine(request, within).await })
            .await
    }

    pub(super) async fn tell(&mut self, event: EventRequest) -> CheckedCall<()> {
        self.call(event.rpc(), |service, within| async move { service.report(event, within).await }).await
    }

    async fn call<T, F>(&mut self, rpc: Rpc, run: impl FnOnce(ServiceClient, Duration) -> F) -> CheckedCall<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let service = match self.service(rpc).await {
            Ok(service) => service,
            Err(why) => return CheckedCall::NotAsked(why),
        };
        let started = Instant::now();
        // Around the call's own deadline, which does not count the wait for a channel that is ready.
        let deadline = (started + self.timeout).min(self.until);
        let called = timeout_at(deadline, run(service, self.timeout)).await;
        let took = started.elapsed();
        match called {
            Ok(Ok(answer)) => {
                self.unanswered.remove(&rpc);
                CheckedCall::Answered(answer, took)
            }
            Ok(Err(status)) => {
                if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) {
                    self.leave_unanswered(rpc);
                } else if is_transport_failure(&status) {
                    self.leave_unanswered(rpc);
                    if let Some(connection) = &self.connection {
                        // Another task learns of the connection's end.
                        let _ = timeout(CLOSE_NOTICE, connection.gone.cancelled()).await;
                    }
                } else {
                    // An error is an answer, too: the service is there, and the next question is worth its time.
                    self.unanswered.remove(&rpc);
                }
                CheckedCall::Failed(status, took)
            }
            Err(_) => {
                self.leave_unanswered(rpc);
                CheckedCall::Failed(Status::deadline_exceeded("no answer in time"), took)
            }
        }
    }

    fn leave_unanswered(&mut self, rpc: Rpc) {
        *self.unanswered.entry(rpc).or_default() += 1;
    }

    /// The connection, made again where it has ended.
    pub(super) async fn service(&mut self, rpc: Rpc) -> Result<ServiceClient, String> {
        if Instant::now() >= self.until {
            return Err("the time for the whole check is over".to_owned());
        }
        if self.unanswered.get(&rpc).is_some_and(|count| *count >= UNANSWERED_MOST) {
            return Err(format!("{UNANSWERED_MOST} calls in a row were not answered"));
        }
        if let Some(connection) = &self.connection
            && !connection.gone.is_cancelled()
        {
            return Ok(connection.service.clone());
        }
        if self.lost.is_none() && self.connections >= CONNECTIONS_MOST {
            self.lost = Some(format!("{CONNECTIONS_MOST} connections were lost"));
        }
        if let Some(why) = &self.lost {
            return Err(why.clone());
        }
        match self.connect().await {
            Ok(_) => self
                .connection
                .as_ref()
                .map(|connection| connection.service.clone())
                .ok_or_else(|| "no connection".to_owned()),
            Err(why) => {
                let why = format!("the connection was lost, and there is no other: {why}");
                self.lost = Some(why.clone());
                Err(why)
            }
        }
    }
}
