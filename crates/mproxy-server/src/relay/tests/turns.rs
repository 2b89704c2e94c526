//! Dials in turns: who dials next waits until the broker has spoken to whoever dialled before.

use std::net::IpAddr;

use futures_util::FutureExt as _;

use super::*;
use crate::share::turns::Turns;

/// A host whose dials keep a turn, for as long as nobody answers.
struct OneAtATime(Arc<Turns>, Mutex<Option<DuplexStream>>);

fn whose() -> crate::share::Neighbours {
    IpAddr::from([192, 0, 2, 1]).into()
}

impl RelayHost<DuplexStream> for OneAtATime {
    fn dial(self: Arc<Self>, _: &Arc<Origin>, _: Instant) -> Dialing<DuplexStream> {
        Box::pin(async move {
            let turn = self.0.take(whose()).await;
            let stream = self.1.lock().take().ok_or_else(|| Unreachable::away("nobody is there"))?;
            Ok(Dialed { stream, unanswered: Some(Unanswered::new(turn, Duration::from_secs(3600))) })
        })
    }

    fn report(&self, _: Event) {}
}

#[tokio::test]
async fn a_turn_to_dial_is_over_with_the_broker_s_first_packet() {
    let (turns, (mut broker, theirs), (mut client, ours)) = (Turns::new(1), duplex(1 << 10), duplex(1 << 10));
    let host = Arc::new(OneAtATime(Arc::clone(&turns), Mutex::new(Some(theirs))));
    let (relay, _handle) = within(Arc::default(), Arc::new(Nobody), host, Chain::default(), ours);
    let relay = tokio::spawn(relay);
    client.write_all(CONNECT).await.unwrap();
    expect(&mut broker, CONNECT).await;
    assert!(turns.take(whose()).now_or_never().is_none(), "it is connected, and may not be accepted");
    broker.write_all(CONNACK).await.unwrap();
    expect(&mut client, CONNACK).await;
    assert!(turns.take(whose()).now_or_never().is_some());
    drop((client, broker));
    relay.await.unwrap();
}
