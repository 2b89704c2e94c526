use super::*;
use crate::rule::Who;

fn rule(from: &str, to: &str) -> RewriteRule {
    RewriteRule::parse(from, to).unwrap_or_else(|errors| panic!("{from} {to}: {errors:?}"))
}

fn table(rows: &[(&str, &str)]) -> RewriteTable {
    let rules: Vec<_> = rows.iter().map(|(from, to)| rule(from, to)).collect();
    assert_eq!(find_clashes(&rules), []);
    let attributes = [("claim.t".to_owned(), "acme".to_owned())];
    let who = Who { client_id: "c1", attributes: &attributes, ..Who::NOBODY };
    RewriteTable::new(rules.iter().map(|rule| rule.expand(who).unwrap()).collect())
}

fn sensors() -> RewriteTable {
    table(&[
        ("sensors/{id}/temp", "v2/${claim.t}/{id}/temperature"),
        ("cmd/{rest...}", "cmds/${claim.t}/${clientid}/{rest...}"),
        ("house/{site}/{floor}", "lights/{floor}/x/{site}"),
    ])
}

#[test]
fn what_goes_up_comes_down_as_the_same() {
    let table = sensors();
    for (client, broker) in [
        ("sensors/7/temp", Some("v2/acme/7/temperature")),
        ("sensors//temp", Some("v2/acme//temperature")),
        ("sensors/7/hum", Some("sensors/7/hum")),
        ("sensors/7/temp/x", Some("sensors/7/temp/x")),
        // All that follow are as `#`: perhaps none, perhaps an empty one.
        ("cmd", Some("cmds/acme/c1")),
        ("cmd/", Some("cmds/acme/c1/")),
        ("cmd/a/b", Some("cmds/acme/c1/a/b")),
        ("other", Some("other")),
        ("$SYS/x", Some("$SYS/x")),
        // Another topic's place.
        ("v2/acme/7/temperature", None),
        ("cmds/acme/c1", None),
        ("cmds/acme/c2", Some("cmds/acme/c2")),
    ] {
        assert_eq!(table.turn(MappingWay::Up, client).as_deref(), broker, "{client}");
        if let Some(broker) = broker {
            assert_eq!(table.turn(MappingWay::Down, broker).as_deref(), Some(client), "{broker}");
        }
    }
    for raw in ["sensors/7/temp", "cmd", "cmd/a"] {
        assert_eq!(table.turn(MappingWay::Down, raw), None, "{raw}");
    }
}

#[test]
fn a_capture_at_the_front_does_not_reach_the_broker_s_own_topics() {
    let table = table(&[("x/{a}", "{a}/y/z")]);
    assert_eq!(table.turn(MappingWay::Up, "x/$SYS"), None);
    assert_eq!(table.turn(MappingWay::Up, "x/$share"), None);
    assert_eq!(table.turn_filter(MappingWay::Up, "x/$SYS"), Err(NoPlace::Renamed));
    assert_eq!(table.turn_filter(MappingWay::Up, "x/+").as_deref(), Ok("+/y/z"));
    assert_eq!(table.turn(MappingWay::Up, "x/"), Some("/y/z".into()));
}

#[test]
fn filters_bring_the_same_or_have_no_place() {
    let table = sensors();
    for (client, broker) in [
        ("sensors/+/temp", Ok("v2/acme/+/temperature")),
        ("sensors/7/temp", Ok("v2/acme/7/temperature")),
        ("cmd/#", Ok("cmds/acme/c1/#")),
        ("cmd", Ok("cmds/acme/c1")),
        ("cmd/+/x/#", Ok("cmds/acme/c1/+/x/#")),
        ("sensors/+/hum", Ok("sensors/+/hum")),
        // It covers all that is read and all that is written.
        ("#", Ok("#")),
        ("+/#", Ok("+/#")),
        ("$SYS/#", Ok("$SYS/#")),
        ("sensors/#", Err(NoPlace::Divided)),
        ("sensors/+/+", Err(NoPlace::Divided)),
        ("sensors/7/temp/#", Err(NoPlace::Divided)),
        ("+/+/temp", Err(NoPlace::Divided)),
        ("v2/#", Err(NoPlace::Renamed)),
        ("v2/acme/7/temperature", Err(NoPlace::Renamed)),
        ("v2/acme/+/+", Err(NoPlace::Renamed)),
        ("v2/other/#", Ok("v2/other/#")),
    ] {
        assert_eq!(table.turn_filter(MappingWay::Up, client).as_deref(), broker.as_deref(), "{client}");
        if let Ok(broker) = broker {
            assert_eq!(table.turn_filter(MappingWay::Down, broker).as_deref(), Ok(client), "{broker}");
        }
    }
}

