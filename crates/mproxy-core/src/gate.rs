//! What stands before all advisers: whether a CONNECT is put to them at all, and when.

use crate::peer::Peer;
use crate::policy::{Refusal, Source};

/// Looks at each CONNECT before any adviser is asked about it. Called once for each try: cheap, and without waiting.
pub trait ConnectGate: Send + Sync {
    /// What becomes of this client's CONNECT. The client is as it says of itself: nobody has decided on it yet.
    fn look(&self, peer: &Peer) -> GateAnswer;
}

/// What becomes of a CONNECT.
#[derive(Clone, Debug, PartialEq)]
pub enum GateAnswer {
    /// The advisers are asked now.
    Open,
    /// They are asked when its turn has come: even what they could answer at once is a question that has to wait
    /// ([`Effect::Ask`](crate::Effect::Ask)), until whoever waits for it begins to.
    InTurn,
    /// They are not asked: it is refused, by this.
    Refuse(Source, Box<Refusal>),
}
