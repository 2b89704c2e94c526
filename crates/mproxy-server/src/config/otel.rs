//! What the settings of traces and logs by OTLP come to together: where they go, what goes with them, what is sampled.

use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use mproxy_tcp::tls::{ClientTls, Identity};

use super::{Otel, value};

/// What is sent to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Log records.
    Logs,
}

impl Signal {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Traces, Self::Logs];

    /// `"traces"` or `"logs"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Logs => "logs",
        }
    }
}

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC.
    Grpc,
    /// Protobuf in POSTs of HTTP/1.1.
    Http,
}

/// Where it goes, as it is written; `None`: nowhere.
#[must_use]
pub fn target(otel: &Otel, signal: Signal) -> Option<&str> {
    let (exporter, own) = match signal {
        Signal::Traces => (&otel.exporter, &otel.traces_endpoint),
        Signal::Logs => (&otel.logs_exporter, &otel.logs_endpoint),
    };
    let is_on = !otel.disabled && exporter == "otlp";
    own.as_deref().or(otel.endpoint.as_deref()).filter(|_| is_on)
}

/// Where requests go over HTTP: an endpoint for all signals is where their paths begin.
#[must_use]
pub fn post_url(otel: &Otel, signal: Signal) -> Option<String> {
    let endpoint = target(otel, signal)?;
    let own = match signal {
        Signal::Traces => &otel.traces_endpoint,
        Signal::Logs => &otel.logs_endpoint,
    };
    Some(match own {
        Some(_) => endpoint.to_owned(),
        None => format!("{}/v1/{}", endpoint.trim_end_matches('/'), signal.name()),
    })
}

/// The protocol as it is written, and by which setting.
pub(super) fn written_protocol(otel: &Otel, signal: Signal) -> (&'static str, &str) {
    let (key, own) = match signal {
        Signal::Traces => ("otel.traces_protocol", &otel.traces_protocol),
        Signal::Logs => ("otel.logs_protocol", &otel.logs_protocol),
    };
    own.as_ref().map_or(("otel.protocol", &*otel.protocol), |own| (key, &**own))
}

/// The protocol; `None`: it is not available.
#[must_use]
pub fn protocol(otel: &Otel, signal: Signal) -> Option<OtlpProtocol> {
    match written_protocol(otel, signal).1 {
        "grpc" => Some(OtlpProtocol::Grpc),
        "http/protobuf" => Some(OtlpProtocol::Http),
        _ => None,
    }
}

/// How long a request may take.
#[must_use]
pub fn deadline(otel: &Otel, signal: Signal) -> Duration {
    let own = match signal {
        Signal::Traces => otel.traces_timeout,
        Signal::Logs => otel.logs_timeout,
    };
    own.unwrap_or(otel.timeout)
}

/// What goes with each request.
#[must_use]
pub fn request_headers(otel: &Otel, signal: Signal) -> Vec<(HeaderName, HeaderValue)> {
    let own = match signal {
        Signal::Traces => &otel.traces_headers,
        Signal::Logs => &otel.logs_headers,
    };
    let text = own.as_ref().or(otel.headers.as_ref());
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
pub fn tls(otel: &Otel, signal: Signal) -> Option<ClientTls> {
    let identity = otel.cert.clone().zip(otel.key.clone());
    target(otel, signal)?.starts_with("https:").then(|| ClientTls {
        roots: otel.ca_certs.clone(),
        identity: identity.map(|(cert, key)| Identity { cert, key, ocsp: None }),
        ..ClientTls::default()
    })
}
