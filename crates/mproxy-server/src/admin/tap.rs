//! Packets as they pass, as server-sent events, until the caller goes or mproxy ends.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::{Extension, response::IntoResponse};
use futures_util::FutureExt as _;
use futures_util::stream::unfold;
use mproxy_codec::topic::check_filter;
use mproxy_codec::types::PacketType;
use mproxy_core::Side;
use mproxy_policy::nearest;
use serde::Deserialize;
use tokio::time::sleep;
use uuid::Uuid;

use super::Admin;
use super::guard::is_cross_site;
use super::long_answer::{LongAnswer, LongAnswers};
use super::parameters::Parameters;
use super::problem::ApiError;
use super::value_form::one_of;
use crate::telemetry::taps::{
    MOST_PAYLOAD, MOST_RATE, MOST_TAPS, OpenTap, TapEvent, TapRequest, TapSelection, USUAL_RATE,
};

/// A caller that hears nothing for so long is told that the tap is still there, and is missed if it is not there itself.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Whether the one connection of a tap is still there, which is seldom news.
const LOOKED_AT: Duration = Duration::from_millis(500);

/// Which packets, and how much of them.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TapParameters {
    /// Of clients with exactly this client identifier, once they are connected.
    client_id: Option<String>,
    /// Of this connection.
    connection_id: Option<Uuid>,
    /// Of clients with exactly this user name.
    username: Option<String>,
    /// Of clients of the listener of this name.
    listener: Option<String>,
    /// PUBLISH packets to a topic that this topic filter matches, and SUBSCRIBE and UNSUBSCRIBE packets with a filter that
    /// contains it or is contained in it. No others.
    filter: Option<String>,
    /// Of these types: `publish,puback`.
    r#type: Option<String>,
    /// From the `client`, or from the `broker`.
    #[param(pattern = "^(client|broker)$")]
    from: Option<String>,
    /// Bytes of each payload that are shown.
    #[param(minimum = 0, maximum = 4096, default = 0)]
    payload: Option<usize>,
    /// Events in a second, at most; what is more is lost and counted.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    rate: Option<u32>,
}

impl TapParameters {
    fn request(self) -> Result<TapRequest, ApiError> {
        if let Some(filter) = &self.filter {
            check_filter(filter).map_err(|error| ApiError::bad(format!("filter: {error}")))?;
        }
        let payload = self.payload.unwrap_or(0);
        if payload > MOST_PAYLOAD {
            return Err(ApiError::bad(format!("payload must be a number of bytes from 0 to {MOST_PAYLOAD}")));
        }
        let rate = self.rate.unwrap_or(USUAL_RATE);
        if !(1..=MOST_RATE).contains(&rate) {
            return Err(ApiError::bad(format!("rate must be a number from 1 to {MOST_RATE}")));
        }
        let selection = TapSelection {
            connection_id: self.connection_id.map(|id| id.as_u128()),
            client_id: self.client_id,
            username: self.username,
            listener: self.listener,
            filter: self.filter,
            types: self.r#type.as_deref().map(packet_types).transpose()?.unwrap_or_default(),
            from: self.from.as_deref().map(side).transpose()?,
        };
        Ok(TapRequest { selection, payload, rate })
    }
}

/// `publish,puback`, in any case.
fn packet_types(text: &str) -> Result<Vec<PacketType>, ApiError> {
    let parse = |word: &str| {
        let known = PacketType::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(word));
        known.ok_or_else(|| {
            let names = PacketType::ALL.map(PacketType::name);
            let near = nearest(&word.to_ascii_uppercase(), names).map(str::to_ascii_lowercase);
            let near = near.map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            let all = one_of(&names).to_ascii_lowercase();
            ApiError::bad(format!("unknown type {word:?}: it must be {all}{near}"))
        })
    };
    text.split(',').map(|word| parse(word.trim())).collect()
}

fn side(text: &str) -> Result<Side, ApiError> {
    match text {
        "client" => Ok(Side::Client),
        "broker" => Ok(Side::Broker),
        _ => Err(ApiError::bad("from must be client or broker")),
    }
}

/// Packets as they pass, as server-sent events: `packet`, `refusal`, `lost`, `end`. See docs/admin.md.
#[utoipa::path(
    get, path = "/tap", tag = "sessions", params(TapParameters),
    responses(
        (status = 200, description = "events, until the caller closes the connection", body = String,
            content_type = "text/event-stream"),
        (status = 404, description = "there is no such connection"),
        (status = 429, description = "too many taps are open"),
    )
)]
pub(super) async fn tap(
    State(admin): State<Admin>,
    answers: Option<Extension<LongAnswers>>,
    headers: HeaderMap,
    Parameters(parameters): Parameters<TapParameters>,
) -> Result<impl IntoResponse, ApiError> {
    if is_cross_site(&headers) {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "web pages of other sites may not watch"));
    }
    if let Some(id) = parameters.connection_id.filter(|id| !admin.backend.has_session(*id)) {
        return Err(ApiError::new(StatusCode::NOT_FOUND, format!("no such session: {id}")));
    }
    let connection_id = parameters.connection_id;
    let tap = admin.metrics.taps().open(parameters.request()?).map_err(|_| {
        let text = format!("{MOST_TAPS} taps are open; close one of them");
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, text)
    })?;
    let connection = connection_id.map(|id| (id, admin));
    let reading = TapReader { tap, connection, answer: answers.map(|Extension(answers)| answers.begin()) };
    // Fused by hand: what follows `end` is the end.
    let events = unfold(Some(reading), |reading| async {
        let mut reading = reading?;
        let event = reading.next().await;
        let more = event.is_ok().then_some(reading);
        Some((Ok::<_, Infallible>(event.map_or_else(last_event, |event| to_sse(&event))), more))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// A tap that is read.
struct TapReader {
    tap: OpenTap,
    /// The only connection that it is about, if it is about one.
    connection: Option<(Uuid, Admin)>,
    answer: Option<LongAnswer>,
}

impl TapReader {
    /// The next event, or why there is none any more.
    async fn next(&mut self) -> Result<TapEvent, &'static str> {
        let Self { tap, connection, answer } = self;
        let stopped = async {
            match answer {
                Some(answer) => answer.ended().await,
                None => pending().await,
            }
        };
        tokio::select! {
            // First: a tap that always has something to tell ends, too.
            biased;
            () = stopped => Err("mproxy is stopping"),
            event = tap.next() => Ok(event),
            // What it told last was told before it left: between the look above and this one.
            () = left(connection.as_ref()) => tap.next().now_or_never().ok_or("the connection is closed"),
        }
    }
}

/// Until this connection is gone, which never comes back under its id.
async fn left(connection: Option<&(Uuid, Admin)>) {
    let Some((id, admin)) = connection else { return pending().await };
    while admin.backend.has_session(*id) {
        sleep(LOOKED_AT).await;
    }
}

fn to_sse(event: &TapEvent) -> Event {
    match event {
        TapEvent::Packet(json) => Event::default().event("packet").data(json),
        TapEvent::Refusal(json) => Event::default().event("refusal").data(json),
        TapEvent::Lost(count) => Event::default().event("lost").data(format!(r#"{{"count":{count}}}"#)),
    }
}

fn last_event(reason: &'static str) -> Event {
    Event::default().event("end").data(format!(r#"{{"reason":"{reason}"}}"#))
}
