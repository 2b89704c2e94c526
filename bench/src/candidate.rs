//! What stands between the load generator and the stand-in broker, and how it is configured.

use std::collections::VecDeque;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::child::Child;
use crate::load::{self, Login, Target};
use crate::probe::Family;
use crate::transport::BenchTransport;
use crate::workload::Workload;

/// How long a proxy may take until it serves.
const START: Duration = Duration::from_secs(15);

/// Threads or workers of each proxy; the load generator and the broker need the rest of the machine.
pub(crate) const WORKERS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    Direct,
    Nginx,
    /// With a Unix socket to the broker.
    NginxUnix,
    Haproxy,
    Mproxy(Policy),
    /// Everything is allowed, and a Unix socket to the broker.
    MproxyUnix,
    /// An earlier mproxy, given by `--before`.
    Before(Policy),
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Nobody: everything is allowed.
    Allow,
    /// A static rule file.
    Acl,
    /// The same, by a claim of the clients' token.
    Claims,
    /// The same, by a condition on the payload, which is looked at each time.
    Condition,
    /// A service that is asked once for each client, and answers with a grant.
    Grant,
    /// The example hook service, which is asked for every packet and told every event, in unary calls.
    Hook,
    /// The same, but that the questions go over streams.
    Stream,
    /// A service that is asked and told the same, in JSON over HTTP/1.1.
    Json,
}

impl Policy {
    /// The command of this program that is its service, where no other program is.
    const fn own_service(self) -> Option<&'static str> {
        match self {
            Self::Grant => Some("grant"),
            Self::Json => Some("json"),
            Self::Allow | Self::Acl | Self::Claims | Self::Condition | Self::Hook | Self::Stream => None,
        }
    }

    /// By what its clients say who they are.
    const fn login(self) -> Login {
        match self {
            Self::Claims => Login::Token,
            Self::Allow
            | Self::Acl
            | Self::Condition
            | Self::Grant
            | Self::Hook
            | Self::Stream
            | Self::Json => Login::Nothing,
        }
    }

    /// The rule file that decides, if one does.
    fn rule_file(self, programs: &Programs) -> anyhow::Result<Option<PathBuf>> {
        let (name, text) = match self {
            Self::Acl => ("rules.toml", include_str!("candidate/rules.toml")),
            Self::Claims => {
                write(programs, "secret.txt", include_str!("candidate/secret.txt"))?;
                ("claims.toml", include_str!("candidate/claims.toml"))
            }
            Self::Condition => ("condition.toml", include_str!("candidate/condition.toml")),
            Self::Allow | Self::Grant | Self::Hook | Self::Stream | Self::Json => return Ok(None),
        };
        write(programs, name, text).map(Some)
    }
}

/// What they are called on the command line.
const WORDS: &str = "direct, nginx, nginx-unix, haproxy, mproxy, mproxy-unix, before, allow, acl, claims, condition, grant, hook, \
     stream, json";

pub(crate) const ALL: &[Candidate] = &[
    Candidate::Direct,
    Candidate::Nginx,
    Candidate::NginxUnix,
    Candidate::Haproxy,
    Candidate::Mproxy(Policy::Allow),
    Candidate::MproxyUnix,
    Candidate::Mproxy(Policy::Acl),
    Candidate::Mproxy(Policy::Claims),
    Candidate::Mproxy(Policy::Condition),
    Candidate::Mproxy(Policy::Grant),
    Candidate::Mproxy(Policy::Hook),
    Candidate::Mproxy(Policy::Stream),
    Candidate::Mproxy(Policy::Json),
    Candidate::Before(Policy::Allow),
    Candidate::Before(Policy::Acl),
    Candidate::Before(Policy::Grant),
    Candidate::Before(Policy::Hook),
    Candidate::Before(Policy::Stream),
    Candidate::Before(Policy::Json),
];

/// The programs.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) nginx: PathBuf,
    pub(crate) haproxy: PathBuf,
    pub(crate) mproxy: PathBuf,
    /// An earlier mproxy to measure beside it.
    pub(crate) before: Option<PathBuf>,
    /// Settings of `mproxy` that `before` does not have: names of variables, and their values.
    pub(crate) set: Vec<(String, String)>,
    pub(crate) hook: PathBuf,
    /// Files that each process may have open.
    pub(crate) files: u64,
    /// Where configurations are written.
    pub(crate) folder: PathBuf,
}

