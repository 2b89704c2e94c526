//! Connections to an endpoint that speaks JSON over HTTP/1.1. There are many, each comes and goes with the calls that need it,
//! and the end of one is not the end of the service.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use super::tls::{HttpVersion, TlsDialer};
use super::watched::{Reads, SignsOfLife, WatchedStream};
use super::{UNACKNOWLEDGED_QUESTIONS, open, tls_dialer};
use crate::post::{PostChannel, PostConnector, PostStream};
use crate::remote::endpoint::{EndpointAddress, RemoteTls, RemoteTlsError};

/// Who waits for a connection has a deadline. But hyper begins some that nobody waits for any more, as another connection
/// came free for the call.
const OPENED_WITHIN: Duration = Duration::from_secs(5);

/// Makes channels to an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct JsonDialer {
    address: EndpointAddress,
    base: Arc<str>,
    /// `None`: without TLS.
    tls: Option<TlsDialer>,
}

impl JsonDialer {
    pub(super) fn new(
        address: &EndpointAddress,
        base: &Arc<str>,
        tls: &RemoteTls,
    ) -> Result<Self, RemoteTlsError> {
        let tls = tls_dialer(address, tls, HttpVersion::Http1)?;
        Ok(Self { address: address.clone(), base: Arc::clone(base), tls })
    }

    pub(super) const fn tls(&self) -> Option<&TlsDialer> {
        self.tls.as_ref()
    }

    /// A channel. `reads` is told of what comes over any of its connections.
    pub(super) fn channel(&self, gone: &CancellationToken, reads: &Arc<Reads>) -> PostChannel {
        let (dialer, reads) = (Arc::new(self.clone()), Arc::clone(reads));
        let connector = PostConnector::new(service_fn(move |_: Uri| {
            let (dialer, reads) = (Arc::clone(&dialer), Arc::clone(&reads));
            async move {
                let opened = timeout(OPENED_WITHIN, dialer.open(reads)).await;
                let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                opened.map_err(<Box<dyn Error + Send + Sync>>::from)
            }
        }));
        PostChannel::new(&self.base, connector, gone.clone())
    }

    async fn open(&self, reads: Arc<Reads>) -> io::Result<TokioIo<PostStream>> {
        let stream = open(&self.address, self.tls.as_ref(), UNACKNOWLEDGED_QUESTIONS).await?;
        let listening = SignsOfLife { reads: Some(reads), ..SignsOfLife::default() };
        Ok(TokioIo::new(PostStream::new(WatchedStream::new(stream, listening))))
    }
}
