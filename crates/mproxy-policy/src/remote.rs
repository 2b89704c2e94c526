//! The policy service, over gRPC or with JSON over HTTP/1.1: asked as a [`Decider`](mproxy_core::policy::Decider), told as a
//! [`Sink`](mproxy_core::event::Sink).
//!
//! - **Endpoints** are tried in the order given: the first healthy one is asked; a question whose connection
//!   breaks, or that is answered UNAVAILABLE, goes to the next within the same deadline; so does one where nothing comes
//!   from the service for a while, and then whoever answers first has answered. mproxy starts whether they are there or
//!   not.
//! - **An unhealthy endpoint** is connected again after a random pause that grows from 100 to 800 ms. Nobody waits for
//!   it; while it is connected for the first time, or right after its connection broke, questions wait within
//!   their deadline.
//! - **Hello** is asked on every connection. Until the first answer mproxy assumes that everything is wanted;
//!   while no endpoint is healthy, what the last one wanted. A Hello that is UNIMPLEMENTED takes nothing back that one
//!   before it has said.
//! - **JSON** goes over connections that come and go. There *the connection* is the time between two Hellos that say the
//!   same and are asked every ten seconds; it ends when a connection cannot be made, or after five failures in a row.
//! - **UNIMPLEMENTED** is a failed answer of the hooks that decide. What a service does not want to decide it leaves out
//!   of Hello's `wants`. Of the hooks that tell it means *not wanted*.
//! - **A question** ends within its deadline, which includes waiting for one of the `max_in_flight` turns.
//! - **Events** are kept until the service has confirmed them on a stream, or told by a call each; see `observe`.
//!
//! | room | holds |
//! |---|---|
//! | `endpoint` | addresses |
//! | `dialer` | connections to an endpoint |
//! | `connector` | the task that keeps an endpoint connected |
//! | `health` | how each endpoint stands and what the service wants |
//! | `unary` | one call with its deadline, and the way to the next endpoint |
//! | `called` | one question by a call, and to another endpoint where nothing comes from the first |
//! | `service_call` | what is sent by a call |
//! | `control` | commands of the service, and what became of them |
//! | `decide` | the streams over which questions go in batches |
//! | `streamed` | one question over a stream, and over another where the first is silent |
//! | `strikes`, `status`, `pause`, `shared_timeout` | failures in a row, what a status says, how long to wait |
//! | `traced` | how a question that is traced ended, or an event's call |
//! | `observe` | events: what is kept of them, the stream, the queues of calls |

mod adviser;
mod called;
mod connector;
mod control;
mod decide;
mod dialer;
mod endpoint;
mod health;
mod observe;
mod pause;
mod role;
mod service_call;
mod shared_timeout;
mod status;
mod streamed;
mod strikes;
mod traced;
mod unary;

use std::sync::Arc;
use std::time::Duration;

use mproxy_codec::property::Properties;
use mproxy_core::peer::{ConnectionId, Peer};
use mproxy_core::policy::{
    Answer, Decided, FailureKind, Ground, Hook, Overload, PublishQuestion, Ruling, ServiceAnswer, Silence,
    Source, Undecided,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::trace;

pub(crate) use self::adviser::trim_payload;
use self::connector::Connector;
use self::control::Controller;
use self::dialer::TlsDialer;
pub(crate) use self::dialer::{Dialer, HttpDialer, Reads};
pub use self::endpoint::{Endpoint, EndpointError, RemoteTls, RemoteTlsError, StartError};
use self::health::Endpoints;
pub use self::health::{EndpointHealth, HealthState, ServiceFacts};
pub(crate) use self::observe::MessageBody;
pub use self::observe::SpoolConfig;
use self::observe::{Observer, ObserverConfig};
use self::role::ServiceRole;
use self::shared_timeout::SharedTimeout;
pub(crate) use self::status::{describe_status, is_transport_failure};
pub(crate) use self::unary::undecided;
use self::unary::{CallResult, call_service};
use crate::call_tracer::{CallStart, CallTrace, CallTracer};
use crate::commander::Commander;
use crate::contract::{AuthRequest, AuthRpc, Complaints, Rpc, Way};
use crate::trace_context::TraceContext;
use crate::watch::{CallOutcome, Watch};

/// How the policy service is reached and used.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// Tried in this order.
    pub endpoints: Vec<Endpoint>,
    /// Deadline of one question, and of telling one event.
    pub timeout: Duration,
    /// mproxy's name, for Hello.
    pub instance: Arc<str>,
    /// mproxy's version, for Hello.
    pub version: Arc<str>,
    /// Events that wait at most for calls of their own, over all connections (rounded up to a multiple of 16).
    pub event_queue: usize,
    /// Bytes of events that are kept at most until the service has confirmed them on a stream.
    pub event_buffer: usize,
    /// How long a service may confirm nothing while events wait, before another endpoint is tried.
    pub confirm_within: Duration,
    /// Where these events are on disk, too, so that they outlive mproxy.
    pub event_spool: Option<SpoolConfig>,
    /// Events wait until this is cancelled: what another process has to tell comes before them.
    pub events_wait: Option<CancellationToken>,
    /// Questions that are open at the service at most; the others wait within their deadline, and are refused as
    /// *overloaded* after it, whatever the failure rule.
    pub max_in_flight: usize,
    /// For `https://` endpoints.
    pub tls: RemoteTls,
    /// Whether streams are used, where the service serves them.
    pub streams: bool,
    /// A stream of questions is replaced when it is so old, or up to twice as old.
    pub stream_lifetime: Duration,
    /// Who makes spans of questions and of what is told. `None`: there are none, and services are told no trace context.
    pub tracer: Option<Arc<dyn CallTracer>>,
}

