//! Rates, of metrics that were counted a while ago.

use mproxy_codec::types::PacketType;
use mproxy_core::meter::Outcome;
use mproxy_core::policy::{Hook, Source};
use mproxy_core::{Meter, Side};
use serde_json::Value;

use super::*;
use crate::telemetry::exposition::Format;
use crate::telemetry::metrics::Metrics;

fn look(stats: &Stats, at: Instant, metrics: &Metrics) -> Value {
    let view = stats.look(at, || metrics.expose(Format::Prometheus));
    serde_json::to_value(view).expect("JSON")
}

#[test]
fn what_was_counted_is_shown_in_all_and_by_the_second() {
    let (stats, metrics, start) = (Stats::default(), Metrics::new(), Instant::now());
    let listener = metrics.listener("a \"b\"");
    assert!(stats.is_new(start));
    metrics.packets(Side::Client, PacketType::Publish, 5, 500);
    let first = look(&stats, start, &metrics);
    assert_eq!(
        (&first["windows"], &first["totals"]["from_client"]["messages"]),
        (&serde_json::json!([]), &5.into())
    );
    assert!(!stats.is_new(start));

    listener.count_accepted();
    listener.count_closed("lost", "client");
    metrics.packets(Side::Client, PacketType::Publish, 20, 2000);
    metrics.packets(Side::Client, PacketType::Pingreq, 2, 4);
    metrics.decisions(Hook::Publish, Source::Acl, Outcome::Refused, 4);
    metrics.policy().record_call("AuthPublish", "answered", Duration::from_millis(2));
    let second = look(&stats, start + Duration::from_secs(2), &metrics);
    let [window] = second["windows"].as_array().expect("windows").as_slice() else { panic!("{second}") };
    assert_eq!((&window["seconds"], &window["refused"]), (&2.into(), &2.into()));
    assert_eq!(window["from_client"], serde_json::json!({ "messages": 10, "packets": 11, "bytes": 1002 }));
    assert_eq!(window["connections_accepted"], 0.5);
    let closed =
        serde_json::json!([{ "by": "client", "cause": "lost", "listener": "a \"b\"", "connections": 0.5 }]);
    assert_eq!(window["closed"], closed);
    assert_eq!(window["policy_calls"][0]["rpc"], "AuthPublish");
    assert!(
        window["policy_calls"][0]["p99_seconds"].as_f64().is_some_and(|p99| p99 > 0.001 && p99 <= 0.0025)
    );
    assert_eq!(second["totals"]["from_client"]["messages"], 25);
    assert_eq!(second["totals"]["decisions"][0]["decisions"], 4);
}

#[test]
fn windows_grow_with_the_samples_and_few_are_kept() {
    let (stats, metrics, start) = (Stats::default(), Metrics::new(), Instant::now());
    let mut seconds = Vec::new();
    for second in 0..300 {
        metrics.packets(Side::Broker, PacketType::Publish, 7, 70);
        let view = look(&stats, start + Duration::from_secs(second), &metrics);
        seconds =
            view["windows"].as_array().expect("windows").iter().map(|one| one["seconds"].as_f64()).collect();
        for window in view["windows"].as_array().expect("windows") {
            assert_eq!(window["from_broker"]["messages"], 7, "{window}");
        }
        assert!(stats.0.lock().kept.len() <= 30, "{}", stats.0.lock().kept.len());
    }
    assert_eq!(seconds[..2], [Some(1.0), Some(10.0)]);
    assert!(seconds[2].is_some_and(|long| (60.0..66.0).contains(&long)), "{seconds:?}");
    // Nobody has asked for long: nothing of then says anything of now.
    let later = look(&stats, start + Duration::from_secs(1000), &metrics);
    assert_eq!(later["windows"], serde_json::json!([]));
}

#[test]
fn who_asks_often_has_the_same_sample() {
    let (stats, metrics, start) = (Stats::default(), Metrics::new(), Instant::now());
    look(&stats, start, &metrics);
    let soon = start + Duration::from_millis(300);
    stats.look(soon, || panic!("the counters are not read again"));
}
