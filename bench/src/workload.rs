//! The table of workloads: how many connections do what over which transports, what is counted, and what mproxy must
//! reach.

use anyhow::bail;

use crate::transport::BenchTransport;

/// One workload over one transport.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// As in the table; over anything but TCP with the transport behind it: `paced64-tls`.
    pub(crate) name: String,
    pub(crate) about: &'static str,
    pub(crate) kind: WorkloadKind,
    pub(crate) transport: BenchTransport,
    /// What mproxy must reach with everything allowed.
    pub(crate) target: Option<Target>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum WorkloadKind {
    /// QoS 0, this many a second over all links, each in a write of its own, the links in turn.
    Paced { links: usize, rate: u64, payload: usize },
    /// The same to topics of the rules, but that one in so many goes to one that they forbid. Counted are the others.
    PartlyRefused { links: usize, rate: u64, payload: usize, one_in: u64 },
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
    /// Memory of haproxy, times this, at most.
    TimesHaproxy(f64),
    /// Resident memory of a connection, both sockets.
    KibPerConnection(f64),
}

/// Who counts the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    Load,
    Broker,
}

const NGINX: Option<Target> = Some(Target::TimesNginx(1.0));
const IDLE: Option<Target> = Some(Target::KibPerConnection(2.0));

/// Which transports a workload is played over.
const TCP: &[BenchTransport] = &[BenchTransport::Tcp];
const TLS: &[BenchTransport] = &[BenchTransport::Tcp, BenchTransport::Tls];
const ALL: &[BenchTransport] = &BenchTransport::ALL;

