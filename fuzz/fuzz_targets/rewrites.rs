#![no_main]
//! Rows of a rewrite table told anything, and topics and filters under them. They must not panic; what goes up comes down
//! as the same; nothing is made that is no topic or no filter; and no two filters become the same.

use std::sync::Arc;

use mproxy_codec::topic::{check_filter, check_name};
use mproxy_core::grant::{Mapping, RewriteRule, RewriteTable, find_clashes};
use mproxy_core::rule::Who;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.split('\n');
    let (Some(client_id), Some(prefix)) = (lines.next(), lines.next()) else { return };
    let lines: Vec<_> = lines.take(16).collect();
    let (rows, names) = lines.split_at(lines.len() / 2);
    let rules: Vec<_> =
        rows.chunks_exact(2).filter_map(|row| RewriteRule::parse(row[0], row[1]).ok()).collect();
    if !find_clashes(&rules).is_empty() {
        return;
    }
    let who = Who { client_id, ..Who::NOBODY };
    let Some(rows) = rules.iter().map(|rule| rule.expand(who)).collect() else { return };
    let table = Arc::new(RewriteTable::new(rows));
    let mapping = match Mapping::new(prefix) {
        Ok(mapping) => mapping.with_rewrites(table),
        Err(_) => Mapping::rewriting(table),
    };
    let mut filters = Vec::new();
    for name in names {
        if check_name(name).is_ok()
            && let Some(up) = mapping.up(name)
        {
            assert!(check_name(&up).is_ok() || up.len() > 65_535, "{name:?} becomes {up:?}");
            assert_eq!(up.starts_with('$'), name.starts_with('$'), "{name:?} becomes {up:?}");
            assert_eq!(mapping.down(&up).as_deref(), Some(*name), "{name:?} becomes {up:?}");
        }
        if check_filter(name).is_ok()
            && let Ok(up) = mapping.up_filter(name)
        {
            assert!(check_filter(&up).is_ok(), "{name:?} becomes {up:?}");
            assert_eq!(mapping.down_filter(&up).as_deref(), Some(*name), "{name:?} becomes {up:?}");
            filters.push((*name, up.into_owned()));
        }
    }
    for (name, up) in &filters {
        assert!(filters.iter().all(|(other, theirs)| other == name || theirs != up), "{filters:?}");
    }
});
