//! A stand-in broker that records every byte and answers as its script says: the judge of byte identity, and the
//! bad broker of bad days. It knows no topics and delivers nothing by itself. Whoever ends his direction finds the
//! other ended too, after all that was to be sent, as with any broker.

mod answers;

use crate::{PATIENCE, wire::packets};
use answers::{Answers, BrokerReply};
use socket2::SockRef;
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// How the broker behaves towards everybody who comes.
#[derive(Debug, Clone, Default)]
pub struct BrokerScript {
    /// What a CONNECT gets.
    pub connack: ConnectReply,
    /// Who answers the packets after it.
    pub acks: Acks,
}

/// What a CONNECT gets.
#[derive(Debug, Clone, Default)]
pub enum ConnectReply {
    /// A yes without session or properties, in the client's version.
    #[default]
    Accept,
    /// A no with this code, in the client's version, and the end.
    Refuse(u8),
    /// These bytes.
    Bytes(Vec<u8>),
    /// Nothing, ever.
    Never,
}

/// Who answers the packets after CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// The broker: PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK with what was asked for, UNSUBACK, PINGRESP; after
    /// DISCONNECT it closes.
    #[default]
    Auto,
    /// The test, with [`BrokerSession::send`].
    ByHand,
}

/// The broker; it ends, with all its sessions, when this is dropped.
#[derive(Debug)]
pub struct RecordingBroker {
    addr: SocketAddr,
    sessions: mpsc::Receiver<BrokerSession>,
    accepting: JoinHandle<()>,
}

impl RecordingBroker {
    /// Starts one on a free port of 127.0.0.1.
    pub async fn start(script: BrokerScript) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), script).await
    }

    /// The same at this address, where one may have been expected before.
    pub async fn start_at(place: SocketAddr, script: BrokerScript) -> Self {
        let listener = TcpListener::bind(place).await;
        let listener = listener.unwrap_or_else(|error| panic!("cannot listen on {place}: {error}"));
        let addr = listener.local_addr().unwrap_or_else(|error| panic!("listens nowhere: {error}"));
        // When full, further sessions wait to be accepted: 4096 is more than any scene opens.
        let (came, sessions) = mpsc::channel(4096);
        let accepting = tokio::spawn(accept_all(listener, script, came));
        Self { addr, sessions, accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection that came, in order.
    pub async fn session(&mut self) -> BrokerSession {
        let session = timeout(PATIENCE, self.sessions.recv()).await;
        session.ok().flatten().unwrap_or_else(|| panic!("nobody came to the broker"))
    }

    /// A connection that came already, for scenes where nobody may have come.
    pub fn try_session(&mut self) -> Option<BrokerSession> {
        self.sessions.try_recv().ok()
    }
}

impl Drop for RecordingBroker {
    fn drop(&mut self) {
        // The set of session tasks lives in this one and ends with it.
        self.accepting.abort();
    }
}

/// One connection, seen from the broker. It goes on when this is dropped.
#[derive(Debug)]
pub struct BrokerSession {
    remote: SocketAddr,
    record: watch::Receiver<BrokerRecord>,
    reading: watch::Sender<Reading>,
    orders: mpsc::Sender<BrokerAction>,
}

/// How the other side ended its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEnd {
    /// In order (FIN).
    Finished,
    /// With a reset.
    Reset,
}

#[derive(Debug, Default)]
struct BrokerRecord {
    bytes: Vec<u8>,
    end: Option<PeerEnd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    Paused,
    Over,
}

#[derive(Debug)]
enum BrokerAction {
    Send(Vec<u8>),
    Close,
    Abort,
}

impl BrokerSession {
    /// The address it came from.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Every byte so far.
    pub fn received(&self) -> Vec<u8> {
        self.record.borrow().bytes.clone()
    }

