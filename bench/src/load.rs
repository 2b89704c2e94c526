//! The load generator: the client side of one workload, a process of its own.
//!
//! What only writes, or only waits for one answer, is a plain blocking thread: one system call a write, none to find
//! out whether it may. What reads from many sockets is one epoll loop (`links`). Beneath both is a [`Stream`].

mod acked;
mod fan;
mod flood;
mod idle;
mod links;
mod paced;
mod storm;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

pub(crate) use self::stream::Stream;
use crate::control::{self, Tally, Word};
use crate::frame;
use crate::transport::BenchTransport;
use crate::workload::{Workload, WorkloadKind};

/// How long anybody may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that are set up at a time.
const AT_A_TIME: usize = 16;

/// Runs one workload against that address until it is told to end. `seconds` is how long will be measured.
pub(crate) fn run(
    workload: &Workload,
    address: SocketAddr,
    login: Login,
    seconds: f64,
) -> anyhow::Result<()> {
    let target = Target { address, transport: workload.transport, login };
    match workload.kind {
        WorkloadKind::Paced { links, rate, payload } => paced::run(target, links, rate, payload, None),
        WorkloadKind::PartlyRefused { links, rate, payload, one_in } => {
            paced::run(target, links, rate, payload, Some(one_in))
        }
        WorkloadKind::Flood { links, payload } => flood::run(target, links, payload),
        WorkloadKind::Storm { clients } => storm::run(target, clients),
        WorkloadKind::Acked { links, window, payload } => {
            links::run(connect_all(target, links)?, acked::Acked::new(links, window, payload))
        }
        WorkloadKind::FanOut { subscribers, window, payload } => {
            let mut streams = connect_all(target, 1 + subscribers)?;
            for stream in &mut streams[1..] {
                subscribe(stream, fan::TOPIC)?;
            }
            links::run(streams, fan::Out::new(subscribers, window, payload))
        }
        WorkloadKind::FanIn { publishers, window, payload } => {
            let mut streams = connect_all(target, 1 + publishers)?;
            subscribe(&mut streams[0], fan::TOPIC)?;
            links::run(streams, fan::In::new(publishers, window, payload))
        }
        WorkloadKind::Idle { links } => {
            links::run(connect_all(target, links)?, idle::Idle::new(links, seconds))
        }
    }
}

/// Where clients connect, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) transport: BenchTransport,
    pub(crate) login: Login,
}

/// By what clients say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    Nothing,
    /// All with the same token.
    Token,
}

/// Of `kind` "devices" and two `sites`, for `mqtt`, until the year 2100. Its secret is in `candidate/secret.txt`.
const TOKEN: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJiZW5jaCIsImF1ZCI6Im1xdHQiLCJraW5kIjoiZGV2aWNlcyIsInNpdGVzIjpbImJlcmxpbiIsImt5b3RvIl0sImV4cCI6NDEwMjQ0NDgwMH0.WdWhBoUMKP03LWsARvLNFS0ooPbcZsUS3X8LVY3RSY0";

impl Target {
    fn connect(self, client_id: &str) -> Vec<u8> {
        frame::connect(client_id, (self.login == Login::Token).then_some(TOKEN))
    }
}

fn client_id(number: usize) -> String {
    format!("bench-{number:05}")
}

/// Where a client publishes that has a topic of its own.
fn own_topic(number: usize) -> String {
    format!("devices/{}/up", client_id(number))
}

/// Where the rules of the bench let nobody publish.
const FORBIDDEN: &str = "shared/readonly/up";

/// Links by their number. Some at a time: a policy service may take a while for each.
fn connect_all(target: Target, links: usize) -> anyhow::Result<Vec<Stream>> {
    let numbers: Vec<_> = (0..links).collect();
    thread::scope(|scope| {
        let share = |numbers: &[usize]| -> anyhow::Result<Vec<_>> {
            numbers.iter().map(|number| connect(target, &client_id(*number))).collect()
        };
        let shares: Vec<_> = numbers
            .chunks(links.div_ceil(AT_A_TIME).max(1))
            .map(|numbers| scope.spawn(move || share(numbers)))
            .collect();
        let mut streams = Vec::with_capacity(links);
        for share in shares {
            streams.append(&mut share.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))??);
        }
        Ok(streams)
    })
}

/// A connection that was let in.
pub(crate) fn connect(target: Target, client_id: &str) -> anyhow::Result<Stream> {
    let attempt = || -> anyhow::Result<Stream> {
        let mut stream = Stream::open(target)?;
        enter(&mut stream, &target.connect(client_id))?;
        Ok(stream)
    };
    attempt().with_context(|| format!("client {client_id}"))
}

/// CONNECT, and its CONNACK.
fn enter(stream: &mut Stream, connect: &[u8]) -> anyhow::Result<()> {
    stream.write_all(connect)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).context("no CONNACK")?;
    if answer != frame::fixed::CONNACK {
        bail!("refused: {answer:02X?}");
    }
    Ok(())
}

fn subscribe(stream: &mut Stream, topic: &str) -> anyhow::Result<()> {
    stream.write_all(&frame::subscribe(topic))?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).context("no SUBACK")?;
    if answer != frame::suback([0, 1]) {
        bail!("the subscription was refused: {answer:02X?}");
    }
    Ok(())
}

/// Says that everything is set up, and waits until it may begin.
fn wait_for_go(words: &Receiver<Word>) -> anyhow::Result<()> {
    control::say(&Tally::default())?;
    match words.recv()? {
        Word::Go => Ok(()),
        other => bail!("told to {other:?} before the start"),
    }
}
