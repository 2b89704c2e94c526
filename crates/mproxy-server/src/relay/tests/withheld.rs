//! Commands, and what waits for a client when they come.

use mproxy_codec::reason::ReasonCode;
use mproxy_core::command::{Dismissal, Order, Selector, SessionCommand};
use tokio::time::timeout;

use super::*;
use crate::orders::HandedOrder;

/// Bytes that a pipe holds.
const PIPE: usize = 1 << 10;

/// A command for this connection, and when it is reported.
fn disconnect(handle: &Handle) -> impl Future<Output = mproxy_policy::commander::CommandOutcome> + use<> {
    let dismissal = Dismissal::new(ReasonCode::ADMINISTRATIVE_ACTION);
    let order =
        HandedOrder::first(Order { selector: Selector::All, command: SessionCommand::Disconnect(dismissal) });
    handle.hand(order.another());
    order.outcome()
}

#[tokio::test(start_paused = true)]
async fn a_command_is_reported_when_what_had_left_before_is_written() {
    let mut scene = open(PIPE).await;
    let many = PUBLISH.repeat(4 << 10);
    // So much that some of it waits for the client, and little enough that all is taken.
    scene.broker.write_all(&many).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut outcome = Box::pin(disconnect(&scene.handle));
    assert!(timeout(Duration::from_millis(500), &mut outcome).await.is_err(), "some waits for the client");
    let mut got = vec![0; many.len() - 2 * PIPE];
    scene.client.read_exact(&mut got).await.unwrap();
    assert!(timeout(Duration::from_millis(100), &mut outcome).await.is_err(), "some still does");
    let mut rest = vec![0; PIPE];
    scene.client.read_exact(&mut rest).await.unwrap();
    let outcome = timeout(Duration::from_millis(100), outcome).await.expect("the pipe has all of it");
    assert_eq!((outcome.reach.clients, outcome.unfinished), (1, 0));
    let mut last = Vec::new();
    scene.client.read_to_end(&mut last).await.unwrap();
    assert!([got, rest, last].concat() == many);
    scene.relay.abort();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_in_time_is_cut_off_before_the_report() {
    let mut scene = open(PIPE).await;
    scene.broker.write_all(&PUBLISH.repeat(4 << 10)).await.unwrap();
    let begun = tokio::time::Instant::now();
    let outcome = disconnect(&scene.handle).await;
    assert_eq!((outcome.reach.clients, outcome.unfinished), (1, 0));
    assert!((1..2).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let mut rest = Vec::new();
    scene.client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() <= PIPE, "{} bytes came after the report", rest.len());
    drop(scene.broker);
    assert!(matches!(*scene.relay.await.unwrap(), Fault::Kicked { .. }));
}
