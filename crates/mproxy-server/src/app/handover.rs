//! Sessions in an upgrade: the old process gives those away that can go, and the new one takes them. See docs/adr/0048.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mproxy_policy::remote::Remote;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::door::SharedStream;
use crate::handover::{NotOffered, OfferRequest, OfferedSession, WrittenConnection};
use crate::registry::Handle;
use crate::serve::{House, Serving, TakenConnection};
use crate::telemetry::metrics::Metrics;
use crate::upgrade::{
    AT_ONCE, BYTES_AT_ONCE, HandoverReport, SessionChannel, SessionOfferer, SessionParcel, SessionTaker,
};

/// How long the tasks of a few connections may take until they stand still.
const OFFERED_WITHIN: Duration = Duration::from_millis(200);

/// How long until those are asked again that could not go.
const AGAIN: Duration = Duration::from_millis(20);

/// So long sessions wait for one another before they are the new process' own: one that dies meanwhile has none of them, and
/// all go on here. With what it takes to let them go on they stand still for less than a second.
const TOGETHER: Duration = Duration::from_millis(600);

/// So many at most: what is said of them is one message.
const MOST_TOGETHER: usize = 50_000;

/// Bytes of one session that may go over, with what was read and not written.
const LARGEST: usize = 12 << 20;

/// The old process: gives its sessions away.
pub(super) struct SessionGiver {
    house: Arc<House>,
    /// Cancelled when this process is told to end.
    stop: CancellationToken,
    /// So far.
    report: HandoverReport,
    waiting: WaitingSessions,
}

/// Sessions that stand still and that the new process could go on with. Until it is said that they are its own they are this
/// process': dropped, they go on here.
struct WaitingSessions {
    /// Since when the first of them does.
    since: Instant,
    /// In the order in which they were offered: those that the new process refused have gone on here.
    sessions: Vec<Option<StandingConnection>>,
}

impl WaitingSessions {
    fn none() -> Self {
        Self { since: Instant::now(), sessions: Vec::new() }
    }

    fn wait_no_longer(&self) -> bool {
        !self.sessions.is_empty()
            && (self.since.elapsed() >= TOGETHER || self.sessions.len() >= MOST_TOGETHER)
    }
}

/// A connection whose session stands still. Dropped, that goes on here.
struct StandingConnection {
    handle: Arc<Handle>,
    release: oneshot::Sender<()>,
}

impl SessionGiver {
    pub(super) fn new(house: &Arc<House>, stop: &CancellationToken) -> Self {
        let (house, stop) = (Arc::clone(house), stop.clone());
        Self { house, stop, report: HandoverReport::default(), waiting: WaitingSessions::none() }
    }

    pub(super) fn report(&self) -> &HandoverReport {
        &self.report
    }

    /// All stay, for this reason.
    pub(super) fn keep_all(&mut self, reason: &str) {
        let count = self.house.registry.all().len() as u64;
        self.report.stayed =
            [(reason.to_owned(), count)].into_iter().filter(|(_, count)| *count > 0).collect();
    }

    /// Offers all that can go, each once. The last of them stand still until it is [said](Self::conclude_waiting) that they are
    /// the new process' own. Blocks; call it on a thread where the runtime allows that.
    ///
    /// # Errors
    /// The new process is gone, or does not answer. All that were not said to be its own go on here.
    fn offer_once(&mut self, channel: &mut SessionChannel) -> io::Result<()> {
        self.report.stayed.clear();
        let mut after = None;
        loop {
            if self.waiting.wait_no_longer() {
                self.conclude_waiting(channel)?;
            }
            let (some, next) = self.house.registry.some_after(after, AT_ONCE);
            if self.waiting.sessions.is_empty() {
                self.waiting.since = Instant::now();
            }
            let offered = self.offer_some(channel, some);
            if offered.is_err() {
                self.waiting = WaitingSessions::none();
                return offered;
            }
            if next.is_none() || self.stop.is_cancelled() {
                return Ok(());
            }
            after = next;
        }
    }

