//! Keeps the streams to an endpoint open: opens another when one has ended, and opens another *before* one ends where that
//! is known beforehand: when the service says GOAWAY, and after a while in any case, so that a service that was scaled out
//! gets its share.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::stream::{DecideStream, Health};
use super::{DecideStreams, silence};
use crate::causes::with_causes;
use crate::remote::dialer::GrpcDialer;
use crate::remote::pause::{STEADY, pause, random_part};
use crate::remote::status::describe_status;
use crate::remote::strikes::Strikes;
use crate::watch::{StreamEnd, Watch};

/// Connecting a stream.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);

/// What keeps the streams of one connection open.
pub(in crate::remote) struct Keepers {
    keeper: Keeper,
    streams: Arc<DecideStreams>,
    opened: Vec<Option<RunningStream>>,
}

/// What a keeper knows.
#[derive(Clone)]
pub(in crate::remote) struct Keeper {
    pub(in crate::remote) url: Arc<str>,
    pub(in crate::remote) dialer: GrpcDialer,
    /// Of the connection that the streams belong to.
    pub(in crate::remote) strikes: Arc<Strikes>,
    /// That connection is over.
    pub(in crate::remote) gone: CancellationToken,
    /// How long a question may take.
    pub(in crate::remote) timeout: Duration,
    /// When a stream is replaced at the earliest.
    pub(in crate::remote) lifetime: Duration,
    pub(in crate::remote) watch: Arc<dyn Watch>,
}

/// A stream and its task.
struct RunningStream {
    stream: Arc<DecideStream>,
    task: AbortOnDropHandle<Arc<Status>>,
    /// The service has said that it will end the connection.
    goaway: CancellationToken,
    since: Instant,
}

impl Keeper {
    /// Opens so many streams; those that could not be opened are opened later.
    pub(in crate::remote) async fn open(self, streams: usize) -> Keepers {
        let streams = Arc::new(DecideStreams::of(streams));
        let tasks: Vec<_> = streams
            .places
            .iter()
            .map(|_| {
                let keeper = self.clone();
                AbortOnDropHandle::new(tokio::spawn(async move { keeper.open_stream().await }))
            })
            .collect();
        let mut opened = Vec::new();
        for (task, place) in tasks.into_iter().zip(&streams.places) {
            let running = task.await.ok().and_then(Result::ok);
            place.store(running.as_ref().map(|running| Arc::clone(&running.stream)));
            opened.push(running);
        }
        Keepers { keeper: self, streams, opened }
    }

    async fn open_stream(&self) -> Result<RunningStream, String> {
        let goaway = CancellationToken::new();
        let channel = match timeout(CONNECTED_WITHIN, self.dialer.dial_for_stream(&goaway)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(with_causes(&error)),
            Err(_) => return Err("no connection in time".to_owned()),
        };
        let stream = DecideStream::new(silence(self.timeout), self.timeout, Arc::clone(&self.watch));
        let run = Arc::clone(&stream).run(channel, StrikesHealth(Arc::clone(&self.strikes)));
        let task = AbortOnDropHandle::new(tokio::spawn(run));
        debug!(endpoint = &*self.url, "decision stream opened");
        self.watch.stream_opened();
        Ok(RunningStream { stream, task, goaway, since: Instant::now() })
    }

    /// Keeps the stream in this place.
    async fn keep(self, streams: Arc<DecideStreams>, at: usize, mut running: Option<RunningStream>) {
        let Some(place) = streams.places.get(at) else { return };
        let mut failures = 0;
        let mut draining = JoinSet::new();
        loop {
            // Tasks that have ended would stay in the set as long as the connection lives.
            while draining.try_join_next().is_some() {}
            let Some(mut current) = running.take() else {
                failures += 1;
                let wait = sleep(pause(failures));
                // Another stream may have found out meanwhile that the service does not implement it.
                if self.gone.run_until_cancelled(wait).await.is_none() || !streams.are_served() {
                    return;
                }
                match self.open_stream().await {
                    Ok(opened) => {
                        place.store(Some(Arc::clone(&opened.stream)));
                        running = Some(opened);
                    }
                    Err(why) => {
                        // Where nothing arrives, the connection that the streams belong to may not know it yet.
                        self.strikes.strike();
                        debug!(endpoint = &*self.url, error = why, "decision stream could not be opened");
                    }
                }
                continue;
            };
            let lifetime = lifetime(self.lifetime);
            let (why, over) = tokio::select! {
                // What the task says of its end counts, also where the connection goes at the same moment.
                biased;
                ended = &mut current.task => (self.note_end(&streams, ended.ok(), current.stream.lost()), true),
                () = current.goaway.cancelled() => (StreamEnd::GoAway, false),
                () = sleep(lifetime) => (StreamEnd::Recycled, false),
                () = self.gone.cancelled() => (StreamEnd::Closed, false),
            };
            let next = match why {
                // Questions go to the new stream before the old one takes no more.
                StreamEnd::GoAway | StreamEnd::Recycled => self.open_stream().await.ok(),
                StreamEnd::Closed | StreamEnd::Broken | StreamEnd::Unimplemented => None,
            };
            if why == StreamEnd::Recycled && next.is_none() {
                // It is as good as it was.
                running = Some(current);
                continue;
            }
            self.watch.stream_ended(why);
            if why == StreamEnd::Closed && !over {
                place.store(None);
                draining.spawn(self.drain(current));
                while draining.join_next().await.is_some() {}
                return;
            }
            // One that breaks as soon as it is opened is not opened again without a pause.
            if current.since.elapsed() >= STEADY {
                failures = 0;
            }
            if over {
                place.store(None);
                if !streams.are_served() {
                    return;
                }
                continue;
            }
            place.store(next.as_ref().map(|opened| Arc::clone(&opened.stream)));
            draining.spawn(self.drain(current));
            running = next;
        }
    }

