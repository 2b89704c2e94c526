//! Rewrites of a rule file: what they make of topics and filters, held against a slow reference; for whom they are; and
//! what is wrong in a file.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use common::{Client, client};
use futures_util::FutureExt;
use mproxy_codec::topic::{check_filter, matches};
use mproxy_core::grant::{GrantAnswer, Mapping};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{Admission, Decision};
use mproxy_core::rule::{Act, Message, Who};
use mproxy_policy::acl::{Acl, AclAdviser, UnknownUsers};
use mproxy_sim::Verdict;
use proptest::prelude::*;

fn acl(text: &str) -> Acl {
    Acl::parse(text, "rules.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

/// What a client is let in with, or the code and words of its refusal.
fn admitted(acl: Acl, client: &Client) -> Result<Admission, (u8, String)> {
    let adviser = AclAdviser::new(acl, UnknownUsers::Refuse);
    let ruling = client.connects(&adviser).now_or_never().flatten().unwrap();
    match ruling.verdict {
        Verdict::Connect(Decision::Allow(admission)) => Ok(admission.map(|one| *one).unwrap_or_default()),
        Verdict::Connect(Decision::Refuse(refusal)) => {
            Err((refusal.reason.0, refusal.text.map(String::from).unwrap_or_default()))
        }
        other => panic!("{other:?}"),
    }
}

fn mapping(acl: Acl, client: &Client) -> Option<Mapping> {
    admitted(acl, client).unwrap().grant.and_then(|grant| grant.mapping.clone())
}

// The reference. A small world: levels are these texts and those of the rows, topics have up to four of them, and every
// topic that a row reads is written out with what becomes of it. What a row writes is one level longer or shorter at most,
// so of topics of up to three levels all is known.

const LEVELS: [&str; 4] = ["a", "b", "z", ""];
const KNOWN: usize = 3;

fn world(rows: &[(String, String)], client_id: &str) -> Vec<String> {
    let written =
        rows.iter().flat_map(|(from, to)| [from, to]).map(|side| side.replace("${clientid}", client_id));
    let mut levels: BTreeSet<String> = LEVELS.map(str::to_owned).into();
    levels.extend(written.flat_map(|side| side.split('/').map(str::to_owned).collect::<Vec<_>>()));
    levels.retain(|level| !level.starts_with('{'));
    let (mut topics, mut last) = (Vec::new(), vec![None::<String>]);
    for _ in 0..=KNOWN {
        let longer = |topic: &Option<String>| {
            let with = |level: &String| {
                topic.as_ref().map_or_else(|| level.clone(), |topic| format!("{topic}/{level}"))
            };
            levels.iter().map(|level| Some(with(level))).collect::<Vec<_>>()
        };
        last = last.iter().flat_map(longer).collect();
        topics.extend(last.iter().flatten().filter(|topic| !topic.is_empty()).cloned());
    }
    topics
}

fn is_known(topic: &str) -> bool {
    topic.split('/').count() <= KNOWN
}

/// Each topic of the world that the row reads, and what it writes. The variable is `clientid`.
fn written_out(from: &str, to: &str, client_id: &str, world: &[String]) -> HashMap<String, String> {
    let (from, to) = (from.replace("${clientid}", client_id), to.replace("${clientid}", client_id));
    let (head, open) = match from.strip_suffix("/{r...}") {
        Some(head) => (head, true),
        None => (&*from, false),
    };
    let mut all = HashMap::new();
    for topic in world {
        let (levels, read): (Vec<_>, Vec<_>) = (topic.split('/').collect(), head.split('/').collect());
        if levels.len() < read.len() || (levels.len() > read.len() && !open) {
            continue;
        }
        if read.iter().zip(&levels).any(|(own, text)| !own.starts_with('{') && own != text) {
            continue;
        }
        let captured: HashMap<_, _> = read.iter().copied().zip(levels.iter().copied()).collect();
        let rest = &levels[read.len()..];
        let written: Vec<&str> = to
            .split('/')
            .flat_map(|level| match level {
                "{r...}" => rest.to_vec(),
                level if level.starts_with('{') => vec![captured[level]],
                level => vec![level],
            })
            .collect();
        all.insert(topic.clone(), written.join("/"));
    }
    all
}

/// What becomes of a client's topic, by all that is written out.
#[derive(Default)]
struct Reference {
    rows: HashMap<String, String>,
    written: HashSet<String>,
}

impl Reference {
    fn up<'t>(&'t self, topic: &'t str) -> Option<&'t str> {
        match self.rows.get(topic) {
            Some(written) => Some(written),
            None => (!self.written.contains(topic)).then_some(topic),
        }
    }
}

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just("a"), 3 => Just("b"), 2 => Just("${clientid}"), 1 => Just("b${clientid}")]
}

