//! Answers, as core understands them. Nothing that is left out or wrong here ever means "allow".

use std::sync::Arc;

use bytes::Bytes;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::{check_filter, check_name};
use mproxy_codec::types::QoS;
use mproxy_core::policy::{
    Action, Admission, Decision, Failure, FailureKind, FilterChange, PublishChange, Refusal, Verdict,
    WillChange,
};

use super::wire;

/// The longest string or binary field of MQTT.
const FIELD_MOST: usize = 65_535;

pub(super) type Read<T> = Result<T, Failure>;

pub(super) fn connect(answer: wire::AuthConnectResponse, has_will: bool) -> Verdict {
    use wire::auth_connect_response::Verdict as Said;
    let read = match answer.verdict {
        None => Err(unset("AuthConnect")),
        Some(Said::Deny(deny)) => refusal(deny).map(Decision::Refuse),
        Some(Said::Allow(allow)) => admission(allow, has_will).map(Decision::Allow),
    };
    read.map_or_else(Verdict::Failed, Verdict::Connect)
}

pub(super) fn publish(answer: wire::AuthPublishResponse) -> Verdict {
    use wire::auth_publish_response::Verdict as Said;
    let read = match answer.verdict {
        None => Err(unset("AuthPublish")),
        Some(Said::Deny(deny)) => refusal(deny).map(Decision::Refuse),
        Some(Said::Allow(allow)) => publish_change(allow).map(Decision::Allow),
    };
    read.map_or_else(Verdict::Failed, Verdict::Publish)
}

pub(super) fn deliver(answer: wire::AuthDeliverResponse) -> Verdict {
    use wire::auth_deliver_response::Verdict as Said;
    let read = match answer.verdict {
        None => Err(unset("AuthDeliver")),
        Some(Said::Deny(deny)) => refusal(deny).map(Decision::Refuse),
        Some(Said::Allow(wire::DeliverAllow { topic, payload })) => {
            publish_change(wire::PublishAllow { topic, payload, ..Default::default() }).map(Decision::Allow)
        }
    };
    read.map_or_else(Verdict::Failed, Verdict::Publish)
}

/// `groups`: the share group of each filter that was asked about.
pub(super) fn subscribe(answer: wire::AuthSubscribeResponse, groups: &[Option<String>]) -> Verdict {
    let (told, asked) = (answer.verdicts.len(), groups.len());
    if told != asked {
        let detail = format!("AuthSubscribe answered {told} verdicts to {asked} filters");
        return Verdict::Failed(Failure::new(FailureKind::WrongLength, detail));
    }
    let verdicts = answer.verdicts.into_iter().zip(groups);
    let read: Read<Vec<_>> = verdicts.map(|(verdict, group)| filter(verdict, group.as_deref())).collect();
    read.map_or_else(Verdict::Failed, Verdict::Subscribe)
}

fn filter(verdict: wire::FilterVerdict, group: Option<&str>) -> Read<Decision<FilterChange>> {
    use wire::filter_verdict::Verdict as Said;
    match verdict.verdict {
        None => Err(unset("AuthSubscribe")),
        Some(Said::Deny(deny)) => refusal(deny).map(Decision::Refuse),
        Some(Said::Allow(allow)) => {
            let filter = allow.filter.map(|filter| whole_filter(filter, group)).transpose()?;
            let max_qos = allow.max_qos.map(qos).transpose()?;
            Ok(Decision::Allow(FilterChange { filter, max_qos }))
        }
    }
}

/// The filter with the group that it was asked in: an answer does not move a client between groups.
fn whole_filter(filter: String, group: Option<&str>) -> Read<Box<str>> {
    if filter.starts_with("$share/") {
        return Err(invalid(format!("the new filter {filter:?} has a share group; the client's own stays")));
    }
    check_filter(&filter).map_err(|error| invalid(format!("the new filter {filter:?}: {error}")))?;
    Ok(match group {
        Some(group) => format!("$share/{group}/{filter}").into(),
        None => filter.into(),
    })
}

fn admission(allow: wire::ConnectAllow, has_will: bool) -> Read<Option<Box<Admission>>> {
    let admission = Admission {
        client_id: allow.client_id.map(|id| field("client_id", id)).transpose()?,
        username: allow.username.map(|name| field("username", name)).transpose()?,
        password: allow.password.map(|secret| binary("password", secret)).transpose()?,
        will: allow.will.map(|change| will_change(change, has_will)).transpose()?,
        attributes: allow.attributes.into_iter().collect(),
        grant: allow.grant.map(super::grant::grant).transpose()?.map(Arc::new),
    };
    Ok((admission != Admission::default()).then(|| Box::new(admission)))
}

