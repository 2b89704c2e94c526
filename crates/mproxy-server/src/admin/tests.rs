//! The admin API before a backend of cards.

mod access;
mod bans;
mod document;
mod page;
mod readiness;
mod reload;
mod requests;
mod sessions;
mod sockets;
mod tap;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::view::{BrokerView, EndpointView, ListenerReadiness, SessionFacts, SessionView, TrafficView};
use super::*;
use super::{ExplainQuestion, Explaining, NotExplained};
use crate::config::check::ConfigView;
use crate::config::{LogLevel, Secret};
use crate::protect::bans::Bans;
use crate::telemetry::exposition::Format;
use crate::timestamp::Timestamp;

/// Three sessions, and a memory for what was asked.
#[derive(Default)]
struct Cards {
    kicked: Mutex<Vec<(Uuid, u8)>>,
    texts: Mutex<Vec<Option<Box<str>>>>,
    draining: AtomicBool,
    unbound: AtomicBool,
    broker_away: AtomicBool,
    bans: Bans,
    changes: Arc<tokio::sync::RwLock<()>>,
    /// How often it was asked to look at the brokers.
    looks: AtomicUsize,
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn card(n: u128) -> SessionView {
    SessionView {
        connection_id: id(n),
        epoch: 7,
        client_id: Some(format!("client-{n}")),
        broker_client_id: None,
        username: (n == 2).then(|| "ann".to_owned()),
        listener: "mqtt".to_owned(),
        transport: "tcp",
        peer_addr: "192.0.2.1:50000".to_owned(),
        local_addr: "192.0.2.2:1883".to_owned(),
        grant_version: None,
        protocol: Some("5.0".to_owned()),
        connected_since: Timestamp(UNIX_EPOCH + Duration::from_secs(1)),
        phase: "open",
        traffic: TrafficView { client_packets: 1, client_bytes: 20, broker_packets: 1, broker_bytes: 4 },
    }
}

fn detail(session: SessionView) -> SessionDetail {
    SessionDetail {
        session,
        broker: Some("mqtt://broker:1883".to_owned()),
        keep_alive: Some(60),
        clean_start: Some(true),
        attributes: BTreeMap::new(),
        tls: None,
        grant: None,
        live: None,
    }
}

fn passes(filter: &SessionFilter, session: &SessionView) -> bool {
    filter.passes(&SessionFacts {
        client_id: session.client_id.as_deref(),
        username: session.username.as_deref(),
        listener: &session.listener,
        address: session.peer_addr.parse().ok().map(|address: SocketAddr| address.ip()),
        phase: session.phase,
        attributes: &[],
    })
}

impl AdminBackend for Cards {
    fn begin_change(&self) -> Option<ChangeGuard> {
        Arc::clone(&self.changes).try_read_owned().ok()
    }

    fn upgrade(self: Arc<Self>) -> Upgrading {
        let upgraded = if self.draining.load(Ordering::Relaxed) {
            Err(NotUpgraded::Refused("mproxy is being stopped".to_owned()))
        } else if self.unbound.load(Ordering::Relaxed) {
            Err(NotUpgraded::Failed("it did not come up".to_owned()))
        } else {
            Ok(Successor { pid: 4242, version: "9".to_owned() })
        };
        Box::pin(async { upgraded })
    }

    fn sessions(&self, question: SessionsQuestion) -> Reply<Option<Page>> {
        let SessionsQuestion { filter, after, limit, .. } = question;
        let passes = |session: &SessionView| {
            passes(&filter, session)
                && after.as_ref().is_none_or(|after| session.connection_id.as_u128() > after.id)
        };
        let all: Vec<SessionView> = (1..=3).map(card).filter(passes).collect();
        let last = all.get(limit.wrapping_sub(1)).filter(|_| all.len() > limit);
        let next = last.map(|last| last.connection_id.to_string());
        let page = Page { sessions: all.into_iter().take(limit).collect(), next };
        Box::pin(async { Some(page) })
    }

    fn session(&self, connection_id: Uuid) -> Reply<Option<SessionDetail>> {
        let session = (1..=3).map(card).find(|session| session.connection_id == connection_id);
        Box::pin(async { Some(detail(session?)) })
    }

    fn has_session(&self, connection_id: Uuid) -> bool {
        (1..=3).any(|n| id(n) == connection_id)
    }

    fn explain(&self, _: ExplainQuestion) -> Explaining {
        Box::pin(async { Err(NotExplained::NoSession) })
    }

    fn kick(&self, connection_id: Uuid, dismissal: &Dismissal) -> bool {
        self.kicked.lock().push((connection_id, dismissal.reason.0));
        self.texts.lock().push(dismissal.text.clone());
        (1..=3).any(|n| id(n) == connection_id)
    }

