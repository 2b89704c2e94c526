//! Answers, as core understands them. Nothing that is left out or wrong here ever means "allow".

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mproxy_codec::reason::ReasonCode;
use mproxy_codec::topic::{check_filter, check_name};
use mproxy_codec::types::QoS;
use mproxy_core::policy::{
    About, Action, Admission, Authenticated, ConnectDecision, Decision, ExchangeDecision, ExchangeStep,
    Failure, FailureKind, FilterChange, Ground, PublishChange, PublishDecision, Refusal, SubscribeDecision,
    Undecided, Unusable, UnusableKind, WillChange,
};

use super::auth_request::AuthConnect;
use super::complaints::{Complaint, Complaints};
use super::wire;

/// The longest time that an answer is used again.
const CACHE_MOST: Duration = Duration::from_secs(3600);

/// The longest string or binary field of MQTT.
const FIELD_MOST: usize = 65_535;

pub(super) type Read<T> = Result<T, Unusable>;

pub(super) fn connect(
    answer: wire::AuthConnectResponse,
    asked: AuthConnect,
    complaints: &Complaints,
) -> Result<ConnectDecision, Undecided> {
    use wire::auth_connect_response::Verdict as WireVerdict;
    match answer.verdict {
        None => Err(unset("AuthConnect").into()),
        Some(WireVerdict::Deny(deny)) => Ok(Decision::Refuse(refusal(deny, complaints))),
        Some(WireVerdict::Allow(allow)) => {
            let (allow, has_will) = match asked {
                AuthConnect::Client { has_will } => (allow, has_will),
                // What it says of the client's CONNECT is of no effect, and so does no harm either.
                AuthConnect::Renewal => {
                    let wire::ConnectAllow { attributes, grant, .. } = allow;
                    (wire::ConnectAllow { attributes, grant, ..Default::default() }, false)
                }
            };
            Ok(Decision::Allow(admission(allow, has_will, complaints)?))
        }
    }
}

pub(super) fn publish(
    answer: wire::AuthPublishResponse,
    complaints: &Complaints,
) -> Result<PublishDecision, Undecided> {
    use wire::auth_publish_response::Verdict as WireVerdict;
    match answer.verdict {
        None => Err(unset("AuthPublish").into()),
        Some(WireVerdict::Deny(deny)) => Ok(Decision::Refuse(refusal(deny, complaints))),
        Some(WireVerdict::Allow(allow)) => Ok(Decision::Allow(publish_change(allow, complaints)?)),
    }
}

pub(super) fn deliver(
    answer: wire::AuthDeliverResponse,
    complaints: &Complaints,
) -> Result<PublishDecision, Undecided> {
    use wire::auth_deliver_response::Verdict as WireVerdict;
    match answer.verdict {
        None => Err(unset("AuthDeliver").into()),
        Some(WireVerdict::Deny(deny)) => Ok(Decision::Refuse(refusal(deny, complaints))),
        Some(WireVerdict::Allow(wire::DeliverAllow { topic, payload, cache_for })) => {
            // Nothing else of a delivery can be changed: its QoS and properties are between broker and subscription.
            let change = wire::PublishAllow { topic, payload, cache_for, ..Default::default() };
            Ok(Decision::Allow(publish_change(change, complaints)?))
        }
    }
}

pub(super) fn exchange(
    answer: wire::AuthExchangeResponse,
    complaints: &Complaints,
) -> Result<ExchangeDecision, Undecided> {
    use wire::auth_exchange_response::Verdict as WireVerdict;
    match answer.verdict {
        None => Err(unset("AuthExchange").into()),
        Some(WireVerdict::Deny(deny)) => Ok(Decision::Refuse(refusal(deny, complaints))),
        Some(WireVerdict::ContinueAuthentication(more)) => {
            let data = more.data.map(|data| binary("data", data)).transpose()?;
            Ok(Decision::Allow(ExchangeStep::Continue { data }))
        }
        Some(WireVerdict::Success(success)) => {
            let wire::ExchangeSuccess { data, reason_string, attributes, grant } = success;
            Ok(Decision::Allow(ExchangeStep::Success(Box::new(Authenticated {
                data: data.map(|data| binary("data", data)).transpose()?,
                text: (!reason_string.is_empty()).then(|| reason_string.into()),
                // In the contract those that are left out stay, too.
                attributes: (!attributes.is_empty()).then(|| attributes.into_iter().collect()),
                grant: grant.map(|grant| super::grant::grant(grant, complaints)).transpose()?.map(Arc::new),
            }))))
        }
    }
}