/// Where the stand-in broker is.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
}

/// By which of them it is reached.
#[derive(Clone, Copy)]
enum To<'a> {
    Port(u16),
    Socket(&'a Path),
}

/// A candidate that serves. Ends with this value.
pub(crate) struct Standing {
    pub(crate) target: Target,
    /// `None`: nothing stands there.
    pub(crate) proxy: Option<Family>,
    /// The policy service.
    pub(crate) service: Option<Family>,
    /// The proxy ends before its service.
    children: Vec<Child>,
}

impl Candidate {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::NginxUnix => "nginx-unix",
            Self::MproxyUnix => "mproxy-unix",
            Self::Haproxy => "haproxy",
            Self::Mproxy(Policy::Allow) => "mproxy allow",
            Self::Mproxy(Policy::Acl) => "mproxy acl",
            Self::Mproxy(Policy::Claims) => "mproxy claims",
            Self::Mproxy(Policy::Condition) => "mproxy condition",
            Self::Mproxy(Policy::Grant) => "mproxy grant",
            Self::Mproxy(Policy::Hook) => "mproxy hook",
            Self::Mproxy(Policy::Stream) => "mproxy stream",
            Self::Mproxy(Policy::Json) => "mproxy json",
            Self::Before(Policy::Allow) => "before allow",
            Self::Before(Policy::Acl) => "before acl",
            Self::Before(Policy::Claims) => "before claims",
            Self::Before(Policy::Condition) => "before condition",
            Self::Before(Policy::Grant) => "before grant",
            Self::Before(Policy::Hook) => "before hook",
            Self::Before(Policy::Stream) => "before stream",
            Self::Before(Policy::Json) => "before json",
        }
    }

    /// Those that a word on the command line means.
    pub(crate) fn named(name: &str) -> anyhow::Result<Vec<Self>> {
        let meant = |candidate: &&Self| {
            candidate.name() == name || candidate.name().split(' ').any(|part| part == name)
        };
        let found: Vec<_> = ALL.iter().filter(meant).copied().collect();
        if found.is_empty() {
            bail!("there is no candidate {name}; there are {WORDS}");
        }
        Ok(found)
    }

    /// Whether it is measured with this workload: the broker speaks no TLS, who decides makes no other difference there
    /// than over TCP, and the way to the broker shows where each message is written by itself.
    pub(crate) const fn plays(self, workload: &Workload) -> bool {
        let over = workload.transport;
        match self {
            Self::NginxUnix | Self::MproxyUnix => {
                workload.one_by_one() && matches!(over, BenchTransport::Tcp)
            }
            Self::Mproxy(policy) | Self::Before(policy) if workload.needs_rules() => {
                matches!(policy, Policy::Acl)
            }
            _ if workload.needs_rules() => false,
            // What a rule looks at makes a difference where there is nothing else to do.
            Self::Mproxy(Policy::Claims | Policy::Condition)
            | Self::Before(Policy::Claims | Policy::Condition) => {
                workload.is_flood() && matches!(over, BenchTransport::Tcp)
            }
            Self::Nginx | Self::Haproxy | Self::Mproxy(Policy::Allow) | Self::Before(Policy::Allow) => true,
            Self::Direct => !over.is_tls(),
            Self::Mproxy(_) | Self::Before(_) => matches!(over, BenchTransport::Tcp),
        }
    }

    /// Starts it before that broker, and waits until it lets somebody in.
    pub(crate) fn start(
        self,
        programs: &Programs,
        broker: &Broker,
        transport: BenchTransport,
    ) -> anyhow::Result<Standing> {
        let address = match self {
            Self::Direct => broker.address,
            _ => free_address()?,
        };
        let to = match self {
            Self::NginxUnix | Self::MproxyUnix => To::Socket(&broker.socket),
            _ => To::Port(broker.address.port()),
        };
        let login = match self {
            Self::Mproxy(policy) | Self::Before(policy) => policy.login(),
            Self::Direct | Self::Nginx | Self::NginxUnix | Self::Haproxy | Self::MproxyUnix => Login::Nothing,
        };
        let target = Target { address, transport, login };
        let mut children = Vec::new();
        match self {
            Self::Direct => {}
            Self::Nginx | Self::NginxUnix => children.push(nginx(programs, target, to)?),
            Self::Haproxy => children.push(haproxy(programs, target, to)?),
            Self::MproxyUnix => {
                children.push(Child::leashed(self.name(), &mproxy(&programs.mproxy, programs, target, to)?)?);
            }
            Self::Mproxy(policy) | Self::Before(policy) => {
                let program = match self {
                    Self::Before(_) => programs.before.as_deref().context("--before names no mproxy")?,
                    _ => &programs.mproxy,
                };
                let mut command = mproxy(program, programs, target, to)?;
                if matches!(self, Self::Mproxy(_)) {
                    command.envs(programs.set.iter().map(|(name, value)| (name, value)));
                }
                if let Some(rules) = policy.rule_file(programs)? {
                    command.env("MPROXY_ACL_FILE", rules);
                }
                let service = match policy {
                    Policy::Allow | Policy::Acl | Policy::Claims | Policy::Condition => None,
                    Policy::Grant | Policy::Hook | Policy::Stream | Policy::Json => {
                        let service = free_address()?;
                        // The example offers streams.
                        if policy == Policy::Hook {
                            command.env("MPROXY_POLICY_MODE", "unary");
                        }
                        let scheme = if policy == Policy::Json { "http+json" } else { "http" };
                        command.env("MPROXY_POLICY_URL", format!("{scheme}://{service}"));
                        let mut program = Command::new(&programs.hook);
                        if let Some(own) = policy.own_service() {
                            program = Command::new(std::env::current_exe()?);
                            program.arg(own);
                        }
                        Some(policy_service(program.arg(service.to_string()), service)?)
                    }
                };
                children.push(Child::leashed(self.name(), &command)?);
                children.extend(service);
            }
        }
        let mut ids = children.iter().map(Child::id);
        let (proxy, service) = (ids.next(), ids.next());
        if let Some(proxy) = children.first_mut() {
            serve(proxy, || load::connect(target, "bench-first").map(drop))?;
        }
        Ok(Standing {
            target,
            proxy: proxy.map(Family::of).transpose()?,
            service: service.map(Family::of).transpose()?,
            children,
        })
    }
}

