//! Configuration scenes: what is written in flags, environment and file, and what mproxy makes of it.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod admin;
mod files;
mod generated;
mod listeners;
mod reload;
mod unix;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mproxy_server::config::otel::{self, OtlpProtocol, Signal};
use mproxy_server::config::settings::Form;
use mproxy_server::config::{
    self, Flags, Loaded, LogFormat, LogLevel, OnError, PolicyMode, Problems, Scheme, ValueOrigin, check,
};

/// Everything that is written somewhere.
#[derive(Default)]
struct Scene {
    env: Vec<(OsString, OsString)>,
    flags: Flags,
    file: Option<String>,
}

fn scene() -> Scene {
    Scene::default()
}

/// A rule file keeps the warning away that everything is allowed.
fn guarded() -> Scene {
    scene().env("MPROXY_ACL_FILE", "acl.toml")
}

impl Scene {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, key: &'static str, value: &str) -> Self {
        self.flags.values.push((key, value.to_owned()));
        self
    }

    /// The contents of `mproxy.toml`, named by `--config`.
    fn file(mut self, text: &str) -> Self {
        self.flags.config = Some("mproxy.toml".into());
        self.file = Some(text.to_owned());
        self
    }

    fn load(self) -> Result<Loaded, Problems> {
        let file = self.file;
        config::load(&self.flags, self.env, |path: &Path| match &file {
            Some(text) if path == Path::new("mproxy.toml") => Ok(text.clone()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        })
    }

    fn works(self) -> Loaded {
        self.load().expect("a configuration that holds")
    }

    /// The faults, one line each.
    fn faults(self) -> Vec<String> {
        let problems = self.load().expect_err("a configuration that does not hold");
        assert!(!problems.faults.is_empty());
        problems.faults.iter().map(ToString::to_string).collect()
    }

    /// The one fault.
    #[track_caller]
    fn fault(self) -> String {
        let faults = self.faults();
        assert_eq!(faults.len(), 1, "{faults:#?}");
        faults.into_iter().next().expect("one")
    }

    fn warnings(self) -> Vec<String> {
        self.works().warnings.iter().map(ToString::to_string).collect()
    }
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

// ---- defaults

#[test]
fn with_nothing_written_the_inherited_defaults_hold() {
    let config = scene().works().config;
    let [mqtt, _ws] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!((mqtt.name.as_str(), mqtt.transport), ("mqtt", Scheme::Mqtt));
    assert_eq!((mqtt.host.as_str(), mqtt.port), ("0.0.0.0", 1883));
    assert_eq!(mqtt.target.to_string(), "mqtt://0.0.0.0:1884");
    assert_eq!(
        (mqtt.limits.max_packet_size, mqtt.limits.connect_timeout),
        (268_435_460, Duration::from_secs(10))
    );
    assert_eq!((config.admin.host.as_str(), config.admin.port), ("127.0.0.1", 9180));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Debug, LogFormat::Text));
    assert_eq!(
        (config.general.max_connections, config.general.drain_timeout),
        (100_000, Duration::from_secs(30))
    );
    assert_eq!((&config.policy, &config.general.acl_file, &config.admin.token), (&None, &None, &None));
    assert_eq!(config.general.instance, "mproxy");
}

#[test]
fn without_any_adviser_a_warning_says_that_everything_is_allowed() {
    let warnings = scene().warnings();
    assert_eq!(warnings.len(), 1);
    says(&warnings[0], &["MPROXY_POLICY_URL", "everything is allowed"]);
    assert_eq!(guarded().warnings(), [""; 0]);
}

#[test]
fn every_inherited_variable_of_the_plain_listener_is_heard() {
    let config = scene()
        .env("MPROXY_MQTT_HOST", "127.0.0.1")
        .env("MPROXY_MQTT_PORT", "2883")
        .env("MPROXY_MQTT_TARGET_HOST", "broker.internal")
        .env("MPROXY_MQTT_TARGET_PORT", "3883")
        .env("MPROXY_CLIENT_TLS", "false")
        .env("MPROXY_LOG_LEVEL", "info")
        .works()
        .config;
    let mqtt = &config.listeners[0];
    assert_eq!((mqtt.host.as_str(), mqtt.port), ("127.0.0.1", 2883));
    assert_eq!(mqtt.target.to_string(), "mqtt://broker.internal:3883");
    assert_eq!(config.log.level, LogLevel::Info);
}

