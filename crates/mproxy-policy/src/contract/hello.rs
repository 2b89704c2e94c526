//! What a service wants, as it answered Hello.

use mproxy_codec::topic::{check_filter, reaches};

use super::{Rpc, wire};

/// Of a service that did not say: enough for what devices usually send, little enough to hold for each packet.
const PAYLOAD_DEFAULT: u32 = 64 * 1024;

/// A payload that is asked for is held whole: this is what a service may ask for at most.
const PAYLOAD_MOST: u32 = 1024 * 1024;

/// A service's answer to Hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) name: String,
    /// `None`: it did not say, as if there were no Hello.
    pub(crate) wants: Option<Wants>,
    /// Whether it serves HookStream at the same address.
    pub(crate) streams: bool,
}

/// Which calls a service wants, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wants([Option<WantedCall>; Rpc::ALL.len()]);

/// A call that a service wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedCall {
    /// Empty: every topic.
    topics: Box<[Box<str>]>,
    /// Bytes of payload to send along; 0: none.
    pub(crate) payload: u32,
}

impl WantedCall {
    /// Whether a publish to this topic is among what is wanted. Wildcards reach topics that begin with `$`: that
    /// [MQTT-4.7.2-1] keeps subscriptions away from them is no reason not to ask.
    pub(crate) fn covers(&self, topic: &str) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|filter| reaches(filter, topic))
    }

    /// The topic filters; none: every topic.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(|filter| &**filter)
    }

    /// A topic that is among what is wanted: `own`, if that is.
    pub(crate) fn topic_within(&self, own: &str) -> String {
        if self.covers(own) {
            return own.to_owned();
        }
        let Some(filter) = self.topics.first() else { return own.to_owned() };
        let level = |level| if matches!(level, "+" | "#") { own } else { level };
        filter.split('/').map(level).collect::<Vec<_>>().join("/")
    }

    /// What either of both wants, of a service that names a call twice: what the one asks for, the other does not take back.
    fn and(self, other: &Self) -> Self {
        let every = self.topics.is_empty() || other.topics.is_empty();
        let topics = self.topics.into_iter().chain(other.topics.iter().cloned());
        Self {
            topics: if every { Box::default() } else { topics.collect() },
            payload: self.payload.max(other.payload),
        }
    }
}

impl Wants {
    /// Of a service that does not say: everything, but for deliveries, which most have no rules for, and authentications,
    /// which are the broker's unless somebody else wants them.
    pub(crate) fn everything() -> Self {
        Self(Rpc::ALL.map(|rpc| {
            // Each delivery would be a call, for each subscriber of each message: only who asks for that gets it.
            let asked_for = matches!(rpc, Rpc::AuthDeliver | Rpc::AuthExchange);
            (!asked_for).then(|| WantedCall { topics: Box::default(), payload: PAYLOAD_DEFAULT })
        }))
    }

    pub(crate) const fn of(&self, rpc: Rpc) -> Option<&WantedCall> {
        self.0[rpc as usize].as_ref()
    }

    /// The same without this call.
    pub(crate) fn without(&self, rpc: Rpc) -> Self {
        let mut rest = self.clone();
        rest.0[rpc as usize] = None;
        rest
    }
}

impl Hello {
    /// Reads the answer; the error says why it is none.
    pub(super) fn read(answer: wire::HelloResponse) -> Result<Self, String> {
        let mut wants = Wants(Default::default());
        for want in &answer.wants {
            if want.hook == wire::Hook::Unspecified as i32 {
                return Err("the answer to Hello wants a hook without saying which".to_owned());
            }
            for filter in &want.topic_filters {
                check_filter(filter)
                    .map_err(|error| format!("the answer to Hello has {filter:?}: {error}"))?;
                // As a filter it is a good one, and matches next to nothing, so that next to nothing would be asked.
                if filter.contains("${") {
                    return Err(format!("the answer to Hello has {filter:?}: there are no variables in it"));
                }
            }
            // A number that is not known here belongs to a newer contract.
            let Ok(hook) = wire::Hook::try_from(want.hook) else { continue };
            if let Some(rpc) = rpc(hook) {
                let topics = want.topic_filters.iter().map(|filter| filter.as_str().into()).collect();
                let wanted = WantedCall { topics, payload: want.payload_limit.min(PAYLOAD_MOST) };
                // Named twice, both count: the last one alone would let the topics of the first pass without a question.
                let slot = &mut wants.0[rpc as usize];
                *slot = Some(match slot.take() {
                    Some(before) => before.and(&wanted),
                    None => wanted,
                });
            }
        }
        if answer.wants.is_empty() {
            return Ok(Self { name: answer.name, wants: None, streams: answer.streams });
        }
        if wants.0.iter().all(Option::is_none) {
            // To want nothing that is known here would be to let everything pass.
            return Err("the answer to Hello wants only hooks that this mproxy does not know".to_owned());
        }
        Ok(Self { name: answer.name, wants: Some(wants), streams: answer.streams })
    }
}