/// Both sides of a row, with at most two captures and perhaps a rest.
fn row() -> impl Strategy<Value = (String, String)> {
    (
        prop::collection::vec(level(), 1..3),
        prop::collection::vec(level(), 1..3),
        prop::collection::vec(any::<prop::sample::Index>(), 0..2),
        any::<(prop::sample::Index, prop::sample::Index)>(),
        any::<bool>(),
    )
        .prop_map(|(from, to, captures, (first, second), rest)| {
            let side = |levels: Vec<&str>, at: [prop::sample::Index; 2], names: &[&str]| {
                let mut levels: Vec<String> = levels.into_iter().map(str::to_owned).collect();
                for (name, at) in names.iter().zip(at) {
                    levels.insert(at.index(levels.len() + 1), (*name).to_owned());
                }
                if rest {
                    levels.push("{r...}".to_owned());
                }
                levels.join("/")
            };
            let names = &["{x}", "{y}"][..captures.len()];
            let at = [first, second];
            (side(from, at, names), side(to, [second, first], names))
        })
}

/// How many cases; `MPROXY_PROPERTY_CASES=100000` for as many as there should be before a release.
fn cases() -> u32 {
    std::env::var("MPROXY_PROPERTY_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

fn client_of(client_id: &str) -> Client {
    client(client_id, None)
}

fn file(rule: &str, prefix: bool, rows: &[(String, String)]) -> String {
    let prefix = if prefix { "prefix = \"t/${clientid}/\"\n" } else { "" };
    let rows: String = rows
        .iter()
        .map(|(from, to)| format!("[[rewrites.rows]]\nfrom = \"{from}\"\nto = \"{to}\"\n"))
        .collect();
    format!(
        "anonymous = true\n[[grants]]\npublish = [\"{rule}\"]\ndefault = \"deny\"\n{prefix}[[rewrites]]\n{rows}"
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_global_rejects: 1 << 24, ..ProptestConfig::default() })]

    #[test]
    fn rules_rewrites_and_prefix_are_what_they_are_written_out(
        rule in prop::collection::vec(prop_oneof![level().boxed(), Just("+").boxed(), Just("{x}").boxed()], 1..4),
        rows in prop::collection::vec(row(), 1..3),
        prefix: bool,
        client_id in prop_oneof![Just("a"), Just("q")],
        filters in prop::collection::vec(prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("+"), Just("")], 1..4), 1..4),
        hash: bool,
        topics in prop::collection::vec(any::<prop::sample::Index>(), 12),
    ) {
        let rule = rule.join("/").replace("{x}", "a");
        let Ok(acl) = Acl::parse(&file(&rule, prefix, &rows), "rules.toml") else {
            // Rows that clash are refused, whatever this client would have them be.
            return Err(TestCaseError::reject("rows that clash"));
        };
        let somebody = client_of(client_id);
        let admission = admitted(acl, &somebody).unwrap();
        let grant = admission.grant.unwrap();
        let mapping = grant.mapping.as_ref().unwrap();
        let world = world(&rows, client_id);
        let mut reference = Reference::default();
        for (from, to) in &rows {
            for (topic, written) in written_out(from, to, client_id, &world) {
                // One to one, and not again.
                prop_assert!(reference.written.insert(written.clone()), "two topics become {}", written);
                prop_assert_eq!(reference.rows.insert(topic.clone(), written), None, "two rows read {}", topic);
            }
        }
        prop_assert!(reference.written.iter().all(|topic| !reference.rows.contains_key(topic)));
        let known: Vec<_> = world.iter().filter(|topic| is_known(topic)).collect();

        let under = |topic: &str| if prefix { format!("t/{client_id}/{topic}") } else { topic.to_owned() };
        let peer: &Peer = &somebody.peer;
        for topic in topics.iter().map(|at| *at.get(&known)) {
            let allowed = matches(&rule.replace("${clientid}", client_id), topic);
            let qos = mproxy_codec::QoS::AtMostOnce;
            let message = Message { topic, qos, retain: false, payload: 0, time: None };
            let judged = grant.message(Act::Publish, Who::from(peer), message);
            prop_assert_eq!(judged == GrantAnswer::Allow(()), allowed, "{} {}", rule, topic);
            let expected = reference.up(topic).map(under);
            prop_assert_eq!(mapping.up(topic).map(|up| up.into_owned()), expected.clone(), "{:?} {}", rows, topic);
            if let Some(up) = expected {
                prop_assert_eq!(mapping.down(&up), Some(topic.as_str().into()), "{:?} {}", rows, up);
            }
        }
        // All that the client could be sent: by its own names, and by the broker's.
        let of_rows = reference.rows.iter().map(|(own, broker)| (own.as_str(), under(broker)));
        let unchanged = known.iter().filter(|own| reference.up(own) == Some(own.as_str()));
        let could: Vec<_> = of_rows.chain(unchanged.map(|own| (own.as_str(), under(own)))).collect();
        for filter in filters {
            let filter = filter.join("/") + if hash { "/#" } else { "" };
            if check_filter(&filter).is_err() {
                continue;
            }
            let asked: BTreeSet<&str> =
                could.iter().filter(|(own, _)| matches(&filter, own)).map(|(own, _)| *own).collect();
            let brings = |at_broker: &str| -> BTreeSet<&str> {
                could.iter().filter(|(_, broker)| matches(at_broker, broker)).map(|(own, _)| *own).collect()
            };
            match mapping.up_filter(&filter) {
                Ok(mapped) => {
                    prop_assert_eq!(brings(&mapped), asked, "{:?} {} {}", rows, filter, mapped);
                    prop_assert_eq!(mapping.down_filter(&mapped), Some(filter.as_str().into()));
                }
                Err(_) => prop_assert_ne!(brings(&under(&filter)), asked, "{:?} {}", rows, filter),
            }
        }
    }
}

