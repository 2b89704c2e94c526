//! A session that is offered to another process, over sockets, as only those go over.

use std::future::poll_fn;

use tokio::sync::oneshot;

use super::*;
use crate::handover::{NotOffered, OfferRequest, OfferedSession};

const SOON: Duration = Duration::from_secs(10);

/// Runs until it is over, or another process has gone on with it.
async fn until_released(mut relay: Relay<TcpStream>) -> Option<Box<Fault>> {
    poll_fn(|cx| match relay.poll_released(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => Pin::new(&mut relay).poll(cx).map(Some),
    })
    .await
}

struct SocketScene {
    client: TcpStream,
    broker: TcpStream,
    handle: Arc<Handle>,
    relay: JoinHandle<Option<Box<Fault>>>,
}

async fn said(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).await.unwrap();
    hears(to, bytes).await;
}

async fn hears(to: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    tokio::time::timeout(SOON, to.read_exact(&mut got)).await.expect("it comes").unwrap();
    assert!(got == bytes, "{got:02x?}");
}

async fn open() -> SocketScene {
    let ((mut client, ours), (mut broker, theirs)) = (tcp_pair().await, tcp_pair().await);
    let (relay, handle) = relay(Chain::default(), ours, Some(theirs));
    let relay = tokio::spawn(until_released(relay));
    said(&mut client, &mut broker, CONNECT).await;
    said(&mut broker, &mut client, CONNACK).await;
    SocketScene { client, broker, handle, relay }
}

async fn offered(handle: &Handle) -> Result<OfferedSession, NotOffered> {
    let (answer, offered) = oneshot::channel();
    handle.offer(OfferRequest { answer });
    tokio::time::timeout(SOON, offered).await.expect("it answers").expect("its task is there")
}

/// As another process goes on with it.
fn resumed(offered: OfferedSession) -> (Relay<TcpStream>, Arc<Handle>, oneshot::Sender<()>) {
    let OfferedSession { session, unread, unwritten, sockets, release } = offered;
    let streams =
        sockets.map(|socket| TcpStream::from_std(std::net::TcpStream::from(socket.descriptor)).unwrap());
    let now = tokio::time::Instant::now().into_std();
    let setting = setting(Arc::default(), Arc::new(Nobody), Chain::default());
    let session = Session::import(&session, setting, now).unwrap();
    let handle = Arc::new(Handle::new(&session.peer().unwrap().origin));
    let host = Arc::new(Pipe(Mutex::new(None), Mutex::default()));
    let (unread, unwritten) = (unread.map(Into::into), unwritten.map(Into::into));
    let resumed = ResumedStreams { streams, unread, unwritten };
    (Relay::resumed(resumed, session, Arc::clone(&handle), host, now), handle, release)
}

#[tokio::test]
async fn another_process_goes_on_where_this_one_stopped() {
    let mut scene = open().await;
    // Half a packet is read, and a large one waits for a client that does not read.
    scene.client.write_all(&PUBLISH_1[..5]).await.unwrap();
    let waiting = [&[0x30, 0xC3, 0x84, 0x3D, 0, 1, b't'][..], &vec![7; 1_000_000]].concat();
    scene.broker.write_all(&waiting[..800_000]).await.ok();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let offer = offered(&scene.handle).await.unwrap();
    // From here on it stands still, whatever comes.
    scene.client.write_all(&PUBLISH_1[5..]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(scene.broker.try_read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);

    let (relay, handle, release) = resumed(offer);
    release.send(()).unwrap();
    assert!(scene.relay.await.unwrap().is_none(), "nothing is told of an end");
    let relay = tokio::spawn(until_released(relay));
    hears(&mut scene.broker, PUBLISH_1).await;
    let rest = waiting[800_000..].to_vec();
    let (written, ()) = tokio::join!(scene.broker.write_all(&rest), hears(&mut scene.client, &waiting));
    written.unwrap();
    said(&mut scene.broker, &mut scene.client, PUBACK_1).await;
    assert_eq!(handle.peer().map(|peer| peer.client_id.clone()), Some("a".into()));
    drop((scene.client, scene.broker));
    assert!(relay.await.unwrap().is_some());
}

#[tokio::test]
async fn an_offer_that_nobody_takes_changes_nothing() {
    let mut scene = open().await;
    for _ in 0..3 {
        scene.client.write_all(&PUBLISH[..3]).await.unwrap();
        let offer = offered(&scene.handle).await.unwrap();
        scene.client.write_all(&PUBLISH[3..]).await.unwrap();
        scene.handle.send(ConnectionCommand::Evict);
        drop(offer);
        hears(&mut scene.broker, PUBLISH).await;
        said(&mut scene.broker, &mut scene.client, PUBLISH).await;
    }
    scene.relay.abort();
}

#[tokio::test]
async fn what_reaches_a_session_that_stands_still_keeps_it_here() {
    let mut scene = open().await;
    let offer = offered(&scene.handle).await.unwrap();
    scene.handle.send(ConnectionCommand::Kick(mproxy_codec::reason::ReasonCode::ADMINISTRATIVE_ACTION));
    assert!(!scene.handle.close_to_hand_over());
    drop(offer);
    assert_eq!(scene.client.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    drop((scene.client, scene.broker));
    assert!(matches!(scene.relay.await.unwrap().as_deref(), Some(Fault::Kicked { .. })));
}

#[tokio::test]
async fn a_session_that_opens_ends_or_has_no_sockets_is_not_offered() {
    let (_client, ours) = tcp_pair().await;
    let (relay, handle) = relay(Chain::default(), ours, None);
    let opening = tokio::spawn(until_released(relay));
    assert_eq!(offered(&handle).await.err(), Some(NotOffered::NotOpen));
    opening.abort();

    let scene = open().await;
    scene.handle.send(ConnectionCommand::Drain);
    // Nothing is in flight: it ends at once, and waits for nobody but the peers.
    assert!(matches!(offered(&scene.handle).await.err(), Some(NotOffered::NotOpen)));
    scene.relay.abort();

    let in_memory = super::open(1 << 10).await;
    assert_eq!(offered(&in_memory.handle).await.err(), Some(NotOffered::Transport));
    in_memory.relay.abort();
}
