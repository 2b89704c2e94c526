//! An answer looked at closely, for `mproxy hooks check`: read by the proxy's own code, and beside that what the proxy
//! cannot see, because it has been dropped by then, or is as legal as it is unlikely to be meant.

use std::time::Duration;

use bytes::Bytes;
use mproxy_core::policy::Undecided;
use tonic::Status;

use super::auth_request::{AuthConnect, AuthDeliver, AuthExchange, AuthPublish, AuthSubscribe};
use super::call::read_decision;
use super::complaints::Complaints;
use super::decide::{AnswerBytes, StreamAnswer};
use super::fields::AnswerFields;
use super::{AuthRequest, AuthRpc, Rpc, ServiceClient, wire};

/// Something about an answer that may not be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnswerRemark {
    /// A label.
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) text: String,
}

impl AnswerRemark {
    fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// An answer that has come.
pub(crate) struct Examined<D> {
    /// What mproxy makes of it.
    pub(crate) decision: Result<D, Undecided>,
    /// What is in it.
    pub(crate) fields: AnswerFields,
    /// What may not be meant.
    pub(crate) remarks: Vec<AnswerRemark>,
}

/// An RPC whose answers can be looked at closely.
pub(crate) trait Examine: AuthRpc {
    /// The name of the answer's message.
    const RESPONSE: &'static str;

    /// What the message says that may not be meant.
    fn remarks(response: &Self::Response) -> Vec<AnswerRemark>;
}

impl ServiceClient {
    /// Asks a question, as [`decide`](Self::decide) does, and looks at the answer closely.
    pub(crate) async fn examine<R: Examine>(
        &self,
        request: AuthRequest<R>,
        within: Duration,
    ) -> Result<Examined<R::Decision>, Status> {
        let (rpc, answer) = request.send_to_examine(self.channel.clone(), within).await?;
        examine(rpc, answer)
    }
}

impl<R: Examine> AuthRequest<R> {
    /// Looks closely at what a stream brought.
    pub(crate) fn examine_answer(
        self,
        answer: Option<StreamAnswer>,
    ) -> Result<Examined<R::Decision>, Status> {
        let without = |nothing: Undecided| Examined {
            decision: Err(nothing),
            fields: AnswerFields::default(),
            remarks: Vec::new(),
        };
        Ok(match AnswerBytes::of(answer, R::HOOK) {
            AnswerBytes::Response(bytes) => examine(self.into_rpc(), bytes)?,
            AnswerBytes::Failed(failure) => without(failure.into()),
            AnswerBytes::Unusable(unusable) => without(unusable.into()),
        })
    }
}

/// What there is to say about these bytes.
fn examine<R: Examine>(rpc: R, answer: Bytes) -> Result<Examined<R::Decision>, Status> {
    let response: R::Response = read_decision(R::HOOK.into(), answer.clone())?;
    let fields = AnswerFields::read(R::RESPONSE, &answer);
    let mut remarks = R::remarks(&response);
    // Kept and not logged: what the proxy only warns of is what somebody looks for here.
    let complaints = Complaints::kept();
    let decision = rpc.decision(response, &complaints);
    remarks.extend(complaints.take().into_iter().map(|text| AnswerRemark::new("questionable", text)));
    remarks.extend(lost(Rpc::from(R::HOOK), answer.len(), &fields));
    Ok(Examined { decision, fields, remarks })
}

/// What was sent and is not of the contract, or was not sent although something should have been.
fn lost(rpc: Rpc, len: usize, fields: &AnswerFields) -> Option<AnswerRemark> {
    if !fields.unknown.is_empty() {
        let unknown = fields.unknown.join(", ");
        return Some(AnswerRemark::new(
            "unknown_fields",
            format!(
                "{}: the answer has fields that this contract does not have: {unknown} (is the service built from another events.proto?)",
                rpc.name()
            ),
        ));
    }
    (len == 0).then(|| {
        AnswerRemark::new(
            "empty_answer",
            format!(
                "{}: the answer is empty: libraries that build messages from maps drop names that they do not know, \
                 and proto-loader without keepCase drops snake_case ones",
                rpc.name()
            ),
        )
    })
}

fn of_deny(rpc: Rpc, deny: &wire::Deny) -> Option<AnswerRemark> {
    (deny.reason_code == 0).then(|| {
        let text = format!("{}: Deny without reason_code means 0x87, Not authorized", rpc.name());
        AnswerRemark::new("deny_without_code", text)
    })
}

impl Examine for AuthConnect {
    const RESPONSE: &'static str = "AuthConnectResponse";

    fn remarks(response: &Self::Response) -> Vec<AnswerRemark> {
        use wire::auth_connect_response::Verdict;
        match &response.verdict {
            // That there is no verdict is told by the decision.
            None => Vec::new(),
            Some(Verdict::Deny(deny)) => of_deny(Rpc::AuthConnect, deny).into_iter().collect(),
            Some(Verdict::Allow(allow)) => allow.grant.as_ref().map(of_grant).unwrap_or_default(),
        }
    }
}

impl Examine for AuthPublish {
    const RESPONSE: &'static str = "AuthPublishResponse";

    fn remarks(response: &Self::Response) -> Vec<AnswerRemark> {
        use wire::auth_publish_response::Verdict;
        match &response.verdict {
            None | Some(Verdict::Allow(_)) => Vec::new(),
            Some(Verdict::Deny(deny)) => of_deny(Rpc::AuthPublish, deny).into_iter().collect(),
        }
    }
}

impl Examine for AuthDeliver {
    const RESPONSE: &'static str = "AuthDeliverResponse";

