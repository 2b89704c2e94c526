//! A filter that is subscribed to again under another rewrite: the subscription under the old name ends.

use mproxy_core::Side;
use mproxy_core::event::Happening;
use mproxy_core::policy::{Decision, FilterChange};
use mproxy_sim::Stage;
use mproxy_sim::Verdict;
use mproxy_sim::wire::{self, Publish, Version};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn to(filter: &str) -> Decision<FilterChange> {
    let filter = (filter != ".").then(|| filter.into());
    Decision::Allow(FilterChange { filter, max_qos: None, ..FilterChange::default() })
}

/// The client subscribes to these filters, and each is allowed as this; the broker grants all.
fn subscribe(stage: &mut Stage, version: Version, id: u16, filters: &[(&str, &str)]) {
    let question = stage.questions();
    let asked: Vec<(&str, u8)> = filters.iter().map(|(asked, _)| (*asked, 0)).collect();
    stage.client(&wire::subscribe(version, id, &asked));
    stage.rule(question, Verdict::Subscribe(filters.iter().map(|(_, sent)| to(sent)).collect()));
    stage.broker(&wire::suback(version, id, &vec![0; filters.len()]));
}

#[test]
fn the_subscription_under_the_old_name_ends_before_the_client_has_its_answer() {
    for version in VERSIONS {
        for (again, name) in [("new", "new"), (".", "a")] {
            let mut stage = Stage::new().open(version);
            subscribe(&mut stage, version, 3, &[("a", "old")]);
            assert_eq!(stage.at_client(), wire::suback(version, 3, &[0]));
            stage.at_broker();
            subscribe(&mut stage, version, 9, &[("a", again)]);
            let up = [wire::subscribe(version, 9, &[(name, 0)]), wire::unsubscribe(version, 9, &["old"])];
            assert_eq!(stage.at_broker(), up.concat());
            assert_eq!(stage.at_client(), b"", "packet id 9 is still in use");
            stage.broker(&wire::unsuback(version, 9, &[0]));
            assert_eq!(stage.at_client(), wire::suback(version, 9, &[0]));
            // From here on its name is the new one.
            stage.client(&wire::unsubscribe(version, 4, &["a"]));
            assert_eq!(stage.at_broker(), wire::unsubscribe(version, 4, &[name]));
            stage.broker(&wire::unsuback(version, 4, &[0]));
            assert_eq!(stage.at_client(), wire::unsuback(version, 4, &[0]));
        }
    }
}

#[test]
fn a_filter_that_was_its_own_name_leaves_that_behind_too() {
    for version in VERSIONS {
        let mut stage = Stage::new().open(version);
        subscribe(&mut stage, version, 3, &[("a", "."), ("b", ".")]);
        stage.at_broker();
        stage.at_client();
        subscribe(&mut stage, version, 4, &[("a", "new")]);
        let up = [wire::subscribe(version, 4, &[("new", 0)]), wire::unsubscribe(version, 4, &["a"])];
        assert_eq!(stage.at_broker(), up.concat());
        stage.broker(&wire::unsuback(version, 4, &[0]));
        assert_eq!(stage.at_client(), wire::suback(version, 4, &[0]));
        // What was unsubscribed from leaves nothing.
        stage.client(&wire::unsubscribe(version, 5, &["b"]));
        stage.at_broker();
        subscribe(&mut stage, version, 6, &[("b", "new/b")]);
        assert_eq!(stage.at_broker(), wire::subscribe(version, 6, &[("new/b", 0)]));
    }
}

#[test]
fn of_a_resumed_session_everything_may_stand_already() {
    let v = Version::V5;
    let mut stage = Stage::new();
    stage.client(&wire::connect(v, "c", &wire::ConnectOptions { clean: false, ..Default::default() }));
    stage.broker(&wire::connack(v, true, 0, b""));
    stage.at_broker();
    stage.at_client();
    subscribe(&mut stage, v, 4, &[("a", "new")]);
    assert_eq!(
        stage.at_broker(),
        [wire::subscribe(v, 4, &[("new", 0)]), wire::unsubscribe(v, 4, &["a"])].concat()
    );
    stage.broker(&wire::unsuback(v, 4, &[0x11]));
    assert_eq!(stage.at_client(), wire::suback(v, 4, &[0]));
}

#[test]
fn what_another_filter_still_stands_for_does_not_end() {
    let v = Version::V311;
    let mut stage = Stage::new().open(v);
    subscribe(&mut stage, v, 1, &[("a", "old"), ("b", "old")]);
    stage.at_broker();
    subscribe(&mut stage, v, 2, &[("a", "new")]);
    assert_eq!(stage.at_broker(), wire::subscribe(v, 2, &[("new", 0)]), "b is still `old`");
    subscribe(&mut stage, v, 3, &[("b", "new"), ("c", "old")]);
    assert_eq!(stage.at_broker(), wire::subscribe(v, 3, &[("new", 0), ("old", 0)]), "now c is");
    // The same name again is none to end.
    subscribe(&mut stage, v, 4, &[("c", "old")]);
    assert_eq!(stage.at_broker(), wire::subscribe(v, 4, &[("old", 0)]));
    stage.at_client();
    subscribe(&mut stage, v, 5, &[("c", ".")]);
    assert_eq!(
        stage.at_broker(),
        [wire::subscribe(v, 5, &[("c", 0)]), wire::unsubscribe(v, 5, &["old"])].concat()
    );
}

