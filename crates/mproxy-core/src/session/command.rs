//! Commands: a decision is taken back, whatever state the session is in.
//!
//! A client whose CONNECT is being decided is known only when that is: commands that may mean it are kept until then, and
//! carried out before the broker hears of the client, for the answer may be older than they are. A question that is asked
//! later has an answer that is newer.

use std::sync::Arc;
use std::time::Instant;

use super::Session;
use super::context::Context;
use super::ending::Ending;
use super::opening::{Opening, WaitsFor};
use super::replacement::Replaced;
use super::state::State;
use crate::command::{Order, Reach, SessionCommand};
use crate::fault::Fault;

impl Session {
    /// Told: a command. Whether the client is meant is seen here. How far it reached; of a client whose CONNECT is still being
    /// decided, and of one that is leaving, that is nothing, though it holds for it, too. When it can be reported,
    /// [`recall`](Session::recall) says.
    pub fn command(&mut self, order: &Arc<Order>, now: Instant) -> Reach {
        let reach = self.obey(order, now);
        self.settle(now);
        reach
    }

    fn obey(&mut self, order: &Arc<Order>, now: Instant) -> Reach {
        let (link, open) = match &mut self.state {
            State::Opening(Opening { link, waits: WaitsFor::Admission(attempt) }) => {
                let here = order.selector.selects_origin(&link.peer.origin);
                // Nothing has been answered yet that could be forgotten.
                return match (&order.command, here) {
                    (_, Some(false)) | (SessionCommand::Forget, _) => Reach::default(),
                    (SessionCommand::Disconnect(_), Some(true)) => self.obey_disconnect(order, now),
                    (_, Some(true) | None) => {
                        attempt.keep_order(order);
                        Reach::default()
                    }
                };
            }
            State::Opening(opening) => (&mut opening.link, false),
            State::Open(link) => (link, true),
            State::Ending(ending) => {
                if order.selector.selects(&ending.link.peer) {
                    obey_while_ending(ending, &mut self.cx, order, now);
                }
                return Reach::default();
            }
            // It has no client, or is over.
            State::Greeting(_) | State::Rejected(_) | State::Over(_) => return Reach::default(),
        };
        if !order.selector.selects(&link.peer) {
            return Reach::default();
        }
        let cx = &mut self.cx;
        let subscriptions = match &order.command {
            SessionCommand::Disconnect(_) => return self.obey_disconnect(order, now),
            SessionCommand::ReplaceGrant(grant) => {
                let Replaced { ended, takes_back } = link.command_grant(cx, grant.clone());
                if open {
                    if takes_back {
                        link.begin_recall(cx, now);
                    }
                    // It may be set for the end of the grant that was replaced.
                    cx.timer.disarm();
                    link.begin_grant(cx, now);
                } else {
                    // The broker may go on with an old session, whose subscriptions were never seen here.
                    link.revoked = true;
                }
                ended
            }
            SessionCommand::Forget => {
                link.forget_decisions();
                0
            }
            SessionCommand::CheckGrant { version } => {
                if !link.has_version(version) {
                    match open {
                        true => {
                            link.await_renewal();
                            if let Some(method) = &mut link.rare().method {
                                method.note_check();
                            }
                            link.renew_soon(cx, now);
                        }
                        false => link.rare().renews_at_once = true,
                    }
                }
                0
            }
        };
        // The broker has not heard of the will yet, and would publish it long after the client was told no.
        if let State::Opening(opening) = &self.state
            && let Some(fault) = opening.refused_will(&self.cx)
        {
            self.end(fault, now);
        }
        Reach { clients: 1, subscriptions }
    }

    fn obey_disconnect(&mut self, order: &Order, now: Instant) -> Reach {
        let SessionCommand::Disconnect(dismissal) = &order.command else { return Reach::default() };
        self.end(
            Fault::Kicked { reason: dismissal.reason, dismissal: Some(Box::new(dismissal.clone())) },
            now,
        );
        if let State::Ending(ending) = &mut self.state {
            ending.link.begin_recall(&self.cx, now);
        }
        Reach { clients: 1, subscriptions: 0 }
    }
}

/// The client is leaving, and may still be sent something on the way.
fn obey_while_ending(ending: &mut Ending, cx: &mut Context, order: &Order, now: Instant) {
    match &order.command {
        SessionCommand::Disconnect(_) => ending.dismiss(cx),
        SessionCommand::ReplaceGrant(grant) => {
            if !ending.link.command_grant(cx, grant.clone()).takes_back {
                return;
            }
        }
        // Nobody is asked about it any more.
        SessionCommand::Forget | SessionCommand::CheckGrant { .. } => return,
    }
    ending.link.begin_recall(cx, now);
}
