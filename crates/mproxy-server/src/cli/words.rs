//! Flags that take one of a few words: a wrong one is told before anything is asked, and shells complete them.

use clap::builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser};
use clap::{Arg, Command};
use mproxy_core::policy::Hook;

/// How far a session may be, as [`SessionPhase`](crate::admin::view::SessionPhase) has it.
pub(super) const STATES: [&str; 5] = ["connecting", "admitting", "dialling", "open", "closing"];

/// By what sessions may be ordered, as [`SessionOrder`](crate::admin::view::SessionOrder) has it.
pub(super) const ORDERS: [&str; 5] = ["connection_id", "connected_since", "packets", "bytes", "client_id"];

/// What may have been decided.
pub(super) const OUTCOMES: [&str; 3] = ["refused", "allowed", "any"];

/// What a client may do.
pub(super) const ACTIONS: [&str; 3] = ["publish", "subscribe", "receive"];

/// Who sends a packet.
pub(super) const SIDES: [&str; 2] = ["client", "broker"];

/// About what may be asked.
pub(super) fn hooks() -> PossibleValuesParser {
    Hook::ALL.map(Hook::name).into()
}

/// Names the words of a setting to shells, and takes any text: whether it is right is said where all settings are read, with
/// what else is wrong with them.
#[derive(Clone, Debug)]
pub(super) struct SettingWords(pub(super) &'static [&'static str]);

impl TypedValueParser for SettingWords {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(PossibleValue::new)))
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::admin::view::{SessionOrder, SessionPhase};

    /// All are read, and the error about another one names no more than these.
    fn are_all<T: DeserializeOwned>(words: &[&str]) {
        for word in words {
            assert!(serde_json::from_value::<T>((*word).into()).is_ok(), "{word}");
        }
        let error = serde_json::from_value::<T>("?".into()).err().map(|error| error.to_string());
        let named = error.unwrap_or_default().matches('`').count() / 2;
        assert_eq!(named, words.len() + 1, "the unknown one, and those that are known");
    }

    #[test]
    fn the_words_of_sessions_are_those_of_the_api() {
        are_all::<SessionPhase>(&STATES);
        are_all::<SessionOrder>(&ORDERS);
    }
}