/// The [`stream_lifetime`](RemoteConfig::stream_lifetime) of a service that is scaled out now and then.
pub const STREAM_LIFETIME: Duration = Duration::from_secs(300);

/// Other certificates and keys for a service, which are not in force yet.
pub struct PreparedRemoteTls(Vec<(TlsDialer, Arc<rustls::ClientConfig>)>);

impl PreparedRemoteTls {
    /// From now on connections are made with them. Those that there are stay.
    pub fn put_in_force(self) {
        for (dialer, config) in self.0 {
            dialer.set(config);
        }
    }
}

impl std::fmt::Debug for PreparedRemoteTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedRemoteTls").finish_non_exhaustive()
    }
}

/// The policy service as an adviser and a sink. Silence abstains: it did not want to be asked.
pub struct Remote {
    endpoints: Arc<Endpoints>,
    turns: Arc<Semaphore>,
    /// None of a shadow: it is asked, and told nothing.
    observer: Option<Observer>,
    timeout: SharedTimeout,
    watch: Arc<dyn Watch>,
    /// TLS of each endpoint that has it.
    tls: Vec<TlsDialer>,
    connectors: TaskTracker,
    stop: CancellationToken,
    version: Arc<str>,
    instance: Arc<str>,
    tracer: Option<Arc<dyn CallTracer>>,
}

impl Remote {
    /// Starts connecting, and returns at once. Call it inside a tokio runtime; its tasks end with
    /// [`flush`](Self::flush), or when it is dropped.
    ///
    /// # Errors
    /// TLS cannot be set up with the certificates and keys given, or the spool cannot be used.
    pub fn start(config: RemoteConfig, watch: Arc<dyn Watch>) -> Result<Arc<Self>, StartError> {
        Self::start_as(ServiceRole::InForce, config, watch)
    }

    /// The same for a service that is asked for comparison: it gets no password and no events, and is not to be obeyed.
    pub(crate) fn start_shadow(config: RemoteConfig, watch: Arc<dyn Watch>) -> Result<Arc<Self>, StartError> {
        Self::start_as(ServiceRole::Shadow, config, watch)
    }

