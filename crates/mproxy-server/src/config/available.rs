//! What this version cannot serve yet: TLS, WebSocket, PROXY headers, traces. To be deleted with the last of them.
//!
//! What was asked for and cannot be had is a fault: nothing that was meant to be encrypted is ever served plain.
//! Only mProxy's default WebSocket listener, which nobody asked for, is left out without a word.

use super::written::{Entry, Written};
use super::{Config, Problem, Scheme};

/// Whether a value asks for something.
type Asks = fn(&str) -> bool;

/// Keys, what they ask for, and which of their values ask for it. `*` stands for a listener's index.
const ASKING: &[(&str, &str, Asks)] = &[
    ("client_tls", "TLS", is_true),
    ("tls.server_cert", "TLS", is_set),
    ("mqtt.target.scheme", "TLS or WebSocket towards the broker", is_not_mqtt),
    ("target.ca_certs", "TLS towards the broker", is_set),
    ("target.cert", "TLS towards the broker", is_set),
    ("target.proxy_protocol", "the PROXY protocol", is_on),
    ("proxy_protocol", "the PROXY protocol", is_on),
    ("policy.url", "TLS towards the policy service", has_https),
    ("policy.ca_certs", "TLS towards the policy service", is_set),
    ("policy.cert", "TLS towards the policy service", is_set),
    ("listeners[*].transport", "TLS or WebSocket", is_not_mqtt),
    ("listeners[*].tls.client_tls", "TLS", is_true),
    ("listeners[*].tls.ca_certs", "TLS", is_set),
    ("listeners[*].tls.server_cert", "TLS", is_set),
    ("listeners[*].target.scheme", "TLS or WebSocket towards the broker", is_not_mqtt),
    ("listeners[*].target.ca_certs", "TLS towards the broker", is_set),
    ("listeners[*].target.cert", "TLS towards the broker", is_set),
    ("listeners[*].target.proxy_protocol", "the PROXY protocol", is_on),
    ("listeners[*].proxy_protocol", "the PROXY protocol", is_on),
];

/// Faults for what was asked for and cannot be had; only plain MQTT listeners are left.
pub(super) fn restrict(
    config: &mut Config,
    written: &Written,
    faults: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    for (pattern, what, asks) in ASKING {
        for entry in entries(written, pattern) {
            if entry.origin.is_explicit() && asks(&entry.text) {
                let text = format!("{what} is not available in this version");
                faults.push(Problem::new(entry.origin.clone(), text));
            }
        }
    }
    let websocket =
        written.explicit_keys().find(|(key, _)| key.starts_with("ws.") || key.starts_with("wss."));
    if let Some((_, entry)) = websocket {
        let text =
            "without effect: the WebSocket listener is not available in this version and is not opened";
        warnings.push(Problem::new(entry.origin.clone(), text));
    }
    if let Some(origin) = written.explicit("otel.endpoint") {
        let text = "without effect: traces are not available in this version";
        warnings.push(Problem::new(origin.clone(), text));
    }
    config.listeners.retain(|listener| listener.transport == Scheme::Mqtt);
    config.otel = None;
}

fn entries<'a>(written: &'a Written, pattern: &'a str) -> Box<dyn Iterator<Item = &'a Entry> + 'a> {
    if pattern.contains('*') {
        let listeners = 0..written.listeners.len();
        Box::new(listeners.filter_map(|index| written.get(&pattern.replace('*', &index.to_string()))))
    } else {
        Box::new(written.get(pattern).into_iter())
    }
}

fn is_set(_: &str) -> bool {
    true
}

fn is_true(text: &str) -> bool {
    super::value::boolean(text) == Ok(true)
}

fn is_on(text: &str) -> bool {
    ["on", "true", "v1", "v2"].iter().any(|on| on.eq_ignore_ascii_case(text))
}

fn is_not_mqtt(text: &str) -> bool {
    Scheme::parse(text).is_ok_and(|scheme| scheme != Scheme::Mqtt)
}

fn has_https(text: &str) -> bool {
    text.split(',').any(|url| url.trim().starts_with("https:"))
}
