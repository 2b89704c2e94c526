//! Who may what.
//!
//! - Health and metrics are for everybody who reaches the port; details (names of files, addresses, what went wrong) only
//!   for those who may use the API.
//! - A client certificate, where the port asks for one, opens the port and no more: whoever scrapes has one, too.
//! - With a token set, everything under `/api/` needs it. No web page knows it, so nothing else is looked at.
//! - Without one, only callers on this machine may use the API. A browser on this machine is such a caller, too, and may
//!   be showing a page of somebody else, under a host name that somebody made point here. So the `Host` must be one that
//!   nobody else can name, and a change must not be asked for by a page of another origin.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::Admin;
use super::door::CallerScheme;
use super::problem::ApiError;
use super::upgrade;
use crate::config::Secret;

/// Lets a request to the API pass, or answers it.
pub(super) async fn admit(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    match may_ask(&admin, &request) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

/// Whether the caller may use the API.
pub(super) fn may_ask<B>(admin: &Admin, request: &Request<B>) -> Result<(), ApiError> {
    match admin.in_force.token() {
        Some(token) => shows(request.headers(), &token),
        None => is_near(request, &admin.host),
    }
}

const fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn shows(headers: &HeaderMap, token: &Secret) -> Result<(), ApiError> {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, credentials) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(credentials)
    });
    // Comparing byte by byte until the first difference would tell a caller how far it guessed right.
    let is_right = shown.is_some_and(|shown| bool::from(shown.ct_eq(token.expose().as_bytes())));
    if is_right { Ok(()) } else { Err(ApiError::new(StatusCode::UNAUTHORIZED, "bearer token required")) }
}

fn is_near<B>(request: &Request<B>, own: &str) -> Result<(), ApiError> {
    let refuse = |text: &str| Err(ApiError::new(StatusCode::FORBIDDEN, text));
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    // A socket for both kinds of addresses tells of 127.0.0.1 as ::ffff:127.0.0.1.
    if !peer.is_some_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback()) {
        return refuse("without MPROXY_ADMIN_TOKEN only callers on this machine may use the API");
    }
    // Against DNS rebinding: a page whose name was made to point here still sends that name. Browsers send one
    // always; a caller without is none.
    let mut hosts = request.headers().get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    // A request may name its host in the first line, and then Host does not count (RFC 9112, 3.2.2).
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if !hosts.all(|host| is_ours(host, own)) || !authority.is_none_or(|host| is_ours(host, own)) {
        return refuse(
            "without MPROXY_ADMIN_TOKEN the Host header must be an IP address, localhost or MPROXY_ADMIN_HOST",
        );
    }
    let scheme = request.extensions().get().copied().unwrap_or(CallerScheme::Http);
    if !is_safe(request.method()) && comes_from_elsewhere(request.headers(), scheme, own) {
        return refuse("web pages of other origins may not change anything");
    }
    Ok(())
}

/// Whether a browser sends this for a page that is not ours.
fn comes_from_elsewhere(headers: &HeaderMap, scheme: CallerScheme, own: &str) -> bool {
    // Browsers send it with whatever may change something; curl sends none.
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    // A page that was served otherwise is never its own.
    let origin = origin.as_bytes().strip_prefix(scheme.prefix());
    !host.is_some_and(|host| origin == Some(host) && is_ours(host, own))
}

/// Whether a browser asks this for a page of another site (Fetch Metadata). Such a page cannot read an answer, but could have
/// one that is dear to make be made for as long as it is open.
pub(super) fn is_cross_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    matches!(site, Some(b"cross-site" | b"same-site"))
}

/// Whether nobody else can make this authority lead here: names can be made to, addresses cannot.
fn is_ours(authority: &[u8], own: &str) -> bool {
    let Ok(authority) = std::str::from_utf8(authority) else { return false };
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let host =
        authority.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(authority, |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost") || bare.eq_ignore_ascii_case(own) || bare.parse::<IpAddr>().is_ok()
}

/// What may be asked while an upgrade is under way, although it is no question: it changes nothing that the new process would
/// have to know, or is about the upgrade itself.
const DURING_UPGRADE: [&str; 3] = ["/upgrade", "/drain", "/explain"];

/// Refuses changes while an upgrade is under way: they would be made in a process that gives its place to another one, which
/// has read what there was before.
pub(super) async fn change(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if is_safe(request.method()) || DURING_UPGRADE.iter().any(|end| path.ends_with(end)) {
        return next.run(request).await;
    }
    let Some(_change) = admin.backend.begin_change() else {
        let text = "an upgrade is under way, and nothing was changed; ask again when it is over";
        return ApiError::new(StatusCode::CONFLICT, text).into_response();
    };
    next.run(request).await
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
        return ApiError::new(StatusCode::URI_TOO_LONG, "the address is too long").into_response();
    }
    let longest = if uri.path() == upgrade::PATH { upgrade::ANSWERED_WITHIN } else { LONGEST_REQUEST };
    match tokio::time::timeout(longest, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response(),
    }
}