#[test]
fn every_added_variable_is_heard() {
    let config = scene()
        .env("MPROXY_MQTT_TARGET_SCHEME", "mqtt")
        .env("MPROXY_POLICY_URL", "http://a:1, unix:/run/policy.sock")
        .env("MPROXY_POLICY_TIMEOUT", "250ms")
        .env("MPROXY_POLICY_ON_ERROR", "allow")
        .env("MPROXY_POLICY_MODE", "unary")
        .env("MPROXY_ACL_FILE", "/etc/mproxy/acl.toml")
        .env("MPROXY_ADMIN_HOST", "::1")
        .env("MPROXY_ADMIN_PORT", "9999")
        .env("MPROXY_ADMIN_TOKEN", "s3cret")
        .env("MPROXY_LOG_FORMAT", "json")
        .env("MPROXY_MAX_CONNECTIONS", "7")
        .env("MPROXY_CONNECT_TIMEOUT", "2m")
        .env("MPROXY_MAX_PACKET_SIZE", "1MiB")
        .env("MPROXY_DRAIN_TIMEOUT", "0s")
        .env("MPROXY_PROXY_PROTOCOL", "off")
        .env("MPROXY_TARGET_PROXY_PROTOCOL", "off")
        .env("MPROXY_INSTANCE", "edge-1")
        .works()
        .config;
    let policy = config.policy.unwrap();
    assert_eq!(policy.endpoints, ["http://a:1", "unix:/run/policy.sock"]);
    assert_eq!(
        (policy.questions.timeout, policy.questions.mode),
        (Duration::from_millis(250), PolicyMode::Unary)
    );
    assert_eq!((policy.on_error.connect, policy.on_error.deliver), (OnError::Allow, OnError::Allow));
    assert_eq!(config.general.acl_file, Some(PathBuf::from("/etc/mproxy/acl.toml")));
    assert_eq!((config.admin.host.as_str(), config.admin.port), ("::1", 9999));
    assert_eq!(config.admin.token.unwrap().expose(), "s3cret");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!((config.general.max_connections, config.general.drain_timeout), (7, Duration::ZERO));
    assert_eq!(config.listeners[0].limits.connect_timeout, Duration::from_secs(120));
    assert_eq!(config.listeners[0].limits.max_packet_size, 1 << 20);
    assert_eq!(config.general.instance, "edge-1");
}

#[test]
fn the_instance_is_called_like_its_host() {
    let config = config::load(&Flags::default(), [("HOSTNAME".into(), "from-env".into())], |path: &Path| {
        if path == Path::new("/proc/sys/kernel/hostname") {
            Ok("from-kernel\n".to_owned())
        } else {
            Err(io::Error::from(io::ErrorKind::NotFound))
        }
    });
    assert_eq!(config.unwrap().config.general.instance, "from-kernel");
    assert_eq!(scene().env("HOSTNAME", "from-env").works().config.general.instance, "from-env");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let config = scene().env("MPROXY_MQTT_PORT", "").env("MPROXY_POLICY_URL", "").works().config;
    assert_eq!(config.listeners[0].port, 1883);
    assert_eq!(config.policy, None);
}

// ---- precedence

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let file = "[mqtt]\nport = 1\n[mqtt.target]\nport = 1\n[log]\nlevel = \"warn\"\n";
    let config = scene()
        .file(file)
        .env("MPROXY_MQTT_PORT", "2")
        .env("MPROXY_MQTT_TARGET_PORT", "2")
        .flag("mqtt.port", "3")
        .works()
        .config;
    assert_eq!(config.listeners[0].port, 3);
    assert_eq!(config.listeners[0].target.port, 2);
    assert_eq!(config.log.level, LogLevel::Warn);
}

#[test]
fn a_value_that_is_overridden_is_not_judged() {
    let config = scene().env("MPROXY_MQTT_PORT", "nonsense").flag("mqtt.port", "3").works().config;
    assert_eq!(config.listeners[0].port, 3);
}

