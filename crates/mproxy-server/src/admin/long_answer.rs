//! Answers that go on for longer than a connection otherwise may: they are known to its connection, and are told when the
//! server ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// The long answers of one connection; a handler finds it among the extensions of its request.
#[derive(Clone, Debug)]
pub(super) struct LongAnswers {
    running: Arc<AtomicUsize>,
    ending: watch::Receiver<bool>,
}

/// A long answer, until this is dropped.
#[derive(Debug)]
pub(super) struct LongAnswer(LongAnswers);

impl LongAnswers {
    /// None yet; `ending` says when the server ends.
    pub(super) fn new(ending: watch::Receiver<bool>) -> Self {
        Self { running: Arc::default(), ending }
    }

    /// One begins.
    pub(super) fn begin(self) -> LongAnswer {
        self.running.fetch_add(1, Ordering::Relaxed);
        LongAnswer(self)
    }

    /// Whether there is one.
    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }
}

impl LongAnswer {
    /// Waits until the server ends. Dropping this loses nothing.
    pub(super) async fn ended(&mut self) {
        // A server that is gone has ended.
        let _ = self.0.ending.wait_for(|ending| *ending).await;
    }
}

impl Drop for LongAnswer {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
