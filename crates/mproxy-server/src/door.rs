//! All doors put together: a connection that was accepted becomes a byte stream and what is known of its client
//! ([`Inward`]), and a broker of any scheme becomes a byte stream ([`Outward`]). Nothing here knows MQTT.
//!
//! | room | holds |
//! |---|---|
//! | [`transport`] | the seam: what a transport has to do |
//! | `tcp`, `unix`, `tls`, `ws` | those who do it |
//! | `stream` | which of them can be configured, a row each; one type for what they make |
//! | `inward`, `outward` | listeners and targets, whatever their transport |
//! | `proxy` | the PROXY protocol, for those who have sockets |
//! | `certificates` | all certificates, and their reload |
//!
//! How long either may take is the caller's: dropping what is under way drops the connection.

use std::error::Error;
use std::fmt;

mod certificates;
mod inward;
mod outward;
mod proxy;
mod stream;
pub mod tcp;
pub mod tls;
pub mod transport;
pub mod unix;
pub mod ws;

pub use certificates::{Certificates, Renewed};
pub use inward::{Arrived, Entered, Entering, Inward, Open, OpenError, Refused, Shake};
pub use outward::{Failure, Outward, Reach};
pub use stream::Stream;
pub use transport::{Carrier, Incoming, Known, Room};

/// An error and its causes as a text of one line.
fn told(error: &(dyn Error + 'static)) -> String {
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