    fn remarks(response: &Self::Response) -> Vec<AnswerRemark> {
        use wire::auth_deliver_response::Verdict;
        match &response.verdict {
            None | Some(Verdict::Allow(_)) => Vec::new(),
            Some(Verdict::Deny(deny)) => of_deny(Rpc::AuthDeliver, deny).into_iter().collect(),
        }
    }
}

impl Examine for AuthSubscribe {
    const RESPONSE: &'static str = "AuthSubscribeResponse";

    fn remarks(response: &Self::Response) -> Vec<AnswerRemark> {
        use wire::filter_verdict::Verdict;
        let denied = response.verdicts.iter().find_map(|verdict| match &verdict.verdict {
            Some(Verdict::Deny(deny)) => of_deny(Rpc::AuthSubscribe, deny),
            None | Some(Verdict::Allow(_)) => None,
        });
        denied.into_iter().collect()
    }
}

impl Examine for AuthExchange {
    const RESPONSE: &'static str = "AuthExchangeResponse";

    fn remarks(response: &Self::Response) -> Vec<AnswerRemark> {
        use wire::auth_exchange_response::Verdict;
        match &response.verdict {
            None | Some(Verdict::ContinueAuthentication(_)) => Vec::new(),
            Some(Verdict::Success(success)) => success.grant.as_ref().map(of_grant).unwrap_or_default(),
            Some(Verdict::Deny(deny)) => of_deny(Rpc::AuthExchange, deny).into_iter().collect(),
        }
    }
}

/// What a grant leaves out.
fn of_grant(grant: &wire::Grant) -> Vec<AnswerRemark> {
    let mut remarks = Vec::new();
    let default = grant.default_effect();
    if grant.rules.is_empty() {
        let what = match (grant.default_effect, default) {
            (None, _) => "is asked about, as without a grant",
            (_, wire::Effect::Allow) => "is allowed",
            (_, wire::Effect::Deny) => "is denied",
            _ => "is asked about",
        };
        remarks.push(AnswerRemark::new(
            "grant_without_rules",
            format!("the grant has no rules: everything {what}"),
        ));
    } else if grant.default_effect.is_none() {
        remarks.push(AnswerRemark::new(
            "grant_without_default",
            "the grant has no default_effect: what no rule matches is asked about; set DENY for a list of what is allowed",
        ));
    }
    let allows = |rule: &&wire::GrantRule| rule.effect() == wire::Effect::Allow;
    let empty = grant.rules.iter().filter(allows).filter(|rule| rule.topic_filters.is_empty()).count();
    if empty > 0 {
        let all = grant.rules.iter().filter(allows).count();
        remarks.push(AnswerRemark::new(
            "allow_without_topics",
            format!(
                "{empty} of {all} ALLOW rules of the grant have no topic_filters and allow nothing: write \"#\" for every \
                 topic, and see that the library does not drop the name topic_filters (proto-loader: keepCase)"
            ),
        ));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn codes<R: Examine>(rpc: R, response: &R::Response) -> Vec<&'static str> {
        let examined = examine(rpc, response.encode_to_vec().into()).expect("it can be read");
        examined.remarks.into_iter().map(|remark| remark.code).collect()
    }

    fn admitted(grant: wire::Grant) -> wire::AuthConnectResponse {
        let allow = wire::ConnectAllow { grant: Some(grant), ..Default::default() };
        wire::AuthConnectResponse { verdict: Some(wire::auth_connect_response::Verdict::Allow(allow)) }
    }

    #[test]
    fn what_a_grant_leaves_out_is_remarked() {
        let asked = AuthConnect::Client { has_will: false };
        assert_eq!(codes(asked, &admitted(Default::default())), ["grant_without_rules"]);
        let rule = |topics: &[&str]| wire::GrantRule {
            effect: wire::Effect::Allow.into(),
            topic_filters: topics.iter().map(|&topic| topic.into()).collect(),
            ..Default::default()
        };
        let grant = |rules| wire::Grant { rules, default_effect: Some(2), ..Default::default() };
        assert_eq!(codes(asked, &admitted(grant(vec![rule(&["a"]), rule(&[])]))), ["allow_without_topics"]);
        assert!(codes(asked, &admitted(grant(vec![rule(&["a"])]))).is_empty());
        let open = wire::Grant { rules: vec![rule(&["a"])], ..Default::default() };
        assert_eq!(codes(asked, &admitted(open)), ["grant_without_default"]);
    }

    #[test]
    fn what_was_lost_on_the_way_is_remarked() {
        assert_eq!(codes(AuthPublish, &Default::default()), ["empty_answer"]);
        let unknown = examine(AuthPublish, Bytes::from_static(b"\x7a\x00")).expect("it can be read");
        assert_eq!(unknown.remarks[0].code, "unknown_fields");
        assert!(unknown.decision.is_err(), "no verdict");
        let deny = wire::auth_publish_response::Verdict::Deny(Default::default());
        assert_eq!(
            codes(AuthPublish, &wire::AuthPublishResponse { verdict: Some(deny) }),
            ["deny_without_code"]
        );
        let three = wire::Deny { reason_code: 5, ..Default::default() };
        let deny = wire::auth_publish_response::Verdict::Deny(three);
        assert_eq!(codes(AuthPublish, &wire::AuthPublishResponse { verdict: Some(deny) }), ["questionable"]);
    }
}
