//! All transports put together: a connection that was accepted becomes a byte stream and what is known of its client
//! ([`Inward`]), and a broker of any scheme becomes a byte stream ([`Outward`]). Nothing here knows MQTT.
//!
//! | room | holds |
//! |---|---|
//! | [`transport`] | the seam: what a transport has to do |
//! | `tcp`, `unix` | those who do it on sockets |
//! | `layer` | what is alike where one does it over another, `tls` and `ws` |
//! | `stream` | which of them can be configured, a row each; one type for what they make |
//! | `pause` | how long a listener waits when this machine can take nobody |
//! | `inward`, `outward` | listeners and targets, whatever their transport |
//! | `proxy` | the PROXY protocol, for those who have sockets |
//! | `certificates` | all certificates, and their reload |
//!
//! How long either may take is the caller's: dropping what is under way drops the connection.

use std::error::Error;
use std::fmt;

mod certificates;
mod inward;
pub mod layer;
mod outward;
mod pause;
mod proxy;
mod stream;
pub mod tcp;
pub mod tls;
pub mod transport;
pub mod unix;
pub mod ws;

pub use certificates::{CertificateStore, Renewed};
pub use inward::{
    AcceptOutcome, Arrived, Entered, Entering, Inward, OpenError, OpenListener, PreparedListener, Refused,
    Shake,
};
pub use outward::{BrokerDial, DialFailure, FailedDial, Outward};
pub use stream::Stream;
pub use transport::{
    Carrier, HandshakeLimits, Known, NamedClients, SharedSocket, SharedStream, SocketKind, StreamFacts,
};

/// An error and its causes as a text of one line.
fn in_one_line(error: &(dyn Error + 'static)) -> String {
    Causes(error).to_string()
}

/// An error and its causes, in one line.
pub struct Causes<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        self.0.source().map_or(Ok(()), |cause| write!(f, ": {}", Causes(cause)))
    }
}
