//! Who may what.
//!
//! - Health and metrics are for everybody who reaches the port.
//! - With a token set, everything under `/api/` needs it.
//! - Without one, everybody may look, and only loopback peers may change anything. A browser on this machine is
//!   such a peer, too, so a change that a web page of another origin asks for is refused.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::Admin;
use super::routes::Failure;
use crate::config::Secret;

/// Lets a request to the API pass, or answers it.
pub(super) async fn admit(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let verdict = match &admin.token {
        Some(token) => shows(request.headers(), token),
        None if is_safe(request.method()) => Ok(()),
        None => may_change(&request),
    };
    match verdict {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

const fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn shows(headers: &HeaderMap, token: &Secret) -> Result<(), Failure> {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, credentials) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(credentials)
    });
    // Comparing byte by byte until the first difference would tell a caller how far it guessed right.
    let is_right = shown.is_some_and(|shown| bool::from(shown.ct_eq(token.expose().as_bytes())));
    if is_right { Ok(()) } else { Err(Failure::new(StatusCode::UNAUTHORIZED, "a bearer token is needed")) }
}

fn may_change(request: &Request) -> Result<(), Failure> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let is_loopback = peer.is_some_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback());
    if !is_loopback {
        let text = "without MPROXY_ADMIN_TOKEN only callers on this machine may change anything";
        return Err(Failure::new(StatusCode::FORBIDDEN, text));
    }
    if comes_from_elsewhere(request.headers()) {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "web pages of other origins may not change anything",
        ));
    }
    Ok(())
}

/// Whether a browser sends this for a page that is not ours: it names another origin, or a host name that
/// somebody made point here.
fn comes_from_elsewhere(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
    !host.is_some_and(|host| origin == Some(host) && is_this_machine(host))
}

fn is_this_machine(authority: &str) -> bool {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let host =
        authority.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(authority, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Longer than any honest address of this API.
const LONGEST_URI: usize = 2048;

/// How long a request may take, its body included.
const LONGEST_REQUEST: Duration = Duration::from_secs(10);

/// Refuses addresses without end and ends requests that take for ever.
pub(super) async fn bound(request: Request, next: Next) -> Response {
    let uri = request.uri();
    let length = uri.path().len() + uri.query().map_or(0, str::len);
    if length > LONGEST_URI {
        return Failure::new(StatusCode::URI_TOO_LONG, "the address is too long").into_response();
    }
    match tokio::time::timeout(LONGEST_REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response(),
    }
}
