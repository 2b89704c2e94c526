//! Matching and containment against brute force: every filter and every topic over a small alphabet, with
//! `$` topics, empty levels and a level that no filter names.

use mproxy_codec::topic::{check_filter, check_name, contains, matches};
use proptest::prelude::*;

/// What 4.7 says, level by level and as plainly as it can be put.
fn by_the_book(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) => true,
        ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => by_the_book(filter, topic),
        ([level, filter @ ..], [name, topic @ ..]) => level == name && by_the_book(filter, topic),
        ([], [_, ..]) | ([_, ..], []) => false,
    }
}

fn expected(filter: &str, topic: &str) -> bool {
    let (filter, topic): (Vec<_>, Vec<_>) = (filter.split('/').collect(), topic.split('/').collect());
    let hidden = topic[0].starts_with('$') && matches!(filter[0], "+" | "#");
    !hidden && by_the_book(&filter, &topic)
}

/// Every string of one to `depth` of these levels.
fn strings(levels: &[&str], depth: usize) -> Vec<String> {
    let mut all: Vec<String> = levels.iter().map(|level| level.to_string()).collect();
    let mut longest = all.clone();
    for _ in 1..depth {
        longest = longest
            .iter()
            .flat_map(|head| levels.iter().map(move |level| format!("{head}/{level}")))
            .collect();
        all.extend_from_slice(&longest);
    }
    all
}

fn topics() -> Vec<String> {
    let mut topics = strings(&["", "a", "$s", "z"], 5);
    topics.retain(|topic| check_name(topic).is_ok());
    topics
}

fn filters() -> Vec<String> {
    let mut filters = strings(&["", "a", "$s", "+"], 3);
    let open: Vec<_> = filters.iter().map(|filter| format!("{filter}/#")).collect();
    filters.extend(open);
    filters.push("#".to_owned());
    filters.retain(|filter| check_filter(filter).is_ok());
    filters
}

#[test]
fn matching_agrees_with_the_book_on_every_pair() {
    let topics = topics();
    for filter in filters() {
        for topic in &topics {
            assert_eq!(matches(&filter, topic), expected(&filter, topic), "{filter} {topic}");
        }
    }
}

#[test]
fn containment_agrees_with_the_sets_of_matched_topics() {
    let (filters, topics) = (filters(), topics());
    let sets: Vec<Vec<bool>> =
        filters.iter().map(|filter| topics.iter().map(|topic| expected(filter, topic)).collect()).collect();
    let mut covered = 0;
    for (outer, outer_set) in filters.iter().zip(&sets) {
        for (inner, inner_set) in filters.iter().zip(&sets) {
            let subset = inner_set.iter().zip(outer_set).all(|(inner, outer)| !inner || *outer);
            assert_eq!(contains(outer, inner), subset, "{outer} over {inner}");
            covered += usize::from(subset);
        }
    }
    assert!(covered > filters.len(), "the alphabet shows more than each filter covering itself");
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("+".to_owned()), "[ab$]{1,2}"]
}

fn filter() -> impl Strategy<Value = String> {
    (prop::collection::vec(level(), 1..6), any::<bool>(), prop::option::of("[a-z]{1,3}"))
        .prop_map(|(mut levels, open, share)| {
            if open {
                levels.push("#".to_owned());
            }
            let plain = levels.join("/");
            match share {
                Some(name) => format!("$share/{name}/{plain}"),
                None => plain,
            }
        })
        .prop_filter("a filter", |filter| check_filter(filter).is_ok())
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab$]{0,2}", 1..7)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a name", |topic| check_name(topic).is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_covering_filter_matches_whatever_the_covered_one_does(
        outer in filter(), inner in filter(), topic in topic(),
    ) {
        if contains(&outer, &inner) && matches(&inner, &topic) {
            prop_assert!(matches(&outer, &topic));
        }
    }

    #[test]
    fn containment_is_reflexive_and_transitive(a in filter(), b in filter(), c in filter()) {
        prop_assert!(contains(&a, &a));
        if contains(&a, &b) && contains(&b, &c) {
            prop_assert!(contains(&a, &c));
        }
    }

    #[test]
    fn a_filter_without_wildcards_covers_what_it_matches(outer in filter(), topic in topic()) {
        prop_assume!(!topic.starts_with("$share/"));
        prop_assert_eq!(contains(&outer, &topic), matches(&outer, &topic));
    }

    #[test]
    fn no_string_makes_a_check_panic(filter in ".{0,12}", other in "[$/#+share\0]{0,16}") {
        let _ = (check_filter(&filter), check_name(&filter), check_filter(&other));
        let _ = (matches(&filter, &other), contains(&filter, &other), matches(&other, &filter));
    }
}