/// `filter_count`: of the question; `groups`: those of its shared filters, by their place.
pub(super) fn subscribe(
    answer: wire::AuthSubscribeResponse,
    filter_count: usize,
    groups: &[(usize, Box<str>)],
    complaints: &Complaints,
) -> Result<SubscribeDecision, Undecided> {
    let verdict_count = answer.verdicts.len();
    if verdict_count != filter_count {
        let detail =
            format!("AuthSubscribe answered with {verdict_count} verdicts for {filter_count} filters");
        return Err(Unusable::new(UnusableKind::WrongLength, detail).into());
    }
    // Not a word in all of it is a failed answer, as with the other hooks; words for some alone are unusable.
    if answer.verdicts.iter().all(|verdict| verdict.verdict.is_none()) {
        return Err(unset("AuthSubscribe").into());
    }
    // Both lists are in the order of filters, so one walk finds each filter's group.
    let mut groups = groups.iter().peekable();
    let verdicts = answer.verdicts.into_iter().enumerate();
    let each = verdicts
        .map(|(at, verdict)| {
            let group = groups.next_if(|(place, _)| *place == at);
            filter(verdict, group.map(|(_, group)| &**group), complaints)
        })
        .collect::<Read<_>>()?;
    Ok(SubscribeDecision::Each(each))
}

fn filter(
    verdict: wire::FilterVerdict,
    group: Option<&str>,
    complaints: &Complaints,
) -> Read<Decision<FilterChange>> {
    use wire::filter_verdict::Verdict as WireVerdict;
    match verdict.verdict {
        // Beside others that are set: a failure rule that allows must not lift what one of them denies.
        None => Err(invalid("AuthSubscribe: the verdict on some filters is unset")),
        Some(WireVerdict::Deny(deny)) => Ok(Decision::Refuse(refusal(deny, complaints))),
        Some(WireVerdict::Allow(allow)) => {
            let filter = allow.filter.map(|filter| whole_filter(filter, group)).transpose()?;
            let max_qos = allow.max_qos.map(qos).transpose()?;
            let cache_for = cache_for(allow.cache_for, complaints);
            Ok(Decision::Allow(FilterChange { filter, max_qos, cache_for }))
        }
    }
}

/// The filter with the group that it was asked in: an answer does not move a client between groups.
fn whole_filter(filter: String, group: Option<&str>) -> Read<Box<str>> {
    if filter.starts_with("$share/") {
        return Err(invalid(format!(
            "the new filter {filter:?} has a share group, which cannot be changed: leave `$share/group/` out"
        )));
    }
    check_filter(&filter).map_err(|error| Unusable::topic("the new filter", error))?;
    Ok(match group {
        Some(group) => format!("$share/{group}/{filter}").into(),
        None => filter.into(),
    })
}

fn admission(
    allow: wire::ConnectAllow,
    has_will: bool,
    complaints: &Complaints,
) -> Read<Option<Box<Admission>>> {
    let admission = Admission {
        // Checked as text here and by protocol rules where the CONNECT is rewritten: this room knows no versions.
        client_id: allow.client_id.map(|id| field("client_id", id)).transpose()?,
        username: allow.username.map(|name| field("username", name)).transpose()?,
        password: allow.password.map(|secret| binary("password", secret)).transpose()?,
        will: allow.will.map(|change| will_change(change, has_will)).transpose()?,
        attributes: allow.attributes.into_iter().collect(),
        grant: allow.grant.map(|grant| super::grant::grant(grant, complaints)).transpose()?.map(Arc::new),
        // The contract has none: a service names user name and password themselves, and is asked about an authentication by
        // AuthExchange.
        broker_login: None,
        authenticated: false,
        broker_client_id: None,
    };
    // A plain yes is the most common answer, and takes no memory of its own.
    Ok((admission != Admission::default()).then(|| Box::new(admission)))
}

fn will_change(change: wire::WillChange, has_will: bool) -> Read<WillChange> {
    use wire::will_change::Change as WireVerdict;
    match change.change {
        None => Err(invalid("ConnectAllow.will has neither remove nor replace")),
        Some(WireVerdict::Remove(_)) => Ok(WillChange::Remove),
        // A will has a topic to be judged and a client that asked for it; one that the service invents has neither.
        Some(WireVerdict::Replace(_)) if !has_will => {
            Err(invalid("ConnectAllow.will replaces a will, but the client has none"))
        }
        Some(WireVerdict::Replace(new)) => Ok(WillChange::Replace {
            topic: new.topic.map(topic).transpose()?,
            payload: new.payload.map(|payload| binary("will payload", payload)).transpose()?,
            qos: new.qos.map(qos).transpose()?,
            retain: new.retain,
        }),
    }
}

