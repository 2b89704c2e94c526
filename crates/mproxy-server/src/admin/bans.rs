//! Bans: listed, set and lifted.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Admin;
use super::parameters::{Nothing, Parameters};
use super::problem::ApiError;
use crate::protect::bans::{Ban, BanTarget, MOST_BANS, TooManyBans};
use crate::timestamp::Timestamp;

/// Ten years: whoever means longer means for ever.
const LONGEST_SECONDS: u64 = 10 * 366 * 24 * 60 * 60;

/// Characters of a reason.
const LONGEST_REASON: usize = 256;

/// A ban that was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Banned {
    /// The ban.
    pub ban: Ban,
    /// Clients that were connected, and are being disconnected.
    pub disconnected: usize,
    /// Whether it is in the file, too, or why not.
    pub kept: BanKept,
}

/// Whether what is in force is in the file, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BanKept {
    /// No file is configured.
    NoFile,
    /// It is.
    InFile,
    /// The file could not be written: it holds what it held before.
    Failed(String),
}

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct BanView {
    /// The client of this identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// The user of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// Whoever comes from this network.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Since when.
    since: Timestamp,
    /// Until when; absent where it does not end by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
}

impl From<Ban> for BanView {
    fn from(ban: Ban) -> Self {
        let Ban { target, reason, since, expires } = ban;
        let (since, expires) = (Timestamp(since), expires.map(Timestamp));
        let [client_id, username, address] = target.names();
        Self { client_id, username, address, reason, since, expires }
    }
}

/// The bans in force.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BansView {
    bans: Vec<BanView>,
    /// Most bans that there may be.
    most: usize,
}

/// The bans in force, in the order of what they name: client ids, user names, networks.
#[utoipa::path(
    get, path = "/bans", tag = "sessions",
    responses((status = 200, description = "the bans", body = BansView))
)]
pub(super) async fn bans(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Json<BansView> {
    let bans = admin.backend.bans().into_iter().map(BanView::from).collect();
    Json(BansView { bans, most: MOST_BANS })
}

/// Who is banned: exactly one of them.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct BanSelector {
    /// The client of exactly this identifier.
    client_id: Option<String>,
    /// The user of exactly this name.
    username: Option<String>,
    /// Exactly this address or network: `192.0.2.7`, `10.0.0.0/8`.
    address: Option<String>,
}

impl BanSelector {
    fn target(self) -> Result<BanTarget, ApiError> {
        BanTarget::named(self.client_id, self.username, self.address)
            .map_err(|error| ApiError::bad(error.to_string()))
    }
}

/// Who is to be banned, until when and why. Exactly one of `client_id`, `username` and `address` has to be given.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BanBody {
    /// The client of exactly this identifier.
    client_id: Option<String>,
    /// The user of exactly this name.
    username: Option<String>,
    /// An address or network: `192.0.2.7`, `10.0.0.0/8`, `2001:db8::/32`.
    address: Option<String>,
    /// Why: shown in the list of bans, the log and the decision log, never to clients.
    #[schema(max_length = 256)]
    reason: Option<String>,
    /// Seconds until it ends by itself; without, it does not.
    #[schema(minimum = 1, maximum = 316_224_000)]
    expires_in: Option<u64>,
}

impl BanBody {
    fn ban(self, now: SystemTime) -> Result<Ban, ApiError> {
        let Self { client_id, username, address, reason, expires_in } = self;
        let reason = reason.filter(|reason| !reason.is_empty());
        let is_long =
            |text: &String| text.chars().count() > LONGEST_REASON || text.contains(char::is_control);
        if reason.as_ref().is_some_and(is_long) {
            let text = format!("reason may have {LONGEST_REASON} characters, and no control characters");
            return Err(ApiError::bad(text));
        }
        let expires = match expires_in {
            Some(seconds) if (1..=LONGEST_SECONDS).contains(&seconds) => {
                Some(now + Duration::from_secs(seconds))
            }
            Some(_) => {
                return Err(ApiError::bad(format!("expires_in must be 1 to {LONGEST_SECONDS} seconds")));
            }
            None => None,
        };
        let target = BanSelector { client_id, username, address }.target()?;
        Ok(Ban { target, reason, since: now, expires })
    }
}

/// A ban that was set.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BannedView {
    ban: BanView,
    /// Clients that were connected, and are being disconnected.
    disconnected: usize,
    /// Whether it outlives a restart: it is in the file that `bans_file` names.
    saved: bool,
    /// Why it does not, where there is a file. The ban is in force all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_error: Option<String>,
}

/// Bans a client id, a user name, or whoever comes from an address or network, and disconnects whom it is about. A ban of the
/// same takes its place.
#[utoipa::path(
    post, path = "/bans", tag = "sessions", request_body = BanBody,
    responses(
        (status = 201, description = "it is in force", body = BannedView),
        (status = 409, description = "there is no room for another ban"),
    )
)]
pub(super) async fn ban(
    State(admin): State<Admin>,
    Parameters(Nothing {}): Parameters<Nothing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<BannedView>), ApiError> {
    let body: BanBody = serde_json::from_slice(&body?).map_err(|error| {
        let example = r#"{"client_id": "sensor-7", "reason": "too loud", "expires_in": 3600}"#;
        ApiError::bad(format!("the body must look like {example}: {error}"))
    })?;
    let banned = admin.backend.ban(body.ban(SystemTime::now())?).await;
    let Banned { ban, disconnected, kept } =
        banned.map_err(|full: TooManyBans| ApiError::new(StatusCode::CONFLICT, full.to_string()))?;
    tracing::info!(ban = %shown(&ban.target), reason = ban.reason, disconnected, "ban set by an administrator");
    let (saved, file_error) = match kept {
        BanKept::NoFile => (false, None),
        BanKept::InFile => (true, None),
        BanKept::Failed(error) => (false, Some(error)),
    };
    Ok((StatusCode::CREATED, Json(BannedView { ban: ban.into(), disconnected, saved, file_error })))
}

/// A ban that was lifted, and is still in the file.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UnbannedView {
    /// Why the file could not be written: after a restart the ban would be in force again.
    file_error: String,
}

/// Lets in again whom a ban kept out.
#[utoipa::path(
    delete, path = "/bans", tag = "sessions", params(BanSelector),
    responses(
        (status = 200, description = "it is lifted, but still in the file of bans: it comes back with a restart, unless the file can be \
            written before, with the next change or when the same is asked again", body = UnbannedView),
        (status = 204, description = "it is lifted"),
        (status = 404, description = "no such ban"),
    )
)]
pub(super) async fn unban(
    State(admin): State<Admin>,
    Parameters(selector): Parameters<BanSelector>,
) -> Result<Response, ApiError> {
    let target = selector.target()?;
    let kept = admin.backend.unban(target.clone()).await;
    let kept = kept.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "no such ban"))?;
    tracing::info!(ban = %shown(&target), "ban lifted by an administrator");
    Ok(match kept {
        BanKept::NoFile | BanKept::InFile => StatusCode::NO_CONTENT.into_response(),
        BanKept::Failed(file_error) => Json(UnbannedView { file_error }).into_response(),
    })
}

/// For the log.
fn shown(target: &BanTarget) -> String {
    match target {
        BanTarget::ClientId(id) => format!("client_id {id}"),
        BanTarget::Username(name) => format!("username {name}"),
        BanTarget::Network(network) => format!("address {network}"),
    }
}
