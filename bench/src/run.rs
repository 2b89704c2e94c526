//! The rounds: in each, every workload is played through every candidate, one right after the other and in turning
//! order, so that what changes on the machine in the meantime strikes all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::candidate::{self, Candidate, Programs, Standing};
use crate::child::Player;
use crate::control::{Tally, Word};
use crate::frame::fixed;
use crate::load::{self, Target};
use crate::machine::Machine;
use crate::probe::{Cpu, Family, Memory, Spent};
use crate::sample::{Results, Sample};
use crate::workload::{self, Counter, Workload};
use crate::{report, syscalls};

/// How long the load runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// Rest before memory is read.
const SETTLE: Duration = Duration::from_millis(1_500);

/// The same when all have gone: what is given back is given back by then.
const SETTLE_GONE: Duration = Duration::from_secs(3);

/// Connections that come and go before a proxy's memory at the start is read: what it keeps for all is there then.
const FIRST: usize = 64;

/// How long messages on their way may take once nothing new is sent, and how long nothing may move.
const DRAIN: Duration = Duration::from_secs(10);
const STALL: Duration = Duration::from_millis(1_500);

/// How long system calls are counted, after the measured time.
const COUNTED_SECONDS: f64 = 1.0;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these workloads, or those over these transports: tcp, tls, ws, wss
    #[arg(long, num_args = 1.., value_delimiter = ',')]
    workload: Vec<String>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each measurement lasts
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Only these: direct, nginx, nginx-unix, haproxy, mproxy (all of its variants), mproxy-unix, before (the same of the earlier one), allow, acl, claims, condition, grant, hook, stream, json
    #[arg(long, num_args = 1.., value_delimiter = ',')]
    only: Vec<String>,
    /// The mproxy to measure [default: beside this program]
    #[arg(long)]
    mproxy: Option<PathBuf>,
    /// An earlier mproxy, measured in turn with the other: what a change costs, before and after in one run
    #[arg(long)]
    before: Option<PathBuf>,
    /// A setting of the measured mproxy, which the earlier one does not have: `--before` of the same program shows what
    /// the setting costs. `{folder}` in it is a folder that is removed at the end
    #[arg(long, value_name = "VARIABLE=VALUE")]
    set: Vec<String>,
    /// The hook service of the variants `hook` and `stream` [default: mproxy-example-hook beside this program]
    #[arg(long)]
    hook: Option<PathBuf>,
    #[arg(long)]
    nginx: Option<PathBuf>,
    #[arg(long)]
    haproxy: Option<PathBuf>,
    /// Do not count system calls, even where perf can
    #[arg(long)]
    no_syscalls: bool,
    /// Where results.json, table.md and ratios.svg are written
    #[arg(long, default_value = "bench/results")]
    out: PathBuf,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.rounds == 0 || !(0.2..=600.0).contains(&options.seconds) {
        bail!("at least one round, of 0.2 to 600 seconds");
    }
    let mut workloads: Vec<_> = workload::all().collect();
    if !options.workload.is_empty() {
        let named: Vec<_> =
            options.workload.iter().map(|name| workload::named(name)).collect::<Result<_, _>>()?;
        workloads.retain(|workload| named.iter().flatten().any(|named| named.name == workload.name));
    }
    let mut candidates = candidate::ALL.to_vec();
    candidates.retain(|candidate| options.before.is_some() || !matches!(candidate, Candidate::Before(_)));
    if !options.only.is_empty() {
        let named: Vec<_> =
            options.only.iter().map(|name| Candidate::named(name)).collect::<Result<_, _>>()?;
        candidates.retain(|candidate| named.iter().flatten().any(|named| named == candidate));
    }
    let folder = Scratch::new()?;
    let programs = programs(options, &candidates, folder.0.clone())?;
    candidate::certify(&programs)?;
    let mut results = Results {
        machine: Machine::look(&programs),
        rounds: options.rounds,
        seconds: options.seconds,
        samples: Vec::new(),
    };
    let socket = folder.0.join("broker.sock");
    let (mut broker, address) = Player::broker(&socket)?;
    let standing_in = candidate::Broker { address, socket };
    let counting = !options.no_syscalls && syscalls::available();
    for round in 0..options.rounds {
        for (place, workload) in workloads.iter().enumerate() {
            let mut turn = candidates.clone();
            turn.rotate_left((round + place) % candidates.len());
            turn.retain(|candidate| candidate.plays(workload));
            for candidate in turn {
                let mut stage = Stage {
                    programs: &programs,
                    broker: &mut broker,
                    place: &standing_in,
                    workload,
                    seconds: options.seconds,
                    // Counting costs time and not precision: once is enough.
                    counting: counting && round == 0,
                };
                let mut sample = stage.sample(candidate).unwrap_or_else(|error| Sample {
                    faults: vec![format!("{error:#}")],
                    ..Sample::default()
                });
                sample.workload.clone_from(&workload.name);
                sample.candidate = candidate.name().to_owned();
                sample.round = round;
                eprintln!("{}", report::line(&sample));
                results.samples.push(sample);
            }
        }
        // After each round, so that a run that is broken off has something to show.
        results.rounds = round + 1;
        results.write(&options.out)?;
        report::write(&results, &options.out)?;
    }
    println!("{}", report::markdown(&results));
    Ok(())
}

