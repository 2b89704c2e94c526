//! The formats in which metrics are read, and which of them a caller likes best.

/// The two text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// All formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// A text.
    Text(Format),
    /// Prometheus' protobuf, which alone has native histograms.
    Protobuf,
}

/// Prometheus' protobuf: messages of one type, one after the other, each behind its length.
const PROTOBUF: &str = "application/vnd.google.protobuf";

/// Without these it would be something else.
const OF_PROTOBUF: [&str; 2] = ["proto=io.prometheus.client.MetricFamily", "encoding=delimited"];

impl Exposition {
    /// What a caller with this Accept header likes best; Prometheus text where it does not care.
    #[must_use]
    pub fn accepted(header: Option<&str>) -> Self {
        let header = header.unwrap_or_default();
        let protobuf = preference(header, PROTOBUF, &OF_PROTOBUF);
        let openmetrics = preference(header, "application/openmetrics-text", &[]);
        let plain = preference(header, "text/plain", &[]);
        // Where several are liked as well: whoever names the richer one can read it.
        if protobuf > 0.0 && protobuf >= openmetrics.max(plain) {
            Self::Protobuf
        } else if openmetrics > 0.0 && openmetrics >= plain {
            Self::Text(Format::OpenMetrics)
        } else {
            Self::Text(Format::Prometheus)
        }
    }

    /// For the Content-Type header.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text(format) => format.content_type(),
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

impl Format {
    /// For the Content-Type header.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The `q` that an Accept header gives a type with these parameters; 0 where it does not name it.
fn preference(header: &str, kind: &str, parameters: &[&str]) -> f32 {
    let mut best = 0.0_f32;
    for range in header.split(',') {
        let mut parts = range.split(';').map(str::trim);
        // `*/*` is not counted: who takes anything gets the older text, which everything reads.
        if !parts.next().is_some_and(|name| name.eq_ignore_ascii_case(kind)) {
            continue;
        }
        let parts: Vec<_> = parts.collect();
        let has = |wanted: &&str| parts.iter().any(|part| part.eq_ignore_ascii_case(wanted));
        if !parameters.iter().all(has) {
            continue;
        }
        let q =
            parts.iter().find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
        best = best.max(q);
    }
    best
}

/// OpenMetrics text as Prometheus 0.0.4: there the descriptors carry the whole name of the series, and there
/// is neither a unit nor an end.
pub(super) fn as_prometheus(openmetrics: &str) -> String {
    let mut page = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // Kept until the type is known, on which the name depends that stands before it.
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, help)) = help.take() {
                page.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            page.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            page.push_str(line);
            page.push('\n');
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::{Exposition, Format};

    #[test]
    fn the_callers_preference_chooses_the_format() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        let accepted = Exposition::accepted;
        assert_eq!(accepted(Some(prometheus)), Exposition::Text(Format::OpenMetrics));
        // As Prometheus asks with native histograms, 2.40 and 3.
        for protobuf in [
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; q=0.6",
        ] {
            assert_eq!(accepted(Some(&format!("{protobuf},{prometheus}"))), Exposition::Protobuf);
            let other = protobuf.replace("delimited", "text");
            assert_eq!(accepted(Some(&other)), Exposition::Text(Format::Prometheus));
            let disliked = format!("{};q=0.1,{prometheus}", protobuf.replace("q=0.6", ""));
            assert_ne!(accepted(Some(&disliked)), Exposition::Protobuf, "{disliked}");
        }
        assert_eq!(
            accepted(Some("text/plain,application/openmetrics-text;q=0.5")),
            Exposition::Text(Format::Prometheus)
        );
        for nothing in [Some("application/openmetrics-text;q=0"), Some("*/*"), None] {
            assert_eq!(accepted(nothing), Exposition::Text(Format::Prometheus));
        }
    }
}