    /// Every byte, as soon as there are `count` of them or more.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.until(&format!("{count} bytes"), |record| {
            (record.bytes.len() >= count).then(|| record.bytes.clone())
        })
        .await
    }

    /// Every packet, as soon as there are `count` of them or more. The CONNECT is the first.
    pub async fn packets(&mut self, count: usize) -> Vec<Vec<u8>> {
        self.until(&format!("{count} packets"), |record| {
            let packets = packets(&record.bytes);
            (packets.len() >= count).then_some(packets)
        })
        .await
    }

    /// How the other side ended, as soon as it did.
    pub async fn end(&mut self) -> PeerEnd {
        self.until("the end", |record| record.end).await
    }

    /// Sends `bytes`, whatever they are, after all that was to be sent before.
    pub async fn send(&self, bytes: impl Into<Vec<u8>>) {
        self.order(BrokerAction::Send(bytes.into())).await;
    }

    /// Reads no further: the other side's bytes pile up in the kernel, then in the other side.
    pub fn stop_reading(&self) {
        self.reading.send_replace(Reading::Paused);
    }

    /// Reads on.
    pub fn resume_reading(&self) {
        self.reading.send_replace(Reading::On);
    }

    /// Ends our direction in order (FIN) after all that was to be sent, and reads on until the other side ends too.
    pub async fn close(&self) {
        self.order(BrokerAction::Close).await;
    }

    /// Breaks off with a reset, after all that was to be sent.
    pub async fn abort(&self) {
        self.order(BrokerAction::Abort).await;
    }

    async fn order(&self, order: BrokerAction) {
        let taken = timeout(PATIENCE, self.orders.send(order)).await;
        // A session that is over takes nothing any more: the scene will find out by what does not come.
        taken.map_or_else(|_| panic!("the other side does not read: too much is waiting"), drop);
    }

    async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(&BrokerRecord) -> Option<T>) -> T {
        let mut found = None;
        // Behind the end nothing comes: a scene that waits in vain fails at once, and not after all its patience.
        let looked = self.record.wait_for(|record| {
            found = pick(record);
            found.is_some() || record.end.is_some()
        });
        let late = timeout(PATIENCE, looked).await.is_err();
        found.unwrap_or_else(|| {
            let record = self.record.borrow();
            let (len, tail) = (record.bytes.len(), record.bytes.len().saturating_sub(256));
            let why = if late { "in time" } else { "before the end" };
            panic!("the broker did not get {what} {why}, but {len} bytes: …{:02x?}", &record.bytes[tail..])
        })
    }
}

async fn accept_all(listener: TcpListener, script: BrokerScript, came: mpsc::Sender<BrokerSession>) {
    let mut tasks = JoinSet::new();
    while let Ok((stream, remote)) = listener.accept().await {
        let (record_in, record) = watch::channel(BrokerRecord::default());
        let (reading, reading_in) = watch::channel(Reading::On);
        // When full, who gives the order waits; the reader's own answers too.
        let (orders, orders_in) = mpsc::channel(1024);
        let (read_half, write_half) = prepare(stream);
        tasks.spawn(write(write_half, orders_in, reading.clone()));
        tasks.spawn(read(read_half, record_in, reading_in, orders.clone(), Answers::of(&script)));
        let session = BrokerSession { remote, record, reading, orders };
        if came.send(session).await.is_err() {
            return;
        }
        // The set keeps those that are over until they are asked for.
        while tasks.try_join_next().is_some() {}
    }
}

fn prepare(stream: TcpStream) -> (OwnedReadHalf, OwnedWriteHalf) {
    // An answer that waits for Nagle would slow every scene.
    let _ = stream.set_nodelay(true);
    stream.into_split()
}

async fn read(
    mut from: OwnedReadHalf,
    record: watch::Sender<BrokerRecord>,
    mut reading: watch::Receiver<Reading>,
    orders: mpsc::Sender<BrokerAction>,
    mut answers: Answers,
) {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let now = *reading.borrow_and_update();
        let read = match now {
            Reading::Over => return,
            Reading::Paused => {
                if reading.changed().await.is_err() {
                    return;
                }
                continue;
            }
            // Both are cancel safe: a read that was dropped took no byte.
            Reading::On => tokio::select! {
                read = from.read(&mut chunk) => read,
                Ok(()) = reading.changed() => continue,
            },
        };
        let len = match read {
            Ok(0) => {
                record.send_modify(|record| record.end = Some(PeerEnd::Finished));
                // Fails where it has closed already.
                let _ = orders.send(BrokerAction::Close).await;
                return;
            }
            Err(_) => return record.send_modify(|record| record.end = Some(PeerEnd::Reset)),
            Ok(len) => len,
        };
        let mut replies = Vec::new();
        record.send_modify(|record| {
            record.bytes.extend_from_slice(&chunk[..len]);
            replies = answers.to(&record.bytes);
        });
        for reply in replies {
            let order = match reply {
                BrokerReply::Bytes(bytes) => BrokerAction::Send(bytes),
                BrokerReply::Close => BrokerAction::Close,
            };
            // Its own direction has ended. It answers no more, and still records.
            if orders.send(order).await.is_err() {
                break;
            }
        }
    }
}

