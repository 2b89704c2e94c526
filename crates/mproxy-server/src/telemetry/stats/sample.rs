//! The counters at one moment, read from the text that Prometheus gets: so there is no second place in which each of them
//! has to be known. Names and labels are kept once, for all samples.

use std::collections::HashMap;
use std::time::Instant;

/// The families that figures are made of.
const WANTED: [&str; 16] = [
    "mproxy_connections_total",
    "mproxy_connections_open",
    "mproxy_connections_closed_total",
    "mproxy_packets_total",
    "mproxy_packet_bytes_total",
    "mproxy_decisions_total",
    "mproxy_policy_failures_total",
    "mproxy_policy_unusable_answers_total",
    "mproxy_overloads_total",
    "mproxy_policy_call_duration_seconds_bucket",
    "mproxy_policy_call_duration_seconds_count",
    "mproxy_shadow_comparisons_total",
    "mproxy_budget_used_bytes",
    "mproxy_budget_limit_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
];

/// A series: its name and its labels.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: &'static str,
    labels: Vec<(String, String)>,
}

impl Series {
    /// The value of this label; empty if it has none.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// All series that were seen. As many as the metrics have: it is bounded as they are.
#[derive(Debug, Default)]
pub(super) struct SeriesIndex {
    of: HashMap<Box<str>, usize>,
    series: Vec<Series>,
}

/// The values at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// By the place of the series in the index; one that came up later has none.
    values: Vec<Option<f64>>,
}

impl Default for Sample {
    fn default() -> Self {
        Self { at: Instant::now(), values: Vec::new() }
    }
}

impl Sample {
    fn value(&self, at: usize) -> Option<f64> {
        self.values.get(at).copied().flatten()
    }

    /// Each series that this has, its value, and what it was `before`.
    pub(super) fn against<'a>(
        &'a self,
        index: &'a SeriesIndex,
        before: Option<&'a Self>,
    ) -> impl Iterator<Item = (&'a Series, f64, f64)> {
        index.series.iter().enumerate().filter_map(move |(at, series)| {
            let then = before.and_then(|before| before.value(at)).unwrap_or(0.0);
            Some((series, self.value(at)?, then))
        })
    }
}

impl SeriesIndex {
    /// What this text says of the families that are wanted.
    pub(super) fn read(&mut self, at: Instant, text: &str) -> Sample {
        let mut values = vec![None; self.series.len()];
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            // The value stands behind the last space: labels may have others.
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (Some(place), Ok(value)) = (self.place(series), value.parse()) else { continue };
            if values.len() <= place {
                values.resize(place + 1, None);
            }
            values[place] = Some(value);
        }
        Sample { at, values }
    }

    fn place(&mut self, text: &str) -> Option<usize> {
        if let Some(known) = self.of.get(text) {
            return Some(*known);
        }
        let (name, labels) = text.split_once('{').unwrap_or((text, ""));
        let name = WANTED.into_iter().find(|wanted| *wanted == name)?;
        let place = self.series.len();
        self.series.push(Series { name, labels: parse_labels(labels.strip_suffix('}').unwrap_or(labels)) });
        self.of.insert(text.into(), place);
        Some(place)
    }
}

/// `a="b",c="d"`, where values have `\"`, `\\` and `\n` for what they stand for.
fn parse_labels(mut text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let (mut value, mut escaped, mut end) = (String::new(), false, rest.len());
        for (at, character) in rest.char_indices() {
            match (escaped, character) {
                (true, 'n') => value.push('\n'),
                (true, other) => value.push(other),
                (false, '\\') => {}
                (false, '"') => {
                    end = at + 1;
                    break;
                }
                (false, other) => value.push(other),
            }
            escaped = !escaped && character == '\\';
        }
        labels.push((name.to_owned(), value));
        text = rest[end..].trim_start_matches(',');
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_they_were_meant() {
        let labels = |text| {
            parse_labels(text).into_iter().map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>()
        };
        assert_eq!(labels(""), [""; 0]);
        assert_eq!(labels(r#"a="b",c="d e""#), ["a:b", "c:d e"]);
        assert_eq!(labels(r#"a="\"\\\n,",c="}""#), ["a:\"\\\n,", "c:}"]);
    }
}
