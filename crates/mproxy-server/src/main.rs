//! The `mproxy` binary: reads the command line and lets the house do the rest.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mproxy_core::peer::Address;
use mproxy_policy::acl::Acl;
use mproxy_server::app::{App, AppParts};
use mproxy_server::cli::{self, Cli, Command, HooksCommand};
use mproxy_server::config::{Flags, Loaded, LogLevel, Scheme, SendProxy, ValueOrigin};
use mproxy_server::demo::{self, DemoBroker};
use mproxy_server::systemd::InheritedSockets;
use mproxy_server::telemetry::log;
use mproxy_server::telemetry::otlp_logs::OtlpLogs;
use mproxy_server::telemetry::traces::Traces;
use mproxy_server::upgrade::{Predecessor, Program};
use tracing::warn;

// The memory of connections that have gone goes back to the system, see docs/adr/0010. How soon is said in
// .cargo/config.toml.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long the last lines of the log may take to be read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long the last spans may take to be taken by their collector.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// How long the last lines may take to be taken by theirs.
const LAST_RECORDS: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let (outcome, failed) = match Cli::read() {
        Err(usage) => (print_usage(&usage), cli::EXIT_UNANSWERED),
        Ok(cli) => {
            let serves = matches!(cli.task(), Command::Run | Command::Demo);
            // Of a command that answers, 1 would be an answer: not ready, refused, none.
            (run_command(&cli), if serves { 1 } else { cli::EXIT_UNANSWERED })
        }
    };
    match outcome {
        Ok(code) => code,
        // Whoever reads the output has seen enough (`mproxy sessions | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // One line with its causes, and no backtrace: it is for the person who started it. If nobody can read it, the code
            // says enough.
            let _ = writeln!(io::stderr(), "mproxy: {error:#}");
            ExitCode::from(failed)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Help, the version, or what is wrong with the command line.
fn print_usage(usage: &clap::Error) -> anyhow::Result<ExitCode> {
    usage.print().and_then(|()| io::stdout().flush()).context(UNWRITTEN)?;
    Ok(ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(cli::EXIT_UNANSWERED)))
}

const UNWRITTEN: &str = "cannot write the output";

fn run_command(cli: &Cli) -> anyhow::Result<ExitCode> {
    let (flags, out, err) = (cli.flags(), &mut io::stdout(), &mut io::stderr());
    let code = match cli.task() {
        command @ (Command::Run | Command::Demo) => return serve(cli, &command),
        Command::Check => cli::check(cli::load(flags), cli::file_faults, out, err).context(UNWRITTEN)?,
        Command::Admin(command) => cli::ask_admin(&command, flags, out, err).context(UNWRITTEN)?,
        Command::Completions(command) => {
            cli::write_completions(&command, out).context(UNWRITTEN)?;
            ExitCode::SUCCESS
        }
        Command::Man(command) => {
            cli::write_man(&command, out)?;
            ExitCode::SUCCESS
        }
        Command::Rules { command } => cli::run_rules(&command, out, err).context(UNWRITTEN)?,
        Command::Import { command } => cli::run_import(&command, out, err).context(UNWRITTEN)?,
        Command::HashPassword => {
            cli::hash_password()?;
            ExitCode::SUCCESS
        }
        Command::Hooks { command } => {
            let runtime = runtime()?;
            let code = match command {
                HooksCommand::Check(asked) => runtime.block_on(cli::check_hooks(&asked, out, err)),
                HooksCommand::Replay(asked) => runtime.block_on(cli::replay_hooks(&asked, out, err)),
            };
            // A name that is still being resolved is not waited for.
            runtime.shutdown_background();
            code?
        }
    };
    // The end of a line that was not ended.
    io::stdout().flush().context(UNWRITTEN)?;
    Ok(code)
}

/// Serves until it is told to end.
fn serve(cli: &Cli, command: &Command) -> anyhow::Result<ExitCode> {
    let program = Program::of_this_process()?;
    // Before any thread is started.
    let (mut predecessor, sockets) = match Predecessor::from_env()? {
        Some((predecessor, sockets)) => (Some(predecessor), sockets),
        None => (None, InheritedSockets::from_env()?),
    };
    let Some(mut loaded) = load(cli)? else {
        if let Some(predecessor) = &mut predecessor {
            predecessor.fail("its configuration is wrong, see its log");
        }
        return Ok(ExitCode::from(cli::EXIT_CONFIGURATION));
    };
    if *command == Command::Demo {
        quiet(&mut loaded);
    }
    let runtime = runtime()?;
    let (traces, sent) = start_otlp(&runtime, &loaded)?;
    let log = log::start(loaded.config.log, traces.as_deref(), sent.as_ref());
    let flags = cli.flags().clone();
    let opening = AppParts {
        loaded,
        rules: None,
        reread: Box::new(move || cli::load(&flags)),
        sockets,
        log: log.clone(),
        traces: traces.clone(),
        // The broker of the demo lives in its process.
        program: (*command == Command::Run).then_some(program),
        predecessor,
    };
    let outcome = runtime.block_on(async {
        if *command == Command::Demo { show(opening, cli.flags()).await } else { run(opening).await }
    });
    // While there is a runtime: they go over its connections.
    if let Some(traces) = traces {
        traces.flush(LAST_SPANS);
    }
    if let Some(sent) = sent {
        sent.flush(LAST_RECORDS);
    }
    // What still runs after the drain is cut.
    runtime.shutdown_background();
    log.flush(LAST_LINES);
    outcome.map(|()| ExitCode::SUCCESS)
}

