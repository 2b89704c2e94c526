//! A session is offered to another process: it stands still, is written down with what was read and not taken and what is to
//! be written, and either is that process' own from then on or goes on here, as if nothing had been.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use mproxy_core::session::handover::MOST;
use mproxy_core::{Session, Side};
use tokio::sync::oneshot;

use super::asks::Asks;
use super::side::RelaySide;
use super::{Aside, Relay, RelayHost};
use crate::door::Carrier;
use crate::handover::{NotOffered, OfferRequest, OfferedSession};
use crate::registry::Handle;

/// The two streams of a session that another process had, each with what that had read and not taken, and not written.
pub(crate) struct ResumedStreams<S> {
    /// To the client and to the broker.
    pub(crate) streams: [S; 2],
    pub(crate) unread: [Bytes; 2],
    pub(crate) unwritten: [Bytes; 2],
}

impl<S: Carrier> Relay<S> {
    /// Goes on with a session of another process.
    pub(crate) fn resumed(
        resumed: ResumedStreams<S>,
        mut session: Session,
        handle: Arc<Handle>,
        host: Arc<dyn RelayHost<S>>,
        now: Instant,
    ) -> Self {
        let ResumedStreams { streams: [client, broker], unread, unwritten: [to_client, to_broker] } = resumed;
        for (side, unread) in [Side::Client, Side::Broker].into_iter().zip(&unread) {
            if !unread.is_empty() {
                session.kept(side, unread.len(), now);
            }
        }
        Self {
            session,
            handle,
            host,
            client: RelaySide::resumed(client, &unread[0], to_client),
            broker: RelaySide::resumed(broker, &unread[1], to_broker),
            asks: Asks::default(),
            dialing: None,
            timer: None,
            over: None,
            aside: None,
            withheld: None,
        }
    }

    /// Whether another process has gone on with the session. There is nothing to be told then, and nothing to be ended: the
    /// streams are open there.
    pub(crate) fn poll_released(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(Aside::Offered(taken)) = self.aside.as_deref_mut() else { return Poll::Pending };
        match Pin::new(taken).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(()),
            // It goes on here. What came meanwhile is looked at in this very turn.
            Poll::Ready(Err(_)) => {
                self.aside = None;
                Poll::Pending
            }
        }
    }

    /// Whether the session is offered to another process, and stands still.
    pub(super) fn is_offered(&self) -> bool {
        matches!(self.aside.as_deref(), Some(Aside::Offered(_)))
    }

    /// Offers the session to another process, if that is possible. From then on nothing is read, decided or written, until
    /// [`poll_released`](Self::poll_released) says what became of it.
    pub(super) fn offer(&mut self, request: OfferRequest, cx: &Context<'_>, now: Instant) -> bool {
        let (release, taken) = oneshot::channel();
        let offered = match self.write_down(release, now) {
            Ok(offered) => offered,
            Err(why) => {
                let _ = request.answer.send(Err(why));
                return false;
            }
        };
        // Whoever asked may have given up: the session goes on then.
        if request.answer.send(Ok(offered)).is_err() {
            return false;
        }
        self.aside = Some(Box::new(Aside::Offered(taken)));
        // Only a poll of that makes it wake this task.
        cx.waker().wake_by_ref();
        true
    }

    fn write_down(&self, release: oneshot::Sender<()>, now: Instant) -> Result<OfferedSession, NotOffered> {
        let is_whole = self.client.is_whole() && self.broker.is_whole();
        if !is_whole || self.over.is_some() || self.aside.is_some() || self.dialing.is_some() {
            return Err(NotOffered::NotOpen);
        }
        if self.withheld.is_some() {
            return Err(NotOffered::NotNow);
        }
        let share = |side: &RelaySide<S>| {
            let stream = side.stream.as_ref().ok_or(NotOffered::NotOpen)?;
            stream.share().map_err(|_| NotOffered::Descriptors)?.ok_or(NotOffered::Transport)
        };
        let sockets = [share(&self.client)?, share(&self.broker)?];
        let sides = [&self.client, &self.broker];
        let boxes: usize = sides.map(|side| side.inbox.len() + side.outbox.len()).iter().sum();
        if boxes > MOST {
            return Err(NotOffered::TooLarge);
        }
        Ok(OfferedSession {
            session: self.session.export(now)?,
            unread: sides.map(|side| side.inbox.unread().to_vec()),
            unwritten: sides.map(|side| side.outbox.unwritten()),
            sockets,
            release,
        })
    }
}