fn publish_change(allow: wire::PublishAllow, complaints: &Complaints) -> Read<Option<Box<PublishChange>>> {
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
        cache_for: cache_for(allow.cache_for, complaints),
    };
    Ok((!change.is_empty() || change.cache_for.is_some()).then(|| Box::new(change)))
}

/// How long an answer may be used again. What is no time is none: it is asked each time, which does no harm.
fn cache_for(time: Option<prost_types::Duration>, complaints: &Complaints) -> Option<Duration> {
    let time = time?;
    match (u64::try_from(time.seconds), u32::try_from(time.nanos)) {
        (Ok(seconds), Ok(nanos @ 0..1_000_000_000)) => {
            Some(Duration::new(seconds, nanos).min(CACHE_MOST)).filter(|time| !time.is_zero())
        }
        _ => {
            complaints.say(
                Complaint::CacheFor,
                format_args!("cache_for of {} s and {} ns is not a time, ignored", time.seconds, time.nanos),
            );
            None
        }
    }
}

/// A Deny stays a Deny, whatever is wrong with its code, its action or the words to it.
fn refusal(deny: wire::Deny, complaints: &Complaints) -> Refusal {
    let code = deny.reason_code;
    let reason = match u8::try_from(code).map(ReasonCode) {
        // Proto3 does not tell "unset" from 0, and a refusal must not read as success on the wire.
        Ok(ReasonCode(0)) => ReasonCode::NOT_AUTHORIZED,
        Ok(reason) if reason.is_error() => reason,
        Ok(_) | Err(_) => {
            complaints.say(Complaint::DenyCode, format_args!(
                "Deny.reason_code {code} (0x{code:02X}) is not an MQTT 5.0 error code (0x80 to 0xFF), using 0x87 Not authorized"
            ));
            ReasonCode::NOT_AUTHORIZED
        }
    };
    let action = match deny.action.map(wire::Action::try_from) {
        None | Some(Ok(wire::Action::Reject)) => Action::Reject,
        Some(Ok(wire::Action::Drop)) => Action::Drop,
        Some(Ok(wire::Action::Disconnect)) => Action::Disconnect,
        Some(Ok(wire::Action::NoAck)) => Action::NoAck,
        // The one that tells the client: with any other, a newer service's word would pass for success or for a lost link.
        Some(Ok(wire::Action::Unspecified) | Err(_)) => {
            complaints.say(
                Complaint::DenyAction,
                format_args!(
                    "Deny.action {} is unknown to this version, using REJECT",
                    deny.action.unwrap_or_default()
                ),
            );
            Action::Reject
        }
    };
    // Words that no packet can carry are left out; the Deny is not.
    let words = |text: String| (!text.is_empty()).then_some(text).and_then(|text| field("", text).ok());
    let elsewhere = matches!(reason, ReasonCode::USE_ANOTHER_SERVER | ReasonCode::SERVER_MOVED);
    let server_reference = words(deny.server_reference);
    if server_reference.is_some() && !elsewhere {
        complaints.say(Complaint::ServerReference, format_args!(
            "Deny.server_reference is only allowed with reason codes 0x9C and 0x9D, not with 0x{:02X}: ignored",
            reason.0
        ));
    }
    Refusal {
        reason,
        text: words(deny.reason_string),
        action,
        // 4.11
        server_reference: server_reference.filter(|_| elsewhere),
        about: About::Service,
        // Whoever knows which endpoint has answered says so.
        ground: Ground::Unsaid,
        cache_for: cache_for(deny.cache_for, complaints),
    }
}

fn topic(topic: String) -> Read<Box<str>> {
    check_name(&topic).map_err(|error| Unusable::topic("the new topic", error))?;
    Ok(topic.into())
}

pub(super) fn qos(number: u32) -> Read<QoS> {
    let qos = u8::try_from(number).ok().and_then(QoS::from_bits);
    qos.ok_or_else(|| invalid(format!("QoS {number}")))
}

/// Text that fits into an MQTT field; only the name of the field is told.
fn field(name: &str, text: String) -> Read<Box<str>> {
    if text.len() > FIELD_MOST {
        return Err(Unusable::too_large(format!("the new {name} is longer than {FIELD_MOST} bytes")));
    }
    if text.contains('\0') {
        return Err(invalid(format!("U+0000 in the new {name}")));
    }
    Ok(text.into())
}

