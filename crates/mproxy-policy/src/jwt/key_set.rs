//! A set of keys that changes (RFC 7517): read again when it is old, or when a token names a key that is not in it, and
//! kept for a while if it cannot be read. How often it is read is bounded, whatever tokens say.
//!
//! Nothing runs while nobody logs in: whoever needs keys finds out that they are old, and waits for new ones. Whoever comes
//! meanwhile waits for the same reading.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mproxy_core::neighbours::Neighbours;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::key::SetKeys;
use super::reading_budget::ReadingBudget;
use super::{FetchError, KeyError, KeyUrl, TokenKeys};
use crate::watch::{KeyReadOutcome, Watch, Watcher};

/// Bytes of the largest file.
const FILE_MOST: u64 = 1 << 20;

/// Where a set comes from.
#[derive(Debug)]
pub(crate) enum KeySetSource {
    Url(KeyUrl),
    File(PathBuf),
}

/// How long a set serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeySetTimes {
    /// After this it is read again before it is used.
    pub(crate) refresh: Duration,
    /// For so long it is used if it cannot be read again.
    pub(crate) keep: Duration,
}

/// Why a set could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeySetError {
    #[error("cannot be read: {0}")]
    File(#[from] io::Error),
    #[error("has more than {FILE_MOST} bytes")]
    TooLarge,
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Unusable(#[from] KeyError),
}

impl KeySetError {
    /// As it is counted.
    const fn outcome(&self) -> KeyReadOutcome {
        match self {
            Self::File(_) | Self::Fetch(FetchError::NoConnection(_)) => KeyReadOutcome::Unreachable,
            Self::TooLarge | Self::Fetch(FetchError::TooLarge) => KeyReadOutcome::TooLarge,
            Self::Fetch(FetchError::NoAnswer(_)) => KeyReadOutcome::NoAnswer,
            Self::Fetch(FetchError::Status(..)) => KeyReadOutcome::Status,
            Self::Fetch(FetchError::TooLate) => KeyReadOutcome::TooLate,
            Self::Unusable(_) => KeyReadOutcome::Unusable,
        }
    }
}

/// A set of keys that is read again.
#[derive(Debug)]
pub(crate) struct KeySet {
    source: KeySetSource,
    times: KeySetTimes,
    shared: Arc<SharedKeys>,
    reading: Mutex<ReadingState>,
}

/// What a reading leaves behind.
#[derive(Debug)]
struct SharedKeys {
    current: ArcSwap<KeysRead>,
    /// How many readings have ended.
    ended: watch::Sender<u64>,
    /// The number of the last one by which there are keys.
    read: AtomicU64,
    watcher: Watcher,
}

#[derive(Debug, Default)]
struct KeysRead {
    set: SetKeys,
    /// `None`: never.
    at: Option<Instant>,
}

#[derive(Debug)]
struct ReadingState {
    /// The last reading.
    task: Option<AbortOnDropHandle<()>>,
    /// Its number; it has ended when that many have.
    begun: u64,
    budget: ReadingBudget,
}

/// Keys at this moment.
#[derive(Debug)]
pub(crate) struct KeysNow(Arc<KeysRead>);

impl KeysNow {
    pub(crate) fn keys(&self) -> &TokenKeys {
        &self.0.set.keys
    }
}

/// A reading to wait for.
#[derive(Debug)]
pub(crate) struct NextReading {
    ended: watch::Receiver<u64>,
    number: u64,
}

impl NextReading {
    /// Waits until it has ended, well or not. It has a deadline of its own. May be dropped at any time.
    pub(crate) async fn ended(mut self) {
        // An error says that the set is gone, and the reading with it.
        let _ = self.ended.wait_for(|ended| *ended >= self.number).await;
    }
}

impl KeySet {
    /// A set that was not read yet.
    pub(crate) fn new(source: KeySetSource, times: KeySetTimes) -> Self {
        let shared = SharedKeys {
            current: ArcSwap::default(),
            ended: watch::Sender::new(0),
            read: AtomicU64::new(0),
            watcher: Watcher::default(),
        };
        let budget = ReadingBudget::new(times.refresh, Instant::now());
        let reading = ReadingState { task: None, begun: 0, budget };
        Self { source, times, shared: Arc::new(shared), reading: Mutex::new(reading) }
    }

    /// A set that was read already.
    pub(crate) fn with_keys(self, set: SetKeys) -> Self {
        if let KeySetSource::File(path) = &self.source {
            set.tell_left_out(&path.display().to_string());
        }
        self.shared.current.store(Arc::new(KeysRead { set, at: Some(Instant::now()) }));
        self
    }

    /// Counts its readings from now on.
    pub(crate) fn watched_by(&self, watch: &Arc<dyn Watch>) {
        self.shared.watcher.name(watch);
    }

    /// How many of its keys serve, and how long ago it was read, if ever.
    pub(crate) fn state(&self) -> (usize, Option<Duration>) {
        let age = self.shared.current.load().at.map(|at| at.elapsed());
        (self.kept().map_or(0, |keys| keys.keys().count()), age)
    }

    /// Whether both are read from the same place in the same way.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let same = match (&self.source, &other.source) {
            (KeySetSource::Url(own), KeySetSource::Url(other)) => own.is_like(other),
            (KeySetSource::File(_) | KeySetSource::Url(_), _) => false,
        };
        same && self.times == other.times
    }

    /// The keys, if they are new enough, or cannot be had newer. `Err`: what to wait for, or nothing, if there are no keys.
    pub(crate) fn fresh(&self) -> Result<KeysNow, Option<NextReading>> {
        let now = Instant::now();
        let read = self.shared.current.load_full();
        let age = read.at.map(|at| now.saturating_duration_since(at));
        if age.is_some_and(|age| age < self.times.refresh) {
            return Ok(KeysNow(read));
        }
        let mut reading = self.reading();
        if self.is_under_way(&reading) || reading.budget.take_for_age(now) {
            return Err(Some(self.begin_or_join(&mut reading)));
        }
        self.kept().ok_or(None)
    }

    /// The keys, however old, as long as they may be kept.
    pub(crate) fn kept(&self) -> Option<KeysNow> {
        let read = self.shared.current.load_full();
        let age = read.at?.elapsed();
        (age < self.times.keep).then(|| KeysNow(read))
    }

    /// How many readings have begun. Whoever comes now sees all that there is by the end of one more.
    pub(crate) fn begun(&self) -> u64 {
        self.reading().begun
    }

    /// The reading that is under way, if one is.
    pub(crate) fn under_way(&self) -> Option<NextReading> {
        let reading = self.reading();
        self.is_under_way(&reading).then(|| self.reading_of(reading.begun))
    }

    /// Whether there are keys by a reading that began after so many.
    pub(crate) fn has_read_after(&self, begun: u64) -> bool {
        self.shared.read.load(Ordering::Acquire) > begun
    }

    /// Waits until a reading that began after so many has ended, well or not, and begins it as soon as there may be one for
    /// somebody from there: how long that is depends on others. May be dropped at any time.
    pub(crate) async fn read_after(&self, begun: u64, from: Neighbours) {
        while *self.shared.ended.borrow() <= begun {
            let (next, until) = self.next_after(begun, from, Instant::now());
            match until {
                // Perhaps somebody else begins it earlier.
                Some(at) => drop(timeout_at(at, next.ended()).await),
                None => next.ended().await,
            }
        }
    }

    /// What to wait for next, and until when.
    fn next_after(&self, begun: u64, from: Neighbours, now: Instant) -> (NextReading, Option<Instant>) {
        let mut reading = self.reading();
        // One that began before does not tell what there is now; behind it another one can begin.
        if reading.begun > begun || self.is_under_way(&reading) {
            return (self.reading_of(reading.begun), None);
        }
        match reading.budget.take_for_key(from, now) {
            Ok(()) => (self.begin_or_join(&mut reading), None),
            Err(at) => (self.reading_of(begun + 1), Some(at)),
        }
    }

    fn is_under_way(&self, reading: &ReadingState) -> bool {
        *self.shared.ended.borrow() < reading.begun
    }

    fn reading_of(&self, number: u64) -> NextReading {
        NextReading { ended: self.shared.ended.subscribe(), number }
    }

    fn begin_or_join(&self, reading: &mut ReadingState) -> NextReading {
        if self.is_under_way(reading) {
            return self.reading_of(reading.begun);
        }
        reading.begun += 1;
        let guard = ReadingGuard { shared: Arc::clone(&self.shared), number: reading.begun };
        let task = match &self.source {
            KeySetSource::Url(url) => {
                let url = url.clone();
                tokio::spawn(async move {
                    let read = match url.fetch().await {
                        Ok(json) => TokenKeys::of_set(&json).map_err(KeySetError::from),
                        Err(error) => Err(error.into()),
                    };
                    guard.finish(url.as_str(), read);
                })
            }
            KeySetSource::File(path) => {
                let path = path.clone();
                tokio::spawn(async move {
                    let name = path.display().to_string();
                    let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                    let panicked = |error: JoinError| Err(KeySetError::File(error.into()));
                    guard.finish(&name, read.unwrap_or_else(panicked));
                })
            }
        };
        reading.task = Some(AbortOnDropHandle::new(task));
        self.reading_of(reading.begun)
    }

    fn reading(&self) -> MutexGuard<'_, ReadingState> {
        // Nothing is left half done in there.
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a reading, however it comes.
struct ReadingGuard {
    shared: Arc<SharedKeys>,
    number: u64,
}