    fn start_as(
        role: ServiceRole,
        config: RemoteConfig,
        watch: Arc<dyn Watch>,
    ) -> Result<Arc<Self>, StartError> {
        let urls = config.endpoints.iter().map(ToString::to_string);
        let endpoints = Arc::new(Endpoints::new(role, urls, Arc::clone(&watch)));
        let (stop, connectors) = (CancellationToken::new(), TaskTracker::new());
        let timeout = SharedTimeout::new(config.timeout);
        let dialers: Vec<_> = config
            .endpoints
            .iter()
            .map(|endpoint| Dialer::new(endpoint, &config.tls, config.max_in_flight))
            .collect::<Result<_, _>>()?;
        let tls = dialers.iter().filter_map(Dialer::tls).cloned().collect();
        // All dialers were made before the first task: a certificate that cannot be used starts nothing.
        for (at, (endpoint, dialer)) in config.endpoints.iter().zip(dialers).enumerate() {
            let connector = Connector {
                at,
                url: endpoint.to_string(),
                dialer,
                endpoints: Arc::clone(&endpoints),
                complaints: Arc::new(Complaints::new(endpoint.to_string())),
                version: Arc::clone(&config.version),
                instance: Arc::clone(&config.instance),
                timeout: timeout.clone(),
                streams: config.streams,
                stream_lifetime: config.stream_lifetime,
                watch: Arc::clone(&watch),
            };
            connectors.spawn(connector.run(stop.clone()));
        }
        // Waiting for a tracker ends only once it is closed, and `obey` can still add to it.
        connectors.close();
        let events = ObserverConfig {
            queue: config.event_queue,
            timeout: timeout.clone(),
            buffer: config.event_buffer,
            confirm_within: config.confirm_within,
            version: Arc::clone(&config.version),
            instance: Arc::clone(&config.instance),
            spool: config.event_spool.clone(),
            tracer: config.tracer.clone(),
            wait: config.events_wait,
        };
        let observer = match role {
            ServiceRole::Shadow => None,
            ServiceRole::InForce => {
                let started = Observer::start(&endpoints, &watch, events, &stop).map_err(|source| {
                    stop.cancel();
                    let folder = config.event_spool.map(|spool| spool.folder).unwrap_or_default();
                    StartError::Spool { folder, source }
                });
                Some(started?)
            }
        };
        Ok(Arc::new(Self {
            endpoints,
            // Never 0, which nobody would ever have a turn of.
            turns: Arc::new(Semaphore::new(config.max_in_flight.max(1))),
            observer,
            timeout,
            tls,
            watch,
            connectors,
            stop,
            version: config.version,
            instance: config.instance,
            tracer: config.tracer,
        }))
    }

    /// From now on the service's commands are carried out, where it serves streams. Call it once.
    pub fn obey(&self, commander: Arc<dyn Commander>) {
        let controller = Controller {
            endpoints: Arc::clone(&self.endpoints),
            commander,
            watch: Arc::clone(&self.watch),
            version: Arc::clone(&self.version),
            instance: Arc::clone(&self.instance),
        };
        self.connectors.spawn(controller.run(self.stop.clone()));
    }

    /// From now on a question may take so long, and so may telling an event.
    pub fn set_timeout(&self, timeout: Duration) {
        self.timeout.set(timeout);
    }