fn programs(options: &Options, candidates: &[Candidate], folder: PathBuf) -> anyhow::Result<Programs> {
    let limit = getrlimit(Resource::Nofile);
    let files = limit.maximum.unwrap_or(1 << 20);
    // Those that are started have it, too.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("the limit of open files")?;
    let beside = |name: &str| std::env::current_exe().map(|me| me.with_file_name(name));
    let or = |given: &Option<PathBuf>, name: &str| given.clone().map_or_else(|| beside(name), Ok);
    let programs = Programs {
        nginx: options.nginx.clone().unwrap_or_else(|| candidate::program("nginx")),
        haproxy: options.haproxy.clone().unwrap_or_else(|| candidate::program("haproxy")),
        mproxy: or(&options.mproxy, "mproxy")?,
        before: options.before.clone(),
        hook: or(&options.hook, "mproxy-example-hook")?,
        set: options.set.iter().map(|set| setting(set, &folder)).collect::<Result<_, _>>()?,
        files,
        folder,
    };
    for candidate in candidates {
        let needed = match candidate {
            Candidate::Direct => continue,
            Candidate::Nginx | Candidate::NginxUnix => &programs.nginx,
            Candidate::Haproxy => &programs.haproxy,
            Candidate::Mproxy(candidate::Policy::Hook | candidate::Policy::Stream) => &programs.hook,
            Candidate::Mproxy(_) | Candidate::MproxyUnix => &programs.mproxy,
            Candidate::Before(_) => programs.before.as_ref().context("--before names no mproxy")?,
        };
        if !needed.is_file() {
            bail!("{} is not there, see bench/README.md; or leave it out with --only", needed.display());
        }
    }
    Ok(programs)
}

fn setting(set: &str, folder: &Path) -> anyhow::Result<(String, String)> {
    let (name, value) = set.split_once('=').with_context(|| format!("--set {set}: VARIABLE=VALUE"))?;
    Ok((name.to_owned(), value.replace("{folder}", &folder.to_string_lossy())))
}

/// A folder for configurations, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("mproxy-bench-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind are a few small files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One measurement.
struct Stage<'a> {
    programs: &'a Programs,
    broker: &'a mut Player,
    place: &'a candidate::Broker,
    workload: &'a Workload,
    seconds: f64,
    counting: bool,
}

/// All that is read at one moment.
struct Moment {
    load: Tally,
    broker: Tally,
    load_cpu: Cpu,
    broker_cpu: Cpu,
    proxy_cpu: Option<Cpu>,
    service_cpu: Option<Cpu>,
}

