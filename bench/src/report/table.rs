//! The tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::spread::{Figure, Spread, figures, ratios};
use crate::candidate::{self, Candidate};
use crate::sample::{Results, Sample};
use crate::transport::BenchTransport;
use crate::workload::{self, Target, Workload, WorkloadKind};

/// The variant that has to reach the targets.
const MEASURED: &str = "mproxy allow";

/// The one whose service leaves everything to mproxy, and what that may cost for each message, times [`MEASURED`].
const GRANTED: &str = "mproxy grant";
const GRANT_AT_MOST: f64 = 1.05;

/// With a Unix socket to the broker: mproxy and nginx, and what mproxy may cost for each message, times nginx over TCP.
const UNIX: [&str; 2] = ["mproxy-unix", "nginx-unix"];
const UNIX_AT_MOST: f64 = 0.9;

pub(crate) const VARIANTS: [&str; 5] = [MEASURED, "mproxy acl", GRANTED, "mproxy hook", "mproxy stream"];
pub(crate) const OTHERS: [&str; 2] = ["nginx", "haproxy"];

/// The figure that a workload is about.
pub(crate) fn main_figure(workload: &Workload) -> Figure {
    if workload.is_idle() {
        |sample| Some(sample.per_connection_after_pings?.rss)
    } else {
        |sample| sample.cpu_us
    }
}

/// One sample, told while the run goes on.
pub(crate) fn line(sample: &Sample) -> String {
    let Sample { round, workload, candidate, per_second, latency, .. } = sample;
    let mut line = format!("{} {workload:<12} {candidate:<12} {per_second:>9.0}/s", round + 1);
    if let Some(cpu) = sample.cpu_us {
        let _ = write!(line, "  {cpu:>7.2} us");
    }
    let _ = write!(line, "  p50 {:.0} p99 {:.0} us", latency.p50, latency.p99);
    if let Some(memory) = sample.per_connection_after_pings {
        let _ = write!(line, "  {:.2} KiB each", memory.rss);
    }
    let _ = write!(line, "  (load {:.2}, broker {:.2} us)", sample.load_us, sample.broker_us);
    if sample.lost != 0 {
        let _ = write!(line, "  LOST {}", sample.lost);
    }
    for fault in &sample.faults {
        let _ = write!(line, "  FAULT {fault}");
    }
    line
}

/// The workloads that there are samples of.
pub(crate) fn played(results: &Results) -> Vec<Workload> {
    let is_played =
        |workload: &Workload| results.samples.iter().any(|sample| sample.workload == workload.name);
    workload::all().filter(is_played).collect()
}

/// Everything.
pub(crate) fn markdown(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "Measured {}: {}, {} cores, {:.0} GiB, Linux {}; {}; {}; {}. {} rounds of {} s each; load average at the start \
         {}.\n",
        machine.date,
        machine.cpu,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.nginx,
        machine.haproxy,
        machine.mproxy,
        results.rounds,
        results.seconds,
        machine.load_average,
    );
    let played = played(results);
    summaries(&mut text, results, &played);
    for workload in &played {
        let _ = write!(text, "\n### {}\n\n{}.\n\n", workload.name, workload.about);
        let columns = if workload.is_idle() { idle_columns() } else { busy_columns(workload) };
        table(&mut text, results, workload, &columns);
    }
    faults(&mut text, results);
    text
}

/// What stands in a column of a summary: a candidate's figure, or that of one divided by that of another.
enum Entry {
    Of(&'static str),
    Ratio(&'static str, &'static str),
}

impl Entry {
    fn title(&self) -> String {
        match self {
            Self::Of(candidate) => (*candidate).to_owned(),
            Self::Ratio(candidate, other) => format!("{candidate} / {other}"),
        }
    }

