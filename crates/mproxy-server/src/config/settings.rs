//! The table of all settings: what each is called in the file, in the environment and as a flag.
//! Help, reading, checking and printing all follow from it.

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Path in the file, `mqtt.target.port`; `[]` stands behind a list of tables.
    pub key: &'static str,
    /// Environment variable.
    pub variable: Option<&'static str>,
    /// Long flag without its dashes.
    pub flag: Option<&'static str>,
    /// One line for `--help`.
    pub about: &'static str,
    /// As it would be written; the instance's is found out at start.
    pub default: Option<&'static str>,
    /// How it is shown.
    pub shown: Shown,
}

/// Whether a value may be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// As it is.
    Open,
    /// Never.
    Masked,
}

/// Names the configuration file.
pub const CONFIG_VARIABLE: &str = "MPROXY_CONFIG";

/// The setting with this key.
#[must_use]
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

const fn row(
    key: &'static str,
    variable: &'static str,
    default: Option<&'static str>,
    about: &'static str,
) -> Setting {
    Setting { key, variable: Some(variable), flag: None, about, default, shown: Shown::Open }
}

/// A setting that only the file has.
const fn file_only(key: &'static str, default: Option<&'static str>, about: &'static str) -> Setting {
    Setting { key, variable: None, flag: None, about, default, shown: Shown::Open }
}

impl Setting {
    const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    const fn masked(mut self) -> Self {
        self.shown = Shown::Masked;
        self
    }
}

/// Loopback, private and link-local ranges: where a load balancer of one's own stands.
const HOME: &str = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,::1/128,fc00::/7,fe80::/10";

