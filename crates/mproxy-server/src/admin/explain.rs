//! What would be decided about something that a client might do now, and why.

use std::future::Future;
use std::pin::Pin;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use mproxy_codec::topic::{TopicFilter, check_name};
use mproxy_codec::types::QoS;
use mproxy_core::rule::Act;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Admin;
use super::parameters::{Nothing, Parameters};
use super::problem::ApiError;
use crate::telemetry::decisions::ExplainedDecision;

/// Who might do what.
#[derive(Clone, Debug)]
pub struct ExplainQuestion {
    /// This connection.
    pub connection_id: Option<Uuid>,
    /// The newest connection of this client; without one, whoever calls itself so.
    pub client_id: Option<String>,
    /// Of a client that is not connected.
    pub username: Option<String>,
    /// The common name of its certificate, of a client that is not connected.
    pub common_name: Option<String>,
    /// What it does: publish, subscribe or receive.
    pub act: Act,
    /// The topic or filter.
    pub name: String,
    /// The QoS.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// Bytes of the payload.
    pub payload_size: u32,
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExplainView {
    /// What would be decided.
    #[serde(flatten)]
    pub decided: ExplainedDecision,
    /// The connection that was asked; absent where the client is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<Uuid>,
    /// What is not known, of a client that is not connected.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    pub not_known: &'static [&'static str],
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotExplained {
    /// There is no such connection.
    NoSession,
    /// Its task did not answer in time.
    Late,
}

/// The answer on its way.
pub type Explaining = Pin<Box<dyn Future<Output = Result<ExplainView, NotExplained>> + Send>>;

/// Who might do what.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ExplainBody {
    /// This connection; without one, the newest of `client_id`. One of both has to be given.
    connection_id: Option<Uuid>,
    /// This client, connected or not.
    client_id: Option<String>,
    /// Of a client that is not connected.
    username: Option<String>,
    /// The common name of its certificate, of a client that is not connected.
    common_name: Option<String>,
    /// `publish`, `subscribe` or `receive`.
    #[schema(pattern = "^(publish|subscribe|receive)$")]
    action: String,
    /// The topic, or with `subscribe` the filter, as the client knows it.
    #[schema(min_length = 1)]
    topic: String,
    /// The QoS.
    #[serde(default)]
    #[schema(maximum = 2)]
    qos: u8,
    /// The RETAIN flag.
    #[serde(default)]
    retain: bool,
    /// Bytes of the payload.
    #[serde(default)]
    payload_size: u32,
}

impl ExplainBody {
    fn question(self) -> Result<ExplainQuestion, ApiError> {
        let act = match self.action.as_str() {
            "publish" => Act::Publish,
            "subscribe" => Act::Subscribe,
            "receive" => Act::Receive,
            _ => return Err(ApiError::bad("action must be publish, subscribe or receive")),
        };
        let valid = match act {
            Act::Subscribe => TopicFilter::new(&self.topic).map(|_| ()),
            Act::Publish | Act::Receive | Act::Will => check_name(&self.topic).map(|_| ()),
        };
        valid.map_err(|error| ApiError::bad(format!("topic: {error}")))?;
        if self.connection_id.is_none() && self.client_id.is_none() {
            return Err(ApiError::bad("client_id or connection_id must be given"));
        }
        Ok(ExplainQuestion {
            connection_id: self.connection_id,
            client_id: self.client_id,
            username: self.username,
            common_name: self.common_name,
            act,
            name: self.topic,
            qos: QoS::from_bits(self.qos).ok_or_else(|| ApiError::bad("qos must be 0, 1 or 2"))?,
            retain: self.retain,
            payload_size: self.payload_size,
        })
    }
}

/// What would be decided about something that a client might do now. Nobody is asked, and nothing changes.
#[utoipa::path(
    post, path = "/explain", tag = "decisions", request_body = ExplainBody,
    responses(
        (status = 200, description = "what would be decided, and by what", body = ExplainView),
        (status = 404, description = "no such session"),
        (status = 503, description = "the session did not answer in time"),
    )
)]
pub(super) async fn explain(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ExplainView>, ApiError> {
    let body: ExplainBody = serde_json::from_slice(&body?).map_err(|error| {
        let text = r#"{"client_id": "c", "action": "publish", "topic": "a/b"}"#;
        ApiError::bad(format!("the body must look like {text}: {error}"))
    })?;
    let answer = admin.backend.explain(body.question()?).await;
    answer.map(Json).map_err(|why| match why {
        NotExplained::NoSession => ApiError::new(StatusCode::NOT_FOUND, "no such session"),
        NotExplained::Late => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the session did not answer in time")
        }
    })
}
