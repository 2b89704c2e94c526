//! `docs/admin.md` names every metric and every address that the code has, and no others.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mproxy_server::admin::document;
use mproxy_server::telemetry::exposition::Format;
use mproxy_server::telemetry::metrics::Metrics;
use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/admin.md");
const ADMIN: &str = include_str!("../src/admin.rs");

/// What a name gets from its unit and its kind, last first.
const SUFFIXES: [&str; 4] = ["_total", "_info", "_seconds", "_bytes"];

/// The calls that give a metric its name, as their first argument.
const NAMING: [&str; 6] =
    ["registered(", "register(", "register_with_unit(", "encode_descriptor(", "gauge(", "gauges("];

/// A name as it is registered: without prefix and suffixes.
fn stem(name: &str) -> &str {
    let name = name.strip_prefix("mproxy_").unwrap_or(name);
    SUFFIXES.into_iter().fold(name, |name, suffix| name.strip_suffix(suffix).unwrap_or(name))
}

/// The rows of the table under this heading, by their cells.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let (_, section) = PAGE.split_once(heading).unwrap();
    let table = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = table.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What stands in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn documented_metrics() -> BTreeSet<String> {
    rows("## Metrics").iter().flat_map(|row| quoted(&row[0])).map(str::to_owned).collect()
}

/// The literals that stand first in a call which names a metric, in every file of `telemetry`.
fn registered_stems() -> BTreeSet<String> {
    let mut stems = BTreeSet::new();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/telemetry")).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for naming in NAMING {
            for (at, _) in code.match_indices(naming) {
                let argument = code[at + naming.len()..].trim_start();
                if let Some(literal) = argument.strip_prefix('"') {
                    stems.insert(stem(literal.split('"').next().unwrap()).to_owned());
                }
            }
        }
    }
    stems
}

/// The operations of the API's document, by method and path.
fn operations() -> Vec<(String, Value)> {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let of = |path: &str, operations: &Value| {
        let operations = operations.as_object().unwrap().clone();
        let name = |method: String| format!("{} {path}", method.to_uppercase());
        operations.into_iter().map(|(method, one)| (name(method), one)).collect::<Vec<_>>()
    };
    paths.iter().flat_map(|(path, operations)| of(path, operations)).collect()
}

/// Method and path, as in `GET /healthz`: what is in the document, and the page for people, which is not.
fn routes() -> BTreeSet<String> {
    let page =
        ADMIN.split(".route(\"").skip(1).map(|route| format!("GET {}", route.split('"').next().unwrap()));
    page.chain(operations().into_iter().map(|(name, _)| name)).collect()
}

#[test]
fn every_metric_is_on_the_page() {
    let documented = documented_metrics();
    let on_page: BTreeSet<_> = documented.iter().map(|name| stem(name).to_owned()).collect();
    let registered = registered_stems();
    assert!(
        registered.len() > 20,
        "the code names its metrics otherwise than this test knows: {registered:?}"
    );
    assert_eq!(registered, on_page, "in the code (left), in docs/admin.md (right)");
}

#[test]
fn metrics_have_their_whole_names() {
    let documented = documented_metrics();
    let metrics = Metrics::new();
    let _door = metrics.listener("mqtt");
    metrics.count_reload("acl_file", true);
    let page = metrics.expose(Format::Prometheus);
    let shown = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let unknown: Vec<_> = shown.filter(|name| !documented.contains(*name)).collect();
    assert!(unknown.is_empty(), "docs/admin.md does not have {unknown:?}");
}

#[test]
fn every_address_is_on_the_page() {
    let mut documented = BTreeSet::new();
    for row in rows("# Health, metrics and the admin API") {
        let path = quoted(&row[0]).find_map(|text| text.split_once('/')).unwrap().1;
        let methods = ["GET", "PUT", "POST", "DELETE", "PATCH"];
        for method in methods.into_iter().filter(|method| row[0].contains(method)) {
            documented.insert(format!("{method} /{path}"));
        }
    }
    let routes = routes();
    assert!(routes.len() > 10, "the code has its routes otherwise than this test knows: {routes:?}");
    assert_eq!(routes, documented, "in the code (left), in docs/admin.md (right)");
}

#[test]
fn the_head_lists_every_address() {
    let head = ADMIN.lines().take_while(|line| line.starts_with("//!"));
    let listed = head.filter_map(|line| {
        let mut words = line.strip_prefix("//!")?.split_whitespace();
        let (method, path) = (words.next()?, words.next()?);
        path.starts_with('/').then(|| format!("{method} {path}"))
    });
    assert_eq!(routes(), listed.collect(), "the routes of admin.rs (left), its head (right)");
}

#[test]
fn every_parameter_is_on_the_page() {
    let mut known = 0;
    for (name, operation) in operations() {
        let parameters = operation.get("parameters").and_then(Value::as_array);
        for parameter in parameters.into_iter().flatten().filter(|parameter| parameter["in"] == "query") {
            known += 1;
            let parameter = parameter["name"].as_str().unwrap();
            assert!(
                PAGE.contains(&format!("`?{parameter}=")),
                "docs/admin.md does not have ?{parameter}= of {name}"
            );
        }
    }
    assert!(known > 10, "the document has its parameters elsewhere than this test knows");
}
