//! What becomes of a packet.

use bytes::Bytes;

use super::lane::WaitingPacket;
use crate::fault::Fault;
use crate::peer::Side;

/// What becomes of a packet whose turn it is.
#[derive(Debug)]
pub(super) enum Passage {
    /// It goes as it is.
    AsItIs,
    /// It does, and packets of our own may follow.
    ThenOurs,
    /// This goes instead.
    Instead(Bytes),
    /// Nothing goes.
    Nowhere,
    /// It goes, or this instead, and the session ends. Boxed, for it happens once, and all others are moved about.
    Last(Option<Bytes>, Box<Fault>),
}

/// What is done with the packet at the start of a buffer.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing: it is not all there, or it is not its turn.
    Wait,
    /// So many bytes are taken, and this becomes of them.
    Take(usize, Passage),
    /// So many bytes go into the lane, as this packet; so much is put down for the question about it.
    Keep { bytes: usize, packet: WaitingPacket, charge: u32 },
}

impl Step {
    pub(super) const fn pass(bytes: usize) -> Self {
        Self::Take(bytes, Passage::AsItIs)
    }

    pub(super) const fn swallow(bytes: usize) -> Self {
        Self::Take(bytes, Passage::Nowhere)
    }

    /// Bytes of the packet that this deals with; `None` if it deals with none.
    pub(super) const fn taken(&self) -> Option<usize> {
        match self {
            Self::Wait => None,
            Self::Take(bytes, _) | Self::Keep { bytes, .. } => Some(*bytes),
        }
    }
}

/// Why a session is to end, as a room finds out.
#[derive(Debug)]
pub(super) enum Stop {
    /// For this reason.
    Fault(Fault),
    /// A DISCONNECT of that side has left. It is the reason even where its sender's stream has ended meanwhile.
    Disconnected(Side, Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_packet_moves_is_small() {
        assert!(size_of::<Passage>() <= 48, "{}", size_of::<Passage>());
        assert!(size_of::<Result<Step, Fault>>() <= 80, "{}", size_of::<Result<Step, Fault>>());
    }
}
