//! Both doors put together: a connection that was accepted becomes a byte stream and what is known of its client
//! ([`Inward`]), and a broker of any scheme becomes a byte stream ([`Outward`]). Nothing here knows MQTT.
//!
//! How long either may take is the caller's: dropping what is under way drops the connection.

mod certificates;
mod inward;
mod outward;
mod stream;

pub use certificates::{Certificates, Renewed};
pub use inward::{Entered, Inward, Refused};
pub use outward::Outward;
pub use stream::Stream;