#[test]
fn rows_exclude_each_other_whatever_their_variables_stand_for() {
    let clashes = |rows: &[(&str, &str)]| {
        find_clashes(&rows.iter().map(|(from, to)| rule(from, to)).collect::<Vec<_>>()).len()
    };
    for (rows, count) in [
        (&[("a/{x}", "b/{x}"), ("a/{y}/z", "b/{y}/z")][..], 0),
        (&[("a/{x}", "b/{x}"), ("a/y", "c")], 1),
        (&[("a/{x}", "b/{x}"), ("c/{x}", "b/{x}")], 1),
        (&[("a/{x}", "b/{x}"), ("b/{x}", "c/{x}")], 1),
        (&[("a/{rest...}", "a/b/{rest...}")], 1),
        (&[("a/{rest...}", "t/a/{rest...}")], 0),
        // A variable stands for any level, and may be this one.
        (&[("a/{rest...}", "${clientid}/b/{rest...}")], 1),
        (&[("a/{x}", "b/p-${clientid}/{x}"), ("c/{x}", "b/q-${clientid}/{x}")], 0),
        (&[("a/{x}", "b/p-${clientid}/{x}"), ("c/{x}", "b/p-/{x}")], 0),
        (&[("a/{x}", "b/${username}/{x}"), ("c/{x}", "b/${clientid}/{x}")], 1),
        (&[("a/{rest...}", "b/{rest...}"), ("a", "c")], 1),
        (&[("a", "a")], 1),
    ] {
        assert_eq!(clashes(rows), count, "{rows:?}");
    }
}

#[test]
fn what_is_no_row_is_told_with_its_side() {
    for (from, to, side, told) in [
        ("a/+", "b", RewriteSide::From, "instead of + and #"),
        ("a", "b/#", RewriteSide::To, "instead of + and #"),
        ("", "b", RewriteSide::From, "not a topic"),
        ("$SYS/{x}", "b/{x}", RewriteSide::From, "begins with $"),
        ("a/{x}", "$b/{x}", RewriteSide::To, "begins with $"),
        ("a/x{x}", "b/x{x}", RewriteSide::From, "is no capture"),
        ("a/{}", "b", RewriteSide::From, "is no capture"),
        ("a/{x}", "b/{x}/{x}", RewriteSide::To, "stands there twice"),
        ("a/{x}/{x...}", "b/{x}", RewriteSide::From, "stands there twice"),
        ("a/{x...}/b", "c/{x...}", RewriteSide::From, "has to be the last one"),
        ("{x...}", "c/{x...}", RewriteSide::From, "needs a level before it"),
        ("a/{x}", "b", RewriteSide::To, "{x} is missing"),
        ("a/{x...}", "b/{x}", RewriteSide::To, "{x...} is missing"),
        ("a", "b/{x}", RewriteSide::To, "does not stand in from"),
        ("a/${who}", "b", RewriteSide::From, "unknown variable"),
        ("a/${cn", "b", RewriteSide::From, "`${` without `}`"),
    ] {
        let errors = RewriteRule::parse(from, to).unwrap_err();
        let found = errors.iter().any(|(at, error)| *at == side && error.to_string().contains(told));
        assert!(found, "{from} {to}: {errors:?}");
    }
    assert_eq!(RewriteRule::parse("a/+", "b/#").unwrap_err().len(), 2, "both sides are told at once");
}

#[test]
fn a_variable_has_one_value_that_is_a_level() {
    let own = rule("a/{x}", "${username}/{x}");
    let expand = |username| own.expand(Who { username, ..Who::NOBODY });
    assert!(expand(Some("ann")).is_some());
    for odd in [None, Some(""), Some("a/b"), Some("+"), Some("$SYS"), Some("a\0")] {
        assert_eq!(expand(odd), None, "{odd:?}");
    }
}
