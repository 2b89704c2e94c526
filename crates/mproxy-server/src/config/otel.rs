//! What the settings of traces come to together: where they go, what goes with them, what is sampled.

use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use mproxy_tcp::tls::{ClientTls, Identity};

use super::{Otel, value};

/// Where traces go; `None`: there are none.
#[must_use]
pub fn target(otel: &Otel) -> Option<&str> {
    let is_on = !otel.disabled && otel.exporter != "none";
    otel.traces_endpoint.as_deref().or(otel.endpoint.as_deref()).filter(|_| is_on)
}

/// How long a request may take.
#[must_use]
pub fn deadline(otel: &Otel) -> Duration {
    otel.traces_timeout.unwrap_or(otel.timeout)
}

/// What goes with each request.
#[must_use]
pub fn request_headers(otel: &Otel) -> Vec<(HeaderName, HeaderValue)> {
    let text = otel.traces_headers.as_ref().or(otel.headers.as_ref());
    // Read before, when they were checked.
    text.map(|text| value::headers(text.expose()).unwrap_or_default()).unwrap_or_default()
}

/// The share of traces that a sampler by ratio takes; `None`: what is written is none.
#[must_use]
pub fn sampler_ratio(otel: &Otel) -> Option<f64> {
    match &otel.sampler_arg {
        Some(text) if otel.sampler.ends_with("traceidratio") => {
            text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
        }
        _ => Some(1.0),
    }
}

/// The certificates of an endpoint that is reached over TLS.
#[must_use]
pub fn tls(otel: &Otel) -> Option<ClientTls> {
    let identity = otel.cert.clone().zip(otel.key.clone());
    target(otel)?.starts_with("https:").then(|| ClientTls {
        roots: otel.ca_certs.clone(),
        identity: identity.map(|(cert, key)| Identity { cert, key, ocsp: None }),
        ..ClientTls::default()
    })
}