impl Stage<'_> {
    fn sample(&mut self, candidate: Candidate) -> anyhow::Result<Sample> {
        let mut sample = Sample::default();
        if self.workload.links() as u64 * 2 + 100 > self.programs.files {
            bail!("the limit of open files, {}, is too low", self.programs.files);
        }
        self.quiet()?;
        let mut standing = candidate.start(self.programs, self.place, self.workload.transport)?;
        if self.workload.is_idle() {
            first_connections(standing.target)?;
            self.quiet()?;
            thread::sleep(SETTLE);
        }
        let before = memory(&standing)?;
        sample.memory_at_start = before;

        let started = self.broker.ask(Word::Mark)?;
        let mut load = Player::load(&self.workload.name, standing.target, self.seconds)?;
        if self.workload.is_idle() {
            thread::sleep(SETTLE);
            sample.per_connection = self.each(before, memory(&standing)?);
        }
        load.tell(Word::Go)?;
        if !self.workload.is_idle() {
            thread::sleep(WARM_UP);
        }
        let from = self.moment(&mut load, &standing)?;
        thread::sleep(Duration::from_secs_f64(self.seconds));
        let to = self.moment(&mut load, &standing)?;
        self.reckon(&from, &to, &mut sample);
        if self.workload.is_idle() {
            sample.memory_with_all = memory(&standing)?;
            sample.per_connection_after_pings = self.each(before, sample.memory_with_all);
        }
        if self.counting
            && let Some(proxy) = &standing.proxy
        {
            let began = self.counted(&mut load)?;
            let calls = syscalls::count(proxy, COUNTED_SECONDS);
            let ended = self.counted(&mut load)?;
            let rate = (ended.messages - began.messages) as f64 / ((ended.at - began.at) as f64 / 1e9);
            sample.syscalls = calls.filter(|_| rate > 0.0).map(|calls| calls.divided_by(rate));
        }
        sample.peak = standing.proxy.as_ref().map(Family::peak).transpose()?;
        self.finish(&mut load, &started, &mut sample)?;
        drop(load);
        if self.workload.is_idle() {
            self.quiet()?;
            thread::sleep(SETTLE_GONE);
            sample.memory_at_end = memory(&standing)?;
        }
        standing.check()?;
        Ok(sample)
    }

    /// Waits until the broker has nobody left of what was before.
    fn quiet(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + DRAIN;
        while self.broker.ask(Word::Mark)?.open > 0 {
            if Instant::now() > end {
                bail!("connections stay open at the broker though their clients have gone");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn each(&self, before: Option<Memory>, now: Option<Memory>) -> Option<Memory> {
        let more = now?.minus(before?);
        let links = self.workload.links() as f64;
        Some(Memory { rss: more.rss / links, pss: more.pss / links })
    }

    fn moment(&mut self, load: &mut Player, standing: &Standing) -> anyhow::Result<Moment> {
        let cpu = |family: &Option<Family>| family.as_ref().map(Family::cpu).transpose();
        Ok(Moment {
            proxy_cpu: cpu(&standing.proxy)?,
            service_cpu: cpu(&standing.service)?,
            load: load.ask(Word::Mark)?,
            broker: self.broker.ask(Word::Mark)?,
            load_cpu: Family::of(load.id())?.cpu()?,
            broker_cpu: Family::of(self.broker.id())?.cpu()?,
        })
    }

    fn counted(&mut self, load: &mut Player) -> anyhow::Result<Tally> {
        match self.workload.counter() {
            Counter::Load => load.ask(Word::Mark),
            Counter::Broker => self.broker.ask(Word::Mark),
        }
    }

    fn reckon(&self, from: &Moment, to: &Moment, sample: &mut Sample) {
        let (began, ended) = match self.workload.counter() {
            Counter::Load => (&from.load, &to.load),
            Counter::Broker => (&from.broker, &to.broker),
        };
        sample.messages = ended.messages - began.messages;
        sample.per_second = sample.messages as f64 / ((ended.at - began.at) as f64 / 1e9);
        sample.latency = ended.latency;
        if sample.messages == 0 {
            sample.faults.push("nothing arrived in the time measured".to_owned());
            return;
        }
        // The moments of two readings lie a little apart, so that rates are divided and not sums.
        let each = |spent: Spent| spent.cpu_us / spent.seconds / sample.per_second;
        let spent = |to: &Option<Cpu>, from: &Option<Cpu>| Some(to.as_ref()?.since(from.as_ref()?));
        let proxy = spent(&to.proxy_cpu, &from.proxy_cpu);
        sample.cpu_us = proxy.map(each);
        sample.user_us = proxy.map(|spent| each(spent) * spent.user_share);
        sample.service_us = spent(&to.service_cpu, &from.service_cpu).map(each);
        sample.load_us = each(to.load_cpu.since(&from.load_cpu));
        sample.broker_us = each(to.broker_cpu.since(&from.broker_cpu));
    }

    /// Lets what is on its way arrive, and tells what did not.
    fn finish(&mut self, load: &mut Player, started: &Tally, sample: &mut Sample) -> anyhow::Result<()> {
        let mut sent = load.ask(Word::Stop)?;
        let (mut arrived, mut moved) = (0, Instant::now());
        let end = Instant::now() + DRAIN;
        let missing = loop {
            let load_now = load.ask(Word::Mark)?;
            sent.sent = sent.sent.max(load_now.sent);
            let (now, faults) = match self.workload.counter() {
                Counter::Load => (load_now.messages, load_now),
                Counter::Broker => (self.broker.ask(Word::Mark)?.messages - started.messages, load_now),
            };
            sent.faults = faults.faults;
            sent.told = faults.told;
            if now != arrived {
                (arrived, moved) = (now, Instant::now());
            }
            let missing = sent.sent as i64 - arrived as i64;
            if missing == 0 {
                break 0;
            }
            if moved.elapsed() > STALL {
                break missing;
            }
            if Instant::now() > end {
                sample.on_their_way = missing;
                break 0;
            }
            thread::sleep(Duration::from_millis(20));
        };
        sample.lost = missing;
        let broker = self.broker.ask(Word::Mark)?;
        for (tally, before) in [(&sent, 0), (&broker, started.faults)] {
            let faults = tally.faults - before;
            if faults > 0 {
                let told = tally.told.last().map_or("", String::as_str);
                sample.faults.push(format!("{faults} faults, such as: {told}"));
            }
        }
        Ok(())
    }
}

fn memory(standing: &Standing) -> anyhow::Result<Option<Memory>> {
    standing.proxy.as_ref().map(Family::memory).transpose()
}

/// So that what a proxy keeps once for all connections is not counted as memory of one.
fn first_connections(target: Target) -> anyhow::Result<()> {
    let ids = (0..FIRST).map(|number| format!("first-{number}"));
    let mut streams: Vec<_> = ids.map(|id| load::connect(target, &id)).collect::<Result<_, _>>()?;
    for stream in &mut streams {
        stream.write_all(fixed::PINGREQ)?;
        stream.read_exact(&mut [0; 2])?;
        stream.write_all(fixed::DISCONNECT)?;
    }
    Ok(())
}
