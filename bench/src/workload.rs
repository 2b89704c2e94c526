//! The table of workloads: how many connections do what, what is counted, and what mproxy must reach.

use anyhow::Context as _;

/// One workload.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
    /// What mproxy must reach with everything allowed.
    pub(crate) target: Option<Target>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// QoS 0, this many a second over all links, each in a write of its own, the links in turn.
    Paced { links: usize, rate: u64, payload: usize },
    /// QoS 0, as fast as they are taken, many to a write.
    Flood { links: usize, payload: usize },
    /// QoS 1, each link with so many on their way.
    Acked { links: usize, window: usize, payload: usize },
    /// One publisher with so many on their way, each of which goes to all subscribers.
    FanOut { subscribers: usize, window: usize, payload: usize },
    /// Publishers with so many on their way each, all of which go to one subscriber.
    FanIn { publishers: usize, window: usize, payload: usize },
    /// Connect, CONNACK, disconnect, over and over.
    Storm { clients: usize },
    /// Connections that ping once in the time that is measured.
    Idle { links: usize },
}

/// What must be reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// CPU of nginx, times this, at most.
    TimesNginx(f64),
    /// Resident memory of a connection, both sockets.
    KibPerConnection(f64),
}

/// Who counts the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    Load,
    Broker,
}

const AT_MOST_NGINX: Option<Target> = Some(Target::TimesNginx(1.0));
const AT_MOST_2_KIB: Option<Target> = Some(Target::KibPerConnection(2.0));

pub(crate) const ALL: &[Workload] = &[
    Workload {
        name: "paced64",
        about: "QoS 0, 64 B, 5,000/s over 8 connections, a write each",
        kind: Kind::Paced { links: 8, rate: 5_000, payload: 64 },
        target: AT_MOST_NGINX,
    },
    Workload {
        name: "flood64",
        about: "QoS 0, 64 B, 8 connections, as fast as they are taken",
        kind: Kind::Flood { links: 8, payload: 64 },
        target: AT_MOST_NGINX,
    },
    Workload {
        name: "flood1k",
        about: "QoS 0, 1 KiB, 8 connections, as fast as they are taken",
        kind: Kind::Flood { links: 8, payload: 1 << 10 },
        target: AT_MOST_NGINX,
    },
    Workload {
        name: "flood256k",
        about: "QoS 0, 256 KiB, 8 connections, as fast as they are taken",
        kind: Kind::Flood { links: 8, payload: 256 << 10 },
        target: None,
    },
    Workload {
        name: "qos1w1",
        about: "QoS 1, 64 B, 8 connections, each waits for its PUBACK",
        kind: Kind::Acked { links: 8, window: 1, payload: 64 },
        target: AT_MOST_NGINX,
    },
    Workload {
        name: "qos1w100",
        about: "QoS 1, 64 B, 8 connections with 100 on their way each",
        kind: Kind::Acked { links: 8, window: 100, payload: 64 },
        target: AT_MOST_NGINX,
    },
    Workload {
        name: "fanout20",
        about: "QoS 0, 64 B, 1 publisher with 10 on their way, 20 subscribers; deliveries are counted",
        kind: Kind::FanOut { subscribers: 20, window: 10, payload: 64 },
        target: None,
    },
    Workload {
        name: "fanin50",
        about: "QoS 0, 64 B, 50 publishers with 2 on their way each, 1 subscriber; deliveries are counted",
        kind: Kind::FanIn { publishers: 50, window: 2, payload: 64 },
        target: None,
    },
    Workload {
        name: "connect",
        about: "16 clients connect, wait for CONNACK, disconnect, again and again",
        kind: Kind::Storm { clients: 16 },
        target: AT_MOST_NGINX,
    },
    Workload {
        name: "idle2000",
        about: "2,000 connections that ping once in the time measured",
        kind: Kind::Idle { links: 2_000 },
        target: AT_MOST_2_KIB,
    },
    Workload {
        name: "idle9500",
        about: "9,500 connections that ping once in the time measured",
        kind: Kind::Idle { links: 9_500 },
        target: AT_MOST_2_KIB,
    },
];

pub(crate) fn find(name: &str) -> anyhow::Result<&'static Workload> {
    let names = || ALL.iter().map(|workload| workload.name).collect::<Vec<_>>().join(", ");
    ALL.iter()
        .find(|workload| workload.name == name)
        .with_context(|| format!("there is no workload {name}; there are: {}", names()))
}

impl Workload {
    pub(crate) const fn counter(&self) -> Counter {
        match self.kind {
            Kind::Paced { .. } | Kind::Flood { .. } => Counter::Broker,
            Kind::Acked { .. }
            | Kind::FanOut { .. }
            | Kind::FanIn { .. }
            | Kind::Storm { .. }
            | Kind::Idle { .. } => Counter::Load,
        }
    }

    pub(crate) const fn is_idle(&self) -> bool {
        matches!(self.kind, Kind::Idle { .. })
    }

    /// What one of those is that are counted.
    pub(crate) const fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Paced { .. } | Kind::Flood { .. } | Kind::Acked { .. } => "message",
            Kind::FanOut { .. } | Kind::FanIn { .. } => "delivery",
            Kind::Storm { .. } => "connect",
            Kind::Idle { .. } => "ping",
        }
    }

    /// Connections at a time.
    pub(crate) const fn links(&self) -> usize {
        match self.kind {
            Kind::Paced { links, .. }
            | Kind::Flood { links, .. }
            | Kind::Acked { links, .. }
            | Kind::Idle { links } => links,
            Kind::FanOut { subscribers, .. } => subscribers + 1,
            Kind::FanIn { publishers, .. } => publishers + 1,
            Kind::Storm { clients } => clients,
        }
    }
}