    fn kick_all(&self, filter: SessionFilter, dismissal: Dismissal) -> Reply<Option<usize>> {
        let met: Vec<SessionView> = (1..=3).map(card).filter(|one| passes(&filter, one)).collect();
        for one in &met {
            self.kick(one.connection_id, &dismissal);
        }
        Box::pin(async move { Some(met.len()) })
    }

    fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn readiness(&self, look_behind: bool) -> Reply<Readiness> {
        self.looks.fetch_add(usize::from(look_behind), Ordering::Relaxed);
        let address = (!self.unbound.load(Ordering::Relaxed)).then(|| "127.0.0.1:1883".to_owned());
        let listeners = vec![ListenerReadiness { name: "mqtt".to_owned(), address }];
        let away = self.broker_away.load(Ordering::Relaxed);
        let readiness = Readiness {
            draining: self.draining.load(Ordering::Relaxed),
            listeners,
            failed_reloads: self.reloads(),
            brokers: vec![BrokerView {
                listener: "mqtt".to_owned(),
                target: "mqtt://broker:1883".to_owned(),
                reachable: Some(!away),
                at: Some(Timestamp(UNIX_EPOCH)),
                error: away.then(|| "refused".to_owned()),
            }],
            ..Readiness::default()
        };
        Box::pin(async { readiness })
    }

    fn policy(&self) -> PolicyView {
        let endpoint = EndpointView {
            endpoint: "http://a:1".to_owned(),
            healthy: false,
            state: "unhealthy",
            since: Timestamp(UNIX_EPOCH),
            service: None,
            error: Some("refused".to_owned()),
        };
        PolicyView { endpoints: vec![endpoint], ..PolicyView::default() }
    }

    fn bans(&self) -> Vec<Ban> {
        self.bans.all(UNIX_EPOCH)
    }

    fn ban(&self, ban: Ban) -> Reply<Result<Banned, TooManyBans>> {
        let set = self.bans.add(ban.clone(), UNIX_EPOCH);
        let kept = BanKept::Failed("no space left on device".to_owned());
        Box::pin(async move { set.map(|()| Banned { ban, disconnected: 2, kept }) })
    }

    fn unban(&self, target: BanTarget) -> Reply<Option<BanKept>> {
        let kept = BanKept::Failed("no space left on device".to_owned());
        let lifted = self.bans.remove(&target, UNIX_EPOCH).then_some(kept);
        Box::pin(async move { lifted })
    }

    fn protection(&self) -> ProtectionView {
        ProtectionView::default()
    }

    fn reload(&self) -> Reloading {
        let draining = self.draining.load(Ordering::Relaxed);
        Box::pin(async move {
            Err(match draining {
                true => NotReloaded::Draining,
                false => NotReloaded::Faults(vec!["mproxy.toml:2 log.level: no level".to_owned()]),
            })
        })
    }

    fn reloads(&self) -> Vec<ReloadView> {
        vec![ReloadView {
            what: "acl_file",
            used_by: None,
            outcome: "failed",
            at: Timestamp(UNIX_EPOCH),
            error: Some("rules.toml:2: no such effect".to_owned()),
            changes: Vec::new(),
        }]
    }
}

struct Scene {
    cards: Arc<Cards>,
    admin: Admin,
    peer: SocketAddr,
    headers: Vec<(&'static str, &'static str)>,
}

/// A caller on this machine, and no token.
fn scene() -> Scene {
    let cards = Arc::new(Cards::default());
    let admin = Admin {
        backend: Arc::<Cards>::clone(&cards),
        metrics: Arc::new(Metrics::new()),
        decisions: Arc::new(DecisionLog::off()),
        log: LogHandle::detached(LogLevel::Info),
        in_force: InForce::new(None, ConfigView::default(), None),
        host: "Mproxy.Internal".into(),
    };
    Scene { cards, admin, peer: SocketAddr::from(([127, 0, 0, 1], 50_000)), headers: Vec::new() }
}

impl Scene {
    fn token(self) -> Self {
        self.admin.in_force.set(Some(Secret::from("s3cret")), ConfigView::default(), None);
        self
    }

    fn from(mut self, peer: &str) -> Self {
        self.peer = peer.parse().expect("an address");
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    async fn ask(&self, method: &str, uri: &str) -> (StatusCode, String) {
        self.send(method, uri, Body::empty()).await
    }

    async fn send(&self, method: &str, uri: &str, body: Body) -> (StatusCode, String) {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body).expect("a request");
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let path = request.uri().path().to_owned();
        let response = router(self.admin.clone()).oneshot(request).await.expect("infallible");
        let status = response.status();
        document::foresees(method, &path, &response);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    async fn json(&self, method: &str, uri: &str) -> (StatusCode, Value) {
        let (status, body) = self.ask(method, uri).await;
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }
}