/// All of them, keys of one table side by side, so that printing them in order makes a TOML document.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    row("instance", "MPROXY_INSTANCE", None, "name of this mproxy in events and logs (default: the host's name)"),
    row("acl_file", "MPROXY_ACL_FILE", None, "static rule file, asked before the policy service").flag("acl-file"),
    row("max_connections", "MPROXY_MAX_CONNECTIONS", Some("100000"), "more are refused at once and counted").flag("max-connections"),
    row("max_pending", "MPROXY_MAX_PENDING", None, "connections that have not been admitted yet, at most (default: no bound of their own)"),
    row("connect_timeout", "MPROXY_CONNECT_TIMEOUT", Some("10s"), "all handshakes and CONNECT must be done by then, and admission in as long again"),
    row("on_unavailable", "MPROXY_ON_UNAVAILABLE", Some("close"), "close, connack: what a client sees where the broker or an answer about it stayed away").flag("on-unavailable"),
    // 4 bytes of length and the fixed header: the protocol's own bound.
    row("max_packet_size", "MPROXY_MAX_PACKET_SIZE", Some("268435460"), "larger packets are refused before they are buffered").flag("max-packet-size"),
    row("max_connect_size", "MPROXY_MAX_CONNECT_SIZE", Some("384KiB"), "larger CONNECT packets are refused"),
    row("max_user_properties", "MPROXY_MAX_USER_PROPERTIES", Some("64KiB"), "bytes of user properties that one packet of a client may have"),
    row("max_keep_alive", "MPROXY_MAX_KEEP_ALIVE", None, "seconds; 5.0 clients that ask for more are told, others are refused"),
    row("max_session_expiry", "MPROXY_MAX_SESSION_EXPIRY", None, "seconds; 5.0 clients that ask for more are told"),
    row("drain_timeout", "MPROXY_DRAIN_TIMEOUT", Some("30s"), "how long a stop lets sessions end"),
    row("proxy_protocol", "MPROXY_PROXY_PROTOCOL", Some("off"), "off, on: clients come with a PROXY v1/v2 header"),
    row("proxy_from", "MPROXY_PROXY_FROM", Some(HOME), "networks whose PROXY headers are believed, by comma; others are refused"),
    row("client_tls", "MPROXY_CLIENT_TLS", Some("false"), "true: clients must come over TLS with a certificate"),

    row("budget.connection", "MPROXY_BUDGET_CONNECTION", Some("3MiB"), "bytes that one connection may make mproxy hold"),
    row("budget.listener", "MPROXY_BUDGET_LISTENER", Some("256MiB"), "bytes that all connections of one listener may"),
    row("budget.total", "MPROXY_BUDGET_TOTAL", Some("512MiB"), "bytes that all connections together may"),

    row("mqtt.host", "MPROXY_MQTT_HOST", Some("0.0.0.0"), "host of the MQTT and MQTTS listeners").flag("mqtt-host"),
    row("mqtt.port", "MPROXY_MQTT_PORT", Some("1883"), "port of the MQTT listener, or off").flag("mqtt-port"),
    row("mqtt.target.scheme", "MPROXY_MQTT_TARGET_SCHEME", Some("mqtt"), "mqtt, mqtts, ws, wss: how their broker is reached"),
    row("mqtt.target.host", "MPROXY_MQTT_TARGET_HOST", Some("0.0.0.0"), "their broker's host").flag("target-host"),
    row("mqtt.target.port", "MPROXY_MQTT_TARGET_PORT", Some("1884"), "their broker's port").flag("target-port"),
    file_only("mqtt.target.path", Some("/mqtt"), "their broker's path, over WebSocket"),
    row("mqtts.port", "MPROXY_MQTTS_PORT", Some("8883"), "port of the MQTT over TLS listener, or off"),

    row("ws.host", "MPROXY_WS_HOST", Some("0.0.0.0"), "host of the WebSocket listeners"),
    row("ws.port", "MPROXY_WS_PORT", Some("8080"), "port of the WebSocket listener, or off"),
    row("ws.path", "MPROXY_WS_PATH", Some("/mqtt"), "path of the WebSocket listener"),
    row("ws.origins", "MPROXY_WS_ORIGINS", None, "origins whose pages may connect, by comma (default: all)"),
    row("ws.headers", "MPROXY_WS_HEADERS", None, "headers of the upgrade that the policy service is told, by comma"),
    row("ws.cookies", "MPROXY_WS_COOKIES", None, "cookies of the upgrade that the policy service is told, by comma"),
    row("ws.target.scheme", "MPROXY_WS_TARGET_SCHEME", Some("ws"), "mqtt, mqtts, ws, wss: how their broker is reached"),
    row("ws.target.host", "MPROXY_WS_TARGET_HOST", Some("localhost"), "their broker's host"),
    row("ws.target.port", "MPROXY_WS_TARGET_PORT", Some("8888"), "their broker's port"),
    row("ws.target.path", "MPROXY_WS_TARGET_PATH", Some("/mqtt"), "their broker's path"),
    row("wss.port", "MPROXY_WSS_PORT", Some("8080"), "port of the WebSocket over TLS listener, or off"),
    row("wss.path", "MPROXY_WSS_PATH", Some("/mqtt"), "path of the WebSocket over TLS listener"),

    row("tls.ca_certs", "MPROXY_CA_CERTS", None, "PEM: CAs that sign client certificates"),
    row("tls.server_cert", "MPROXY_SERVER_CERT", None, "PEM: server certificate chain"),
    row("tls.server_key", "MPROXY_SERVER_KEY", None, "PEM: its key"),
    row("tls.ocsp", "MPROXY_SERVER_OCSP", None, "DER: OCSP response to staple to it"),
    row("tls.crls", "MPROXY_CRLS", None, "PEM: lists of client certificates that do not count any more, by comma"),
    file_only("tls.alpn", Some("mqtt,x-amzn-mqtt-ca"), "application protocols of MQTT over TLS, the best first"),
    file_only("tls.certificates[].server_cert", None, "PEM: chain of a further certificate, for clients that ask for its name"),
    file_only("tls.certificates[].server_key", None, "PEM: its key"),
    file_only("tls.certificates[].ocsp", None, "DER: OCSP response to staple to it"),

    row("target.ca_certs", "MPROXY_TARGET_CA_CERTS", None, "PEM: roots towards the broker (default: the system's)"),
    row("target.cert", "MPROXY_TARGET_CERT", None, "PEM: client certificate towards the broker"),
    row("target.key", "MPROXY_TARGET_KEY", None, "PEM: its key"),
    row("target.crls", "MPROXY_TARGET_CRLS", None, "PEM: lists of broker certificates that do not count any more, by comma"),
    row("target.server_name", "MPROXY_TARGET_SERVER_NAME", None, "name that the broker's certificate has to have (default: its host)"),
    file_only("target.alpn", None, "application protocols that are offered to the broker"),
    file_only("target.verify", Some("full"), "how far the broker's certificate is looked at"),
    row("target.proxy_protocol", "MPROXY_TARGET_PROXY_PROTOCOL", Some("off"), "off, v1, v2: what the broker is sent first"),

    row("policy.url", "MPROXY_POLICY_URL", None, "policy service: http://h:p, https://h:p, unix:/path; several by comma").flag("policy-url"),
    row("policy.timeout", "MPROXY_POLICY_TIMEOUT", Some("1s"), "deadline of one question").flag("policy-timeout"),
    row("policy.grant_staleness", "MPROXY_POLICY_GRANT_STALENESS", Some("60s"), "how long a grant serves after its ttl while its renewal fails"),
    row("policy.mode", "MPROXY_POLICY_MODE", Some("auto"), "auto, unary"),
    row("policy.ca_certs", "MPROXY_POLICY_CA_CERTS", None, "PEM: roots towards the policy service"),
    row("policy.cert", "MPROXY_POLICY_CERT", None, "PEM: client certificate towards it"),
    row("policy.key", "MPROXY_POLICY_KEY", None, "PEM: its key"),
    row("policy.on_error", "MPROXY_POLICY_ON_ERROR", Some("deny"), "deny, allow: what an answer that never came means").flag("policy-on-error"),
    file_only("policy.on_error.connect", None, "the same for this hook alone"),
    file_only("policy.on_error.publish", None, "the same for this hook alone"),
    file_only("policy.on_error.subscribe", None, "the same for this hook alone"),
    file_only("policy.on_error.deliver", None, "the same for this hook alone"),

    row("admin.host", "MPROXY_ADMIN_HOST", Some("127.0.0.1"), "host of the admin API and metrics").flag("admin-host"),
    row("admin.port", "MPROXY_ADMIN_PORT", Some("9180"), "port of the admin API and metrics").flag("admin-port"),
    row("admin.token", "MPROXY_ADMIN_TOKEN", None, "bearer token that admin calls need").masked(),

    row("log.level", "MPROXY_LOG_LEVEL", Some("debug"), "error, warn, info, debug, trace").flag("log-level"),
    row("log.format", "MPROXY_LOG_FORMAT", Some("text"), "text, json").flag("log-format"),

    row("otel.endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT", None, "where traces go; unset: none leave"),
    row("otel.service_name", "OTEL_SERVICE_NAME", Some("mproxy"), "name of this service in traces"),
    row("otel.sampler", "OTEL_TRACES_SAMPLER", Some("parentbased_always_on"), "which traces are taken"),
    row("otel.sampler_arg", "OTEL_TRACES_SAMPLER_ARG", None, "argument of the sampler"),
];

