//! Clients that have to wait for room in a budget, and are gone before there is any.

use super::*;

/// Others hold all that may be held, and a client over TCP had to wait for room.
struct Scarce {
    client: TcpStream,
    broker: TcpStream,
    relay: JoinHandle<Box<Fault>>,
    total: Arc<Scope>,
    others: Arc<Purse>,
}

impl Scarce {
    /// Because of this packet, which may be its first.
    async fn waits(packet: &[u8]) -> Self {
        const ALL: usize = 1 << 20;
        let total = Arc::new(Scope::new(ALL));
        let budget = Arc::new(Budget::new(ALL, 2 * ALL, Arc::clone(&total)));
        let others = Purse::new(&budget, std::net::IpAddr::from([127, 0, 0, 1]).into());
        assert!(others.hold(ALL));
        let ((mut client, ours), (mut broker, theirs)) = (tcp_pair().await, tcp_pair().await);
        let host = Arc::new(Pipe(Mutex::new(Some(theirs)), Mutex::default()));
        let relay = tokio::spawn(within(budget, Arc::new(Nobody), host, Chain::default(), ours).0);
        if packet[0] != CONNECT[0] {
            let mut got = [0; CONNECT.len()];
            client.write_all(CONNECT).await.unwrap();
            broker.read_exact(&mut got).await.unwrap();
            broker.write_all(CONNACK).await.unwrap();
            client.read_exact(&mut got[..CONNACK.len()]).await.unwrap();
        }
        client.write_all(packet).await.unwrap();
        until(|| total.times_spent() > 0).await;
        assert_eq!(total.held(), ALL + STEP, "the beginning of it is held, and no more");
        Self { client, broker, relay, total, others }
    }

    /// The session ends, though there is no more room than before.
    async fn ends(self) -> Box<Fault> {
        until(|| self.total.held() == self.others.held()).await;
        drop(self.broker);
        tokio::time::timeout(Duration::from_secs(5), self.relay).await.expect("at once").unwrap()
    }
}

/// Larger than what each has of its own.
fn large_connect() -> Vec<u8> {
    let name = make::long_string(60_000);
    make::connect(
        make::Version::V311,
        "a",
        &make::ConnectOptions { username: Some(&name), ..Default::default() },
    )
}

/// The same of a client that has been admitted.
fn large_subscribe() -> Vec<u8> {
    make::subscribe(make::Version::V311, 1, &[("some/room", 0); 4_000])
}

async fn until(so: impl Fn() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("it comes to that");
}

#[tokio::test]
async fn who_waits_for_room_and_is_gone_is_not_waited_for() {
    for packet in [large_connect(), large_subscribe()] {
        let mut scarce = Scarce::waits(&packet).await;
        // With a reset, behind bytes that nobody reads.
        scarce.client.set_zero_linger().unwrap();
        scarce.client = tcp_pair().await.0;
        let ended = scarce.ends().await;
        assert!(matches!(*ended, Fault::Lost { side: Side::Client, how: Closed::Error(_) }), "{ended}");
    }
}

#[tokio::test]
async fn a_stranger_that_waits_for_room_and_says_no_more_is_not_waited_for() {
    let mut scarce = Scarce::waits(&large_connect()).await;
    scarce.client.shutdown().await.unwrap();
    let ended = scarce.ends().await;
    assert!(matches!(*ended, Fault::Lost { side: Side::Client, how: Closed::Eof }), "{ended}");
}

#[tokio::test]
async fn what_an_admitted_client_sent_before_it_ended_its_half_waits_for_room_and_goes_on() {
    let packet = large_subscribe();
    let mut scarce = Scarce::waits(&packet).await;
    scarce.client.shutdown().await.unwrap();
    // It has tried in vain.
    tokio::time::sleep(Duration::from_millis(250)).await;
    drop(scarce.others);
    let mut got = Vec::new();
    scarce.broker.read_to_end(&mut got).await.unwrap();
    assert!(got == packet);
    drop(scarce.broker);
    let ended = scarce.relay.await.unwrap();
    assert!(matches!(*ended, Fault::Lost { side: Side::Client, how: Closed::Eof }), "{ended}");
}
