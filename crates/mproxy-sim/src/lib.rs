//! A session without sockets, tasks or clocks: scripted peers for scenes by hand, and the seeded simulator. Time is a
//! number, and the decider answers when it is told to. For tests; it never ships.
//!
//! It needs the codec and the core and nothing else, so that a test of the core is built in seconds. Processes, sockets
//! and certificates are the testkit's, which gives on what stands here.
//!
//! | room | holds |
//! |---|---|
//! | [`wire`] | packets built by hand: it shares no line with the codec that it tests |
//! | [`stage`] | [`Stage`]: a session between two byte pipes, for scenes written by hand |
//! | [`script`] | the decider that records questions and answers as it is told, the sink that remembers events |
//! | [`recorder`] | a meter that writes down what the decision log is told |
//! | [`tracer`] | a meter that is shown each packet |
//! | [`verdict`] | what is said to a question, whichever that is |
//! | [`world`] | the seeded simulator: random peers, chunks, verdicts and clocks, and what must hold after each step |
//! | `model`, `fate`, `book`, `path` | its peers, what becomes of their packets, who says so, and who watches that it does |
//! | `permits` | who allowed what reaches the broker |
//! | [`revocations`] | the seeded game of grants that are taken back |
//! | [`rng`] | its random numbers |
//! | [`refusals`] | what a refusal looks like, packet by packet: data for tests and for the page |
//!
//! ```
//! use mproxy_sim::{Stage, refuse, wire::{self, Publish, Version}};
//! use mproxy_core::policy::Hook;
//!
//! let mut stage = Stage::new().open(Version::V5);
//! let reading = Publish { topic: "room/1", payload: b"21", qos: 1, packet_id: 7, ..Publish::default() };
//! stage.client(&wire::publish(Version::V5, &reading));
//! stage.rule(0, refuse(Hook::Publish));
//! assert_eq!(stage.at_client(), wire::packet(0x40, &[0, 7, 0x87]));
//! assert!(stage.at_broker().is_empty());
//! ```

mod book;
mod fate;
mod model;
mod path;
mod permits;
pub mod recorder;
pub mod refusals;
pub mod revocations;
pub mod rng;
pub mod script;
pub mod stage;
pub mod tracer;
pub mod verdict;
pub mod wire;
pub mod world;

pub use recorder::Recorder;
pub use script::{Diary, OpenVerdict, QuestionRecord, Reply, Script};
pub use stage::{Stage, allow, change, fail, refuse, refuse_as};
pub use tracer::Tracer;
pub use verdict::Verdict;
