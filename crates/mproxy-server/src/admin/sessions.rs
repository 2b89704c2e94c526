//! Who is connected: listed, shown, disconnected.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use uuid::Uuid;

use super::Admin;
use super::parameters::{Nothing, Parameters, page_limit};
use super::problem::ApiError;
use super::view::{Page, SessionFilter, SessionView};

/// Administrative action.
const ADMINISTRATIVE_ACTION: u8 = 0x98;

/// Which sessions, and how many.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// Exactly this client identifier.
    client_id: Option<String>,
    /// Exactly this user name.
    username: Option<String>,
    /// Accepted by the listener of this name.
    listener: Option<String>,
    /// `next` of the page before.
    after: Option<Uuid>,
    /// Sessions of a page, which ends at about 1 MiB in any case.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

/// The sessions that are open, in the order of their connection ids.
#[utoipa::path(
    get, path = "/sessions", tag = "sessions", params(Listing),
    responses((status = 200, description = "a page of sessions", body = Page))
)]
pub(super) async fn sessions(
    State(admin): State<Admin>,
    Parameters(listing): Parameters<Listing>,
) -> Result<Json<Page>, ApiError> {
    let Listing { client_id, username, listener, after, limit } = listing;
    let limit = page_limit(limit)?;
    let filter = SessionFilter { client_id, username, listener };
    Ok(Json(admin.backend.sessions(&filter, after, limit)))
}

/// One session.
#[utoipa::path(
    get, path = "/sessions/{connection_id}", tag = "sessions",
    params(("connection_id" = Uuid, Path, description = "Names the connection.")),
    responses(
        (status = 200, description = "the session", body = SessionView),
        (status = 404, description = "no such session"),
    )
)]
pub(super) async fn session(
    State(admin): State<Admin>,
    id: Result<Path<Uuid>, PathRejection>,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<SessionView>, ApiError> {
    let Path(id) = id?;
    admin.backend.session(id).map(Json).ok_or_else(no_such_session)
}

fn no_such_session() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no such session")
}

/// How a kick is to look.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Kick {
    /// The 5.0 reason code that the client is told, from 0x80 on, as `0x9D` or `157`.
    #[param(
        pattern = "^(0x[89a-fA-F][0-9a-fA-F]|12[89]|1[3-9][0-9]|2[0-4][0-9]|25[0-5])$",
        default = "0x98"
    )]
    reason: Option<String>,
}

/// Disconnects the client.
#[utoipa::path(
    delete, path = "/sessions/{connection_id}", tag = "sessions",
    params(("connection_id" = Uuid, Path, description = "Names the connection."), Kick),
    responses(
        (status = 204, description = "it was told to end"),
        (status = 404, description = "no such session"),
    )
)]
pub(super) async fn kick(
    State(admin): State<Admin>,
    id: Result<Path<Uuid>, PathRejection>,
    Parameters(Kick { reason }): Parameters<Kick>,
) -> Result<StatusCode, ApiError> {
    let Path(id) = id?;
    let reason = reason.map_or(Ok(ADMINISTRATIVE_ACTION), |reason| reason_code(&reason))?;
    if !admin.backend.kick(id, reason) {
        return Err(no_such_session());
    }
    tracing::info!(connection_id = %id, reason_code = reason, "disconnect requested by an administrator");
    Ok(StatusCode::NO_CONTENT)
}

/// A 5.0 reason code, `152` or `0x98`. Below 0x80 it would not tell the client of an error.
fn reason_code(text: &str) -> Result<u8, ApiError> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    let code = u8::from_str_radix(digits, radix).ok().filter(|code| *code >= 0x80);
    // A sign would be read, too.
    let code = code.filter(|_| !digits.starts_with('+'));
    code.ok_or_else(|| ApiError::bad("reason must be a 5.0 reason code from 0x80 to 0xff"))
}