    fn spread(&self, results: &Results, workload: &Workload) -> Option<Spread> {
        let (name, figure) = (&workload.name, main_figure(workload));
        match self {
            Self::Of(candidate) => figures(results, name, candidate, figure),
            Self::Ratio(candidate, other) => ratios(results, name, candidate, other, figure),
        }
    }
}

/// The variant that has to reach the targets over every transport, then the others over TCP.
fn summaries(text: &mut String, results: &Results, played: &[Workload]) {
    let [nginx, haproxy] = OTHERS;
    text.push_str(
        "\nCPU µs for each message; for idle connections, KiB resident for each. Then the same of mproxy, divided by \
         that of the other in the same round. Median of the rounds (least to most).\n\n",
    );
    let entries = [
        Entry::Of(MEASURED),
        Entry::Of(nginx),
        Entry::Of(haproxy),
        Entry::Ratio(MEASURED, nginx),
        Entry::Ratio(MEASURED, haproxy),
    ];
    summary(text, results, played.iter(), &entries, |workload| target(workload.target?));
    text.push_str(
        "\nWho decides, over TCP. A grant spares questions about messages, not the one about the connection.\n\n",
    );
    let others = VARIANTS[1..].iter().flat_map(|variant| OTHERS.map(|other| Entry::Ratio(variant, other)));
    let entries: Vec<_> = others.chain([Entry::Ratio(GRANTED, MEASURED)]).collect();
    let over_tcp = played.iter().filter(|workload| workload.transport == BenchTransport::Tcp);
    summary(text, results, over_tcp, &entries, |workload| {
        let asks_nothing = !workload.is_idle() && !matches!(workload.kind, WorkloadKind::Storm { .. });
        asks_nothing.then_some((Entry::Ratio(GRANTED, MEASURED), GRANT_AT_MOST))
    });
    ways(text, results, played);
}

/// The ways to the broker, where each message is on its way alone.
fn ways(text: &mut String, results: &Results, played: &[Workload]) {
    let [socket, theirs] = UNIX;
    let [nginx, _] = OTHERS;
    let measured = |workload: &&Workload| {
        results
            .samples
            .iter()
            .any(|sample| sample.workload == workload.name && UNIX.contains(&&*sample.candidate))
    };
    let workloads: Vec<_> = played.iter().filter(measured).collect();
    if workloads.is_empty() {
        return;
    }
    text.push_str(
        "\nOver a Unix socket to the broker. nginx is measured over one, too; what is to be reached is against nginx over \
         TCP.\n\n",
    );
    let entries = [
        Entry::Of(socket),
        Entry::Of(theirs),
        Entry::Ratio(socket, nginx),
        Entry::Ratio(socket, theirs),
        Entry::Ratio(socket, MEASURED),
        Entry::Ratio(theirs, nginx),
    ];
    let target = |_: &Workload| Some((Entry::Ratio(socket, nginx), UNIX_AT_MOST));
    summary(text, results, workloads.into_iter(), &entries, target);
}

/// A row for each workload; at its end what is to be at most what, and whether it is.
fn summary<'a>(
    text: &mut String,
    results: &Results,
    workloads: impl Iterator<Item = &'a Workload>,
    entries: &[Entry],
    target: impl Fn(&Workload) -> Option<(Entry, f64)>,
) {
    let titles = entries.iter().map(Entry::title).collect::<Vec<_>>().join(" | ");
    let _ = writeln!(
        text,
        "| workload | {titles} | target | reached |\n|---|{}",
        "---|".repeat(entries.len() + 2)
    );
    for workload in workloads {
        let _ = write!(text, "| {} |", workload.name);
        for entry in entries {
            let _ = write!(text, " {} |", shown(entry.spread(results, workload), 2));
        }
        let Some((entry, most)) = target(workload) else {
            text.push_str(" none | |\n");
            continue;
        };
        let reached =
            entry.spread(results, workload).map_or_else(String::new, |Spread { median, .. }| {
                format!("{} ({median:.2})", if median <= most { "yes" } else { "**no**" })
            });
        let _ = writeln!(text, " {} at most {most:.2} | {reached} |", entry.title());
    }
}

const fn target(target: Target) -> Option<(Entry, f64)> {
    Some(match target {
        Target::TimesNginx(most) => (Entry::Ratio(MEASURED, "nginx"), most),
        Target::TimesHaproxy(most) => (Entry::Ratio(MEASURED, "haproxy"), most),
        Target::KibPerConnection(most) => (Entry::Of(MEASURED), most),
    })
}

/// A column: its title, what it shows of a sample, and with how many digits.
type Column = (String, Figure, usize);

fn busy_columns(workload: &Workload) -> Vec<Column> {
    let unit = workload.unit();
    vec![
        (format!("CPU µs/{unit}"), |sample| sample.cpu_us, 2),
        ("of it user".to_owned(), |sample| sample.user_us, 2),
        (format!("{unit}s/s").replace("ys/", "ies/"), |sample| Some(sample.per_second), 0),
        ("p50 µs".to_owned(), |sample| Some(sample.latency.p50), 0),
        ("p99 µs".to_owned(), |sample| Some(sample.latency.p99), 0),
        ("peak MiB".to_owned(), |sample| Some(sample.peak? / 1024.0), 1),
        ("load µs".to_owned(), |sample| Some(sample.load_us), 2),
        ("broker µs".to_owned(), |sample| Some(sample.broker_us), 2),
        ("service µs".to_owned(), |sample| sample.service_us, 2),
        ("reads".to_owned(), |sample| Some(sample.syscalls?.reads), 3),
        ("writes".to_owned(), |sample| Some(sample.syscalls?.writes), 3),
        ("waits".to_owned(), |sample| Some(sample.syscalls?.waits), 3),
        ("all calls".to_owned(), |sample| Some(sample.syscalls?.all), 3),
    ]
}

