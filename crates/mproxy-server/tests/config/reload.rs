//! What a reload takes of another configuration, and what it leaves to the next start.

use mproxy_server::config::reload::{self, SettingChange, TakesEffect};
use mproxy_server::config::settings::{self, Applies, Example, Reload, SettingRow};
use mproxy_server::config::{LogLevel, PolicyMode};

use super::*;

/// What there is in each scene: a rule file, a hook service, and a certificate for whoever shows one.
const BASE: [(&str, &str); 11] = [
    ("acl_file", "\"acl.toml\""),
    ("policy.url", "\"https://127.0.0.1:1\""),
    ("policy.cert", "\"policy.pem\""),
    ("policy.key", "\"policy.key\""),
    ("tls.server_cert", "\"server.pem\""),
    ("tls.server_key", "\"server.key\""),
    ("tls.ca_certs", "\"ca.pem\""),
    ("admin.tls.server_cert", "\"admin.pem\""),
    ("admin.tls.server_key", "\"admin.key\""),
    ("admin.client.cert", "\"operator.pem\""),
    ("admin.client.key", "\"operator.key\""),
];

/// The base with this written, too, or in place of what it has.
fn with(key: &str, value: &str) -> Result<Loaded, Problems> {
    let base = BASE.iter().filter(|(known, _)| *known != key).map(|(key, value)| format!("{key} = {value}"));
    let file = base.chain([format!("{key} = {value}")]).collect::<Vec<_>>().join("\n");
    scene().file(&file).load()
}

fn value(row: &SettingRow) -> Option<&'static str> {
    row.example.map(|(Example::InForce(toml) | Example::Commented(toml))| toml)
}

fn reloaded(running: &Loaded, wanted: &Loaded) -> (Vec<SettingChange>, Loaded) {
    let changes = reload::changes(running, wanted);
    let in_force = reload::in_force(running, wanted.clone(), &changes);
    (changes, in_force)
}

/// What the table says of a setting is what becomes of it.
#[test]
fn a_reload_takes_what_the_table_says() {
    let running = with("instance", "\"here\"").unwrap();
    let (mut taken, mut left) = (0, 0);
    for row in settings::all().filter(|row| row.applies() != Applies::OneListener) {
        let values = value(row).into_iter().chain(row.choices().iter().copied());
        let values = values.chain(["1234", "\"77s\"", "\"other\"", "true", "\"3MiB\""]);
        for value in values {
            let Ok(wanted) = with(row.key, value).or_else(|_| with(row.key, &format!("{value:?}"))) else {
                continue;
            };
            // Without the row `instance` it is the host's again, which waits for the next start.
            let mut expected = wanted.config.clone();
            expected.general.instance.clone_from(&running.config.general.instance);
            if row.key == "instance" || expected == running.config {
                continue;
            }
            let (changes, in_force) = reloaded(&running, &wanted);
            let change = changes.iter().find(|change| change.key == row.key).expect(row.key);
            let waits = change.takes_effect == TakesEffect::AtNextStart;
            assert_eq!(waits, row.reload == Reload::Restart, "{}", row.key);
            let expected = if waits { &running.config } else { &expected };
            assert_eq!(&in_force.config, expected, "{} = {value}", row.key);
            *if waits { &mut left } else { &mut taken } += 1;
        }
    }
    assert!(taken > 60 && left > 15, "{taken} were taken and {left} left: the scene lost its settings");
}

const TWO: &str = "
policy.url = \"http://127.0.0.1:1\"
[[listeners]]
name = \"a\"
port = 1
limits.max_connections = 10
[[listeners]]
name = \"b\"
port = 2
";

fn of<'a>(changes: &'a [SettingChange], key: &str) -> &'a SettingChange {
    changes.iter().find(|change| change.key == key).unwrap_or_else(|| panic!("{key}: {changes:#?}"))
}

