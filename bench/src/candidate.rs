//! What stands between the load generator and the stand-in broker, and how it is configured.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::child::Child;
use crate::load;
use crate::probe::Family;

/// How long a proxy may take until it serves.
const START: Duration = Duration::from_secs(15);

/// Threads or workers of each proxy; the load generator and the broker need the rest of the machine.
pub(crate) const WORKERS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    Direct,
    Nginx,
    Haproxy,
    Mproxy(Policy),
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Nobody: everything is allowed.
    Allow,
    /// A static rule file.
    Acl,
    /// The example hook service, which is asked for every packet and told every event, in unary calls.
    Hook,
}

pub(crate) const ALL: &[Candidate] = &[
    Candidate::Direct,
    Candidate::Nginx,
    Candidate::Haproxy,
    Candidate::Mproxy(Policy::Allow),
    Candidate::Mproxy(Policy::Acl),
    Candidate::Mproxy(Policy::Hook),
];

/// The programs.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) nginx: PathBuf,
    pub(crate) haproxy: PathBuf,
    pub(crate) mproxy: PathBuf,
    pub(crate) hook: PathBuf,
    /// Files that each process may have open.
    pub(crate) files: u64,
    /// Where configurations are written.
    pub(crate) folder: PathBuf,
}

/// A candidate that serves. Ends with this value.
pub(crate) struct Standing {
    pub(crate) address: SocketAddr,
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
            Self::Haproxy => "haproxy",
            Self::Mproxy(Policy::Allow) => "mproxy allow",
            Self::Mproxy(Policy::Acl) => "mproxy acl",
            Self::Mproxy(Policy::Hook) => "mproxy hook",
        }
    }

    /// Those that a word on the command line means.
    pub(crate) fn named(name: &str) -> anyhow::Result<Vec<Self>> {
        let meant = |candidate: &&Self| {
            candidate.name() == name || candidate.name().split(' ').any(|part| part == name)
        };
        let found: Vec<_> = ALL.iter().filter(meant).copied().collect();
        if found.is_empty() {
            bail!("there is no candidate {name}; there are direct, nginx, haproxy, mproxy, allow, acl, hook");
        }
        Ok(found)
    }

    /// Starts it before that broker, and waits until it lets somebody in.
    pub(crate) fn start(self, programs: &Programs, broker: SocketAddr) -> anyhow::Result<Standing> {
        let address = match self {
            Self::Direct => broker,
            _ => free_address()?,
        };
        let mut children = Vec::new();
        match self {
            Self::Direct => {}
            Self::Nginx => children.push(nginx(programs, address, broker)?),
            Self::Haproxy => children.push(haproxy(programs, address, broker)?),
            Self::Mproxy(policy) => {
                let mut command = mproxy(programs, address, broker)?;
                let service = match policy {
                    Policy::Allow => None,
                    Policy::Acl => {
                        let rules = write(programs, "rules.toml", include_str!("candidate/rules.toml"))?;
                        command.env("MPROXY_ACL_FILE", rules);
                        None
                    }
                    Policy::Hook => {
                        let service = free_address()?;
                        command.env("MPROXY_POLICY_URL", format!("http://{service}"));
                        Some(hook(programs, service)?)
                    }
                };
                children.push(Child::leashed(self.name(), &command)?);
                children.extend(service);
            }
        }
        let mut ids = children.iter().map(Child::id);
        let (proxy, service) = (ids.next(), ids.next());
        if let Some(proxy) = children.first_mut() {
            serve(proxy, || load::connect(address, "bench-first").map(drop))?;
        }
        Ok(Standing {
            address,
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

fn nginx(programs: &Programs, address: SocketAddr, broker: SocketAddr) -> anyhow::Result<Child> {
    let file = configuration(programs, "nginx.conf", include_str!("candidate/nginx.conf"), address, broker)?;
    let mut command = Command::new(&programs.nginx);
    // Before it has read the file it would write to the system's log.
    command.args(["-e", "/dev/null", "-c"]).arg(file);
    Child::leashed("nginx", &command)
}

fn haproxy(programs: &Programs, address: SocketAddr, broker: SocketAddr) -> anyhow::Result<Child> {
    let file =
        configuration(programs, "haproxy.cfg", include_str!("candidate/haproxy.cfg"), address, broker)?;
    let mut command = Command::new(&programs.haproxy);
    command.args(["-db", "-q", "-f"]).arg(file);
    Child::leashed("haproxy", &command)
}

fn mproxy(programs: &Programs, address: SocketAddr, broker: SocketAddr) -> anyhow::Result<Command> {
    let mut command = Command::new(&programs.mproxy);
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("MPROXY_") {
            command.env_remove(key);
        }
    }
    command
        .env("TOKIO_WORKER_THREADS", WORKERS.to_string())
        .env("MPROXY_LOG_LEVEL", "error")
        .env("MPROXY_ADMIN_PORT", free_address()?.port().to_string())
        .env("MPROXY_MQTT_HOST", address.ip().to_string())
        .env("MPROXY_MQTT_PORT", address.port().to_string())
        // Not measured, and not in anybody's way.
        .env("MPROXY_WS_PORT", "0")
        .env("MPROXY_MQTT_TARGET_HOST", broker.ip().to_string())
        .env("MPROXY_MQTT_TARGET_PORT", broker.port().to_string());
    Ok(command)
}

fn hook(programs: &Programs, address: SocketAddr) -> anyhow::Result<Child> {
    let mut command = Command::new(&programs.hook);
    command.arg(address.to_string());
    let mut child = Child::leashed("the hook service", &command)?;
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

fn configuration(
    programs: &Programs,
    name: &str,
    template: &str,
    address: SocketAddr,
    broker: SocketAddr,
) -> anyhow::Result<PathBuf> {
    let text = template
        .replace("{folder}", &programs.folder.to_string_lossy())
        .replace("{files}", &programs.files.to_string())
        // Two sockets a connection, and some for itself.
        .replace("{maxconn}", &(programs.files.saturating_sub(200) / 2).to_string())
        .replace("{port}", &address.port().to_string())
        .replace("{broker}", &broker.port().to_string());
    write(programs, name, &text)
}

fn write(programs: &Programs, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let file = programs.folder.join(name);
    fs::write(&file, text).with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(file)
}

/// An address that nobody listens on now. Somebody else might take it before it is used; then the start fails.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Finds a program by name; daemons lie where not everybody looks.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| Path::new(name).to_owned())
}
