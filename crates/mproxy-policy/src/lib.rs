//! The advisers of mproxy: who answers when a session does not know whether its client may.
//!
//! | room | holds |
//! |---|---|
//! | [`call_tracer`] | who makes spans of the calls to the policy service |
//! | [`commander`] | who carries commands of the policy service out |
//! | [`acl`] | a static rule file: users with hashed passwords, rules with variables |
//! | [`comparison`] | what two answers to one question have in common |
//! | [`check`] | what mproxy makes of a policy service's answers to a fixed set of questions |
//! | [`grants`] | what the policy said beforehand, when it admitted a client |
//! | [`import`](mod@import) | rule files made out of those of other programs |
//! | [`nearest`](mod@nearest) | what an unknown name was probably meant to be |
//! | [`remote`] | the policy service, asked and told over gRPC |
//! | [`shadow`] | a second policy service, whose answers are compared with those of the first |
//! | [`trace_context`] | W3C trace context, in user properties and headers |
//! | [`watch`] | who counts what the advisers do, for metrics |
//!
//! The generated types of `proto/events.proto` are named in one private room, `contract`, and nowhere else.
//!
//! ```
//! use mproxy_policy::acl::Acl;
//!
//! let acl = Acl::parse(
//!     r#"
//!     [[rules]]
//!     effect = "allow"
//!     topics = ["devices/${clientid}/#"]
//!     "#,
//!     "example.toml",
//! )?;
//! assert!(!acl.knows_users());
//! # Ok::<(), mproxy_policy::acl::AclErrors>(())
//! ```

pub mod acl;
pub mod call_tracer;
mod causes;
pub mod check;
pub mod commander;
pub mod comparison;
mod contract;
pub mod grants;
pub mod import;
mod jwt;
pub mod nearest;
mod post;
pub mod remote;
pub mod shadow;
mod slices;
pub mod trace_context;
pub mod watch;

pub use acl::{Acl, AclAdviser, AclErrors};
pub use commander::Commander;
pub use grants::Grants;
pub use nearest::nearest;
pub use remote::{Endpoint, Remote, RemoteConfig};
pub use watch::{CallOutcome, NoWatch, Watch};
