//! Fair shares: what a client may use up before anybody has decided on it is shared by address, so that one address
//! cannot lock out the others. Nobody is held back while there is enough for all.
//!
//! | room | shares |
//! |---|---|
//! | [`crowd`] | places: when there is none left, the address with the most gives one up |
//! | [`rotation`] | an order of those who wait, in which addresses take turns |
//! | [`turns`] | work: when it has to wait, addresses take turns |

pub(crate) mod crowd;
pub(crate) mod rotation;
pub(crate) mod turns;

pub(crate) use mproxy_core::neighbours::Neighbours;
