//! Both doors put together: a connection that was accepted becomes a byte stream and what is known of its client
//! ([`Inward`]), and a broker of any scheme becomes a byte stream ([`Outward`]). Nothing here knows MQTT.
//!
//! How long either may take is the caller's: dropping what is under way drops the connection.

use std::error::Error;
use std::fmt;

mod certificates;
mod inward;
mod outward;
mod stream;

pub use certificates::{Certificates, Renewed};
pub use inward::{Entered, Inward, Refused};
pub use outward::Outward;
pub use stream::Stream;

/// An error and its causes, in one line.
pub struct Causes<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        self.0.source().map_or(Ok(()), |cause| write!(f, ": {}", Causes(cause)))
    }
}