const TABLES: &str = r##"
anonymous = true
[[rewrites]]
client_ids = ["old"]
[[rewrites.rows]]
from = "sensors/{id}/temp"
to = "v1/{id}/t"
[[rewrites]]
listeners = ["plain"]
[[rewrites.rows]]
from = "sensors/{id}/temp"
to = "v2/${clientid}/{id}/t"
[[rewrites.rows]]
from = "x"
to = "y"
[[grants]]
client_ids = ["old"]
prefix = "legacy"
[[rules]]
effect = "allow"
topics = ["#"]
"##;

#[test]
fn a_client_has_the_first_table_that_is_for_it() {
    let up = |client_id: &str, listener: &str, topic| {
        let mut somebody = client_of(client_id);
        let mut origin = (*somebody.peer.origin).clone();
        origin.listener = listener.into();
        Arc::make_mut(&mut somebody.peer).origin = origin.into();
        let mapping = mapping(acl(TABLES), &somebody)?;
        Some(mapping.up(topic).unwrap().into_owned())
    };
    assert_eq!(up("old", "plain", "sensors/7/temp").as_deref(), Some("legacy/v1/7/t"));
    assert_eq!(up("old", "plain", "x").as_deref(), Some("legacy/x"));
    assert_eq!(up("new", "plain", "sensors/7/temp").as_deref(), Some("v2/new/7/t"));
    assert_eq!(up("new", "plain", "x").as_deref(), Some("y"));
    assert_eq!(up("new", "other", "x"), None, "whom no table is for pays nothing");
}

