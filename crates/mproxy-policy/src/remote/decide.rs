//! Questions over HookStream.Decide: the streams to one endpoint, each on an HTTP/2 connection of its own, as h2 has one
//! lock for each connection. A client's questions go over the same stream as long as that is sound.
//!
//! | room | holds |
//! |---|---|
//! | `stream` | one stream: batches out, answers in, deadlines, silence |
//! | `slots` | its questions, by id and by deadline |
//! | `clients` | the clients that it has introduced |
//! | `keeper` | opens a stream, and another when it ends or is to be replaced |

mod clients;
mod keeper;
mod slots;
mod stream;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

pub(super) use self::keeper::{Keeper, Keepers};
pub(super) use self::slots::SlotEvent;
use self::stream::DecideStream;
pub(super) use self::stream::SentQuestion;
use crate::contract::StreamQuestion;

/// Streams to one endpoint, at most: one for each worker up to here.
const STREAMS_MOST: usize = 4;

/// A stream that says nothing for so long, and half of the time a question has, is silent.
const SILENCE: Duration = Duration::from_millis(500);

/// How many streams an endpoint gets.
pub(super) fn stream_count() -> usize {
    tokio::runtime::Handle::current().metrics().num_workers().clamp(1, STREAMS_MOST)
}

/// When a stream counts as silent, if questions have so long.
pub(super) fn silence(timeout: Duration) -> Duration {
    (timeout / 2).min(SILENCE).max(Duration::from_millis(1))
}

/// The streams over one connection to an endpoint.
#[derive(Debug)]
pub(super) struct DecideStreams {
    places: Box<[ArcSwapOption<DecideStream>]>,
    /// The service does not implement it after all.
    unimplemented: AtomicBool,
}

impl DecideStreams {
    /// None, and no more will come: questions go by calls.
    pub(super) fn none() -> Self {
        Self { places: Box::default(), unimplemented: AtomicBool::new(true) }
    }

    fn of(streams: usize) -> Self {
        Self {
            places: (0..streams).map(|_| ArcSwapOption::empty()).collect(),
            unimplemented: AtomicBool::new(false),
        }
    }

    /// Whether the service serves them.
    pub(super) fn are_served(&self) -> bool {
        !self.unimplemented.load(Ordering::Relaxed)
    }

    /// Whether they are served, and none of them can be relied on just now.
    pub(super) fn are_in_doubt(&self) -> bool {
        let sound = |stream: &DecideStream| stream.is_open() && !stream.is_silent();
        self.are_served() && !self.places.iter().any(|place| place.load().as_deref().is_some_and(sound))
    }

    /// Puts a question into the client's own stream, or else into another; into a silent one if none is sound and
    /// `if_silent`. `Err`: it is given back, there is no stream for it.
    pub(super) fn ask(
        &self,
        mut question: StreamQuestion,
        deadline: Instant,
        now: Instant,
        if_silent: bool,
    ) -> Result<SentQuestion, StreamQuestion> {
        // By connection, so that a client's questions arrive in their order and it is introduced once.
        let own = (question.peer().origin.connection_id.0 % self.places.len().max(1) as u128) as usize;
        let (before, after) = self.places.split_at(own.min(self.places.len()));
        for silent in [false, true] {
            if silent && !if_silent {
                break;
            }
            for place in after.iter().chain(before) {
                if let Some(stream) = &*place.load()
                    && stream.is_silent() == silent
                {
                    match stream.ask(question, deadline, now) {
                        Ok(asked) => return Ok(asked),
                        Err(back) => question = back,
                    }
                }
            }
        }
        Err(question)
    }
}
