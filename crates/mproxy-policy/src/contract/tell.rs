//! Events, as the contract tells them.

use std::time::{Duration, SystemTime};

use mproxy_core::event::{Ended, Event, Happening, Published, Traffic};
use mproxy_core::fault::{Deadline, Fault, Whose};
use tonic::Status;
use tonic::transport::Channel;

use super::wire::hooks_client::HooksClient;
use super::{Rpc, client, shared, timed, wire};

/// An event with its place and time.
#[derive(Clone, Debug)]
pub(crate) enum Tell {
    Connect(Box<wire::ConnectEvent>),
    Publish(Box<wire::PublishEvent>),
    Subscribe(Box<wire::SubscribeEvent>),
    Unsubscribe(Box<wire::UnsubscribeEvent>),
    Disconnect(Box<wire::DisconnectEvent>),
}

impl Tell {
    pub(crate) fn new(event: Event, time: SystemTime, sequence: u64) -> Self {
        let peer = event.peer;
        let client = Some(client(&peer));
        let time = Some(time.into());
        match event.what {
            Happening::Connect { session_present } => Self::Connect(Box::new(wire::ConnectEvent {
                client,
                time,
                sequence,
                session_present,
                clean_start: peer.clean_start,
                keep_alive: peer.keep_alive.into(),
            })),
            Happening::Publish(published) => {
                let Published { topic, qos, retain, size, payload } = *published;
                Self::Publish(Box::new(wire::PublishEvent {
                    client,
                    time,
                    sequence,
                    topic: topic.into(),
                    qos: qos as u32,
                    retain,
                    payload,
                    payload_size: size,
                }))
            }
            Happening::Subscribe { filters } => {
                let filters = filters.iter().map(|(filter, code)| granted(filter, *code)).collect();
                Self::Subscribe(Box::new(wire::SubscribeEvent { client, time, sequence, filters }))
            }
            Happening::Unsubscribe { filters } => {
                let filters = filters.iter().map(|filter| ended_filter(filter)).collect();
                Self::Unsubscribe(Box::new(wire::UnsubscribeEvent { client, time, sequence, filters }))
            }
            Happening::Disconnect(ended) => {
                let Ended { fault, will_suppressed, traffic } = *ended;
                Self::Disconnect(Box::new(wire::DisconnectEvent {
                    client,
                    time,
                    sequence,
                    cause: cause(&fault).into(),
                    by: party(fault.whose()).into(),
                    reason_code: fault.reason().0.into(),
                    detail: fault.to_string(),
                    will_suppressed,
                    traffic: Some(self::traffic(traffic)),
                }))
            }
        }
    }

    pub(crate) const fn rpc(&self) -> Rpc {
        match self {
            Self::Connect(_) => Rpc::Connect,
            Self::Publish(_) => Rpc::Publish,
            Self::Subscribe(_) => Rpc::Subscribe,
            Self::Unsubscribe(_) => Rpc::Unsubscribe,
            Self::Disconnect(_) => Rpc::Disconnect,
        }
    }

    pub(super) async fn put(self, mut hooks: HooksClient<Channel>, within: Duration) -> Result<(), Status> {
        match self {
            Self::Connect(event) => hooks.connect(timed(*event, within)).await,
            Self::Publish(event) => hooks.publish(timed(*event, within)).await,
            Self::Subscribe(event) => hooks.subscribe(timed(*event, within)).await,
            Self::Unsubscribe(event) => hooks.unsubscribe(timed(*event, within)).await,
            Self::Disconnect(event) => hooks.disconnect(timed(*event, within)).await,
        }
        .map(drop)
    }
}

fn granted(filter: &str, code: u8) -> wire::GrantedFilter {
    let (filter, share_group) = shared(filter);
    wire::GrantedFilter { filter, share_group, reason_code: code.into() }
}

fn ended_filter(filter: &str) -> wire::EndedFilter {
    let (filter, share_group) = shared(filter);
    wire::EndedFilter { filter, share_group }
}

const fn traffic(traffic: Traffic) -> wire::Traffic {
    let Traffic { client_packets, client_bytes, broker_packets, broker_bytes } = traffic;
    wire::Traffic { client_packets, client_bytes, broker_packets, broker_bytes }
}

const fn party(whose: Whose) -> wire::Party {
    match whose {
        Whose::Client => wire::Party::Client,
        Whose::Broker => wire::Party::Broker,
        Whose::Policy => wire::Party::Policy,
        Whose::Us => wire::Party::Mproxy,
        Whose::Unknown => wire::Party::Unspecified,
    }
}

const fn cause(fault: &Fault) -> wire::Cause {
    match fault {
        Fault::Left { .. } => wire::Cause::Left,
        Fault::Lost { .. } => wire::Cause::Lost,
        Fault::BrokerLeft { .. } => wire::Cause::BrokerLeft,
        Fault::BrokerRefused { .. } => wire::Cause::BrokerRefused,
        Fault::Malformed { .. } => wire::Cause::Malformed,
        Fault::Protocol { .. } => wire::Cause::ProtocolError,
        Fault::TooLate(Deadline::Grant) => wire::Cause::Expired,
        Fault::TooLate(_) => wire::Cause::TooLate,
        Fault::Refused { .. } => wire::Cause::Refused,
        Fault::RenewalRefused { .. } => wire::Cause::RenewalRefused,
        Fault::PolicyFailed { .. } => wire::Cause::PolicyFailed,
        Fault::PolicyUnusable { .. } => wire::Cause::PolicyUnusable,
        Fault::Overloaded { .. } => wire::Cause::Overloaded,
        Fault::Unreachable(_) => wire::Cause::Unreachable,
        // Told of sessions that were open: these never were.
        Fault::ClosedBeforeConnack { .. } => wire::Cause::Lost,
        Fault::Kicked { .. } => wire::Cause::Kicked,
        Fault::Drained => wire::Cause::Drained,
        // The contract's word for a cause that it does not know yet; the detail tells it.
        _ => wire::Cause::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_grant_ended_is_told_by_its_own_cause() {
        for (fault, expected) in [
            (Fault::TooLate(Deadline::Grant), wire::Cause::Expired),
            (Fault::TooLate(Deadline::Connack), wire::Cause::TooLate),
            (Fault::RenewalRefused { refusal: Box::default() }, wire::Cause::RenewalRefused),
        ] {
            assert_eq!(cause(&fault), expected, "{fault}");
            assert!(
                fault.label() == "too_late"
                    || expected.as_str_name().ends_with(&fault.label().to_uppercase())
            );
        }
    }
}