fn will_change(change: wire::WillChange, has_will: bool) -> Read<WillChange> {
    use wire::will_change::Change as Said;
    match change.change {
        None => Err(unset("ConnectAllow.will")),
        Some(Said::Remove(_)) => Ok(WillChange::Remove),
        Some(Said::Replace(_)) if !has_will => Err(invalid("a new will for a client that has none")),
        Some(Said::Replace(new)) => Ok(WillChange::Replace {
            topic: new.topic.map(topic).transpose()?,
            payload: new.payload.map(|payload| binary("will payload", payload)).transpose()?,
            qos: new.qos.map(qos).transpose()?,
            retain: new.retain,
        }),
    }
}

fn publish_change(allow: wire::PublishAllow) -> Read<Option<Box<PublishChange>>> {
    let set = allow.set_user_properties.into_iter().map(|property| {
        let name = field("user property", property.name)?;
        Ok((name.into(), field("user property", property.value)?.into()))
    });
    let change = PublishChange {
        topic: allow.topic.map(topic).transpose()?,
        payload: allow.payload,
        retain: allow.retain,
        set_user_properties: set.collect::<Read<_>>()?,
        remove_user_properties: allow.remove_user_properties,
    };
    Ok((!change.is_empty()).then(|| Box::new(change)))
}

fn refusal(deny: wire::Deny) -> Read<Refusal> {
    let reason = match u8::try_from(deny.reason_code).map(ReasonCode) {
        Ok(ReasonCode(0)) => ReasonCode::NOT_AUTHORIZED,
        Ok(reason) if reason.is_error() => reason,
        Ok(_) | Err(_) => {
            return Err(invalid(format!("Deny has reason code {}, which is no refusal", deny.reason_code)));
        }
    };
    let action = match deny.action.map(wire::Action::try_from) {
        None | Some(Ok(wire::Action::Reject)) => Action::Reject,
        Some(Ok(wire::Action::Drop)) => Action::Drop,
        Some(Ok(wire::Action::Disconnect)) => Action::Disconnect,
        Some(Ok(wire::Action::NoAck)) => Action::NoAck,
        Some(Ok(wire::Action::Unspecified)) => return Err(unset("Deny.action")),
        Some(Err(error)) => return Err(invalid(format!("Deny.action: {error}"))),
    };
    // A refusal stays one, whatever is wrong with the words to it.
    let words = |text: String| (!text.is_empty()).then_some(text).and_then(|text| field("", text).ok());
    Ok(Refusal {
        reason,
        text: words(deny.reason_string),
        action,
        server_reference: words(deny.server_reference),
    })
}

fn topic(topic: String) -> Read<Box<str>> {
    check_name(&topic).map_err(|error| invalid(format!("the new topic {topic:?}: {error}")))?;
    Ok(topic.into())
}

pub(super) fn qos(number: u32) -> Read<QoS> {
    let qos = u8::try_from(number).ok().and_then(QoS::from_bits);
    qos.ok_or_else(|| invalid(format!("QoS {number}")))
}

/// Text that fits into an MQTT field; only the name of the field is told.
fn field(name: &str, text: String) -> Read<Box<str>> {
    if text.len() > FIELD_MOST {
        return Err(invalid(format!("the new {name} is longer than {FIELD_MOST} bytes")));
    }
    if text.contains('\0') {
        return Err(invalid(format!("U+0000 in the new {name}")));
    }
    Ok(text.into())
}

fn binary(name: &str, bytes: Bytes) -> Read<Bytes> {
    if bytes.len() > FIELD_MOST {
        return Err(invalid(format!("the new {name} is longer than {FIELD_MOST} bytes")));
    }
    Ok(bytes)
}

pub(super) fn unset(what: &str) -> Failure {
    Failure::new(FailureKind::Unspecified, format!("{what} was answered without saying what"))
}

