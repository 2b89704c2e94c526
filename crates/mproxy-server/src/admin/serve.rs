//! Serving HTTP/1.1 such that no caller can hang it, nor keep others out: each of heads, requests, answers and
//! connections has a time in which it must be done, and whoever comes when all places are taken gets the place of the
//! oldest caller of the address with the most. So a caller who is soon done is served whoever else is there. A TLS handshake
//! is done at such a place, too.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::door::{AdminDoor, CallerScheme, CallerStream};
use super::long_answer::LongAnswers;
use super::{Admin, router};
use crate::descriptors;
use crate::share::crowd::Crowd;

/// Callers at once.
pub(super) const MOST_CALLERS: usize = 128;

/// For a request's head, and between two requests of one connection.
const LONGEST_HEAD: Duration = Duration::from_secs(10);

/// For a connection without a tap. A scraper comes back; a caller who never reads its answer does not keep its place.
const LONGEST_CONNECTION: Duration = Duration::from_secs(120);

/// For a connection that was told to end.
const LONGEST_GOODBYE: Duration = Duration::from_secs(5);

/// After a failed accept, which is mostly a want of file descriptors that a turn of the loop will not mend.
const PAUSE: Duration = Duration::from_millis(50);

/// Bytes of a request's head.
const LARGEST_HEAD: usize = 16 << 10;

/// Serves until `shutdown` is done, then lets what runs end. The task is done when nobody is left.
pub fn serve(
    listener: TcpListener,
    admin: Admin,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let door = AdminDoor::new(admin.in_force.clone());
    tokio::spawn(accept(listener, door, router(admin), shutdown))
}

async fn accept(listener: TcpListener, door: AdminDoor, router: Router, shutdown: impl Future<Output = ()>) {
    let callers = Arc::<Crowd>::default();
    let (end, ending) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    let mut fails = false;
    // Raised by then as far as it may.
    let most = descriptors::callers(descriptors::limit(), MOST_CALLERS);
    loop {
        // Losing either future loses nothing: an accepted stream comes only with readiness.
        let accepted = tokio::select! {
            // Nobody comes in after it.
            biased;
            () = &mut shutdown => break,
            // Tasks that have ended would stay in the set.
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                fails = false;
                let whose = peer.ip().into();
                if callers.len() >= most {
                    // There is always somebody to go: also of its own address, for honest callers are soon done.
                    callers.make_room(whose, 0);
                }
                let evicted = CancellationToken::new();
                let member = callers.enter(whose, Arc::new(evicted.clone()));
                let call = call(stream, peer, door.clone(), router.clone(), ending.clone());
                tasks.spawn(async move {
                    let _member = member;
                    match evicted.run_until_cancelled(call).await {
                        Some(Ok(())) => {}
                        Some(Err(error)) => {
                            tracing::trace!(peer_addr = %peer, %error, "admin connection failed")
                        }
                        None => {
                            tracing::debug!(peer_addr = %peer, "admin connection closed: too many at once")
                        }
                    }
                });
            }
            Err(error) => {
                // Once, not with each try.
                if !fails {
                    tracing::warn!(%error, "admin API: accept failed, trying again");
                }
                fails = true;
                sleep(PAUSE).await;
            }
        }
    }
    // First: nobody else comes while those who are there end.
    drop(listener);
    end.send_replace(true);
    while tasks.join_next().await.is_some() {}
}

async fn call(
    stream: TcpStream,
    peer: SocketAddr,
    door: AdminDoor,
    router: Router,
    ending: watch::Receiver<bool>,
) -> io::Result<()> {
    // Answers are small and written at once; waiting to fill a segment only delays them.
    stream.set_nodelay(true)?;
    match door.enter(stream, peer).await {
        Some(CallerStream::Plain(stream)) => answer(stream, peer, CallerScheme::Http, router, ending).await,
        Some(CallerStream::Tls(stream)) => answer(*stream, peer, CallerScheme::Https, router, ending).await,
        None => Ok(()),
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    scheme: CallerScheme,
    router: Router,
    mut ending: watch::Receiver<bool>,
) -> io::Result<()> {
    let answers = LongAnswers::new(ending.clone());
    let known = answers.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(scheme);
        request.extensions_mut().insert(known.clone());
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        // hyper has no clock of its own, and panics over a deadline without one.
        .timer(TokioTimer::new())
        .header_read_timeout(LONGEST_HEAD)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            done = connection.as_mut() => return done.map_err(io::Error::other),
            // A caller that takes what it is told may listen for as long as it likes.
            () = sleep(LONGEST_CONNECTION) => if !answers.is_running() { break },
            _ = ending.wait_for(|ending| *ending) => break,
        }
    }
    // What is being answered is answered to its end.
    connection.as_mut().graceful_shutdown();
    match timeout(LONGEST_GOODBYE, connection).await {
        Ok(done) => done.map_err(io::Error::other),
        Err(late) => Err(late.into()),
    }
}