impl ReadingGuard {
    fn finish(self, from: &str, read: Result<SetKeys, KeySetError>) {
        let outcome = read.as_ref().map_or_else(KeySetError::outcome, |_| KeyReadOutcome::Read);
        self.shared.watcher.tell(|watch| watch.key_set_read(outcome));
        match read {
            Ok(set) => {
                let before = self.shared.current.load();
                let (keys, keys_before) = (set.keys.count(), before.set.keys.count());
                if before.at.is_none() || keys != keys_before {
                    info!(from, keys, keys_before, "token keys loaded");
                }
                // Not each time: a set is read again and again, and these stay in it.
                if before.set.left_out != set.left_out {
                    set.tell_left_out(from);
                }
                self.shared.current.store(Arc::new(KeysRead { set, at: Some(Instant::now()) }));
                self.shared.read.store(self.number, Ordering::Release);
            }
            // No more often than there are readings.
            Err(error) => {
                warn!(from, error = %error, "token keys could not be loaded, previous ones stay in force");
            }
        }
    }
}

impl SetKeys {
    /// Names the keys that are not used: whoever misses one sees why.
    fn tell_left_out(&self, from: &str) {
        for (kid, why) in &self.left_out {
            info!(from, kid, why, "key of the set not used");
        }
    }
}

impl Drop for ReadingGuard {
    fn drop(&mut self) {
        self.shared.ended.send_modify(|ended| *ended += 1);
    }
}

/// The keys in a file. Reads it: not for an async thread.
///
/// # Errors
/// It cannot be read, or holds no key set.
pub(crate) fn read_file(path: &Path) -> Result<SetKeys, KeySetError> {
    let mut json = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_MOST + 1).read_to_end(&mut json))?;
    if json.len() as u64 > FILE_MOST {
        return Err(KeySetError::TooLarge);
    }
    Ok(TokenKeys::of_set(&json)?)
}
