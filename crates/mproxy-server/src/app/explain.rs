//! What would be decided about a client: its own session is asked, or, where it is not connected, the advisers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mproxy_codec::types::Version;
use mproxy_core::Chain;
use mproxy_core::peer::{ConnectionId, Encoded, Origin, Peer, TlsFacts, Transport, UserProperties};
use mproxy_core::policy::Supposed;
use mproxy_core::rule::WallTime;
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use crate::admin::{ExplainQuestion, ExplainView, NotExplained};
use crate::orders::ExplainRequest;
use crate::registry::Handle;
use crate::telemetry::decisions::ExplainedDecision;

/// A session answers in its next turn.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// Asks the task of a connection.
pub(super) async fn of_session(
    handle: Arc<Handle>,
    question: ExplainQuestion,
) -> Result<ExplainView, NotExplained> {
    let (answer, told) = oneshot::channel();
    let ExplainQuestion { act, name, qos, retain, payload_size, .. } = question;
    handle.ask(ExplainRequest { act, name: name.into(), qos, retain, payload_size, answer });
    let explanation = match timeout(ANSWERED_WITHIN, told).await {
        Ok(Ok(Some(explanation))) => explanation,
        // It has no client yet, or has ended.
        Ok(Ok(None) | Err(_)) => return Err(NotExplained::NoSession),
        Err(_) => return Err(NotExplained::Late),
    };
    Ok(ExplainView {
        decided: ExplainedDecision::of(&explanation, act),
        connection_id: Some(Uuid::from_u128(handle.origin().connection_id.0)),
        not_known: &[],
    })
}

/// Of a client that is not connected and would call itself so. `has_service`: the hook service may give it a grant.
pub(super) fn of_stranger(
    chain: &Chain,
    question: &ExplainQuestion,
    has_service: bool,
    time: Option<WallTime>,
) -> Result<ExplainView, NotExplained> {
    let Some(client_id) = &question.client_id else { return Err(NotExplained::NoSession) };
    let peer = Arc::new(stranger(client_id, question));
    let ExplainQuestion { act, name, qos, retain, payload_size, .. } = question;
    let (act, qos, retain, payload) = (*act, *qos, *retain, *payload_size as usize);
    let supposed = Supposed { peer: &peer, act, name, qos, retain, payload, time };
    let mut decided = ExplainedDecision::of(&chain.explain(&supposed), act);
    let mut not_known: &[&str] = &["whether it may connect", "listener, transport, address and version"];
    if has_service {
        not_known = &[
            "whether it may connect",
            "listener, transport, address and version",
            "grant",
            "attributes",
            "cached answers",
            "client id and user name after AuthConnect",
        ];
        if !decided.is_by_rule_file() {
            decided = decided.unknown();
        }
    }
    Ok(ExplainView { decided, connection_id: None, not_known })
}

fn stranger(client_id: &str, question: &ExplainQuestion) -> Peer {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let tls = question
        .common_name
        .clone()
        .map(|name| Box::new(TlsFacts { common_name: Some(name), ..TlsFacts::default() }));
    Peer {
        origin: Arc::new(Origin {
            connection_id: ConnectionId(0),
            epoch: 0,
            instance: "".into(),
            listener: "".into(),
            transport: Transport::Tcp,
            remote: nowhere.into(),
            local: nowhere.into(),
            tls,
            ws: None,
        }),
        version: Version::V5,
        client_id: client_id.into(),
        username: question.username.as_deref().map(Into::into),
        keep_alive: 0,
        clean_start: true,
        attributes: Box::default(),
        grant: None,
        said: None,
        broker_client_id: None,
        user_properties: UserProperties::default(),
        encoded: Encoded::default(),
    }
}
