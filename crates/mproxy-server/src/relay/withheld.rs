//! Commands of the policy service that were carried out, and are reported when what had been sent to the client before is
//! written.

use std::pin::Pin;
use std::task::Context;

use mproxy_core::session::RecallStage;
use tokio::io::AsyncWrite;

use super::Relay;
use super::side::{OutputState, RelaySide};
use crate::door::Carrier;
use crate::orders::HandedOrder;

/// There only while some wait.
#[derive(Default)]
pub(super) struct WithheldOrders {
    /// Dropped when they are reported.
    orders: Vec<HandedOrder>,
    /// So many bytes at the front of what waits for the client have to be written. `None`: that is not known yet.
    left: Option<usize>,
}

impl<S: Carrier> Relay<S> {
    /// This one was carried out, and what it sent is queued.
    pub(super) fn withhold(&mut self, order: HandedOrder) {
        let stage = self.session.recall();
        if stage == RecallStage::None {
            return;
        }
        let withheld = self.withheld.get_or_insert_default();
        withheld.orders.push(order);
        withheld.left = (stage == RecallStage::Sent).then(|| self.client.outbox.len());
    }

    /// Reports them if they can be: after each try to write to the client, for whom `before` bytes waited until then.
    pub(super) fn report_withheld(&mut self, cx: &mut Context<'_>, before: usize) {
        let Some(withheld) = &mut self.withheld else { return };
        let client = &mut self.client;
        let written = before.saturating_sub(client.outbox.len());
        withheld.left = withheld.left.map(|left| left.saturating_sub(written));
        match self.session.recall() {
            RecallStage::None => {}
            RecallStage::Coming => {
                withheld.left = None;
                return;
            }
            RecallStage::Sent => {
                let left = withheld.left.get_or_insert(client.outbox.len());
                if !client.is_gone() && (*left > 0 || !client.has_let_go(cx)) {
                    return;
                }
                withheld.left = None;
                self.session.recalled();
                if self.session.recall() != RecallStage::None {
                    return;
                }
            }
        }
        self.withheld = None;
    }
}

impl<S: AsyncWrite + Unpin> RelaySide<S> {
    /// Nothing more is written to it.
    fn is_gone(&self) -> bool {
        self.stream.is_none() || self.closing == OutputState::Shut || self.outbox.broken().is_some()
    }

    /// Whether its stream holds nothing back of what it took (TLS does): then it is with the kernel.
    fn has_let_go(&mut self, cx: &mut Context<'_>) -> bool {
        self.stream.as_mut().is_none_or(|stream| Pin::new(stream).poll_flush(cx).is_ready())
    }
}