#[test]
fn the_file_may_be_named_by_the_environment_and_the_flag_wins() {
    let read = |path: &Path| match path.to_str() {
        Some("a.toml") => Ok("instance = \"a\"".to_owned()),
        Some("b.toml") => Ok("instance = \"b\"".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let env = || [(OsString::from("MPROXY_CONFIG"), OsString::from("a.toml"))];
    assert_eq!(config::load(&Flags::default(), env(), read).unwrap().config.general.instance, "a");
    let flags = Flags { config: Some("b.toml".into()), values: Vec::new() };
    assert_eq!(config::load(&flags, env(), read).unwrap().config.general.instance, "b");
}

#[test]
fn a_file_that_is_not_there_is_a_fault_of_who_named_it() {
    let mut by_flag = scene();
    by_flag.flags.config = Some("gone.toml".into());
    says(&by_flag.fault(), &["--config: ", "gone.toml"]);
    says(
        &scene().env("MPROXY_CONFIG", "gone.toml").fault(),
        &["environment variable MPROXY_CONFIG: ", "gone.toml"],
    );
}

// ---- the file

#[test]
fn the_file_takes_the_same_settings() {
    let file = r#"
        instance = "edge-1"
        acl_file = "acl.toml"
        max_connections = 5_000
        connect_timeout = "5s"
        max_packet_size = 0x10000
        drain_timeout = "1m"
        client_tls = false

        [mqtt]
        host = "127.0.0.1"
        port = 2883
        target = { scheme = "mqtt", host = "broker", port = 3883 }

        [policy]
        url = ["http://a:1", "http://b:2"]
        timeout = "2s"
        on_error = { connect = "deny", publish = "allow" }

        [admin]
        port = 9181
        token = "s3cret"

        [log]
        level = "error"
        format = "json"
    "#;
    let config = scene().file(file).works().config;
    assert_eq!(config.general.instance, "edge-1");
    assert_eq!(config.general.max_connections, 5000);
    assert_eq!(config.listeners[0].limits.max_packet_size, 65536);
    assert_eq!(config.listeners[0].target.to_string(), "mqtt://broker:3883");
    let policy = config.policy.unwrap();
    assert_eq!(policy.endpoints, ["http://a:1", "http://b:2"]);
    assert_eq!(policy.on_error.publish, OnError::Allow);
    assert_eq!(policy.on_error.subscribe, OnError::Deny);
    assert_eq!((config.admin.port, config.log.level), (9181, LogLevel::Error));
}

#[test]
fn a_hook_that_the_file_leaves_out_follows_the_general_rule() {
    let on_error = scene()
        .file("[policy]\nurl = \"http://a:1\"\n[policy.on_error]\nconnect = \"deny\"\n")
        .env("MPROXY_POLICY_ON_ERROR", "allow")
        .works()
        .config
        .policy
        .unwrap()
        .on_error;
    assert_eq!((on_error.connect, on_error.publish), (OnError::Deny, OnError::Allow));
}

#[test]
fn an_unknown_key_is_a_fault_with_its_line_and_the_nearest_known_name() {
    let fault = scene().file("instance = \"a\"\n\n[mqtt]\nprot = 1883\n").fault();
    assert_eq!(fault, "mproxy.toml:4 mqtt.prot: unknown key; the nearest known one is mqtt.port");
    let fault = scene().file("[polcy]\nurl = \"http://a:1\"\n").fault();
    assert_eq!(fault, "mproxy.toml:1 polcy: unknown key; the nearest known one is policy");
    let fault = scene().file("[[listeners]]\nport = 1\ntarget = { hst = \"b\" }\n").fault();
    says(
        &fault,
        &["mproxy.toml:3 listeners[0].target.hst: ", "nearest known one is listeners[0].target.host"],
    );
}

#[test]
fn what_is_near_to_no_key_is_no_guess_and_what_is_no_toml_has_no_keys() {
    let fault = scene().file("[mqtt]\nspeed = 1883\n").fault();
    says(&fault, &["mproxy.toml:2 mqtt.speed: unknown key; those known here are ", "host", "port"]);
    let faults = scene().file("[[[[\n").faults();
    assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.contains("unknown key")), "{faults:#?}");
}

#[test]
fn a_bad_value_in_the_file_is_told_with_its_line_and_key() {
    let file = "[[listeners]]\nname = \"a\"\nport = 1\n\n[[listeners]]\nname = \"b\"\nport = 70000\n";
    says(&scene().file(file).fault(), &["mproxy.toml:7 listeners[1].port: ", "\"70000\" is not a port"]);
}