/// Name, what it does, how, over what, and what is to be reached over TCP.
type Row = (&'static str, &'static str, WorkloadKind, &'static [BenchTransport], Option<Target>);

const TABLE: &[Row] = &[
    (
        "paced64",
        "QoS 0, 64 B, 5,000/s over 8 connections, a write each",
        WorkloadKind::Paced { links: 8, rate: 5_000, payload: 64 },
        ALL,
        NGINX,
    ),
    (
        "refused1in100",
        "QoS 0, 64 B, 10,000/s over 8 connections, a write each; one in 100 is refused",
        WorkloadKind::PartlyRefused { links: 8, rate: 10_000, payload: 64, one_in: 100 },
        TCP,
        None,
    ),
    (
        "refused1in2",
        "QoS 0, 64 B, 10,000/s over 8 connections, a write each; every second one is refused",
        WorkloadKind::PartlyRefused { links: 8, rate: 10_000, payload: 64, one_in: 2 },
        TCP,
        None,
    ),
    (
        "flood64",
        "QoS 0, 64 B, 8 connections, as fast as they are taken",
        WorkloadKind::Flood { links: 8, payload: 64 },
        TCP,
        NGINX,
    ),
    (
        "flood1k",
        "QoS 0, 1 KiB, 8 connections, as fast as they are taken",
        WorkloadKind::Flood { links: 8, payload: 1 << 10 },
        ALL,
        NGINX,
    ),
    (
        "flood256k",
        "QoS 0, 256 KiB, 8 connections, as fast as they are taken",
        WorkloadKind::Flood { links: 8, payload: 256 << 10 },
        TCP,
        None,
    ),
    (
        "qos1w1",
        "QoS 1, 64 B, 8 connections, each waits for its PUBACK",
        WorkloadKind::Acked { links: 8, window: 1, payload: 64 },
        ALL,
        NGINX,
    ),
    (
        "qos1w100",
        "QoS 1, 64 B, 8 connections with 100 on their way each",
        WorkloadKind::Acked { links: 8, window: 100, payload: 64 },
        TLS,
        NGINX,
    ),
    (
        "fanout20",
        "QoS 0, 64 B, 1 publisher with 10 on their way, 20 subscribers; deliveries are counted",
        WorkloadKind::FanOut { subscribers: 20, window: 10, payload: 64 },
        TCP,
        None,
    ),
    (
        "fanin50",
        "QoS 0, 64 B, 50 publishers with 2 on their way each, 1 subscriber; deliveries are counted",
        WorkloadKind::FanIn { publishers: 50, window: 2, payload: 64 },
        TCP,
        None,
    ),
    (
        "connect",
        "16 clients connect, wait for CONNACK, disconnect, again and again",
        WorkloadKind::Storm { clients: 16 },
        TLS,
        NGINX,
    ),
    (
        "idle2000",
        "2,000 connections that ping once in the time measured",
        WorkloadKind::Idle { links: 2_000 },
        ALL,
        IDLE,
    ),
    (
        "idle9500",
        "9,500 connections that ping once in the time measured",
        WorkloadKind::Idle { links: 9_500 },
        TLS,
        IDLE,
    ),
];

/// All of them: first those over TCP, in the order of the table, then the next transport.
pub(crate) fn all() -> impl Iterator<Item = Workload> {
    let over = |transport: BenchTransport| TABLE.iter().filter_map(move |row| Workload::of(row, transport));
    BenchTransport::ALL.into_iter().flat_map(over)
}

/// Those that a word on the command line means: one by its name, or all over a transport.
pub(crate) fn named(name: &str) -> anyhow::Result<Vec<Workload>> {
    let transport = BenchTransport::named(name);
    let found: Vec<_> =
        all().filter(|workload| workload.name == name || Some(workload.transport) == transport).collect();
    if found.is_empty() {
        let names: Vec<_> = all().map(|workload| workload.name).collect();
        bail!("there is no workload {name}; there are {}; or all over tcp, tls, ws, wss", names.join(", "));
    }
    Ok(found)
}

impl Workload {
    fn of(&(name, about, kind, over, target): &Row, transport: BenchTransport) -> Option<Self> {
        over.contains(&transport).then(|| Self {
            name: match transport {
                BenchTransport::Tcp => name.to_owned(),
                other => format!("{name}-{}", other.name()),
            },
            about,
            kind,
            transport,
            target: match (transport, kind) {
                (BenchTransport::Tcp, _) => target,
                (BenchTransport::Tls, WorkloadKind::Idle { .. }) => Some(Target::TimesHaproxy(1.0)),
                _ => None,
            },
        })
    }

    pub(crate) const fn counter(&self) -> Counter {
        match self.kind {
            WorkloadKind::Paced { .. } | WorkloadKind::PartlyRefused { .. } | WorkloadKind::Flood { .. } => {
                Counter::Broker
            }
            WorkloadKind::Acked { .. }
            | WorkloadKind::FanOut { .. }
            | WorkloadKind::FanIn { .. }
            | WorkloadKind::Storm { .. }
            | WorkloadKind::Idle { .. } => Counter::Load,
        }
    }

    /// Whether each message is on its way alone.
    pub(crate) const fn one_by_one(&self) -> bool {
        matches!(self.kind, WorkloadKind::Paced { .. } | WorkloadKind::Acked { window: 1, .. })
    }

    /// Whether only rules refuse what it expects to be refused.
    pub(crate) const fn needs_rules(&self) -> bool {
        matches!(self.kind, WorkloadKind::PartlyRefused { .. })
    }

    pub(crate) const fn is_flood(&self) -> bool {
        matches!(self.kind, WorkloadKind::Flood { .. })
    }

    pub(crate) const fn is_idle(&self) -> bool {
        matches!(self.kind, WorkloadKind::Idle { .. })
    }

    /// What one of those is that are counted.
    pub(crate) const fn unit(&self) -> &'static str {
        match self.kind {
            WorkloadKind::Paced { .. }
            | WorkloadKind::PartlyRefused { .. }
            | WorkloadKind::Flood { .. }
            | WorkloadKind::Acked { .. } => "message",
            WorkloadKind::FanOut { .. } | WorkloadKind::FanIn { .. } => "delivery",
            WorkloadKind::Storm { .. } => "connect",
            WorkloadKind::Idle { .. } => "ping",
        }
    }

    /// Connections at a time.
    pub(crate) const fn links(&self) -> usize {
        match self.kind {
            WorkloadKind::Paced { links, .. }
            | WorkloadKind::PartlyRefused { links, .. }
            | WorkloadKind::Flood { links, .. }
            | WorkloadKind::Acked { links, .. }
            | WorkloadKind::Idle { links } => links,
            WorkloadKind::FanOut { subscribers, .. } => subscribers + 1,
            WorkloadKind::FanIn { publishers, .. } => publishers + 1,
            WorkloadKind::Storm { clients } => clients,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(word: &str) -> Vec<String> {
        named(word).expect("there are some").into_iter().map(|workload| workload.name).collect()
    }

    #[test]
    fn a_word_means_one_workload_or_a_transport() {
        assert_eq!(names("paced64"), ["paced64"]);
        assert_eq!(names("paced64-wss"), ["paced64-wss"]);
        assert_eq!(names("ws"), ["paced64-ws", "flood1k-ws", "qos1w1-ws", "idle2000-ws"]);
        assert!(names("tcp").contains(&"fanin50".to_owned()));
    }

    #[test]
    fn an_unknown_word_is_answered_with_the_list() {
        let fault = named("paced65").expect_err("there is none").to_string();
        assert!(fault.contains("paced64-tls") && fault.contains("wss"), "{fault}");
    }
}
