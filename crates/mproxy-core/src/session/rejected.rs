//! A session that ends before it had a client: nothing but the last word to somebody who never said CONNECT, or said one
//! that could not be read.

use std::sync::Arc;
use std::time::Instant;

use super::context::Context;
use super::effect::Effect;
use super::ending::SideEnd;
use super::timer::Deadline;
use crate::fault::Fault;
use crate::peer::{Origin, Side};

/// A session that ends, and never had a client. There is no broker.
pub(super) struct Rejected {
    pub(super) origin: Arc<Origin>,
    pub(super) fault: Fault,
    /// How far the end of the client's side has come.
    pub(super) client: SideEnd,
}

impl Rejected {
    /// Shuts the client's side. Whether all is written.
    pub(super) fn advance(&mut self, cx: &mut Context, now: Instant) -> bool {
        if self.client == SideEnd::Open {
            self.client = SideEnd::Shut;
            cx.effects.push(Effect::Shut { side: Side::Client });
            cx.timer.arm(Deadline::Close, now, cx.setting.limits.close_timeout);
        }
        self.client != SideEnd::Shut
    }
}
