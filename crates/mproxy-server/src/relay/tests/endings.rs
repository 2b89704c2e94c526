//! How connections end: half closed, after DISCONNECT, cut, and with peers that do not close.

use super::*;

#[tokio::test]
async fn a_half_close_is_passed_on_and_the_answers_come_back() {
    let mut scene = open(1 << 10).await;
    scene.client.write_all(PUBLISH_1).await.unwrap();
    scene.client.shutdown().await.unwrap();
    let mut got = Vec::new();
    scene.broker.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, PUBLISH_1);
    // More than fits on the way at once: it is written to the end.
    let many = [PUBACK_1, &PUBLISH.repeat(1000)].concat();
    broker_sends_and_closes(&mut scene, &many).await;
    assert!(matches!(*scene.relay.await.unwrap(), Fault::Lost { side: Side::Client, how: Closed::Eof }));
}

#[tokio::test]
async fn after_disconnect_the_client_hears_the_broker_until_that_closes() {
    let mut scene = open(1 << 10).await;
    let last = [PUBLISH_1, DISCONNECT].concat();
    scene.client.write_all(&[&last, PUBLISH].concat()).await.unwrap();
    expect(&mut scene.broker, &last).await;
    scene.broker.write_all(PUBACK_1).await.unwrap();
    expect(&mut scene.client, PUBACK_1).await;
    scene.broker.shutdown().await.unwrap();
    let mut rest = Vec::new();
    scene.client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
    scene.broker.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"", "nothing follows a DISCONNECT");
    drop(scene.client);
    assert!(matches!(*scene.relay.await.unwrap(), Fault::Left { .. }));
}

#[tokio::test]
async fn a_client_that_is_gone_after_disconnect_ends_the_session_with_its_broker() {
    let mut scene = open(1 << 10).await;
    scene.client.write_all(&[PUBLISH_1, DISCONNECT].concat()).await.unwrap();
    drop(scene.client);
    let mut got = Vec::new();
    scene.broker.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, [PUBLISH_1, DISCONNECT].concat());
    assert!(!scene.relay.is_finished(), "the broker may still answer");
    scene.broker.write_all(PUBACK_1).await.unwrap();
    drop(scene.broker);
    assert!(matches!(*scene.relay.await.unwrap(), Fault::Left { .. }));
}

#[tokio::test]
async fn a_cut_waits_for_nobody_not_even_for_a_half_closed_client() {
    for half_closed in [false, true] {
        let mut scene = open(1 << 10).await;
        if half_closed {
            scene.client.shutdown().await.unwrap();
            let mut rest = Vec::new();
            scene.broker.read_to_end(&mut rest).await.unwrap();
        }
        scene.handle.send(ConnectionCommand::Cut);
        let ended = tokio::time::timeout(Duration::from_secs(5), scene.relay).await;
        ended.expect("at once").unwrap();
    }
}

#[tokio::test]
async fn a_client_that_does_not_close_keeps_its_socket_and_not_its_session() {
    for broker_closes in [true, false] {
        let (mut broker, theirs) = duplex(1 << 10);
        let (mut client, ours) = duplex(1 << 10);
        let pipe = Arc::new(Pipe(Mutex::new(Some(theirs)), Mutex::default()));
        let (mut relay, handle) =
            reporting_to(Arc::new(Listening), Arc::clone(&pipe), Chain::default(), ours);
        let play = async {
            client.write_all(CONNECT).await.unwrap();
            expect(&mut broker, CONNECT).await;
            broker.write_all(CONNACK).await.unwrap();
            expect(&mut client, CONNACK).await;
            if broker_closes {
                broker.write_all(PUBLISH).await.unwrap();
                broker.shutdown().await.unwrap();
            } else {
                handle.send(ConnectionCommand::Kick(mproxy_codec::reason::ReasonCode::ADMINISTRATIVE_ACTION));
            }
        };
        let both = async { tokio::join!(&mut relay, play).0 };
        let fault = tokio::time::timeout(Duration::from_secs(2), both).await.expect("nobody is waited for");
        assert_eq!(fault.by(), if broker_closes { Party::Broker } else { Party::Administrator });
        assert_eq!(*pipe.1.lock(), [Kind::Connect, Kind::Disconnect]);
        let partings: Vec<_> = relay.partings().collect();
        assert_eq!(partings.len(), if broker_closes { 1 } else { 2 });
        assert!(partings.iter().all(|parting| parting.shut));
        drop(relay);
        // The last word is there, and what is still sent is no error.
        client.write_all(PUBLISH).await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, if broker_closes { PUBLISH } else { b"" });
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_meant_for_a_client_that_reads_slowly_is_written_before_its_session_is_over() {
    let mut scene = open(64).await;
    let many = PUBLISH.repeat(1000);
    scene.broker.write_all(&many).await.unwrap();
    scene.broker.shutdown().await.unwrap();
    // Shorter than the close deadline.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!scene.relay.is_finished());
    expect(&mut scene.client, &many).await;
    let begun = tokio::time::Instant::now();
    scene.relay.await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
}