pub(super) fn invalid(detail: impl Into<Box<str>>) -> Failure {
    Failure::new(FailureKind::Invalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deny(reason_code: u32, action: Option<i32>) -> Read<Refusal> {
        refusal(wire::Deny { reason_code, action, ..Default::default() })
    }

    fn kind<T: std::fmt::Debug>(read: Read<T>) -> FailureKind {
        read.expect_err("it reads").kind
    }

    #[test]
    fn a_bare_deny_is_not_authorized_and_rejects() {
        assert_eq!(deny(0, None), Ok(Refusal::default()));
        assert_eq!(deny(0x97, None).unwrap().reason, ReasonCode::QUOTA_EXCEEDED);
        assert_eq!(deny(0, Some(wire::Action::NoAck.into())).unwrap().action, Action::NoAck);
    }

    #[test]
    fn a_deny_with_a_code_that_refuses_nothing_fails() {
        for code in [1, 0x10, 0x7F, 256, 0x187, u32::MAX] {
            assert_eq!(kind(deny(code, None)), FailureKind::Invalid, "{code}");
        }
        assert_eq!(kind(deny(0, Some(0))), FailureKind::Unspecified);
        assert_eq!(kind(deny(0, Some(77))), FailureKind::Invalid);
    }

    #[test]
    fn a_deny_stays_one_with_unusable_words() {
        let reason_string = "a\0b".to_owned();
        let refusal = refusal(wire::Deny { reason_string, ..Default::default() }).unwrap();
        assert_eq!(refusal.text, None);
    }

    #[test]
    fn answers_of_zero_values_are_no_answers() {
        for verdict in [
            connect(Default::default(), false),
            publish(Default::default()),
            deliver(Default::default()),
            subscribe(wire::AuthSubscribeResponse { verdicts: vec![Default::default()] }, &[None]),
        ] {
            assert!(
                matches!(&verdict, Verdict::Failed(Failure { kind: FailureKind::Unspecified, .. })),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn an_empty_allow_changes_nothing() {
        let said = wire::auth_connect_response::Verdict::Allow(Default::default());
        assert_eq!(
            connect(wire::AuthConnectResponse { verdict: Some(said) }, true),
            Verdict::Connect(Decision::Allow(None))
        );
        let said = wire::auth_publish_response::Verdict::Allow(Default::default());
        assert_eq!(
            publish(wire::AuthPublishResponse { verdict: Some(said) }),
            Verdict::Publish(Decision::Allow(None))
        );
    }

    #[test]
    fn rewrites_that_make_no_packet_fail() {
        let to = |topic: &str| {
            kind(publish_change(wire::PublishAllow { topic: Some(topic.to_owned()), ..Default::default() }))
        };
        assert_eq!(to("a/+"), FailureKind::Invalid);
        assert_eq!(to(""), FailureKind::Invalid);
        assert_eq!(kind(whole_filter("a/#/b".to_owned(), None)), FailureKind::Invalid);
        assert_eq!(kind(whole_filter("$share/h/a".to_owned(), Some("g"))), FailureKind::Invalid);
        assert_eq!(kind(qos(3)), FailureKind::Invalid);
        let long = wire::ConnectAllow { client_id: Some("x".repeat(65_536)), ..Default::default() };
        assert_eq!(kind(admission(long, false)), FailureKind::Invalid);
    }

    #[test]
    fn a_new_filter_keeps_its_group() {
        assert_eq!(&*whole_filter("a/b".to_owned(), Some("g")).unwrap(), "$share/g/a/b");
        assert_eq!(&*whole_filter("a/b".to_owned(), None).unwrap(), "a/b");
    }

    #[test]
    fn a_verdict_too_many_or_too_few_is_the_wrong_length() {
        for groups in [vec![], vec![None, None]] {
            let answer = wire::AuthSubscribeResponse { verdicts: vec![Default::default()] };
            let verdict = subscribe(answer, &groups);
            assert!(matches!(&verdict, Verdict::Failed(Failure { kind: FailureKind::WrongLength, .. })));
        }
    }

    #[test]
    fn a_will_is_removed_or_replaced_but_not_invented() {
        let replace = || wire::WillChange {
            change: Some(wire::will_change::Change::Replace(wire::WillReplace {
                topic: Some("t".to_owned()),
                qos: Some(2),
                ..Default::default()
            })),
        };
        let replaced = will_change(replace(), true).unwrap();
        let WillChange::Replace { topic, payload, qos, retain } = replaced else { panic!("{replaced:?}") };
        assert_eq!((topic.as_deref(), payload, qos, retain), (Some("t"), None, Some(QoS::ExactlyOnce), None));
        assert_eq!(kind(will_change(replace(), false)), FailureKind::Invalid);
        assert_eq!(kind(will_change(wire::WillChange { change: None }, true)), FailureKind::Unspecified);
    }
}
