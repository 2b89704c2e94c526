//! The tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::spread::{Figure, Spread, figures, ratios};
use crate::candidate::{self, Candidate};
use crate::sample::{Results, Sample};
use crate::workload::{self, Target, Workload};

/// The variant that has to reach the targets.
const MEASURED: &str = "mproxy allow";

pub(crate) const VARIANTS: [&str; 3] = [MEASURED, "mproxy acl", "mproxy hook"];
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
    let mut line = format!("{} {workload:<9} {candidate:<12} {per_second:>9.0}/s", round + 1);
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
    let played: Vec<_> = workload::ALL
        .iter()
        .filter(|workload| results.samples.iter().any(|sample| sample.workload == workload.name))
        .collect();
    summary(&mut text, results, &played);
    for workload in played {
        let _ = write!(text, "\n### {}\n\n{}.\n\n", workload.name, workload.about);
        let columns = if workload.is_idle() { idle_columns() } else { busy_columns(workload) };
        table(&mut text, results, workload, &columns);
    }
    faults(&mut text, results);
    text
}

fn summary(text: &mut String, results: &Results, played: &[&Workload]) {
    text.push_str(
        "\nCPU of mproxy for each message, divided by that of the other in the same round; for idle connections, \
         resident memory. Median of the rounds (least to most).\n\n| workload |",
    );
    for variant in VARIANTS {
        for other in OTHERS {
            let _ = write!(text, " {variant} / {other} |");
        }
    }
    text.push_str(" target for mproxy allow | reached |\n|---|");
    text.push_str(&"---|".repeat(VARIANTS.len() * OTHERS.len() + 2));
    text.push('\n');
    for workload in played {
        let _ = write!(text, "| {} |", workload.name);
        let figure = main_figure(workload);
        for variant in VARIANTS {
            for other in OTHERS {
                let ratio = ratios(results, workload.name, variant, other, figure);
                let _ = write!(text, " {} |", shown(ratio, 2));
            }
        }
        let (target, reached) = target(results, workload);
        let _ = writeln!(text, " {target} | {reached} |");
    }
}

fn target(results: &Results, workload: &Workload) -> (String, String) {
    let figure = main_figure(workload);
    let (target, reached) = match workload.target {
        None => return ("none".to_owned(), String::new()),
        Some(Target::TimesNginx(most)) => (
            format!("at most {most:.1} x nginx"),
            ratios(results, workload.name, MEASURED, "nginx", figure).map(|ratio| (ratio.median, most)),
        ),
        Some(Target::KibPerConnection(most)) => (
            format!("at most {most:.1} KiB each"),
            figures(results, workload.name, MEASURED, figure).map(|each| (each.median, most)),
        ),
    };
    let reached = reached.map_or_else(String::new, |(is, most)| {
        format!("{} ({is:.2})", if is <= most { "yes" } else { "**no**" })
    });
    (target, reached)
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
        Some((figures(results, workload.name, candidate.name(), *figure)?, *digits))
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