    /// Takes no more questions. What it gives lets the service answer what is open, and ends the stream.
    fn drain(&self, running: RunningStream) -> impl Future<Output = ()> + Send + use<> {
        running.stream.drain();
        // The questions have their own deadlines, and the service a moment to end its side.
        let within = self.timeout.saturating_add(Duration::from_secs(1));
        async move {
            let _ = timeout(within, running.task).await;
        }
    }

    fn note_end(&self, streams: &DecideStreams, status: Option<Arc<Status>>, lost: usize) -> StreamEnd {
        let Some(status) = status else { return StreamEnd::Closed };
        let error = describe_status(&status);
        match status.code() {
            Code::Ok => {
                info!(endpoint = &*self.url, "decision stream ended by the policy service, opening another");
                StreamEnd::Closed
            }
            Code::Unimplemented => {
                if !streams.unimplemented.swap(true, Ordering::Relaxed) {
                    warn!(
                        endpoint = &*self.url,
                        "HookStream.Decide unimplemented although Hello says that streams are served, using unary calls"
                    );
                }
                StreamEnd::Unimplemented
            }
            code => {
                // Without questions it is most often a gateway that ends what is idle.
                if lost > 0 {
                    warn!(
                        endpoint = &*self.url,
                        questions = lost,
                        error,
                        "decision stream broken, asking its questions elsewhere"
                    );
                } else {
                    info!(endpoint = &*self.url, error, "decision stream ended, opening another");
                }
                // The service's own word. Where our transport broke, the status has a source, and the connection
                // tells of it.
                if code == Code::Unavailable && Error::source(&*status).is_none() {
                    self.strikes.strike();
                }
                StreamEnd::Broken
            }
        }
    }
}

/// How long a stream is used: not all shall be replaced at the same time, and not those of all mproxies.
fn lifetime(shortest: Duration) -> Duration {
    shortest.mul_f64(1.0 + random_part())
}

impl Keepers {
    pub(in crate::remote) fn streams(&self) -> Arc<DecideStreams> {
        Arc::clone(&self.streams)
    }

    /// Keeps the streams open, each in a task of its own, until the connection that they belong to is gone and what was
    /// open is answered. If it is dropped, they end at once.
    pub(in crate::remote) async fn run(self) {
        let Self { keeper, streams, opened } = self;
        let keep = |(at, running)| {
            let task = keeper.clone().keep(Arc::clone(&streams), at, running);
            AbortOnDropHandle::new(tokio::spawn(task))
        };
        let tasks: Vec<_> = opened.into_iter().enumerate().map(keep).collect();
        for task in tasks {
            let _ = task.await;
        }
    }
}

/// How a stream tells the connection that it belongs to of the service's health.
struct StrikesHealth(Arc<Strikes>);

impl Health for StrikesHealth {
    fn heard(&self) {
        self.0.reset();
    }

    fn silent(&self) {
        self.0.strike();
    }

    fn given_up(&self) {
        self.0.give_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_replaced_at_times_that_are_spread() {
        let shortest = Duration::from_secs(300);
        let mut all: Vec<_> = (0..200).map(|_| lifetime(shortest)).collect();
        all.sort();
        assert!(all[0] >= shortest && all[199] <= 2 * shortest);
        for tenth in 0..10 {
            let from = shortest + shortest / 10 * tenth;
            assert!(all.iter().any(|one| (from..from + shortest / 10).contains(one)), "none in {from:?}");
        }
    }
}
