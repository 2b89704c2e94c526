//! The environment: our variables as text, and what is odd about the rest that looks like ours.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::ConfigProblem;
use super::layers::Layer;
use super::origin::ValueOrigin;
use super::settings::{self, CONFIG_VARIABLE, UPGRADE_VARIABLE};
use super::value::is_service_link;
use mproxy_policy::nearest;

const PREFIX: &str = "MPROXY_";

/// Our variables that are set. An empty one counts as unset, as `X=` in a compose file means it.
#[derive(Debug, Default)]
pub(super) struct Variables {
    pub text: BTreeMap<&'static str, String>,
    /// What a shell or container says the host is called.
    pub host_name: Option<String>,
}

/// Sorts the environment into ours, unknown, and Kubernetes' own.
pub(super) fn read(
    env: impl IntoIterator<Item = (OsString, OsString)>,
    faults: &mut Vec<ConfigProblem>,
    warnings: &mut Vec<ConfigProblem>,
) -> Variables {
    let mut variables = Variables::default();
    let mut links = Vec::new();
    for (name, value) in env {
        // No variable of ours has such a name.
        let Some(name) = name.to_str() else { continue };
        if name == "HOSTNAME" {
            variables.host_name = value.into_string().ok().filter(|name| !name.is_empty());
        } else if let Some(known) = known().find(|known| *known == name) {
            match value.into_string() {
                Ok(text) if text.is_empty() => {}
                Ok(text) => drop(variables.text.insert(known, text)),
                Err(_) => faults.push(ConfigProblem::new(ValueOrigin::variable(known), "is not UTF-8")),
            }
        } else if name == UPGRADE_VARIABLE {
            // No setting: mproxy itself sets it for the process that takes its place.
        } else if name.starts_with(PREFIX) {
            if is_kubernetes(name, value.to_str().unwrap_or_default()) {
                // Collected, for one warning: there are seven for each port of a service.
                links.push(name.to_owned());
            } else {
                warnings.push(unknown(name));
            }
        }
    }
    warnings.extend(kubernetes(links));
    variables
}

/// The settings that variables have.
pub(super) fn layer(variables: &Variables) -> Layer {
    let mut layer = Layer::default();
    for row in settings::all() {
        let Some(variable) = row.variable else { continue };
        if let Some(text) = variables.text.get(variable) {
            layer.set(row.key, text, &ValueOrigin::variable(variable));
        }
    }
    layer
}

fn known() -> impl Iterator<Item = &'static str> {
    settings::all().filter_map(|row| row.variable).chain([CONFIG_VARIABLE])
}

fn unknown(name: &str) -> ConfigProblem {
    let known = match nearest(name, known()) {
        Some(known) => format!("the nearest known name is {known}"),
        None => "mproxy --help lists those that are known".to_owned(),
    };
    ConfigProblem::new(ValueOrigin::variable(name), format!("unknown variable, ignored; {known}"))
}

/// Whether Kubernetes or Docker links made this variable for a service called `mproxy` or `mproxy-…`:
/// `…_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT` with an address, `…_PORT_1883_TCP[_ADDR|_PORT|_PROTO]`.
fn is_kubernetes(name: &str, value: &str) -> bool {
    let service = name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT");
    service || is_service_link(value) || is_port_link(name)
}

fn is_port_link(name: &str) -> bool {
    let Some((_, rest)) = name.split_once("_PORT_") else { return false };
    let mut words = rest.split('_');
    let is_port = words.next().is_some_and(|word| word.parse::<u16>().is_ok());
    is_port && words.next().is_some_and(|word| matches!(word, "TCP" | "UDP" | "SCTP"))
}

fn kubernetes(mut links: Vec<String>) -> Option<ConfigProblem> {
    links.sort_unstable();
    let first = links.first()?;
    let text = match links.len() {
        1 => "ignored: it is".to_owned(),
        2 => "and one more ignored: they are".to_owned(),
        more => format!("and {} more ignored: they are", more - 1),
    };
    let text = format!(
        "{text} not a setting of mproxy, Kubernetes sets it in every pod for a service of this name. \
         Set `enableServiceLinks: false` in the pod spec to keep such variables out"
    );
    Some(ConfigProblem::new(ValueOrigin::variable(first), text))
}