fn binary(name: &str, bytes: Bytes) -> Read<Bytes> {
    if bytes.len() > FIELD_MOST {
        return Err(Unusable::too_large(format!("the new {name} is longer than {FIELD_MOST} bytes")));
    }
    Ok(bytes)
}

fn unset(what: &str) -> Failure {
    Failure::new(FailureKind::Unspecified, format!("{what}: the answer has no verdict"))
}

pub(super) fn invalid(detail: impl Into<Box<str>>) -> Unusable {
    Unusable::invalid(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deny(reason_code: u32, action: Option<i32>) -> Refusal {
        refusal(wire::Deny { reason_code, action, ..Default::default() }, &Complaints::new("test"))
    }

    fn kind<T: std::fmt::Debug>(read: Read<T>) -> UnusableKind {
        read.expect_err("it reads").kind
    }

    #[test]
    fn a_bare_deny_is_not_authorized_and_rejects() {
        assert_eq!(deny(0, None), Refusal::default());
        assert_eq!(deny(0x97, None).reason, ReasonCode::QUOTA_EXCEEDED);
        assert_eq!(deny(0, Some(wire::Action::NoAck.into())).action, Action::NoAck);
    }

    #[test]
    fn a_deny_stays_one_with_a_code_or_an_action_that_cannot_stand() {
        for code in [1, 4, 5, 0x10, 0x17, 0x7F, 256, 0x187, u32::MAX] {
            assert_eq!(deny(code, None), Refusal::default(), "{code}");
        }
        assert_eq!(deny(0, Some(0)), Refusal::default());
        assert_eq!(deny(0, Some(77)), Refusal::default());
    }

    #[test]
    fn a_server_reference_goes_with_the_codes_that_send_elsewhere() {
        for (code, kept) in [(0x9C, true), (0x9D, true), (0x87, false), (0, false)] {
            let deny = wire::Deny { reason_code: code, server_reference: "b".into(), ..Default::default() };
            let refusal = refusal(deny, &Complaints::new("test"));
            assert_eq!(refusal.server_reference.is_some(), kept, "{code:#x}");
        }
    }

    #[test]
    fn an_answer_is_used_again_for_an_hour_at_most_and_never_for_what_is_no_time() {
        let complaints = &Complaints::new("test");
        let time = |seconds, nanos| cache_for(Some(prost_types::Duration { seconds, nanos }), complaints);
        assert_eq!(cache_for(None, complaints), None);
        assert_eq!(time(0, 0), None);
        assert_eq!(time(0, 1), Some(Duration::from_nanos(1)));
        assert_eq!(time(60, 5), Some(Duration::new(60, 5)));
        assert_eq!(time(3601, 0), Some(CACHE_MOST));
        assert_eq!(time(i64::MAX, 999_999_999), Some(CACHE_MOST));
        for (seconds, nanos) in [(-1, 0), (i64::MIN, 0), (1, -1), (1, 1_000_000_000)] {
            assert_eq!(time(seconds, nanos), None, "{seconds} {nanos}");
        }
        let minute = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        let allow = wire::PublishAllow { cache_for: minute, ..Default::default() };
        let change = publish_change(allow, complaints).unwrap().expect("it says how long");
        assert!(change.is_empty() && change.cache_for == Some(Duration::from_secs(60)));
        let deny = wire::Deny { cache_for: minute, ..Default::default() };
        assert_eq!(refusal(deny, complaints).cache_for, Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_deny_stays_one_with_unusable_words() {
        let reason_string = "a\0b".to_owned();
        let deny = wire::Deny { reason_string, ..Default::default() };
        let refusal = refusal(deny, &Complaints::new("test"));
        assert_eq!(refusal.text, None);
    }

    #[test]
    fn answers_of_zero_values_are_no_answers() {
        let complaints = &Complaints::new("test");
        let unset = wire::AuthSubscribeResponse { verdicts: vec![Default::default()] };
        for undecided in [
            connect(Default::default(), AuthConnect::Renewal, complaints).unwrap_err(),
            publish(Default::default(), complaints).unwrap_err(),
            deliver(Default::default(), complaints).unwrap_err(),
            subscribe(unset, 1, &[], complaints).unwrap_err(),
        ] {
            assert!(
                matches!(&undecided, Undecided::Failed(Failure { kind: FailureKind::Unspecified, .. })),
                "{undecided:?}"
            );
        }
    }

    #[test]
    fn an_unset_verdict_beside_others_lifts_nothing_that_is_denied() {
        let deny = wire::filter_verdict::Verdict::Deny(Default::default());
        let verdicts = vec![wire::FilterVerdict { verdict: Some(deny) }, Default::default()];
        let answer = wire::AuthSubscribeResponse { verdicts };
        let verdict = subscribe(answer, 2, &[], &Complaints::new("test"));
        assert!(matches!(verdict, Err(Undecided::Unusable(_))), "{verdict:?}");
    }

    #[test]
    fn a_renewal_takes_grant_and_attributes_and_the_rest_does_no_harm() {
        let grant = wire::Grant { version: "7".to_owned(), ..Default::default() };
        let replace = wire::WillReplace { topic: Some("t".to_owned()), ..Default::default() };
        let will = wire::WillChange { change: Some(wire::will_change::Change::Replace(replace)) };
        let allow = wire::ConnectAllow {
            client_id: Some("other".to_owned()),
            username: Some("a\0".to_owned()),
            password: Some(Bytes::from_static(b"x")),
            will: Some(will),
            attributes: [("a".to_owned(), "b".to_owned())].into(),
            grant: Some(grant),
        };
        let said = wire::auth_connect_response::Verdict::Allow(allow);
        let answer = wire::AuthConnectResponse { verdict: Some(said) };
        let verdict = connect(answer.clone(), AuthConnect::Renewal, &Complaints::new("test"));
        let Ok(Decision::Allow(Some(admission))) = verdict else { panic!("{verdict:?}") };
        assert_eq!(admission.grant.as_deref().map(|grant| &*grant.version), Some("7"));
        let rest = Admission { grant: None, ..*admission };
        let attributes = vec![("a".to_owned(), "b".to_owned())];
        assert_eq!(rest, Admission { attributes, ..Admission::default() });
        let verdict = connect(answer, AuthConnect::Client { has_will: true }, &Complaints::new("test"));
        assert!(matches!(verdict, Err(Undecided::Unusable(_))), "{verdict:?}");
    }

    #[test]
    fn an_empty_allow_changes_nothing() {
        let said = wire::auth_connect_response::Verdict::Allow(Default::default());
        assert_eq!(
            connect(
                wire::AuthConnectResponse { verdict: Some(said) },
                AuthConnect::Client { has_will: true },
                &Complaints::new("test")
            ),
            Ok(Decision::Allow(None))
        );
        let said = wire::auth_publish_response::Verdict::Allow(Default::default());
        assert_eq!(
            publish(wire::AuthPublishResponse { verdict: Some(said) }, &Complaints::new("test")),
            Ok(Decision::Allow(None))
        );
    }

    #[test]
    fn rewrites_that_make_no_packet_fail() {
        let to = |topic: &str| {
            kind(publish_change(
                wire::PublishAllow { topic: Some(topic.to_owned()), ..Default::default() },
                &Complaints::new("test"),
            ))
        };
        assert_eq!(to("a/+"), UnusableKind::Invalid);
        assert_eq!(to(""), UnusableKind::Invalid);
        assert_eq!(kind(whole_filter("a/#/b".to_owned(), None)), UnusableKind::Invalid);
        assert_eq!(kind(whole_filter("$share/h/a".to_owned(), Some("g"))), UnusableKind::Invalid);
        assert_eq!(kind(qos(3)), UnusableKind::Invalid);
        let long = wire::ConnectAllow { client_id: Some("x".repeat(65_536)), ..Default::default() };
        assert_eq!(kind(admission(long, false, &Complaints::new("test"))), UnusableKind::TooLarge);
    }

    #[test]
    fn a_new_filter_keeps_its_group() {
        assert_eq!(&*whole_filter("a/b".to_owned(), Some("g")).unwrap(), "$share/g/a/b");
        assert_eq!(&*whole_filter("a/b".to_owned(), None).unwrap(), "a/b");
    }

    #[test]
    fn a_verdict_too_many_or_too_few_is_the_wrong_length() {
        for asked in [0, 2] {
            let answer = wire::AuthSubscribeResponse { verdicts: vec![Default::default()] };
            let verdict = subscribe(answer, asked, &[], &Complaints::new("test"));
            assert!(
                matches!(&verdict, Err(Undecided::Unusable(one)) if one.kind == UnusableKind::WrongLength)
            );
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
        assert_eq!(kind(will_change(replace(), false)), UnusableKind::Invalid);
        assert_eq!(kind(will_change(wire::WillChange { change: None }, true)), UnusableKind::Invalid);
    }
}