    /// Gives all away that can go, again and again until none is left that soon could, or so much time is over.
    ///
    /// # Errors
    /// The new process is gone, or does not answer. All that were not said to be its own go on here.
    pub(super) fn give_all(&mut self, channel: &mut SessionChannel, within: Duration) -> io::Result<()> {
        let until = Instant::now() + within;
        loop {
            self.offer_once(channel)?;
            self.conclude_waiting(channel)?;
            let soon = [NotOffered::NotOpen, NotOffered::NotNow].map(NotOffered::name);
            let goes_on = soon.into_iter().any(|why| self.report.stayed.contains_key(why));
            if !goes_on || Instant::now() >= until || self.stop.is_cancelled() {
                return Ok(());
            }
            thread::sleep(AGAIN);
        }
    }

    fn offer_some(&mut self, channel: &mut SessionChannel, handles: Vec<Arc<Handle>>) -> io::Result<()> {
        let mut offers = runtime::Handle::current().block_on(self.offers(handles)).into_iter().peekable();
        while offers.peek().is_some() {
            let (mut batch, mut parcels, mut bytes) = (Vec::new(), Vec::new(), 0);
            while bytes < BYTES_AT_ONCE
                && let Some(offer) = offers.next()
            {
                match parcel(offer) {
                    Some((standing, parcel)) => {
                        bytes += parcel.bytes.len();
                        batch.push(standing);
                        parcels.push(parcel);
                    }
                    None => self.stays(NotOffered::TooLarge.name()),
                }
            }
            if batch.is_empty() {
                continue;
            }
            for (standing, refused) in batch.into_iter().zip(channel.offer(&parcels)?) {
                if let Some(why) = &refused {
                    self.stays(why);
                }
                self.waiting.sessions.push(refused.is_none().then_some(standing));
            }
        }
        Ok(())
    }

    /// Those of them that stand still.
    async fn offers(&mut self, handles: Vec<Arc<Handle>>) -> Vec<(Arc<Handle>, OfferedSession)> {
        let asked = handles.into_iter().map(|handle| async move {
            let (answer, offered) = oneshot::channel();
            handle.offer(OfferRequest { answer });
            (timeout(OFFERED_WITHIN, offered).await, handle)
        });
        let mut offers = Vec::new();
        for (answer, handle) in join_all(asked).await {
            match answer {
                Ok(Ok(Ok(session))) => offers.push((handle, session)),
                Ok(Ok(Err(NotOffered::NotOpen))) if !handle.is_opening() => self.stays("ending"),
                Ok(Ok(Err(why))) => self.stays(why.name()),
                // It has ended meanwhile.
                Ok(Err(_)) => {}
                Err(_) => self.stays(NotOffered::NotNow.name()),
            }
        }
        offers
    }

    fn stays(&mut self, why: &str) {
        *self.report.stayed.entry(why.to_owned()).or_default() += 1;
    }

    /// Those that wait are the new process' own from here on. Whoever is dropped on the way goes on here.
    fn conclude_waiting(&mut self, channel: &mut SessionChannel) -> io::Result<()> {
        let waiting = std::mem::replace(&mut self.waiting, WaitingSessions::none());
        if waiting.sessions.is_empty() {
            return Ok(());
        }
        let mut going = Vec::with_capacity(waiting.sessions.len());
        for standing in waiting.sessions {
            // Last: what reaches a session until then is for this process to do.
            let was_taken = standing.is_some();
            let goes = standing.filter(|standing| standing.handle.close_to_hand_over());
            if was_taken && goes.is_none() {
                self.stays(NotOffered::NotNow.name());
            }
            going.push(goes);
        }
        let concluded = channel.conclude(going.iter().map(Option::is_some).collect());
        for StandingConnection { handle, release } in going.into_iter().flatten() {
            if concluded.is_ok() {
                self.report.handed_over += 1;
                // Its task may have ended with the runtime.
                let _ = release.send(());
            } else {
                handle.reopen();
            }
        }
        concluded
    }
}

impl SessionOfferer for SessionGiver {
    fn offer_all(&mut self, channel: &mut SessionChannel) -> io::Result<()> {
        self.offer_once(channel)
    }

    fn conclude(&mut self, channel: &mut SessionChannel) -> io::Result<()> {
        self.conclude_waiting(channel)
    }

    fn handed_over(&self) -> u64 {
        self.report.handed_over
    }
}