const fn rpc(hook: wire::Hook) -> Option<Rpc> {
    Some(match hook {
        wire::Hook::Unspecified => return None,
        wire::Hook::AuthConnect => Rpc::AuthConnect,
        wire::Hook::AuthPublish => Rpc::AuthPublish,
        wire::Hook::AuthSubscribe => Rpc::AuthSubscribe,
        wire::Hook::AuthDeliver => Rpc::AuthDeliver,
        wire::Hook::AuthExchange => Rpc::AuthExchange,
        wire::Hook::Connect => Rpc::Connect,
        wire::Hook::Publish => Rpc::Publish,
        wire::Hook::Subscribe => Rpc::Subscribe,
        wire::Hook::Unsubscribe => Rpc::Unsubscribe,
        wire::Hook::Disconnect => Rpc::Disconnect,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(hook: i32, topic_filters: &[&str], payload_limit: u32) -> wire::Want {
        let topic_filters = topic_filters.iter().map(|&filter| filter.to_owned()).collect();
        wire::Want { hook, topic_filters, payload_limit }
    }

    fn read(wants: Vec<wire::Want>) -> Result<Wants, String> {
        let hello = Hello::read(wire::HelloResponse { wants, ..Default::default() })?;
        Ok(hello.wants.expect("it says what it wants"))
    }

    #[test]
    fn an_empty_answer_is_no_hello() {
        assert_eq!(Hello::read(wire::HelloResponse::default()).unwrap().wants, None);
        let wants = Wants::everything();
        assert_eq!(wants.of(Rpc::AuthPublish).unwrap().payload, PAYLOAD_DEFAULT);
        assert!(wants.of(Rpc::AuthDeliver).is_none());
    }

    #[test]
    fn a_call_that_is_named_twice_is_wanted_for_both() {
        let publish = wire::Hook::AuthPublish.into();
        for wants in [
            [want(publish, &["a/#"], 9), want(publish, &["b"], 0)],
            [want(publish, &["b"], 0), want(publish, &["a/#"], 9)],
        ] {
            let wants = read(wants.into()).unwrap();
            let publish = wants.of(Rpc::AuthPublish).unwrap();
            assert!(publish.covers("a/x") && publish.covers("b") && !publish.covers("c"));
            assert_eq!(publish.payload, 9);
        }
        let wants = read(vec![want(publish, &[], 0), want(publish, &["b"], 0)]).unwrap();
        assert!(wants.of(Rpc::AuthPublish).unwrap().covers("c"), "none is every topic");
    }

    #[test]
    fn what_is_listed_is_wanted_and_nothing_else() {
        let wants = read(vec![
            want(wire::Hook::AuthPublish.into(), &["a/#", "b"], u32::MAX),
            want(wire::Hook::Disconnect.into(), &[], 0),
            want(77, &[], 0),
        ])
        .unwrap();
        let publish = wants.of(Rpc::AuthPublish).unwrap();
        assert!(publish.covers("a/x") && publish.covers("b") && !publish.covers("c"));
        assert_eq!(publish.payload, PAYLOAD_MOST);
        let wanted = |rpc: &Rpc| wants.of(*rpc).is_some();
        assert_eq!(Rpc::ALL.into_iter().filter(wanted).count(), 2);
        assert!(wants.without(Rpc::AuthPublish).of(Rpc::AuthPublish).is_none());
    }

    #[test]
    fn what_is_asked_about_reaches_wide() {
        let hooks = [wire::Hook::AuthPublish, wire::Hook::AuthDeliver, wire::Hook::Publish];
        let rpcs = [Rpc::AuthPublish, Rpc::AuthDeliver, Rpc::Publish];
        for filters in [&["#"][..], &["+/#"], &["a", "+/+/+"], &["$SYS/#", "$delayed/#"]] {
            let wants = read(hooks.map(|hook| want(hook.into(), filters, 0)).into()).unwrap();
            for wanted in rpcs.map(|rpc| wants.of(rpc).unwrap()) {
                assert!(wanted.covers("$SYS/x/y") && wanted.covers("$delayed/1/s"), "{filters:?}");
            }
        }
    }

    #[test]
    fn a_hook_unsaid_or_a_bad_filter_is_no_answer() {
        assert!(read(vec![want(0, &[], 0)]).is_err());
        assert!(read(vec![want(77, &[], 0), want(78, &[], 0)]).is_err(), "nothing that is known here");
        assert!(read(vec![want(wire::Hook::AuthPublish.into(), &["a/#/b"], 0)]).is_err());
        assert!(read(vec![want(wire::Hook::AuthPublish.into(), &["${clientid}/#"], 0)]).is_err());
    }
}