async fn write(
    mut to: OwnedWriteHalf,
    mut orders: mpsc::Receiver<BrokerAction>,
    reading: watch::Sender<Reading>,
) {
    while let Some(order) = orders.recv().await {
        match order {
            BrokerAction::Send(bytes) => {
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            BrokerAction::Close => {
                let _ = to.shutdown().await;
                return;
            }
            BrokerAction::Abort => {
                // With no time to linger, closing sends a reset in place of a FIN.
                let _ = SockRef::from(to.as_ref()).set_linger(Some(Duration::ZERO));
                // The socket closes when both halves are gone.
                to.forget();
                reading.send_replace(Reading::Over);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{self, ConnectOptions, Publish, Version, WireClient};

    const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

    #[tokio::test]
    async fn everything_is_acknowledged_and_recorded() {
        let mut broker = RecordingBroker::start(BrokerScript::default()).await;
        for version in VERSIONS {
            let mut client = WireClient::open(broker.addr()).await;
            let publish =
                |qos, packet_id| Publish { topic: "a", payload: b"b", qos, packet_id, ..Publish::default() };
            let scene = [
                (
                    wire::connect(version, "c", &ConnectOptions::default()),
                    wire::connack(version, false, 0, &[]),
                ),
                (wire::publish(version, &publish(0, 0)), vec![]),
                (wire::publish(version, &publish(1, 1)), wire::puback(1)),
                (wire::publish(version, &publish(2, 2)), wire::pubrec(2)),
                (wire::pubrel(2), wire::pubcomp(2)),
                (wire::pubrec(9), wire::pubrel(9)),
                (wire::subscribe(version, 3, &[("x", 2), ("y/#", 0)]), wire::suback(version, 3, &[2, 0])),
                (wire::unsubscribe(version, 4, &["x", "y/#"]), wire::unsuback(version, 4, &[0, 0])),
                (wire::pingreq(), wire::pingresp()),
                (wire::disconnect(), vec![]),
            ];
            let sent: Vec<Vec<u8>> = scene.iter().map(|(sent, _)| sent.clone()).collect();
            let answered: Vec<u8> = scene.iter().flat_map(|(_, answer)| answer.clone()).collect();
            client.send_split(&sent.concat(), 3).await;
            assert_eq!(client.rest().await, answered, "{version:?}");
            drop(client);
            let mut session = broker.session().await;
            assert_eq!(session.packets(sent.len()).await, sent);
            assert_eq!(session.end().await, PeerEnd::Finished);
            assert_eq!(session.received(), sent.concat());
        }
    }

    #[tokio::test]
    async fn a_refusal_closes() {
        for (version, code) in [(Version::V311, 5), (Version::V5, 0x87)] {
            let script = BrokerScript { connack: ConnectReply::Refuse(code), ..BrokerScript::default() };
            let broker = RecordingBroker::start(script).await;
            let mut client = WireClient::open(broker.addr()).await;
            client.send(&wire::connect(version, "c", &ConnectOptions::default())).await;
            client.expect(&wire::connack(version, false, code, &[])).await;
            client.expect_closed().await;
        }
    }

    #[tokio::test]
    async fn by_hand_nothing_happens_by_itself() {
        let script = BrokerScript { connack: ConnectReply::Never, acks: Acks::ByHand };
        let mut broker = RecordingBroker::start(script).await;
        let mut client = WireClient::open(broker.addr()).await;
        client.send(&wire::connect(Version::V5, "c", &ConnectOptions::default())).await;
        client.send(&wire::pingreq()).await;
        let mut session = broker.session().await;
        assert_eq!(session.packets(2).await[1], wire::pingreq());
        session.send(*b"\xff\xff").await;
        session.close().await;
        assert_eq!(client.rest().await, b"\xff\xff");
    }

    #[tokio::test]
    async fn an_abort_is_a_reset() {
        let mut broker = RecordingBroker::start(BrokerScript::default()).await;
        let client = WireClient::login(broker.addr(), Version::V311, "c").await;
        broker.session().await.abort().await;
        let mut stream = client.into_inner();
        let end = stream.read(&mut [0; 1]).await;
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_reset_is_told_from_an_end() {
        let mut broker = RecordingBroker::start(BrokerScript::default()).await;
        WireClient::login(broker.addr(), Version::V311, "c").await.abort();
        assert_eq!(broker.session().await.end().await, PeerEnd::Reset);
    }

    #[tokio::test]
    async fn a_broker_that_stopped_reading_catches_up() {
        let mut broker = RecordingBroker::start(BrokerScript::default()).await;
        let mut client = WireClient::login(broker.addr(), Version::V311, "c").await;
        let mut session = broker.session().await;
        session.stop_reading();
        client.send(&wire::pingreq()).await;
        session.resume_reading();
        client.expect(&wire::pingresp()).await;
        assert_eq!(session.packets(2).await.len(), 2);
    }
}