impl Standing {
    /// A fault if anything has ended that should stand.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.children.iter_mut().try_for_each(Child::alive)
    }
}

fn nginx(programs: &Programs, target: Target, broker: To<'_>) -> anyhow::Result<Child> {
    let template = match target.transport {
        BenchTransport::Tcp | BenchTransport::Tls => include_str!("candidate/nginx.conf"),
        BenchTransport::Ws | BenchTransport::Wss => include_str!("candidate/nginx-http.conf"),
    };
    let certificate = "ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; \
                       ssl_protocols TLSv1.3;";
    let tls = [("{ssl}", " ssl"), ("{certificate}", certificate)];
    let file = configuration(programs, "nginx.conf", template, target, broker, &tls)?;
    let mut command = Command::new(&programs.nginx);
    // Before it has read the file it would write to the system's log.
    command.args(["-e", "/dev/null", "-c"]).arg(file);
    Child::leashed("nginx", &command)
}

fn haproxy(programs: &Programs, target: Target, broker: To<'_>) -> anyhow::Result<Child> {
    let template = include_str!("candidate/haproxy.cfg")
        .replace("{mode}", if target.transport.is_websocket() { "http" } else { "tcp" });
    let tls = [("{ssl}", " ssl crt {folder}/both.pem ssl-min-ver TLSv1.3")];
    let file = configuration(programs, "haproxy.cfg", &template, target, broker, &tls)?;
    let mut command = Command::new(&programs.haproxy);
    command.args(["-db", "-q", "-f"]).arg(file);
    Child::leashed("haproxy", &command)
}

