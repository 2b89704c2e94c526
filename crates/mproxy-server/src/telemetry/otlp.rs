//! The way to a collector of traces or logs: OTLP over gRPC, by the same tonic as the hook service's, or over HTTP/1.1. A
//! connection is made when there is something to send.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use mproxy_tcp::tls::{Material as _, read_text};
use opentelemetry::KeyValue;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_sdk::Resource;
use tokio::runtime::Handle;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::config::Otel;
use crate::config::otel::{Signal, deadline, request_headers, target, tls};

/// A connection that nobody answers to is given up after so long: without it, that is the kernel's two minutes.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// An exporter of the OTLP library, whose builders have the same methods and nothing else in common.
macro_rules! otlp_exporter {
    ($exporter:ty, $otel:expr, $signal:expr) => {{
        use opentelemetry_otlp::{
            Protocol, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
        };
        use $crate::config::otel::{OtlpProtocol, deadline, post_url, protocol};
        use $crate::telemetry::otlp;

        let (otel, signal) = ($otel, $signal);
        let builder = <$exporter>::builder();
        match protocol(otel, signal) {
            Some(OtlpProtocol::Http) => builder
                .with_http()
                .with_http_client(otlp::http_client(otel, signal)?)
                .with_protocol(Protocol::HttpBinary)
                .with_endpoint(post_url(otel, signal).unwrap_or_default())
                .with_headers(otlp::header_map(otel, signal))
                .with_timeout(deadline(otel, signal))
                .build()?,
            Some(OtlpProtocol::Grpc) | None => builder
                .with_tonic()
                .with_channel(otlp::channel(otel, signal)?)
                .with_metadata(otlp::metadata(otel, signal))
                .with_timeout(deadline(otel, signal))
                .build()?,
        }
    }};
}
pub(super) use otlp_exporter;

/// gRPC to where this signal goes.
pub(super) fn channel(otel: &Otel, signal: Signal) -> anyhow::Result<Channel> {
    let endpoint = target(otel, signal).context("no endpoint")?;
    let within = deadline(otel, signal);
    let mut target = Endpoint::from_shared(endpoint.to_owned())?
        .connect_timeout(CONNECT_WITHIN.min(within))
        .timeout(within);
    if let Some(tls) = tls(otel, signal) {
        let mut config = ClientTlsConfig::new();
        config = match &tls.roots {
            Some(path) => config.ca_certificate(Certificate::from_pem(read_text(path)?)),
            None => config.with_native_roots(),
        };
        if let Some(own) = &tls.identity {
            config = config.identity(Identity::from_pem(read_text(&own.cert)?, read_text(&own.key)?));
        }
        target = target.tls_config(config)?;
    }
    Ok(target.connect_lazy())
}

/// What goes with each request over gRPC.
pub(super) fn metadata(otel: &Otel, signal: Signal) -> MetadataMap {
    MetadataMap::from_headers(request_headers(otel, signal).into_iter().collect())
}

/// The same over HTTP.
pub(super) fn header_map(otel: &Otel, signal: Signal) -> HashMap<String, String> {
    let headers = request_headers(otel, signal).into_iter();
    headers.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned()))).collect()
}

/// HTTP for this signal. Call it inside a tokio runtime.
pub(super) fn http_client(otel: &Otel, signal: Signal) -> anyhow::Result<OnRuntime> {
    let within = deadline(otel, signal);
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_WITHIN.min(within)));
    let client: Arc<dyn HttpClient> = match tls(otel, signal) {
        None => Arc::new(HyperClient::new(connector, within, None)),
        Some(tls) => {
            // It only connects: TLS stands above it.
            connector.enforce_http(false);
            let https = HttpsConnectorBuilder::new().with_tls_config(tls.build()?).https_only();
            Arc::new(HyperClient::new(https.enable_http1().wrap_connector(connector), within, None))
        }
    };
    Ok(OnRuntime { client, runtime: Handle::current() })
}

/// A client whose requests are sent on our runtime: the SDK's own threads have none.
#[derive(Debug)]
pub(super) struct OnRuntime {
    client: Arc<dyn HttpClient>,
    runtime: Handle,
}

#[tonic::async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = Arc::clone(&self.client);
        // It has a deadline of its own, should nobody wait for it any more.
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}

/// Who we are. What the environment says besides, the SDK reads itself.
pub(super) fn resource(otel: &Otel, instance: &str) -> Resource {
    let written = otel.resource_attributes.iter().flatten();
    let written: Vec<_> = written.map(|(name, value)| KeyValue::new(name.clone(), value.clone())).collect();
    let named = written.iter().find(|attribute| attribute.key.as_str() == "service.name");
    let name = otel.service_name.clone().or_else(|| named.map(|attribute| attribute.value.to_string()));
    Resource::builder()
        .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(written)
        .with_service_name(name.unwrap_or_else(|| "mproxy".to_owned()))
        .build()
}
