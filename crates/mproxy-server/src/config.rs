//! Configuration: what was *written* in flags, environment and file becomes what is *meant*, a [`Config`]
//! that cannot be wrong. Reads nothing by itself: [`load`] is given the environment and a way to read files. Only
//! [`files`] reads, what the configuration names.
//!
//! | room | holds |
//! |---|---|
//! | [`settings`] | the [table](settings::table) of all settings, a row each: file key, variable, flag, kind, default, text |
//! | [`kind`] | the kinds of their values; `value`, `list` and `choice` read them from text |
//! | `file`, `env` | where values come from |
//! | `layers`, `written` | those of all layers, merged by the `config` crate, each with its [`ValueOrigin`] |
//! | `reader`, `meant`, `listeners`, `tls` | typed values to a [`Config`], all faults collected |
//! | [`admin`] | what the settings of the admin port come to together |
//! | [`otel`] | what the settings of traces come to together |
//! | [`files`] | what is wrong with the files that it names |
//! | [`check`] | the effective configuration, printed |
//! | [`reload`] | what another configuration changes in the one in force |

pub mod admin;
pub mod check;
mod choice;
mod env;
mod file;
pub mod files;
pub mod kind;
mod layers;
mod list;
mod listeners;
mod meant;
mod origin;
pub mod otel;
mod reader;
pub mod reload;
pub mod settings;
mod tls;
mod token_place;
mod value;
mod written;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mproxy_tcp::networks::Network;
use mproxy_tcp::tls as tcp_tls;
use mproxy_unix::SocketFile;

pub use choice::{
    ClientTlsSetting, LogFormat, LogLevel, OnError, OnUnavailable, PolicyMode, RateActionSetting, Scheme,
    SendProxy,
};
pub use origin::ValueOrigin;
pub use settings::UPGRADE_VARIABLE;
pub use settings::table::{
    AdminClientSettings, AdminSettings, DecisionLogSettings, Events, General, ListenerLimits, Log, Otel,
    ProtectionSettings, Questions, ShadowSettings, Web,
};
pub use token_place::RequestTokenPlace;
pub use value::{AdminAddress, EventRate, Secret};
pub use written::Effective;

use layers::Layer;
use written::Written;

/// What mproxy was told to do, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What holds for mproxy as a whole.
    pub general: General,
    /// Limits for whoever comes.
    pub protection: ProtectionSettings,
    /// The listeners to open; never two on the same address.
    pub listeners: Vec<ListenerSettings>,
    /// The policy service, where there is one.
    pub policy: Option<PolicyConfig>,
    /// Admin API and metrics.
    pub admin: AdminSettings,
    /// How commands reach it.
    pub admin_client: AdminClientSettings,
    /// Logging.
    pub log: Log,
    /// The decision log.
    pub decision_log: DecisionLogSettings,
    /// Traces.
    pub otel: Otel,
}

impl Config {
    /// The names of the listeners.
    #[must_use]
    pub fn listener_names(&self) -> Vec<&str> {
        self.listeners.iter().map(|listener| &*listener.name).collect()
    }
}

/// One listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSettings {
    /// Its name in logs, events and metrics; unique.
    pub name: String,
    /// What clients speak here.
    pub transport: Scheme,
    /// Address or host name to bind.
    pub host: String,
    /// Port to bind; 0 takes any free one.
    pub port: u16,
    /// The Unix socket to bind; `Some` exactly where that is the transport, which has neither host nor port.
    pub unix: Option<SocketFile>,
    /// Path of the WebSocket upgrade; without meaning for the other transports.
    pub path: String,
    /// What else the upgrade asks for; without meaning for the other transports.
    pub web: Web,
    /// Server side of TLS; `Some` exactly where the transport has TLS.
    pub tls: Option<tcp_tls::ServerTls>,
    /// Networks that a PROXY header has to come from, and then is believed; `None` where connections open without.
    pub proxy_from: Option<Vec<Network>>,
    /// The broker behind it.
    pub target: Target,
    /// What its clients may do.
    pub limits: ListenerLimits,
    /// What an operator writes to have it closed.
    pub closed_by: String,
}

/// How to reach a broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// What it speaks.
    pub scheme: Scheme,
    /// Address or host name.
    pub host: String,
    /// Port, never 0.
    pub port: u16,
    /// Path, for WebSocket.
    pub path: String,
    /// The Unix socket; `Some` exactly where that is the scheme, which has neither host nor port.
    pub socket: Option<PathBuf>,
    /// TLS towards it; without meaning where the scheme has none.
    pub tls: tcp_tls::ClientTls,
    /// What its certificate is for; the host where absent.
    pub server_name: Option<String>,
    /// PROXY header that is sent first.
    pub proxy_protocol: SendProxy,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(socket) = &self.socket {
            return write!(f, "unix:{}", socket.display());
        }
        write!(f, "{}://{}", self.scheme.name(), authority(&self.host, self.port))?;
        if self.scheme.is_websocket() { f.write_str(&self.path) } else { Ok(()) }
    }
}

/// A duration as settings have it: `250ms`, `1m30s`.
///
/// # Errors
/// It is none, or longer than a day.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    value::duration(text)
}

