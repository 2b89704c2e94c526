//! What stands before all advisers: whether a CONNECT is put to them at all, and when.

use mproxy_codec::packet::Connect;

use crate::peer::Peer;
use crate::policy::{Refusal, Source};

/// Looks at each CONNECT before any adviser is asked about it, and hears what became of it. Cheap, and without waiting.
pub trait ConnectGate: Send + Sync {
    /// By what it knows again, until its CONNACK, who has sent this CONNECT.
    fn tag(&self, connect: &Connect<'_>) -> ConnectTag {
        let _ = connect;
        ConnectTag::default()
    }

    /// What becomes of this client's CONNECT. The client is as it says of itself: nobody has decided on it yet. Called once for
    /// each try.
    fn look(&self, peer: &Peer, tag: ConnectTag) -> GateAnswer;

    /// So far this client has come. Called once for each step.
    fn note(&self, peer: &Peer, progress: ConnectProgress) {
        let _ = (peer, progress);
    }
}

/// By what a gate knows again who has sent a CONNECT, as it was sent: advisers may give the client other names. Of a meaning to
/// the gate alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectTag {
    /// By its client identifier.
    pub client: u64,
    /// By what it logs in as.
    pub login: u64,
}

/// How far a client has come with its CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectProgress {
    /// Nobody objects: the broker is dialled.
    Admitted {
        /// Its [tag](ConnectTag::client).
        client: u64,
    },
    /// The broker has accepted it, too.
    Accepted {
        /// Its [tag](ConnectTag::login).
        login: u64,
    },
    /// An adviser or the broker does not believe that it is who it says it is.
    LoginRefused {
        /// Its [tag](ConnectTag::login).
        login: u64,
    },
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
