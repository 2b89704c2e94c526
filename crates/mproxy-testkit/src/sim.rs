//! A session without sockets, tasks or clocks: time is a number, the decider answers when it is told to.
//!
//! | room | holds |
//! |---|---|
//! | [`stage`] | [`Stage`]: a session between two byte pipes, for scenes written by hand |
//! | [`script`] | the decider that records questions and answers as it is told, the sink that remembers events |
//! | [`rng`] | its random numbers |

pub mod rng;
pub mod script;
pub mod stage;

pub use script::{Asked, Diary, Reply, Script};
pub use stage::{Stage, allow, change, fail, refuse, refuse_as};