#[test]
fn a_value_of_the_wrong_shape_is_a_fault() {
    let file = "instance = [\"a\"]\nmqtt = 1883\nacl_file = { path = \"x\" }\nmax_connections = 1.5\nlisteners = 3\n";
    let faults = scene().file(file).faults();
    assert_eq!(faults.len(), 5, "{faults:#?}");
    says(
        &faults.join("\n"),
        &[
            "mproxy.toml:1 instance: expected a single value, not a list",
            "mproxy.toml:2 mqtt: is a table: write [mqtt]",
            "mproxy.toml:3 acl_file: expected a single value, not a table",
            "mproxy.toml:4 max_connections: \"1.5\" is not a number",
            "mproxy.toml:5 listeners: ",
        ],
    );
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line_beside_all_other_faults() {
    let faults = scene().file("instance = \"a\"\nmqtt = [\n").env("MPROXY_LOG_LEVEL", "loud").faults();
    assert!(faults.iter().any(|fault| fault.starts_with("mproxy.toml:")), "{faults:#?}");
    assert!(faults.iter().any(|fault| fault.contains("MPROXY_LOG_LEVEL")), "{faults:#?}");
}

#[test]
fn a_key_twice_is_a_fault() {
    let faults = scene().file("[mqtt]\nport = 1\nport = 2\n").faults();
    says(&faults[0], &["mproxy.toml:3", "duplicate"]);
}

#[test]
fn the_example_file_holds_and_so_does_what_is_not_in_force_in_it() {
    let example = include_str!("../../../../deploy/mproxy.example.toml");
    assert_eq!(scene().file(example).works().config.listeners.len(), 3);
    let in_force = |line: &'static str| {
        let is_toml = |bare: &&str| bare.starts_with("[[") || bare.split(' ').nth(1) == Some("=");
        let bare = line.strip_prefix("# ").filter(is_toml);
        bare.unwrap_or(line)
    };
    let all: Vec<&str> = example.lines().map(in_force).collect();
    let loaded = scene().file(&all.join("\n")).works();
    let tls = loaded.config.listeners[3].tls.as_ref().unwrap();
    assert_eq!((tls.identities.len(), tls.crls.len(), tls.client_ca.is_some()), (2, 1, true));
    assert_eq!(loaded.warnings, []);
}

// ---- listeners of the file

const TWO: &str = r#"
[[listeners]]
name = "plant"
port = 2001
target = { host = "plant-broker", port = 1885 }
limits = { max_connections = 10, max_packet_size = "64KiB", connect_timeout = "3s" }

[[listeners]]
host = "127.0.0.1"
port = 2002
"#;

#[test]
fn listeners_of_the_file_have_their_own_target_and_limits_and_inherit_the_rest() {
    let config = scene().file(TWO).env("MPROXY_MQTT_TARGET_HOST", "common").works().config;
    let [plant, other] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!((plant.name.as_str(), plant.host.as_str(), plant.port), ("plant", "0.0.0.0", 2001));
    assert_eq!(plant.target.to_string(), "mqtt://plant-broker:1885");
    assert_eq!((plant.limits.max_connections, plant.limits.max_packet_size), (Some(10), 65536));
    assert_eq!(plant.limits.connect_timeout, Duration::from_secs(3));
    assert_eq!((other.name.as_str(), other.host.as_str(), other.port), ("listener-1", "127.0.0.1", 2002));
    assert_eq!(other.target.to_string(), "mqtt://common:1884");
    assert_eq!((other.limits.max_connections, other.limits.max_packet_size), (None, 268_435_460));
}

#[test]
fn beside_listeners_of_the_file_the_inherited_one_opens_only_where_it_was_written() {
    assert_eq!(scene().file(TWO).works().config.listeners.len(), 2);
    let config = scene().file(TWO).env("MPROXY_MQTT_PORT", "1883").works().config;
    assert_eq!(config.listeners.len(), 3);
    assert_eq!(config.listeners[0].name, "mqtt");
}

#[test]
fn a_listener_without_a_port_is_a_fault() {
    let fault = scene().file("\n[[listeners]]\nname = \"a\"\n").fault();
    says(&fault, &["mproxy.toml:2 listeners[0].port: is missing"]);
}

