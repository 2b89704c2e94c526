//! What the written values mean. Goes on after a fault with the default, so that all faults are found at once.

use super::origin::ValueOrigin;
use super::otel::{Signal, protocol, sampler_ratio, target, written_protocol};
use super::reader::SettingReader;
use super::settings::{self, SettingPlace, Values as _, table};
use super::written::Written;
use super::{
    AdminSettings, ClientTlsSettings, Config, ConfigProblem, DecisionLogSettings, Events, General, Log, Otel,
    PerHook, PolicyConfig, ProtectionSettings, Questions, ShadowSettings, admin, listeners,
    listeners::{Bound, KeyedListener},
};

/// What is wrong with each value by itself.
fn unreadable(written: &Written, faults: &mut Vec<ConfigProblem>) {
    for key in written.keys() {
        let Some((entry, row)) = written.get(&key).zip(settings::find(&key)) else { continue };
        if let Err(text) = (row.check)(&entry.text) {
            faults.push(ConfigProblem::new(entry.origin.clone(), text));
        }
    }
}

/// Everything, with the checks that need more than one value.
pub(super) fn read(
    written: &Written,
    faults: &mut Vec<ConfigProblem>,
    warnings: &mut Vec<ConfigProblem>,
) -> Config {
    // First, and once for each: everything below takes a default for what cannot be read, and says no more of it.
    unreadable(written, faults);
    let mut reader = SettingReader { written, faults, warnings };
    let listeners = listeners::read(&mut reader);
    let admin = admin::read(&mut reader);
    let admin_client = admin::read_client(&mut reader, &admin);
    one_address_each(&listeners, &admin, &mut reader);
    let config = Config {
        general: General::read(&reader, SettingPlace::Process),
        protection: ProtectionSettings::read(&reader, SettingPlace::Process),
        listeners: listeners.into_iter().map(|keyed| keyed.listener).collect(),
        policy: policy(&mut reader),
        admin,
        admin_client,
        log: Log::read(&reader, SettingPlace::Process),
        decision_log: DecisionLogSettings::read(&reader, SettingPlace::Process),
        otel: otel(&mut reader),
    };
    if let Some(PolicyConfig { questions, .. }) = &config.policy
        && let Some(listener) =
            config.listeners.iter().find(|listener| questions.timeout >= listener.limits.connect_timeout)
    {
        let text = format!(
            "is not shorter than the connect_timeout of listener {}: a client whose first answer is late is not asked \
             about again, and policy.on_error does not admit it either",
            listener.name
        );
        reader.warn("policy.timeout", text);
    }
    let marks = &config.protection;
    let is_below = |refuse: Option<u64>, drain: Option<u64>| refuse.zip(drain).is_some_and(|(a, b)| b < a);
    let percent = |share: Option<u8>| share.map(u64::from);
    let bytes = |size: Option<usize>| size.map(|size| size as u64);
    if is_below(percent(marks.descriptors_refuse), percent(marks.descriptors_drain)) {
        let text = "is below descriptors_refuse: sessions would be disconnected while others come in";
        reader.fault("protection.descriptors_drain", text);
    }
    if is_below(bytes(marks.memory_refuse), bytes(marks.memory_drain)) {
        let text = "is below memory_refuse: sessions would be disconnected while others come in";
        reader.fault("protection.memory_drain", text);
    }
    if marks.login_failures.is_some() && marks.login_backoff_max < marks.login_backoff {
        let text = "is shorter than login_backoff: no wait is longer than the first";
        reader.warn("protection.login_backoff_max", text);
    }
    if config.general.drain_spread.is_some_and(|spread| spread >= config.general.drain_timeout) {
        let text = "is not shorter than drain_timeout: clients that have not been told to leave by then are closed at once";
        reader.warn("drain_spread", text);
    }
    if config.policy.is_none() && config.general.acl_file.is_none() {
        let text = "not set, and MPROXY_ACL_FILE is not set either: everything is allowed";
        reader.warnings.push(ConfigProblem::new(ValueOrigin::variable("MPROXY_POLICY_URL"), text));
    }
    config
}

