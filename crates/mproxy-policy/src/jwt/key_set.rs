//! A set of keys that changes (RFC 7517): read again when it is old, or when a token names a key that is not in it, and
//! kept for a while if it cannot be read. How often it is read is bounded, whatever tokens say.
//!
//! Nothing runs while nobody logs in: whoever needs keys finds out that they are old, and waits for new ones. Whoever comes
//! meanwhile waits for the same reading.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{KeyUrl, TokenKeys};

/// So many readings may follow each other at once; then there is one each [`PAUSE`].
const BURST: u32 = 4;
const PAUSE: Duration = Duration::from_secs(5);

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
}

#[derive(Debug, Default)]
struct KeysRead {
    keys: TokenKeys,
    /// `None`: never.
    at: Option<Instant>,
}

#[derive(Debug)]
struct ReadingState {
    /// The last reading.
    task: Option<AbortOnDropHandle<()>>,
    /// Its number; it has ended when that many have.
    begun: u64,
    /// Readings that may begin now, as of `counted`.
    free: u32,
    counted: Instant,
}

/// Keys at this moment.
#[derive(Debug)]
pub(crate) struct KeysNow(Arc<KeysRead>);

impl KeysNow {
    pub(crate) fn keys(&self) -> &TokenKeys {
        &self.0.keys
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
        let (current, ended) = (ArcSwap::default(), watch::Sender::new(0));
        let reading = ReadingState { task: None, begun: 0, free: BURST, counted: Instant::now() };
        Self { source, times, shared: Arc::new(SharedKeys { current, ended }), reading: Mutex::new(reading) }
    }

    /// A set that was read already.
    pub(crate) fn with_keys(self, keys: TokenKeys) -> Self {
        self.shared.current.store(Arc::new(KeysRead { keys, at: Some(Instant::now()) }));
        self
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
        match self.read_again(now) {
            Some(next) => Err(Some(next)),
            None => self.kept().ok_or(None),
        }
    }

    /// The keys, however old, as long as they may be kept.
    pub(crate) fn kept(&self) -> Option<KeysNow> {
        let read = self.shared.current.load_full();
        let age = read.at?.elapsed();
        (age < self.times.keep).then(|| KeysNow(read))
    }

    /// Begins a reading, or joins the one that is under way. `None`: there were enough of them lately.
    pub(crate) fn read_again(&self, now: Instant) -> Option<NextReading> {
        let mut reading = self.reading();
        let ended = self.shared.ended.subscribe();
        if *ended.borrow() < reading.begun {
            return Some(NextReading { ended, number: reading.begun });
        }
        if !reading.may_begin(now) {
            return None;
        }
        reading.begun += 1;
        let shared = Arc::clone(&self.shared);
        let task = match &self.source {
            KeySetSource::Url(url) => {
                let url = url.clone();
                tokio::spawn(async move {
                    let ending = ReadingGuard(shared);
                    let read = match url.fetch().await {
                        Ok(json) => TokenKeys::of_set(&json).map_err(|error| error.to_string()),
                        Err(error) => Err(error.to_string()),
                    };
                    ending.0.finish(url.as_str(), read);
                })
            }
            KeySetSource::File(path) => {
                let path = path.clone();
                tokio::spawn(async move {
                    let ending = ReadingGuard(shared);
                    let name = path.display().to_string();
                    let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                    ending.0.finish(&name, read.unwrap_or_else(|panicked| Err(panicked.to_string())));
                })
            }
        };
        reading.task = Some(AbortOnDropHandle::new(task));
        Some(NextReading { ended, number: reading.begun })
    }

    fn reading(&self) -> MutexGuard<'_, ReadingState> {
        // Nothing is left half done in there.
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadingState {
    fn may_begin(&mut self, now: Instant) -> bool {
        let pauses = now.saturating_duration_since(self.counted).as_millis() / PAUSE.as_millis();
        if pauses > 0 {
            let pauses = u32::try_from(pauses).unwrap_or(u32::MAX);
            self.free = self.free.saturating_add(pauses).min(BURST);
            self.counted = now;
        }
        let may = self.free > 0;
        self.free = self.free.saturating_sub(1);
        may
    }
}

impl SharedKeys {
    fn finish(&self, from: &str, read: Result<TokenKeys, String>) {
        match read {
            Ok(keys) => {
                let before = self.current.load();
                if before.at.is_none() || before.keys.count() != keys.count() {
                    info!(from, keys = keys.count(), keys_before = before.keys.count(), "token keys loaded");
                }
                self.current.store(Arc::new(KeysRead { keys, at: Some(Instant::now()) }));
            }
            // No more often than there are readings.
            Err(error) => warn!(from, error, "token keys could not be loaded, previous ones stay in force"),
        }
    }
}

/// The end of a reading, however it comes.
struct ReadingGuard(Arc<SharedKeys>);

impl Drop for ReadingGuard {
    fn drop(&mut self) {
        self.0.ended.send_modify(|ended| *ended += 1);
    }
}

/// The keys in a file. Reads it: not for an async thread.
///
/// # Errors
/// It cannot be read, or holds no key set.
pub(crate) fn read_file(path: &Path) -> Result<TokenKeys, String> {
    let mut json = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MOST + 1).read_to_end(&mut json));
    match read {
        Err(error) => Err(format!("cannot be read: {error}")),
        Ok(_) if json.len() as u64 > FILE_MOST => Err(format!("has more than {FILE_MOST} bytes")),
        Ok(_) => TokenKeys::of_set(&json).map_err(|error| error.to_string()),
    }
}