/// Keys of one `[[listeners]]` entry. What is absent is inherited from the settings above: `mqtt.*` for
/// transports mqtt and mqtts, `ws.*` for ws and wss. Only the port has to be there.
pub const LISTENER_KEYS: &[&str] = &[
    "name",
    "transport",
    "host",
    "port",
    "path",
    "proxy_protocol",
    "proxy_from",
    "on_unavailable",
    "ws.origins",
    "ws.headers",
    "ws.cookies",
    "tls.client_tls",
    "tls.ca_certs",
    "tls.crls",
    "tls.server_cert",
    "tls.server_key",
    "tls.ocsp",
    "tls.alpn",
    "tls.certificates[].server_cert",
    "tls.certificates[].server_key",
    "tls.certificates[].ocsp",
    "target.scheme",
    "target.host",
    "target.port",
    "target.path",
    "target.proxy_protocol",
    "target.ca_certs",
    "target.cert",
    "target.key",
    "target.crls",
    "target.server_name",
    "target.alpn",
    "target.verify",
    "limits.max_connections",
    "limits.max_packet_size",
    "limits.max_connect_size",
    "limits.max_user_properties",
    "limits.max_keep_alive",
    "limits.max_session_expiry",
    "limits.connect_timeout",
    "budget.connection",
    "budget.listener",
];

/// Keys of settings and listeners that take a list; in a variable, and in one string of the file, its members stand
/// between commas.
pub const LIST_KEYS: &[&str] = &[
    "policy.url",
    "proxy_from",
    "ws.origins",
    "ws.headers",
    "ws.cookies",
    "tls.crls",
    "tls.alpn",
    "target.crls",
    "target.alpn",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::SETTINGS;

    #[test]
    fn no_key_variable_or_flag_stands_for_two_settings() {
        let mut seen = HashSet::new();
        for setting in SETTINGS {
            let flag = setting.flag.map(|flag| format!("--{flag}"));
            let names = [Some(setting.key.to_owned()), setting.variable.map(str::to_owned), flag];
            for name in names.into_iter().flatten() {
                assert!(seen.insert(name.clone()), "{name} twice");
            }
        }
    }
}