fn policy(reader: &mut SettingReader<'_>) -> Option<PolicyConfig> {
    let endpoints = reader.own(&table::POLICY_URL, SettingPlace::Process);
    let identity = reader.identity(table::POLICY_CERT.row.key, table::POLICY_KEY.row.key);
    let tls =
        ClientTlsSettings { ca_certs: reader.own(&table::POLICY_CA_CERTS, SettingPlace::Process), identity };
    let general = reader.get(&table::ON_ERROR, SettingPlace::Process);
    let hook = |setting| reader.own(setting, SettingPlace::Process).unwrap_or(general);
    let on_error = PerHook {
        connect: hook(&table::ON_ERROR_CONNECT),
        publish: hook(&table::ON_ERROR_PUBLISH),
        subscribe: hook(&table::ON_ERROR_SUBSCRIBE),
        deliver: hook(&table::ON_ERROR_DELIVER),
    };
    let questions = Questions::read(reader, SettingPlace::Process);
    let events = Events::read(reader, SettingPlace::Process);
    let shadow = ShadowSettings::read(reader, SettingPlace::Process);
    if endpoints.is_none() && shadow.url.is_some() {
        reader.warn(
            "policy.shadow.url",
            "has no effect: policy.url is not set, so there is nothing to compare with",
        );
    }
    let over_tls = |url: &String| url.starts_with("https:") || url.starts_with("https+");
    let is_tls = endpoints.iter().chain(&shadow.url).flatten().any(over_tls);
    for row in [table::POLICY_CA_CERTS.row, table::POLICY_CERT.row, table::POLICY_KEY.row] {
        if !is_tls && reader.written.get(row.key).is_some() {
            reader.warn(row.key, "has no effect: no hook service is reached over https://");
        }
    }
    // Last, so that what is written beside a missing URL is read and warned of all the same.
    Some(PolicyConfig { endpoints: endpoints?, questions, events, shadow, on_error, tls })
}

fn otel(reader: &mut SettingReader<'_>) -> Otel {
    let otel = Otel::read(reader, SettingPlace::Process);
    let _ = reader.identity("otel.cert", "otel.key");
    for signal in Signal::ALL {
        if target(&otel, signal).is_some() && protocol(&otel, signal).is_none() {
            let (key, written) = written_protocol(&otel, signal);
            let text =
                format!("{written} is not available for {}: expected grpc or http/protobuf", signal.name());
            reader.fault(key, text);
        }
    }
    if otel.logs_exporter == "otlp" && !otel.disabled && target(&otel, Signal::Logs).is_none() {
        reader
            .warn("otel.logs_exporter", "no logs are sent: there is no otel.endpoint or otel.logs_endpoint");
    }
    if target(&otel, Signal::Traces).is_some() && sampler_ratio(&otel).is_none() {
        let text = format!("is not the share that {} takes: expected 0 to 1", otel.sampler);
        reader.fault("otel.sampler_arg", text);
    }
    otel
}

/// Two sockets cannot be bound to one address; nor should a listener forward to itself.
fn one_address_each(listeners: &[KeyedListener], admin: &AdminSettings, reader: &mut SettingReader<'_>) {
    for (index, KeyedListener { key, listener }) in listeners.iter().enumerate() {
        let (name, bound) = (&listener.name, Bound::of(listener));
        if bound.overlaps(Bound::Tcp(&admin.host, admin.port)) {
            reader.fault(key, format!("listener {name} and the admin API cannot both listen at {bound}"));
        }
        for KeyedListener { listener: earlier, .. } in &listeners[..index] {
            if bound.overlaps(Bound::of(earlier)) {
                reader.fault(
                    key,
                    format!("listeners {} and {name} cannot both listen at {bound}", earlier.name),
                );
            }
        }
        if Bound::dialled(&listener.target).leads_to(bound) {
            reader
                .warn(key, format!("listener {name} forwards to itself: its target is {}", listener.target));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Layer;

    #[test]
    fn every_default_can_be_read() {
        let written = Written::merge([Layer::of_defaults("here")]).expect("layers");
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        let config = read(&written, &mut faults, &mut warnings);
        assert_eq!(faults, []);
        assert_eq!(config.general.instance, "here");
        assert_eq!(config.general, General { instance: "here".to_owned(), ..General::default() });
        assert_eq!(config.listeners[0].limits, super::super::ListenerLimits::default());
    }
}