/// `None`: it is too large.
fn parcel((handle, session): (Arc<Handle>, OfferedSession)) -> Option<(StandingConnection, SessionParcel)> {
    let (written, sockets, release) =
        WrittenConnection::of(&handle.origin().listener, handle.accepted(), session);
    let bytes = written.to_bytes().filter(|bytes| bytes.len() <= LARGEST)?;
    let sockets = sockets.map(|socket| socket.descriptor);
    Some((StandingConnection { handle, release }, SessionParcel { bytes, sockets }))
}

/// The new process: takes sessions.
pub(super) struct Taker {
    listeners: HashMap<Arc<str>, Arc<Serving>>,
    runtime: runtime::Handle,
    metrics: Arc<Metrics>,
    /// Who tells events.
    remote: Option<Arc<Remote>>,
    /// Cancelled when events may be told.
    tell: CancellationToken,
    /// Those of which nothing was concluded yet, in the order in which they came.
    taken: Vec<Option<TakenConnection>>,
}

impl Taker {
    /// Of these listeners. Call it inside the runtime.
    pub(super) fn new<'a>(
        listeners: impl Iterator<Item = &'a Arc<Serving>>,
        metrics: &Arc<Metrics>,
        remote: Option<&Arc<Remote>>,
        tell: CancellationToken,
    ) -> Self {
        Self {
            listeners: listeners.map(|serving| (Arc::clone(&serving.name), Arc::clone(serving))).collect(),
            runtime: runtime::Handle::current(),
            metrics: Arc::clone(metrics),
            remote: remote.cloned(),
            tell,
            taken: Vec::new(),
        }
    }

    fn take_one(&self, parcel: SessionParcel) -> Result<TakenConnection, &'static str> {
        let SessionParcel { bytes, sockets: [client, broker] } = parcel;
        let written = WrittenConnection::read(&bytes).ok_or("unreadable")?;
        drop(bytes);
        let serving = self.listeners.get(&*written.listener).ok_or("no_listener")?;
        if serving.house.closing.is_cancelled() {
            return Err("stopping");
        }
        let [to_client, to_broker] = written.sockets;
        let sockets = [(to_client, client), (to_broker, broker)];
        let sockets = sockets.map(|(kind, descriptor)| SharedStream { kind, descriptor });
        serving.take_over(written, sockets).map_err(|why| why.name())
    }
}

impl SessionTaker for Taker {
    fn take(&mut self, parcels: Vec<SessionParcel>) -> Vec<Option<String>> {
        let _inside = self.runtime.enter();
        let taken: Vec<_> = parcels.into_iter().map(|parcel| self.take_one(parcel)).collect();
        let refused = taken.iter().map(|taken| taken.as_ref().err().map(ToString::to_string)).collect();
        self.taken.extend(taken.into_iter().map(Result::ok));
        refused
    }

    fn keep(&mut self, keep: &[bool]) {
        let _inside = self.runtime.enter();
        let keep = keep.iter().copied().chain(std::iter::repeat(false));
        for (taken, keep) in std::mem::take(&mut self.taken).into_iter().zip(keep) {
            match taken {
                Some(taken) if keep => {
                    if let (Some(remote), Some(connection)) = (&self.remote, taken.connection_id()) {
                        remote.take_over(connection);
                    }
                    taken.begin();
                }
                Some(taken) => taken.give_back(),
                None => {}
            }
        }
        // A ban may have come in when they were nobody's to be found.
        if let Some(serving) = self.listeners.values().next() {
            serving.house.dismiss_banned();
        }
    }

    fn finish(&mut self, report: &HandoverReport) {
        self.metrics.count_sessions_of_upgrade("handed_over", report.handed_over);
        for (reason, count) in &report.stayed {
            self.metrics.count_sessions_of_upgrade(reason, *count);
        }
        log(report, "sessions taken over");
    }

    fn tell(&mut self) {
        self.tell.cancel();
    }
}

/// A line of what became of the sessions.
pub(super) fn log(report: &HandoverReport, what: &str) {
    let reasons: Vec<_> = report.stayed.iter().map(|(reason, count)| format!("{reason}={count}")).collect();
    let (handed_over, stayed) = (report.handed_over, report.stayed.values().sum::<u64>());
    info!(handed_over, stayed, reasons = reasons.join(" "), "{what}");
}