#[test]
fn two_listeners_need_two_names_and_two_addresses() {
    let file = "[[listeners]]\nname = \"a\"\nport = 5\n[[listeners]]\nname = \"a\"\nhost = \"127.0.0.1\"\nport = 5\n";
    let faults = scene().file(file).faults();
    says(&faults.join("\n"), &["mproxy.toml:5 listeners[1].name: ", "mproxy.toml:7 listeners[1].port: "]);
    assert_eq!(faults.len(), 2, "{faults:#?}");
}

#[test]
fn a_listener_and_the_admin_api_need_two_addresses() {
    says(&scene().env("MPROXY_MQTT_PORT", "9180").fault(), &["MPROXY_MQTT_PORT", "admin API"]);
}

#[test]
fn port_zero_is_in_nobodys_way_but_no_target() {
    let config = scene().env("MPROXY_MQTT_PORT", "0").env("MPROXY_ADMIN_PORT", "0").works().config;
    assert_eq!((config.listeners[0].port, config.admin.port), (0, 0));
    says(
        &scene().env("MPROXY_MQTT_TARGET_PORT", "0").fault(),
        &["MPROXY_MQTT_TARGET_PORT", "cannot be connected to"],
    );
}

#[test]
fn a_listener_that_leads_to_itself_is_warned_of() {
    let warnings = guarded().env("MPROXY_MQTT_TARGET_PORT", "1883").warnings();
    says(&warnings[0], &["forwards to itself"]);
}

// ---- all faults at once

#[test]
fn all_faults_come_at_once_each_with_its_place() {
    let problems = scene()
        .file("[admin]\nport = \"x\"\n[log]\nlvl = \"info\"\n")
        .env("MPROXY_MQTT_PORT", "99999")
        .env("MPROXY_POLICY_TIMEOUT", "5")
        .flag("max_connections", "0")
        .load()
        .expect_err("five faults");
    let text = problems.to_string();
    says(
        &text,
        &[
            "5 configuration errors, no port was opened",
            "mproxy.toml:2 admin.port: \"x\" is not a port",
            "mproxy.toml:4 log.lvl: unknown key; the nearest known one is log.level",
            "environment variable MPROXY_MQTT_PORT: \"99999\" is not a port",
            "environment variable MPROXY_POLICY_TIMEOUT: \"5\" is not a duration",
            "--max-connections: must be greater than zero",
        ],
    );
    assert_eq!(problems.faults.len(), 5, "{text}");
}

#[test]
fn beside_a_fault_nothing_is_concluded_from_what_could_not_be_read() {
    use std::os::unix::ffi::OsStringExt;
    let mut unreadable = scene();
    unreadable.env.push(("MPROXY_POLICY_URL".into(), OsString::from_vec(vec![0xFF])));
    for scene in [
        scene().env("MPROXY_POLICY_URL", "hooks:50051"),
        scene().env("MPROXY_POLICY_URL", "hooks:50051").env("MPROXY_POLICY_CA_CERTS", "ca.pem"),
        scene().env("MPROXY_MQTT_TARGET_SCHEME", "tls").env("MPROXY_TARGET_CA_CERTS", "ca.pem"),
        scene().env("MPROXY_CONFIG", "gone.toml"),
        scene().file("[policy]\nurl = \n"),
        unreadable,
    ] {
        let problems = scene.load().expect_err("a fault");
        assert_eq!(problems.warnings, [], "{problems}");
    }
    // What was said by itself is still told.
    let problems =
        scene().env("MPROXY_MQTT_PORT", "x").env("MPROXY_MQTT_PROT", "1").load().expect_err("a fault");
    assert_eq!(problems.warnings.len(), 1);
}

#[test]
fn a_bad_value_for_each_variable_is_a_fault_that_names_it() {
    for row in config::settings::all() {
        let Some(variable) = row.variable else { continue };
        let is_free_text = matches!(
            row.key,
            "instance" | "otel.service_name" | "otel.sampler_arg" | "drain_server_reference"
        );
        if is_free_text || matches!(row.form, Form::Text("file") | Form::List("file")) {
            continue;
        }
        let faults = scene().env(variable, "not right").faults();
        let start = format!("environment variable {variable}: ");
        assert!(faults.iter().any(|fault| fault.starts_with(&start)), "{faults:?}");
    }
}

