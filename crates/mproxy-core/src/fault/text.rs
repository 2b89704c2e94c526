//! A fault in words, for the log and events.

use std::fmt;

use mproxy_codec::reason::ReasonCode;

use super::{Closed, Deadline, Fault, is_command};
use crate::policy::About;

/// What a client is told whose token has ended.
pub(crate) const TOKEN_EXPIRED: &str = "token expired";

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left { reason } => write!(f, "client disconnected ({:#04x})", reason.0),
            Self::Lost { side, how: Closed::Eof } => {
                write!(f, "{side} closed its connection without DISCONNECT")
            }
            Self::Lost { side, how: Closed::Error(error) } => write!(f, "{side} connection failed: {error}"),
            Self::BrokerLeft { reason: ReasonCode::SESSION_TAKEN_OVER } => {
                f.write_str("session taken over by another connection of this client (0x8e)")
            }
            Self::BrokerLeft { reason } => write!(f, "broker disconnected the client ({:#04x})", reason.0),
            Self::BrokerRefused { code } => write!(f, "broker refused the CONNECT ({code:#04x})"),
            Self::NotMqtt { side, came } => write!(f, "{side} does not speak MQTT: received {came}"),
            Self::Malformed { side, error } => write!(f, "malformed packet from {side}: {error}"),
            Self::Protocol { side, packet, what, rule, .. } => {
                write!(f, "protocol error by {side}: {}: {what} [{rule}]", packet.name())
            }
            Self::TooLate(Deadline::Grant) => f.write_str("grant expired"),
            Self::TooLate(Deadline::Token) => f.write_str(TOKEN_EXPIRED),
            Self::TooLate(deadline) => write!(f, "deadline exceeded: {}", deadline.name()),
            Self::Refused { hook, refusal } => {
                write!(f, "{} refused ({:#04x})", hook.name(), refusal.reason.0)?;
                // The service says itself what it is about, if it wants to.
                if !matches!(refusal.about, About::Unsaid | About::Service) {
                    write!(f, ": {}", refusal.about.name())?;
                }
                refusal.text.as_ref().map_or(Ok(()), |text| write!(f, ": {text:?}"))
            }
            Self::RenewalRefused { refusal } => {
                write!(f, "renewal of the grant refused ({:#04x})", refusal.reason.0)?;
                refusal.text.as_ref().map_or(Ok(()), |text| write!(f, ": {text:?}"))
            }
            Self::PolicyFailed { hook, failure } => write!(f, "answer to {} failed: {failure}", hook.name()),
            Self::PolicyUnusable { hook, unusable } => {
                write!(f, "answer to {} unusable: {unusable}", hook.name())
            }
            Self::Overloaded { hook, overload } => {
                write!(f, "overloaded, {} not decided: {overload}", hook.name())
            }
            Self::Unreachable(why) => write!(f, "broker not reachable: {}", why.why),
            Self::ClosedBeforeConnack { how: Closed::Eof } => f.write_str("broker closed before CONNACK"),
            Self::ClosedBeforeConnack { how: Closed::Error(error) } => {
                write!(f, "broker closed before CONNACK: {error}")
            }
            Self::Kicked { reason, dismissal } => {
                let command = is_command(dismissal);
                let by = if command { "the policy service" } else { "an administrator" };
                write!(f, "disconnected by {by} ({:#04x})", reason.0)?;
                let detail = dismissal.as_ref().and_then(|dismissal| dismissal.detail.as_ref());
                detail.map_or(Ok(()), |detail| write!(f, ": {detail}"))
            }
            Self::OverBudget { packet } => {
                write!(f, "{} exceeds the memory budget of its connection", packet.name())
            }
            Self::RateExceeded { packet, limit: None } => {
                write!(f, "client sends faster than its grant allows: {}", packet.name())
            }
            Self::RateExceeded { packet, limit: Some(limit) } => {
                write!(f, "client sends faster than {} allows: {}", limit.name(), packet.name())
            }
            Self::Unread => f.write_str("client does not read, and a memory budget is used up"),
            Self::RecallUnread => {
                f.write_str("client did not read in time what was sent before a command took effect")
            }
            Self::Drained { .. } => f.write_str("mproxy is shutting down"),
            Self::Shed => {
                f.write_str("descriptors or memory run short, and it was among the cheapest to lose")
            }
            Self::Evicted => {
                f.write_str("evicted: its address had the most connections that were not admitted yet")
            }
            Self::Panicked => f.write_str("mproxy panicked"),
            Self::Internal { what } => write!(f, "internal error of mproxy: {what}"),
        }
    }
}