/// `host:port`, with brackets around an IPv6 address.
#[must_use]
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// TLS towards the policy service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientTlsSettings {
    /// Trusted roots, PEM; the system's where absent.
    pub ca_certs: Option<PathBuf>,
    /// mproxy's own certificate and key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The policy service.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyConfig {
    /// `http://h:p`, `https://h:p`, `unix:/path`, `http+json://h:p/prefix` or `https+json://h:p/prefix`; tried in turn.
    /// Never empty.
    pub endpoints: Vec<String>,
    /// How it is asked.
    pub questions: Questions,
    /// How it is told of events.
    pub events: Events,
    /// Who is asked the same for comparison.
    pub shadow: ShadowSettings,
    /// What an answer that never came means.
    pub on_error: PerHook<OnError>,
    /// TLS towards it.
    pub tls: ClientTlsSettings,
}

/// One value for each hook that decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerHook<T> {
    /// May this client connect?
    pub connect: T,
    /// May it publish?
    pub publish: T,
    /// May it subscribe?
    pub subscribe: T,
    /// May it be sent this?
    pub deliver: T,
}

/// Settings given on the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Keys of settings and what was given for them.
    pub values: Vec<(&'static str, String)>,
}

/// A configuration that holds, and what is to be said about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is meant.
    pub config: Config,
    /// What works, but perhaps not as it was wished.
    pub warnings: Vec<ConfigProblem>,
    /// Every setting in force and where it came from, secrets masked.
    pub effective: Vec<Effective>,
}

impl Loaded {
    /// Shows a value as set by a command rather than as it was written; [`config`](Self::config) is the caller's.
    pub fn set_by(&mut self, command: &str, key: &str, value: String) {
        if let Some(one) = self.effective.iter_mut().find(|one| one.key == key) {
            one.value = Some(value);
            one.origin = Some(ValueOrigin::Written(command.into()));
        }
    }
}

/// Something wrong, and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Where.
    pub origin: ValueOrigin,
    /// What, and how to mend it.
    pub text: String,
}

impl ConfigProblem {
    /// A problem at this place.
    pub fn new(origin: ValueOrigin, text: impl Into<String>) -> Self {
        Self { origin, text: text.into() }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// All that is wrong with a configuration, at once. The process ends with code 2 and has opened no port.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Problems {
    /// What keeps mproxy from starting; never empty.
    pub faults: Vec<ConfigProblem>,
    /// What would have been warned of besides.
    pub warnings: Vec<ConfigProblem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.faults.len() == 1 { "" } else { "s" };
        write!(f, "{} configuration error{s}, no port was opened", self.faults.len())?;
        self.faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// Reads flags, environment and file, in this order of precedence, into a [`Config`].
///
/// `read_file` is asked for the configuration file and for the kernel's host name, and for nothing else.
///
/// # Errors
/// Every fault that was found, not only the first.
pub fn load(
    flags: &Flags,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    read_file: impl Fn(&Path) -> io::Result<String>,
) -> Result<Loaded, Problems> {
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    let variables = env::read(env, &mut faults, &mut warnings);
    let mut layers = vec![Layer::of_defaults(&host_name(&variables, &read_file))];
    if let Some((path, origin)) = config_path(flags, &variables) {
        match read_file(&path) {
            Ok(text) => layers.push(file::read(&path, &text, &mut faults)),
            Err(error) => {
                faults.push(ConfigProblem::new(origin, format!("cannot read {}: {error}", path.display())))
            }
        }
    }
    layers.extend([env::layer(&variables), of_flags(flags)]);
    let written = Written::merge(layers).unwrap_or_else(|error| {
        faults.push(ConfigProblem::new(ValueOrigin::Default("configuration"), error.to_string()));
        Written::default()
    });
    // What is concluded from values holds only where all of them could be read: beside a fault it would mislead.
    let mut concluded = Vec::new();
    let config = meant::read(&written, &mut faults, &mut concluded);
    if faults.is_empty() {
        warnings.extend(concluded);
        Ok(Loaded { config, warnings, effective: written.effective() })
    } else {
        Err(Problems { faults, warnings })
    }
}

/// The file to read, and who named it.
fn config_path(flags: &Flags, variables: &env::Variables) -> Option<(PathBuf, ValueOrigin)> {
    let by_flag = flags.config.clone().map(|path| (path, ValueOrigin::flag("config")));
    by_flag.or_else(|| {
        let path = variables.text.get(settings::CONFIG_VARIABLE)?;
        Some((path.into(), ValueOrigin::variable(settings::CONFIG_VARIABLE)))
    })
}

fn of_flags(flags: &Flags) -> Layer {
    let mut layer = Layer::default();
    for (key, value) in &flags.values {
        if let Some(flag) = settings::find(key).and_then(|row| row.flag) {
            layer.set(key, value, &ValueOrigin::flag(flag));
        }
    }
    layer
}

fn host_name(variables: &env::Variables, read_file: &impl Fn(&Path) -> io::Result<String>) -> String {
    let kernel = read_file(Path::new("/proc/sys/kernel/hostname")).ok();
    let name = kernel.as_deref().map(str::trim).filter(|name| !name.is_empty());
    name.or(variables.host_name.as_deref()).unwrap_or("mproxy").to_owned()
}