#[test]
#[cfg(unix)]
fn a_variable_that_is_no_text_is_a_fault_and_a_foreign_one_is_nobodys_business() {
    use std::os::unix::ffi::OsStringExt;
    let mut bad = scene();
    bad.env.push(("MPROXY_LOG_LEVEL".into(), OsString::from_vec(vec![0xff])));
    bad.env.push((OsString::from_vec(vec![0xfe]), OsString::from_vec(vec![0xff])));
    says(&bad.fault(), &["MPROXY_LOG_LEVEL", "not UTF-8"]);
}

// ---- unknown variables

#[test]
fn an_unknown_variable_is_a_warning_with_the_nearest_known_name() {
    let warnings = guarded().env("MPROXY_MQTT_TARGT_HOST", "x").env("PATH", "/bin").warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    says(
        &warnings[0],
        &["environment variable MPROXY_MQTT_TARGT_HOST: ", "nearest known name is MPROXY_MQTT_TARGET_HOST"],
    );
}

#[test]
fn kubernetes_service_variables_are_told_as_what_they_are() {
    let warnings = guarded()
        .env("MPROXY_SERVICE_HOST", "10.0.0.1")
        .env("MPROXY_SERVICE_PORT", "1883")
        .env("MPROXY_SERVICE_PORT_MQTT", "1883")
        .env("MPROXY_PORT", "tcp://10.0.0.1:1883")
        .env("MPROXY_PORT_1883_TCP", "tcp://10.0.0.1:1883")
        .env("MPROXY_PORT_1883_TCP_ADDR", "10.0.0.1")
        .env("MPROXY_ADMIN_SERVICE_HOST", "10.0.0.2")
        .env("MPROXY_ADMIN_PORT_9180_TCP_PROTO", "tcp")
        .warnings();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    says(
        &warnings[0],
        &["MPROXY_ADMIN_PORT_9180_TCP_PROTO", "7 more", "Kubernetes", "enableServiceLinks: false"],
    );
}

#[test]
fn a_service_address_in_a_port_variable_is_a_fault_that_tells_the_mend() {
    let fault = scene().env("MPROXY_MQTT_PORT", "tcp://10.0.0.1:1883").fault();
    says(&fault, &["MPROXY_MQTT_PORT", "tcp://10.0.0.1:1883", "Kubernetes", "enableServiceLinks: false"]);
}

// ---- traces

#[test]
fn a_trace_goes_where_the_standard_s_variables_say() {
    let to = |variables: &[(&str, &str)]| {
        let scene = variables.iter().fold(guarded(), |scene, (name, value)| scene.env(name, value));
        otel::target(&scene.works().config.otel, Signal::Traces).map(str::to_owned)
    };
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317");
    assert_eq!(to(&[]), None, "no traces leave");
    assert_eq!(to(&[endpoint]).as_deref(), Some("http://otel:4317"));
    let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:4317");
    assert_eq!(to(&[endpoint, own]).as_deref(), Some("https://traces:4317"));
    assert_eq!(to(&[endpoint, ("OTEL_SDK_DISABLED", "true")]), None);
    assert_eq!(to(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), None);
}

#[test]
fn what_traces_cannot_use_is_a_fault_that_says_what_to_do() {
    let on = || guarded().env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317");
    let fault = on().env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json").fault();
    says(&fault, &["OTEL_EXPORTER_OTLP_PROTOCOL", "http/json is not available", "grpc or http/protobuf"]);
    let fault = on().env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json").fault();
    says(&fault, &["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"]);
    let ratio = || on().env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
    for wrong in ["1.5", "-1", "NaN", "a tenth"] {
        let fault = ratio().env("OTEL_TRACES_SAMPLER_ARG", wrong).fault();
        says(&fault, &["OTEL_TRACES_SAMPLER_ARG", "parentbased_traceidratio", "0 to 1"]);
    }
    let share = |scene: Scene| otel::sampler_ratio(&scene.works().config.otel);
    assert_eq!(share(ratio().env("OTEL_TRACES_SAMPLER_ARG", "0.01")), Some(0.01));
    assert_eq!(share(ratio()), Some(1.0));
    let fault = on().env("OTEL_EXPORTER_OTLP_HEADERS", "api-key hunter2").fault();
    says(&fault, &["OTEL_EXPORTER_OTLP_HEADERS", "name=value"]);
    assert!(!fault.contains("hunter2"), "{fault}");
    let fault = on().env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "mproxy.pem").fault();
    says(&fault, &["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_KEY"]);
    // Set for other programs, where no trace leaves.
    guarded().env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json").works();
}

