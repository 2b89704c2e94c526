//! Dials to a broker: so many of a kind are under way at a time, and the others take turns by address. A broker whose clients
//! come back all at once would else be dialled by all of them in the same moment, and its kernel drops connections that its
//! accept queue has no room for.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use mproxy_core::fault::Unreachable;
use parking_lot::Mutex;
use tokio::time::timeout_at;

use crate::share::turns::{Taking, Turn, Turns};
use crate::telemetry::connections::ListenerMetrics;

/// So long a dial is under way after the broker's kernel has connected it, if the broker says nothing. Brokers that take long
/// to decide on a CONNECT have long accepted it by then.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_millis(100);

/// The turns to dial, by broker: listeners that have the same one share them.
#[derive(Default)]
pub(crate) struct BrokerTurns(Mutex<TurnsByBroker>);

/// By its name, and by how many dial it.
type TurnsByBroker = HashMap<(Box<str>, usize), Weak<Turns>>;

impl BrokerTurns {
    /// Those of this broker, of which so many dial at a time.
    pub(crate) fn of(&self, target: &str, most: usize) -> Arc<Turns> {
        let mut known = self.0.lock();
        known.retain(|_, turns| turns.strong_count() > 0);
        let key = (target.into(), most);
        let turns = known.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| Turns::new(most));
        known.insert(key, Arc::downgrade(&turns));
        turns
    }
}

/// Waits for a turn, until then.
pub(super) async fn turn_to_dial(
    mut taking: Taking,
    until: Instant,
    target: &str,
    metrics: &ListenerMetrics,
) -> Result<Turn, Unreachable> {
    // Without a timer where one is free.
    if let Some(turn) = (&mut taking).now_or_never() {
        return Ok(turn);
    }
    let _waiting = metrics.wait_to_dial();
    let turn = timeout_at(until.into(), taking).await;
    // Whoever has the turns waits for the broker.
    turn.map_err(|_| Unreachable::away(format!("{target}: no turn to dial in time (max_dials)")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn a_broker_has_the_same_turns_whichever_listener_dials_it() {
        let turns = BrokerTurns::default();
        let (one, other) = (turns.of("mqtt://a:1883", 2), turns.of("mqtt://a:1883", 2));
        assert!(Arc::ptr_eq(&one, &other));
        assert!(!Arc::ptr_eq(&one, &turns.of("mqtt://b:1883", 2)));
        assert!(!Arc::ptr_eq(&one, &turns.of("mqtt://a:1883", 3)), "from a reload on");
        drop((one, other));
        turns.of("mqtt://b:1883", 2);
        assert_eq!(turns.0.lock().len(), 1, "nothing is kept of brokers that nobody dials");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gets_no_turn_in_time_is_told_so_and_who_waits_is_counted() {
        let (turns, metrics) = (Turns::new(1), Metrics::new().listener("mqtt"));
        let whose = std::net::IpAddr::from([192, 0, 2, 1]).into();
        let until = || tokio::time::Instant::now().into_std() + Duration::from_secs(10);
        let held = turn_to_dial(turns.take(whose), until(), "mqtt://b", &metrics).await;
        let Err(late) = turn_to_dial(turns.take(whose), until(), "mqtt://b", &metrics).await else {
            panic!("there is one turn");
        };
        assert_eq!(&*late.why, "mqtt://b: no turn to dial in time (max_dials)");
        let waiting = turn_to_dial(turns.take(whose), until(), "mqtt://b", &metrics);
        drop(held);
        assert!(waiting.await.is_ok());
    }
}