    /// Makes of these certificates and keys what is needed to connect; nothing changes yet. Blocks while it reads the roots
    /// of the system.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn prepare_tls(&self, tls: &RemoteTls) -> Result<PreparedRemoteTls, RemoteTlsError> {
        let prepare = |dialer: &TlsDialer| Ok((dialer.clone(), dialer.prepare(tls)?));
        self.tls.iter().map(prepare).collect::<Result<_, _>>().map(PreparedRemoteTls)
    }

    /// Ends: takes no more events, tells for at most `grace` those that wait, then closes the connections. What
    /// is still untold is counted as dropped. Questions that are asked after it fail.
    pub async fn flush(&self, grace: Duration) {
        // Events first: `stop` takes the connections away that they go over.
        if let Some(observer) = &self.observer {
            observer.flush(grace).await;
        }
        self.stop.cancel();
        if let Some(observer) = &self.observer {
            observer.join().await;
        }
        self.connectors.wait().await;
        self.endpoints.close().await;
    }

    /// A connection of the process whose place this one takes goes on in this one: only here it is told of its end.
    pub fn take_over(&self, connection: ConnectionId) {
        if let Some(observer) = &self.observer {
            observer.take_over(connection.0);
        }
    }

    /// Waits until all events that have been reported are told, and confirmed where the service confirms.
    pub async fn events_told(&self) {
        if let Some(observer) = &self.observer {
            observer.told().await;
        }
    }

    /// How each endpoint stands, in the order of preference.
    #[must_use]
    pub fn health(&self) -> Vec<EndpointHealth> {
        self.endpoints.health()
    }

    /// Whether some endpoint is healthy.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.endpoints.is_ready()
    }

    const fn role(&self) -> ServiceRole {
        if self.observer.is_some() { ServiceRole::InForce } else { ServiceRole::Shadow }
    }

    /// The span of a question about this client, and what the service is told of it; `packet`: its properties.
    fn trace(&self, hook: Hook, peer: &Peer, packet: Option<Properties<'_>>) -> CallTrace {
        let Some(tracer) = &self.tracer else { return CallTrace::default() };
        tracer.begin(CallStart {
            rpc: Rpc::from(hook).name(),
            connection: peer.origin.connection_id,
            packet: packet.and_then(|properties| TraceContext::of_properties(properties.user())),
            streamed: self.endpoints.way() == Way::Stream,
            shadow: self.role() == ServiceRole::Shadow,
        })
    }

    fn ask_later<R: AuthRpc>(
        &self,
        request: AuthRequest<R>,
        peer: &Peer,
        packet: Option<Properties<'_>>,
    ) -> Answer<R::Decision> {
        if let Err(unusable) = request.fits() {
            return Answer::Now(ruling(Err(unusable.into())));
        }
        let CallTrace { context, span } = self.trace(R::HOOK, peer, packet);
        let request = request.with_context(context);
        let deadline = deadline(self.timeout.get());
        let (endpoints, turns, watch) =
            (Arc::clone(&self.endpoints), Arc::clone(&self.turns), Arc::clone(&self.watch));
        Answer::Later(Box::pin(async move {
            let overloaded = || {
                let overload =
                    Overload::new("questions", "too many questions in flight to the policy service");
                Answer::Now(ruling(Err(overload.into())))
            };
            // Without a timer where a turn is free: nearly always, and then the call's own deadline is the only one.
            let (turn, waited) = match turns.try_acquire() {
                Ok(turn) => (Ok(Ok(turn)), false),
                Err(_) => (timeout_at(deadline, turns.acquire()).await, true),
            };
            // Turns come free when others give up, which is when this one has to as well.
            if turn.is_err() || Instant::now() >= deadline {
                watch.call(Rpc::from(R::HOOK).name(), CallOutcome::Overloaded, Duration::ZERO);
                traced::end_overloaded(span);
                return overloaded();
            }
            let mut result = call_service(&endpoints, &*watch, request, deadline).await;
            traced::end(span, &mut result, waited);
            match result {
                Ok(CallResult::Answered(verdict, by)) => Answer::Now(answered_by(verdict, by)),
                Ok(CallResult::Unusable(unusable)) => Answer::Now(ruling(Err(unusable.into()))),
                // The service said so in a Hello meanwhile; from the next question on it passes at once.
                Ok(CallResult::Unwanted) => Answer::Pass(Silence::Abstains),
                // The service had only what our own queue had left of the time. A limit of ours is no failed answer:
                // filling it would open the door to all where the failure rule is "allow".
                Err(failure) if waited && failure.kind == FailureKind::Deadline => overloaded(),
                Err(failure) => {
                    trace!(hook = R::HOOK.name(), error = %failure, "policy call failed");
                    Answer::Now(ruling(Err(failure.into())))
                }
            }
        }))
    }

    /// The question about a PUBLISH, if the service wants it.
    fn wanted_publish<'a>(&self, hook: Hook, question: &PublishQuestion<'a>) -> Option<PublishQuestion<'a>> {
        let wants = self.endpoints.wants();
        let wanted = wants.of(hook.into())?;
        wanted.covers(question.topic).then(|| trim_payload(question, wanted))
    }

    fn is_wanted(&self, hook: Hook) -> bool {
        self.endpoints.wants().of(hook.into()).is_some()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

const fn ruling<D>(verdict: Result<D, Undecided>) -> Ruling<D> {
    Ruling::new(Source::Rpc, verdict)
}

/// The answer, and in each refusal and whatever is wrong with it who gave it.
fn answered_by<D: Decided>(verdict: Result<D, Undecided>, endpoint: Arc<str>) -> Ruling<D> {
    let mut decision = match verdict {
        Ok(decision) => decision,
        Err(undecided) => return ruling(Err(undecided.at(&endpoint))),
    };
    let mut answer = None;
    decision.for_each_refusal(|refusal| {
        // Made for the first one: what is allowed needs none.
        let made =
            || Arc::new(ServiceAnswer { endpoint: Arc::clone(&endpoint), at: Instant::now().into_std() });
        refusal.ground = Ground::Service(Arc::clone(answer.get_or_insert_with(made)));
    });
    Ruling { source: Source::Rpc, verdict: Ok(decision), endpoint: Some(endpoint) }
}

/// So long from now. What is further away than the clock reaches is as good as never: 30 years.
fn deadline(within: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(within).unwrap_or_else(|| now + Duration::from_secs(30 * 365 * 24 * 3600))
}