#[test]
fn logs_are_sent_by_otlp_only_where_somebody_says_so() {
    let to = |variables: &[(&str, &str)]| {
        let scene = variables.iter().fold(guarded(), |scene, (name, value)| scene.env(name, value));
        let loaded = scene.works();
        let url = otel::post_url(&loaded.config.otel, Signal::Logs);
        (url, otel::protocol(&loaded.config.otel, Signal::Logs), loaded.warnings)
    };
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318/");
    let (on, http) = (("OTEL_LOGS_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"));
    assert_eq!(to(&[endpoint]).0, None);
    let (url, protocol, _) = to(&[endpoint, on, http]);
    assert_eq!((url.as_deref(), protocol), (Some("http://otel:4318/v1/logs"), Some(OtlpProtocol::Http)));
    let own = ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:4318/here");
    let grpc = ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc");
    let (url, protocol, _) = to(&[endpoint, on, own, http, grpc]);
    assert_eq!((url.as_deref(), protocol), (Some("http://logs:4318/here"), Some(OtlpProtocol::Grpc)));
    assert_eq!(to(&[endpoint, on, ("OTEL_SDK_DISABLED", "true")]).0, None);
    let (url, _, warnings) = to(&[on]);
    assert_eq!(url, None);
    assert!(warnings.iter().any(|warning| warning.to_string().contains("no logs are sent")), "{warnings:?}");
}

// ---- what is shown

#[test]
fn check_prints_every_value_with_its_source_and_masks_secrets() {
    let loaded = scene()
        .file("[log]\nlevel = \"info\"\n")
        .env("MPROXY_ADMIN_TOKEN", "hunter2")
        .flag("mqtt.port", "2883")
        .works();
    let page = check::render(&loaded);
    let line = |start: &str| page.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    says(&line("port = 2883"), &["# --mqtt-port"]);
    says(&line("level = \"info\""), &["# mproxy.toml:2 log.level"]);
    says(&line("token = \"***\""), &["# environment variable MPROXY_ADMIN_TOKEN"]);
    says(&line("#max_connections = 100000"), &["# default"]);
    says(&page, &["#acl_file is not set", "# listens: mqtt at mqtt://0.0.0.0:2883 for mqtt://0.0.0.0:1884"]);
    assert!(!page.contains("hunter2"));
    assert!(!format!("{loaded:?}").contains("hunter2"));
    assert!(!serde_json::to_string(&check::view(&loaded)).unwrap().contains("hunter2"));
}

#[test]
fn what_check_prints_is_a_file_that_means_the_same() {
    let file =
        "instance = \"a\\\"b\"\n[policy]\nurl = \"http://a:1\"\n[policy.on_error]\npublish = \"allow\"\n";
    let first = scene().file(&format!("{file}{TWO}")).env("MPROXY_POLICY_ON_ERROR", "deny").works();
    let second = scene().file(&check::render(&first)).works();
    assert_eq!(second.config, first.config);
    assert_eq!(second.warnings, first.warnings);
    let first = guarded().file(listeners::NAMED).env("MPROXY_PROXY_PROTOCOL", "on").works();
    let second = scene().file(&check::render(&first)).works();
    assert_eq!(second.config, first.config);
}

#[test]
fn sources_are_kept_for_every_setting() {
    let loaded = scene().env("MPROXY_MQTT_PORT", "1").works();
    let port = loaded.effective.iter().find(|effective| effective.key == "mqtt.port").unwrap();
    assert_eq!(port.origin, Some(ValueOrigin::variable("MPROXY_MQTT_PORT")));
    let is_single = |key: &str| !key.contains("[]");
    let single = config::settings::all().filter(|row| is_single(row.key));
    assert_eq!(loaded.effective.len(), single.count());
}

#[test]
fn an_admin_api_that_others_reach_without_a_token_is_warned_of() {
    says(
        &guarded().env("MPROXY_ADMIN_HOST", "0.0.0.0").warnings()[0],
        &["MPROXY_ADMIN_HOST", "MPROXY_ADMIN_TOKEN"],
    );
    assert_eq!(
        guarded().env("MPROXY_ADMIN_HOST", "0.0.0.0").env("MPROXY_ADMIN_TOKEN", "t").warnings(),
        [""; 0]
    );
}