fn mproxy(program: &Path, programs: &Programs, target: Target, broker: To<'_>) -> anyhow::Result<Command> {
    let (transport, scheme) = match target.transport {
        BenchTransport::Tcp => ("mqtt", "mqtt"),
        BenchTransport::Tls => ("mqtts", "mqtt"),
        BenchTransport::Ws => ("ws", "ws"),
        BenchTransport::Wss => ("wss", "ws"),
    };
    let template = include_str!("candidate/mproxy.toml");
    let way = match broker {
        To::Port(port) => {
            format!("target.scheme = \"{scheme}\"\ntarget.host = \"127.0.0.1\"\ntarget.port = {port}")
        }
        To::Socket(path) => format!("target.socket = {path:?}"),
    };
    let template = template.replace("{transport}", transport).replace("{target}", &way);
    let files = "tls.server_cert = \"{folder}/cert.pem\"\ntls.server_key = \"{folder}/key.pem\"";
    let tls = [("{certificate}", files)];
    let file = configuration(programs, "mproxy.toml", &template, target, broker, &tls)?;
    let mut command = Command::new(program);
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("MPROXY_") {
            command.env_remove(key);
        }
    }
    command
        .env("TOKIO_WORKER_THREADS", WORKERS.to_string())
        .env("MPROXY_CONFIG", file)
        .env("MPROXY_LOG_LEVEL", "error")
        .env("MPROXY_ADMIN_PORT", free_address()?.port().to_string());
    Ok(command)
}

fn policy_service(command: &Command, address: SocketAddr) -> anyhow::Result<Child> {
    let mut child = Child::leashed("the policy service", command)?;
    serve(&mut child, || Ok(TcpStream::connect(address).map(drop)?))?;
    Ok(child)
}

/// Tries until it succeeds.
fn serve(child: &mut Child, attempt: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let end = Instant::now() + START;
    loop {
        child.alive()?;
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error).context("it does not begin to serve"),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A template with its places filled in, those of `tls` with nothing where there is none.
fn configuration(
    programs: &Programs,
    name: &str,
    template: &str,
    target: Target,
    broker: To<'_>,
    tls: &[(&str, &str)],
) -> anyhow::Result<PathBuf> {
    let mut text = template.to_owned();
    for (place, filling) in tls {
        text = text.replace(place, if target.transport.is_tls() { filling } else { "" });
    }
    let text = text
        .replace("{folder}", &programs.folder.to_string_lossy())
        .replace("{files}", &programs.files.to_string())
        // Two sockets a connection, and some for itself.
        .replace("{maxconn}", &(programs.files.saturating_sub(200) / 2).to_string())
        .replace("{port}", &target.address.port().to_string())
        .replace(
            "{broker}",
            &match broker {
                To::Port(port) => format!("127.0.0.1:{port}"),
                To::Socket(path) => format!("unix:{}", path.display()),
            },
        );
    write(programs, name, &text)
}

/// Writes the certificate of this run, of a P-256 key: `cert.pem`, `key.pem`, and for haproxy `both.pem`.
pub(crate) fn certify(programs: &Programs) -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    write(programs, "cert.pem", &cert)?;
    write(programs, "key.pem", &key)?;
    write(programs, "both.pem", &(cert + &key))?;
    Ok(())
}

fn write(programs: &Programs, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let file = programs.folder.join(name);
    fs::write(&file, text).with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(file)
}

/// Ports that were given away last. The kernel gives the same one again as soon as it is free, which it is until its
/// program has started: two listeners of one configuration would have it.
static GIVEN: Mutex<VecDeque<u16>> = Mutex::new(VecDeque::new());

/// An address that nobody listens on now, and that was not given before. Somebody else might take it before it is used;
/// then the start fails.
fn free_address() -> anyhow::Result<SocketAddr> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        if given.contains(&address.port()) {
            continue;
        }
        given.push_back(address.port());
        if given.len() > 64 {
            given.pop_front();
        }
        return Ok(address);
    }
}

/// Finds a program by name; daemons lie where not everybody looks.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| Path::new(name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::Candidate;

    #[test]
    fn an_unknown_candidate_is_answered_with_the_list() {
        assert_eq!(Candidate::named("grant").expect("there are two").len(), 2);
        let fault = Candidate::named("envoy").expect_err("there is none").to_string();
        let all = "mproxy-unix, before, allow, acl, claims, condition, grant, hook, stream, json";
        assert!(fault.contains(all), "{fault}");
    }
}