#[test]
fn a_merged_answer_waits_too_and_is_told_once() {
    let v = Version::V5;
    let mut stage = Stage::new().open(v);
    subscribe(&mut stage, v, 1, &[("a", "old")]);
    stage.at_client();
    stage.events();
    stage.client(&wire::subscribe(v, 2, &[("x", 1), ("a", 1)]));
    stage.rule(1, Verdict::Subscribe(vec![Decision::Refuse(Default::default()), to("new")]));
    stage.broker(&wire::suback(v, 2, &[1]));
    assert_eq!(stage.at_client(), b"");
    stage.broker(&wire::unsuback(v, 2, &[0]));
    assert_eq!(stage.at_client(), wire::suback(v, 2, &[0x87, 1]));
    let events = stage.events();
    assert!(matches!(&events[..], [Happening::Subscribe { .. }]), "{events:?}");
}

#[test]
fn an_unsubscribe_of_ours_never_goes_into_the_middle_of_a_payload() {
    let v = Version::V311;
    let mut stage = Stage::new().open(v);
    subscribe(&mut stage, v, 1, &[("a", "old")]);
    stage.script.want(mproxy_core::policy::Hook::Publish, mproxy_core::policy::Want::Nothing);
    let payload = vec![1; 50_000];
    let large = wire::publish(v, &Publish { topic: "t", payload: &payload, ..Publish::default() });
    stage.client(&wire::subscribe(v, 2, &[("a", 0)]));
    stage.rule(1, Verdict::Subscribe(vec![to("new")]));
    stage.at_broker();
    stage.client(&large[..30_000]);
    stage.broker(&wire::suback(v, 2, &[0]));
    stage.client(&large[30_000..]);
    assert!(stage.at_broker() == [large, wire::unsubscribe(v, 2, &["old"])].concat());
    stage.close(Side::Client);
}

#[test]
fn a_session_that_ends_meanwhile_ends() {
    let v = Version::V5;
    let mut stage = Stage::new().open(v);
    subscribe(&mut stage, v, 1, &[("a", "old")]);
    subscribe(&mut stage, v, 2, &[("a", "new")]);
    stage.at_broker();
    stage.close(Side::Broker);
    stage.finish();
}

#[test]
fn a_name_that_stands_for_two_filters_ends_with_the_last() {
    for version in VERSIONS {
        let unsuback = |id, codes: &[u8]| wire::unsuback(version, id, codes);
        let mut stage = Stage::new().open(version);
        subscribe(&mut stage, version, 1, &[("a", "x"), ("b", "x"), ("c", ".")]);
        stage.at_broker();
        stage.at_client();
        stage.events();
        // Of two, one goes to the broker; the client has two codes all the same.
        stage.client(&wire::unsubscribe(version, 2, &["a", "c"]));
        assert_eq!(stage.at_broker(), wire::unsubscribe(version, 2, &["c"]));
        stage.broker(&unsuback(2, &[0x11]));
        assert_eq!(stage.at_client(), unsuback(2, &[0, 0x11]));
        assert!(matches!(&stage.events()[..], [Happening::Unsubscribe { filters }] if filters.len() == 2));
        stage.client(&wire::unsubscribe(version, 3, &["b"]));
        assert_eq!(stage.at_broker(), wire::unsubscribe(version, 3, &["x"]));
        stage.broker(&unsuback(3, &[0]));
        assert_eq!(stage.at_client(), unsuback(3, &[0]));

        // Nothing goes to the broker: answered here.
        subscribe(&mut stage, version, 4, &[("a", "x"), ("b", "x")]);
        stage.at_broker();
        stage.at_client();
        stage.events();
        stage.client(&wire::unsubscribe(version, 5, &["a"]));
        assert_eq!((stage.at_broker(), stage.at_client()), (Vec::new(), unsuback(5, &[0])));
        assert!(matches!(&stage.events()[..], [Happening::Unsubscribe { filters }] if &*filters[0] == "x"));
        // Both at once: it ends once.
        subscribe(&mut stage, version, 6, &[("a", "x")]);
        stage.at_broker();
        stage.at_client();
        stage.client(&wire::unsubscribe(version, 7, &["a", "b"]));
        assert_eq!(stage.at_broker(), wire::unsubscribe(version, 7, &["x"]));
        stage.broker(&unsuback(7, &[0]));
        assert_eq!(stage.at_client(), unsuback(7, &[0, 0]));
    }
}

#[test]
fn a_refusal_beside_it_does_not_keep_the_old_name() {
    let v = Version::V311;
    let mut stage = Stage::new().open(v);
    subscribe(&mut stage, v, 1, &[("a", ".")]);
    stage.at_broker();
    stage.client(&wire::subscribe(v, 2, &[("a", 0), ("a", 1)]));
    stage.rule(1, Verdict::Subscribe(vec![Decision::Refuse(Default::default()), to("new")]));
    stage.broker(&wire::suback(v, 2, &[1]));
    let up = [wire::subscribe(v, 2, &[("new", 1)]), wire::unsubscribe(v, 2, &["a"])];
    assert_eq!(stage.at_broker(), up.concat());
}
