//! What the written values mean. Goes on after a fault with the default, so that all faults are found at once.

use std::path::PathBuf;

use super::written::{Entry, Origin, Written};
use super::{
    Admin, ClientTls, Config, Log, LogFormat, LogLevel, OnError, Otel, PerHook, PolicyConfig, PolicyMode,
    Problem, authority, doors, doors::Door, settings, value,
};

/// Reads typed values and collects what is wrong with them.
pub(super) struct Reader<'a> {
    pub written: &'a Written,
    pub faults: &'a mut Vec<Problem>,
    pub warnings: &'a mut Vec<Problem>,
}

/// How one kind of value is read.
type Parse<T> = fn(&str) -> Result<T, String>;

impl Reader<'_> {
    /// The value of a setting that has a default.
    pub(super) fn value<T>(&mut self, key: &'static str, parse: Parse<T>) -> T {
        self.option(key, parse).unwrap_or_else(|| {
            let default = settings::find(key).and_then(|setting| setting.default);
            // A test below reads every default of the table.
            parse(default.unwrap_or("mproxy")).expect("defaults of the table can be read")
        })
    }

    /// The value of a setting that may be absent; also `None` where it cannot be read.
    pub(super) fn option<T>(&mut self, key: &str, parse: Parse<T>) -> Option<T> {
        let Entry { text, origin } = self.written.get(key)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(text) => {
                self.faults.push(Problem::new(origin.clone(), text));
                None
            }
        }
    }

    pub(super) fn fault(&mut self, key: &str, text: impl Into<String>) {
        self.faults.push(Problem::new(self.written.origin(key), text));
    }

    pub(super) fn warn(&mut self, key: &str, text: impl Into<String>) {
        self.warnings.push(Problem::new(self.written.origin(key), text));
    }

    /// A certificate and its key: both or none.
    pub(super) fn identity(&mut self, cert: &str, key: &str) -> Option<(PathBuf, PathBuf)> {
        match (self.option(cert, value::file), self.option(key, value::file)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (Some(_), None) => {
                self.missing(cert, key);
                None
            }
            (None, Some(_)) => {
                self.missing(key, cert);
                None
            }
            (None, None) => None,
        }
    }

    fn missing(&mut self, there: &str, absent: &str) {
        if self.written.get(absent).is_none() {
            let name = spoken(absent);
            self.fault(there, format!("needs {name} beside it"));
        }
    }

    pub(super) fn client_tls(&mut self, ca_certs: &str, cert: &str, key: &str) -> ClientTls {
        ClientTls { ca_certs: self.option(ca_certs, value::file), identity: self.identity(cert, key) }
    }
}

/// A key and the variable that stands for it.
pub(super) fn spoken(key: &str) -> String {
    match settings::find(key).and_then(|setting| setting.variable) {
        Some(variable) => format!("{variable} ({key} in the file)"),
        None => key.to_owned(),
    }
}

/// Everything, with the checks that need more than one value.
pub(super) fn read(written: &Written, faults: &mut Vec<Problem>, warnings: &mut Vec<Problem>) -> Config {
    let mut reader = Reader { written, faults, warnings };
    let doors = doors::read(&mut reader);
    let admin = admin(&mut reader);
    one_door_each(&doors, &admin, &mut reader);
    let config = Config {
        instance: reader.value("instance", value::instance),
        listeners: doors.into_iter().map(|door| door.listener).collect(),
        policy: policy(&mut reader),
        acl_file: reader.option("acl_file", value::file),
        admin,
        log: Log {
            level: reader.value("log.level", LogLevel::parse),
            format: reader.value("log.format", LogFormat::parse),
        },
        otel: otel(&mut reader),
        max_connections: reader.value("max_connections", value::connections),
        max_pending: reader.option("max_pending", value::connections),
        budget_total: reader.value("budget.total", value::budget),
        drain_timeout: reader.value("drain_timeout", value::duration),
    };
    if let Some(policy) = &config.policy
        && let Some(listener) =
            config.listeners.iter().find(|listener| policy.timeout >= listener.connect_timeout)
    {
        let text = format!(
            "is not shorter than the connect_timeout of listener {}: a client whose first answer is late is not asked about \
             again, and not let in by policy.on_error either",
            listener.name
        );
        reader.warn("policy.timeout", text);
    }
    if config.policy.is_none() && config.acl_file.is_none() {
        let text = "is not set, and neither is MPROXY_ACL_FILE: everything is allowed";
        reader.warnings.push(Problem::new(Origin::Env("MPROXY_POLICY_URL"), text));
    }
    config
}

