//! Commands that came while a CONNECT was being decided: what they make of the answer, which may be older.

use std::sync::Arc;

use bytes::Bytes;

use super::super::introduce::parse_connect;
use super::super::replacement::succeed;
use crate::command::{Order, SessionCommand};
use crate::fault::Fault;
use crate::peer::Peer;
use crate::policy::{Admission, ConnectDecision, Overload, Ruling, Source};

/// What commands have made of an admission.
#[derive(Debug, Default)]
pub(super) struct Obeyed {
    /// With the grant that is in force now.
    pub(super) admission: Option<Box<Admission>>,
    /// That grant came by command.
    pub(super) replaced: bool,
    /// The client does not get in after all.
    pub(super) dismissal: Option<Fault>,
    /// Its grant is to be renewed when the session is open.
    pub(super) renews: bool,
}

/// Carries out those of the commands that mean the client as it is admitted.
pub(super) fn obey_kept(
    orders: &[Arc<Order>],
    peer: &Peer,
    sent: &Bytes,
    admission: Option<Box<Admission>>,
) -> Obeyed {
    let mut client = peer.clone();
    if let Some(connect) = parse_connect(sent) {
        client.client_id = connect.client_id.into();
        client.username = connect.username.map(Into::into);
    }
    if let Some(admission) = &admission {
        if let Some(id) = &admission.client_id {
            client.client_id = (**id).into();
        }
        if let Some(name) = &admission.username {
            client.username = (!name.is_empty()).then(|| (**name).into());
        }
        client.attributes = admission.attributes.clone().into();
    }
    let mut obeyed = Obeyed { admission, ..Obeyed::default() };
    for order in orders.iter().filter(|order| order.selector.selects(&client)) {
        let grant = obeyed.admission.as_ref().and_then(|admission| admission.grant.as_deref());
        match &order.command {
            SessionCommand::Disconnect(dismissal) => {
                let (reason, dismissal) = (dismissal.reason, Some(Box::new(dismissal.clone())));
                // The first one counts: a session ends once.
                obeyed.dismissal.get_or_insert(Fault::Kicked { reason, dismissal });
            }
            SessionCommand::ReplaceGrant(replacing) => {
                if let Some(grant) = succeed(grant, replacing.clone()) {
                    obeyed.admission.get_or_insert_default().grant = Some(grant);
                    obeyed.replaced = true;
                }
                // A grant that came by command is newer than any that a renewal before it was to bring.
                obeyed.renews = false;
            }
            SessionCommand::CheckGrant { version } => {
                obeyed.renews = version.is_empty() || grant.is_none_or(|grant| *grant.version != **version);
            }
            SessionCommand::Forget => {}
        }
    }
    obeyed
}

/// There were more commands than are kept: the question is asked once more.
pub(super) fn too_many_orders(source: Source) -> Ruling<ConnectDecision> {
    let overload = Overload::new("commands", "too many commands came while the CONNECT was decided");
    Ruling::new(source, Err(overload.into()))
}
