//! Commands of the policy service on their way to connections: one slot at each connection's handle, which its task empties,
//! and a tally of who has carried a command out.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mproxy_codec::types::QoS;
use mproxy_core::command::{Dismissal, Order, Reach};
use mproxy_core::policy::Explanation;
use mproxy_core::rule::Act;
use mproxy_core::session::SessionDescription;
use mproxy_policy::commander::CommandOutcome;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::door::StreamFacts;
use crate::handover::OfferRequest;

/// How long all connections together may take to carry a command out. They wait for their turn, and for clients that
/// read slowly, which are cut off long before this.
const CARRIED_OUT_WITHIN: Duration = Duration::from_secs(10);

/// A command on its way to one connection. When it is dropped, that one has carried it out and nothing that it took back
/// reaches the client any more, or it is over.
pub(crate) struct HandedOrder {
    order: Arc<Order>,
    tally: Arc<OrderProgress>,
}

/// What waits for one connection, in the order in which it came.
#[derive(Default)]
pub(crate) struct OrderQueue {
    pub(crate) orders: Vec<HandedOrder>,
    pub(crate) questions: Vec<ExplainRequest>,
    pub(crate) inquiries: Vec<SessionInquiry>,
    /// It shall end, with words of an administrator's.
    pub(crate) dismissals: Vec<Dismissal>,
    /// Another process may have its session.
    pub(crate) offer: Option<OfferRequest>,
}

/// What a connection's task is asked about its session.
pub(crate) enum SessionInquiry {
    /// What it knows of itself. `None`: there is no client, or not any more.
    Describe { answer: oneshot::Sender<Option<RelayDescription>> },
    /// Whether its client has subscribed to this: see [`Session::subscribes_to`](mproxy_core::Session::subscribes_to).
    Subscribes { name: Arc<str>, answer: oneshot::Sender<bool> },
}

/// What a connection's task knows of it.
pub(crate) struct RelayDescription {
    pub(crate) session: SessionDescription,
    /// Bytes that are not written yet, to the client and to the broker.
    pub(crate) unwritten: [usize; 2],
    /// Of the stream to the client, and of the one to the broker.
    pub(crate) streams: [StreamFacts; 2],
}

/// What would be decided, asked of a connection: see [`Session::explain`](mproxy_core::Session::explain).
pub(crate) struct ExplainRequest {
    pub(crate) act: Act,
    pub(crate) name: Box<str>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) payload_size: u32,
    /// `None`: there is no client, or not any more.
    pub(crate) answer: oneshot::Sender<Option<Explanation>>,
}

impl HandedOrder {
    /// The first of a command's, which whoever hands it out keeps until that is done.
    pub(crate) fn first(order: Order) -> Self {
        Self {
            order: Arc::new(order),
            tally: Arc::new(OrderProgress { waiting: AtomicU64::new(1), ..OrderProgress::default() }),
        }
    }

    /// The same for a further connection.
    pub(crate) fn another(&self) -> Self {
        self.tally.waiting.fetch_add(1, Ordering::AcqRel);
        Self { order: Arc::clone(&self.order), tally: Arc::clone(&self.tally) }
    }

    /// What becomes of the command, once all of them have been dropped or the time for that is over.
    pub(crate) fn outcome(&self) -> impl Future<Output = CommandOutcome> + Send + use<> {
        Arc::clone(&self.tally).outcome()
    }

    pub(crate) const fn order(&self) -> &Arc<Order> {
        &self.order
    }

    /// Its connection has carried it out. That is reported when it is dropped.
    pub(crate) fn count(&self, reach: Reach) {
        self.tally.clients.fetch_add(reach.clients, Ordering::AcqRel);
        self.tally.subscriptions.fetch_add(reach.subscriptions, Ordering::AcqRel);
    }
}

impl Drop for HandedOrder {
    fn drop(&mut self) {
        if self.tally.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Of a `Notify` this stays true until somebody waits, so it cannot come too early.
            self.tally.done.notify_one();
        }
    }
}

/// How far a command has come.
#[derive(Default)]
struct OrderProgress {
    /// Connections that have not carried it out, and who is still handing it out.
    waiting: AtomicU64,
    clients: AtomicU64,
    subscriptions: AtomicU64,
    /// None waits any more.
    done: Notify,
}

impl OrderProgress {
    fn reach(&self) -> Reach {
        Reach {
            clients: self.clients.load(Ordering::Acquire),
            subscriptions: self.subscriptions.load(Ordering::Acquire),
        }
    }

    async fn outcome(self: Arc<Self>) -> CommandOutcome {
        let done = async {
            while self.waiting.load(Ordering::Acquire) > 0 {
                self.done.notified().await;
            }
        };
        let unfinished = match timeout(CARRIED_OUT_WITHIN, done).await {
            Ok(()) => 0,
            Err(_) => self.waiting.load(Ordering::Acquire),
        };
        CommandOutcome { reach: self.reach(), unfinished }
    }
}