fn policy(reader: &mut Reader<'_>) -> Option<PolicyConfig> {
    let endpoints = reader.option("policy.url", value::policy_urls);
    let timeout = reader.value("policy.timeout", value::deadline);
    let grant_staleness = reader.value("policy.grant_staleness", value::duration);
    let mode = reader.value("policy.mode", PolicyMode::parse);
    let tls = reader.client_tls("policy.ca_certs", "policy.cert", "policy.key");
    let general = reader.value("policy.on_error", OnError::parse);
    let mut hook = |key| reader.option(key, OnError::parse).unwrap_or(general);
    let on_error = PerHook {
        connect: hook("policy.on_error.connect"),
        publish: hook("policy.on_error.publish"),
        subscribe: hook("policy.on_error.subscribe"),
        deliver: hook("policy.on_error.deliver"),
    };
    let is_tls = endpoints.iter().flatten().any(|url| url.starts_with("https:"));
    for key in ["policy.ca_certs", "policy.cert", "policy.key"] {
        if !is_tls && reader.written.get(key).is_some() {
            reader.warn(key, "without effect: no policy service is reached over https://");
        }
    }
    Some(PolicyConfig { endpoints: endpoints?, timeout, grant_staleness, on_error, mode, tls })
}

fn admin(reader: &mut Reader<'_>) -> Admin {
    let admin = Admin {
        host: reader.value("admin.host", value::host),
        port: reader.option("admin.port", value::bind_port).unwrap_or(0),
        token: reader.option("admin.token", value::token),
    };
    let loopback =
        admin.host == "localhost" || admin.host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    if admin.token.is_none() && !loopback {
        reader.warn(
            "admin.host",
            "without MPROXY_ADMIN_TOKEN everybody who reaches the admin port can see all sessions",
        );
    }
    admin
}

fn otel(reader: &mut Reader<'_>) -> Option<Otel> {
    let endpoint = reader.option("otel.endpoint", value::otlp_endpoint);
    if endpoint.is_some() {
        reader.warn("otel.endpoint", "without effect: traces are not available in this version");
    }
    let service_name = reader.value("otel.service_name", value::text);
    let sampler = reader.value("otel.sampler", value::sampler);
    let sampler_arg = reader.option("otel.sampler_arg", value::text);
    Some(Otel { endpoint: endpoint?, service_name, sampler, sampler_arg })
}

/// Two sockets cannot be bound to one address; nor should a door lead to itself.
fn one_door_each(doors: &[Door], admin: &Admin, reader: &mut Reader<'_>) {
    for (index, Door { key, listener }) in doors.iter().enumerate() {
        let address = authority(&listener.host, listener.port);
        let name = &listener.name;
        if doors::overlap((&listener.host, listener.port), (&admin.host, admin.port)) {
            reader.fault(key, format!("listener {name} and the admin API cannot both listen at {address}"));
        }
        for Door { listener: earlier, .. } in &doors[..index] {
            if doors::overlap((&listener.host, listener.port), (&earlier.host, earlier.port)) {
                reader.fault(
                    key,
                    format!("listeners {} and {name} cannot both listen at {address}", earlier.name),
                );
            }
        }
        if listener.port == listener.target.port && doors::leads_here(&listener.host, &listener.target.host) {
            reader.warn(key, format!("listener {name} leads to itself: its target is {}", listener.target));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_can_be_read() {
        let written = Written::of_defaults("here");
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        let config = read(&written, &mut faults, &mut warnings);
        assert_eq!(faults, []);
        assert_eq!(config.instance, "here");
    }
}
