//! A policy service that is asked once for each client: the answer is a grant of everything the load does, after which
//! mproxy decides publishes and subscriptions by itself. They would be asked about otherwise.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

#[expect(
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
mod proto {
    tonic::include_proto!("mproxy.v1");
}

use proto::hooks_server::{Hooks, HooksServer};
use proto::*;

/// What is granted, like `candidate/rules.toml`: the two that allow are not the first to be looked at.
const RULES: &[(Effect, &[GrantAction], &[&str])] = &[
    (
        Effect::Deny,
        &[GrantAction::Publish, GrantAction::Will],
        &["$SYS/#", "shared/readonly/#", "devices/+/config"],
    ),
    (Effect::Allow, &[GrantAction::Publish, GrantAction::Subscribe], &["devices/${clientid}/#", "shared/#"]),
];

struct Granting;

#[tonic::async_trait]
impl Hooks for Granting {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        let hooks = [Hook::AuthConnect, Hook::AuthPublish, Hook::AuthSubscribe];
        let wants = hooks.map(|hook| Want { hook: hook.into(), ..Default::default() }).into();
        Ok(Response::new(HelloResponse { wants, name: "bench".into(), ..Default::default() }))
    }

    async fn auth_connect(
        &self,
        _: Request<AuthConnectRequest>,
    ) -> Result<Response<AuthConnectResponse>, Status> {
        let rule = |&(effect, actions, filters): &(Effect, &[GrantAction], &[&str])| GrantRule {
            effect: effect.into(),
            actions: actions.iter().map(|action| (*action).into()).collect(),
            topic_filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
            ..Default::default()
        };
        let grant = Grant {
            rules: RULES.iter().map(rule).collect(),
            // What is asked about all the same is refused, and seen as a fault: there is no answer to it here.
            default_effect: Some(Effect::Deny.into()),
            ..Default::default()
        };
        let allow = ConnectAllow { grant: Some(grant), ..Default::default() };
        let verdict = Some(auth_connect_response::Verdict::Allow(allow));
        Ok(Response::new(AuthConnectResponse { verdict }))
    }
}

pub(crate) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.with_context(|| address.to_string())?;
        let server = Server::builder().add_service(HooksServer::new(Granting));
        Ok(server.serve_with_incoming(TcpListenerStream::new(listener)).await?)
    })
}