#[test]
fn a_client_for_whom_a_variable_has_no_level_is_refused() {
    let text =
        "anonymous = true\n[[rewrites]]\n[[rewrites.rows]]\nfrom = \"a/{x}\"\nto = \"b/${clientid}/{x}\"\n";
    for odd in ["a/b", "+", "#"] {
        let refused = admitted(acl(text), &client_of(odd)).unwrap_err();
        assert_eq!(refused, (0x87, "no topic rewrites for this client".to_owned()), "{odd}");
    }
}

#[test]
fn all_that_is_wrong_with_rewrites_is_told_with_its_line_and_its_row() {
    let text = r#"anonymous = true
[[rewrites]]
listener = ["x"]
[[rewrites.rows]]
from = "sensors/+/temp"
to = "$v2/x"
[[rewrites.rows]]
from = "a/{x}"
to = "b/{x}"
[[rewrites.rows]]
from = "a/fixed"
too = "c"
[[rewrites.rows]]
from = "b/{y}"
to = "c/{y}"
[[rewrites.rows]]
from = "a/{z}"
to = "b/{z}"
[[rewrites]]
from = "a"
to = "b"
[[rewrites]]
rows = []
"#;
    let errors = Acl::parse(text, "rules.toml").unwrap_err();
    let told: Vec<_> = errors.faults().iter().map(|fault| (fault.line, fault.key.as_str())).collect();
    let expected = [
        (3, "rewrites[0].listener"),
        (5, "rewrites[0].rows[0].from"),
        (6, "rewrites[0].rows[0].to"),
        (9, "rewrites[0].rows[1].to"),
        (10, "rewrites[0].rows[2].to"),
        (12, "rewrites[0].rows[2].too"),
        (17, "rewrites[0].rows[4].from"),
        (18, "rewrites[0].rows[4].to"),
        (18, "rewrites[0].rows[4].to"),
        (19, "rewrites[1].rows"),
        (20, "rewrites[1].from"),
        (21, "rewrites[1].to"),
        (23, "rewrites[2].rows"),
    ];
    assert_eq!(told, expected, "{errors}");
    let shown = errors.to_string();
    for words in [
        "rules.toml:5: rewrites[0].rows[0].from: \"sensors/+/temp\": write {name} for any level",
        "rules.toml:9: rewrites[0].rows[1].to: clashes with rows[3].from in line 13: what this writes may be what",
        "rules.toml:17: rewrites[0].rows[4].from: clashes with rows[1].from in line 7: a topic may be as both say",
        "rules.toml:18: rewrites[0].rows[4].to: clashes with rows[1].to in line 7: two topics may become the same",
        "rules.toml:20: rewrites[1].from: stands in a row: write [[rewrites.rows]]",
        "rewrites[0].listener: unknown key; the nearest known one is rewrites[0].listeners",
    ] {
        assert!(shown.contains(words), "{words:?} is not in {shown}");
    }
}

#[test]
fn a_listener_that_there_is_not_is_told() {
    let errors = acl(TABLES).knows_listeners(&["mqtt"]).unwrap_err();
    assert_eq!((errors.faults()[0].line, errors.faults()[0].key.as_str()), (9, "rewrites[1].listeners[0]"));
    assert!(acl(TABLES).knows_listeners(&["plain"]).is_ok());
}