#[test]
fn a_listener_takes_its_own_settings_but_not_another_place() {
    let running = scene().file(TWO).works();
    let file = TWO.replace("port = 2", "port = 3\ntarget.host = \"broker\"").replace("= 10", "= 20");
    let (changes, in_force) = reloaded(&running, &scene().file(&file).works());
    let effect = |key| of(&changes, key).takes_effect;
    assert_eq!(effect("listeners[1].port"), TakesEffect::AtNextStart);
    assert_eq!(effect("listeners[1].target.host"), TakesEffect::ForNewConnections);
    assert_eq!(effect("listeners[0].limits.max_connections"), TakesEffect::Now);
    let [a, b] = &in_force.config.listeners[..] else { panic!() };
    assert_eq!((a.limits.max_connections, b.port, b.target.host.as_str()), (Some(20), 2, "broker"));
    let shown = |key: &str| in_force.effective.iter().find(|one| one.key == key).unwrap().value.clone();
    assert_eq!(shown("listeners[1].port").as_deref(), Some("2"), "it says what is in force");
    // And once more: what waits is told until it is there.
    let again = reload::changes(&in_force, &scene().file(&file).works());
    assert_eq!(again.len(), 1);
    assert_eq!(of(&again, "listeners[1].port").takes_effect, TakesEffect::AtNextStart);
}

#[test]
fn listeners_that_come_and_go_wait_for_the_next_start() {
    let running = scene().file(TWO).works();
    let file = TWO.replace("name = \"b\"", "name = \"c\"\nlimits.max_packet_size = 100");
    let (changes, in_force) = reloaded(&running, &scene().file(&file).works());
    for key in ["listeners[1].name", "listeners[1].limits.max_packet_size"] {
        assert_eq!(of(&changes, key).takes_effect, TakesEffect::AtNextStart);
    }
    assert_eq!(in_force.config.listeners, running.config.listeners);
}

#[test]
fn whether_there_is_somebody_to_ask_waits_for_the_next_start() {
    let running = scene().file(TWO).works();
    let wanted =
        scene().file("acl_file = \"acl.toml\"\npolicy.timeout = \"5s\"\n[log]\nlevel = \"warn\"\n").works();
    let (changes, in_force) = reloaded(&running, &wanted);
    for key in ["acl_file", "policy.url", "policy.timeout"] {
        assert_eq!(of(&changes, key).takes_effect, TakesEffect::AtNextStart);
    }
    assert_eq!(
        (in_force.config.log.level, &in_force.config.policy),
        (LogLevel::Warn, &running.config.policy)
    );
    assert_eq!(in_force.config.policy.unwrap().questions.mode, PolicyMode::Auto);
}

#[test]
fn another_secret_is_a_change_that_shows_nothing() {
    let secret = |token: &str| with("admin.token", token).unwrap();
    let (changes, in_force) = reloaded(&secret("\"one\""), &secret("\"two\""));
    let mask = || Some("***".to_owned());
    let (key, takes_effect) = ("admin.token".to_owned(), TakesEffect::Now);
    assert_eq!(changes, [SettingChange { key, old: mask(), new: mask(), takes_effect }]);
    assert_eq!(in_force.config.admin.token.unwrap().expose(), "two");
    assert!(!format!("{changes:?}").contains("two"));
    assert_eq!(reload::changes(&secret("\"one\""), &secret("\"one\"")), []);
}

/// What decides who needs a certificate changes with a start, whatever else of TLS changes at once.
#[test]
fn whether_a_certificate_may_be_left_out_waits_for_the_next_start() {
    let file = |client_tls: &str| {
        format!(
            "tls = {{ server_cert = \"s\", server_key = \"k\", ca_certs = \"ca.pem\" }}\nclient_tls = {client_tls}\n\
             [[listeners]]\nname = \"a\"\nport = 1\ntransport = \"mqtts\"\n"
        )
    };
    for (from, to) in [("true", "\"optional\""), ("\"optional\"", "true"), ("\"optional\"", "false")] {
        let running = guarded().file(&file(from)).works();
        let (changes, in_force) = reloaded(&running, &guarded().file(&file(to)).works());
        assert_eq!(of(&changes, "client_tls").takes_effect, TakesEffect::AtNextStart, "{from} {to}");
        assert_eq!(in_force.config.listeners, running.config.listeners);
    }
}