fn idle_columns() -> Vec<Column> {
    vec![
        ("KiB each".to_owned(), |sample| Some(sample.per_connection?.rss), 2),
        ("after pings".to_owned(), |sample| Some(sample.per_connection_after_pings?.rss), 2),
        ("MiB at start".to_owned(), |sample| Some(sample.memory_at_start?.rss / 1024.0), 1),
        ("with all".to_owned(), |sample| Some(sample.memory_with_all?.rss / 1024.0), 1),
        ("all gone".to_owned(), |sample| Some(sample.memory_at_end?.rss / 1024.0), 1),
        ("times start".to_owned(), |sample| Some(sample.memory_at_end?.rss / sample.memory_at_start?.rss), 2),
        ("CPU µs/ping".to_owned(), |sample| sample.cpu_us, 2),
        ("pings/s".to_owned(), |sample| Some(sample.per_second), 0),
        ("p50 µs".to_owned(), |sample| Some(sample.latency.p50), 0),
        ("p99 µs".to_owned(), |sample| Some(sample.latency.p99), 0),
    ]
}

/// A row for each candidate; columns that nobody has anything for are left out.
fn table(text: &mut String, results: &Results, workload: &Workload, columns: &[Column]) {
    let cell = |candidate: &Candidate, (_, figure, digits): &Column| {
        Some((figures(results, &workload.name, candidate.name(), *figure)?, *digits))
    };
    let columns: Vec<_> = columns
        .iter()
        .filter(|column| candidate::ALL.iter().any(|candidate| cell(candidate, column).is_some()))
        .collect();
    text.push_str("| |");
    columns.iter().for_each(|(title, ..)| {
        let _ = write!(text, " {title} |");
    });
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(columns.len()));
    for candidate in candidate::ALL {
        let cells: Vec<_> = columns.iter().map(|column| cell(candidate, column)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "| {} |", candidate.name());
        for cell in cells {
            let (spread, digits) = cell.unzip();
            let _ = write!(text, " {} |", shown(spread, digits.unwrap_or(0)));
        }
        text.push('\n');
    }
}

/// Median, and in parentheses from where to where.
fn shown(spread: Option<Spread>, digits: usize) -> String {
    match spread {
        None => "–".to_owned(),
        Some(Spread { min, median, max }) if max - min < 0.5 * 0.1_f64.powi(digits.min(9) as i32) => {
            format!("{median:.digits$}")
        }
        Some(Spread { min, median, max }) => format!("{median:.digits$} ({min:.digits$}–{max:.digits$})"),
    }
}

fn faults(text: &mut String, results: &Results) {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for sample in &results.samples {
        let lost = (sample.lost != 0).then(|| format!("{} lost", sample.lost));
        for fault in sample.faults.iter().cloned().chain(lost) {
            *told.entry(format!("{}, {}: {fault}", sample.workload, sample.candidate)).or_default() += 1;
        }
    }
    if told.is_empty() {
        text.push_str("\nNothing was lost, and nobody saw a fault.\n");
        return;
    }
    text.push_str("\n### What went wrong\n\n");
    for (fault, times) in told {
        let _ = writeln!(
            text,
            "- {fault}{}",
            if times > 1 { format!(" ({times} times)") } else { String::new() }
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::probe::Memory;

    fn sample(workload: &str, candidate: &str, cpu: f64, kib: f64) -> Sample {
        Sample {
            workload: workload.to_owned(),
            candidate: candidate.to_owned(),
            cpu_us: Some(cpu),
            per_connection_after_pings: Some(Memory { rss: kib, pss: kib }),
            ..Sample::default()
        }
    }

    #[test]
    fn what_is_reached_is_told_for_every_transport() {
        let samples = vec![
            sample("paced64", MEASURED, 9.0, 0.0),
            sample("paced64", "nginx", 10.0, 0.0),
            sample("paced64", GRANTED, 10.0, 0.0),
            sample("idle2000-tls", MEASURED, 9.0, 6.0),
            sample("idle2000-tls", "haproxy", 9.0, 12.0),
            sample("paced64-ws", MEASURED, 9.0, 0.0),
        ];
        let results = Results { machine: Machine::default(), rounds: 1, seconds: 1.0, samples };
        let text = markdown(&results);
        let rows: Vec<_> = text.lines().filter(|line| line.contains(" at most ")).collect();
        let ends = ["1.00 | yes (0.90) |", "1.00 | yes (0.50) |", "1.05 | **no** (1.11) |"];
        assert_eq!(rows.len(), ends.len(), "{text}");
        assert!(rows.iter().zip(ends).all(|(row, end)| row.ends_with(end)), "{rows:?}");
    }
}
