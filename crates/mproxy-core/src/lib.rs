//! The mind of mproxy: one MQTT session between a client and its broker, as a pure state machine.
//!
//! Bytes, verdicts and time go in; effects come out. Nothing here reads a clock, a socket, a file, the
//! environment or a random number, and nothing here waits.
//!
//! | room | holds |
//! |---|---|
//! | [`session`] | the [`Session`] and its verbs: `read`, `decide`, `dialed`, `closed`, `poll_effect`… |
//! | [`policy`] | what is asked, what is answered ([`Answer`]), who answers ([`Decider`]) |
//! | [`gate`] | what stands before all advisers: whether and when a CONNECT is put to them |
//! | [`grant`] | what a client may do without anybody being asked, and where its topics stand |
//! | [`token`] | what looks like a token (JWT), and so is a secret |
//! | [`rule`] | rules on topics: which decides, and what it says |
//! | [`command`] | decisions that are taken back: who is meant, and what shall become of it |
//! | [`chain`] | several advisers, one after the other, and what holds when none of them knows |
//! | [`event`] | what is told afterwards ([`Event`]) and to whom ([`Sink`]) |
//! | [`neighbours`] | who shares one share of what is divided by address |
//! | [`peer`] | who the client is: where it came from and what it calls itself |
//! | [`budget`] | bytes that clients make mproxy hold: by connection, by listener and in all |
//! | [`limits`] | every bound and deadline of a session, with its default and the reason for it |
//! | [`fault`] | why a session ended and whose doing it was |
//! | [`rate`] | how fast clients may send: rates for all of them, and those that several share |
//! | [`record`] | what the decision log is told of a decision |
//! | [`meter`] | the counts a session makes on its way, for whoever keeps metrics |

pub mod budget;
pub mod chain;
pub mod command;
pub mod event;
pub mod fault;
pub mod gate;
pub mod grant;
pub mod limits;
pub mod meter;
pub mod neighbours;
pub mod peer;
pub mod policy;
pub mod rate;
pub mod record;
pub mod rule;
pub mod session;
pub mod token;
mod undecided;

pub use budget::Budget;
pub use chain::Chain;
pub use event::{Event, Sink};
pub use fault::{Fault, Party};
pub use limits::Limits;
pub use meter::Meter;
pub use peer::{Peer, Side};
pub use policy::{Answer, Decider};
pub use session::{Effect, Session, Setting};
