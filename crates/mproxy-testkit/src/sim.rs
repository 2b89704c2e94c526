//! A session without sockets, tasks or clocks: time is a number, the decider answers when it is told to.
//!
//! | room | holds |
//! |---|---|
//! | [`stage`] | [`Stage`]: a session between two byte pipes, for scenes written by hand |
//! | [`script`] | the decider that records questions and answers as it is told, the sink that remembers events |
//! | [`world`] | the seeded simulator: random peers, chunks, verdicts and clocks, and what must hold after each step |
//! | `model`, `fate`, `book`, `way` | its peers, what becomes of their packets, who says so, and who watches that it does |
//! | `permits` | who allowed what reaches the broker |
//! | [`rng`] | its random numbers |

mod book;
mod fate;
mod model;
mod permits;
pub mod rng;
pub mod script;
pub mod stage;
mod way;
pub mod world;

pub use script::{Asked, Diary, Reply, Script};
pub use stage::{Stage, allow, change, fail, refuse, refuse_as};