/// The configuration; `None`: what is wrong with it has been told.
fn load(cli: &Cli) -> io::Result<Option<Loaded>> {
    let loaded = match cli::load(cli.flags()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            cli::complain(&problems, &mut io::stderr())?;
            return Ok(None);
        }
    };
    let faults = cli::file_faults(&loaded);
    if !faults.is_empty() {
        cli::complain_of_files(&faults, &mut io::stderr())?;
        return Ok(None);
    }
    Ok(Some(loaded))
}

/// First come, first served: without this, of the events that a thread finds at once the last is served first, and what two
/// clients sent one after the other goes on in the other order. See docs/adr/0009.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    #[cfg(tokio_unstable)]
    runtime.disable_lifo_slot();
    runtime.enable_all().build()
}

/// What is sent to collectors. Before the log, which hears of the same spans and leaves them out.
fn start_otlp(
    runtime: &tokio::runtime::Runtime,
    loaded: &Loaded,
) -> anyhow::Result<(Option<Arc<Traces>>, Option<OtlpLogs>)> {
    let _inside = runtime.enter();
    let (otel, instance) = (&loaded.config.otel, &loaded.config.general.instance);
    Ok((Traces::start(otel, instance)?, OtlpLogs::start(otel, instance)?))
}

async fn run(opening: AppParts) -> anyhow::Result<()> {
    for warning in &opening.loaded.warnings {
        warn!("{warning}");
    }
    App::open(opening).await?.run().await;
    Ok(())
}

async fn show(mut opening: AppParts, flags: &Flags) -> anyhow::Result<()> {
    let broker = DemoBroker::start().await?;
    point_at(&mut opening.loaded, broker.address());
    anyhow::ensure!(
        !opening.loaded.config.listeners.is_empty(),
        "the demo needs a plain MQTT listener: set its port with --mqtt-port (or MPROXY_MQTT_PORT) to a free one, not to off"
    );
    let rules = Acl::parse(demo::RULES, "the demo's rules")?;
    let (flags, at) = (flags.clone(), broker.address());
    let reread = move || {
        cli::load(&flags).map(|mut loaded| {
            quiet(&mut loaded);
            point_at(&mut loaded, at);
            loaded
        })
    };
    let app = App::open(AppParts { rules: Some(rules), reread: Box::new(reread), ..opening }).await?;
    if let [(_, Address::Ip(mqtt)), .., (_, Address::Ip(admin))] = app.bound() {
        println!("{}", demo::page(*mqtt, *admin, broker.address()));
    }
    app.run().await;
    broker.end().await;
    Ok(())
}

/// What sets some values, as `GET /api/v1/config` says it.
const DEMO: &str = "mproxy demo";

/// The demo is for this machine alone, and leads to its own broker: its commands speak plain MQTT, and so does it.
fn point_at(loaded: &mut Loaded, broker: std::net::SocketAddr) {
    for (key, value) in [
        ("mqtt.host", "127.0.0.1".to_owned()),
        ("mqtt.target.scheme", Scheme::Mqtt.name().to_owned()),
        ("mqtt.target.host", broker.ip().to_string()),
        ("mqtt.target.port", broker.port().to_string()),
    ] {
        loaded.set_by(DEMO, key, value);
    }
    let config = &mut loaded.config;
    config.listeners.retain(|listener| listener.transport == Scheme::Mqtt);
    config.listeners.truncate(1);
    for listener in &mut config.listeners {
        listener.host = "127.0.0.1".to_owned();
        listener.proxy_from = None;
        listener.target.scheme = Scheme::Mqtt;
        listener.target.socket = None;
        listener.target.proxy_protocol = SendProxy::Off;
        listener.target.host = broker.ip().to_string();
        listener.target.port = broker.port();
    }
    config.policy = None;
    config.general.acl_file = None;
}

/// The page of the demo is what is to be read: connections are logged only where somebody asked for that.
fn quiet(loaded: &mut Loaded) {
    let is_asked = loaded
        .effective
        .iter()
        .any(|setting| setting.key == "log.level" && matches!(setting.origin, Some(ValueOrigin::Written(_))));
    if !is_asked {
        loaded.config.log.level = LogLevel::Warn;
        loaded.set_by(DEMO, "log.level", LogLevel::Warn.name().to_owned());
    }
}
