//! Values that are one of a few words.

use tracing::level_filters::LevelFilter;

use super::kind::{Form, SettingKind};
use super::value::{boolean, quoted};

/// An enum whose values have names in the configuration.
macro_rules! named {
    ($(#[$about:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$each])* $variant),+ }

        impl $name {
            /// As the configuration writes it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Reads a name, in any case.
            ///
            /// # Errors
            /// Says which names there are.
            pub fn parse(text: &str) -> Result<Self, String> {
                let names: &[(&str, Self)] = &[$(($text, Self::$variant)),+];
                let found = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
                found.map(|(_, value)| *value).ok_or_else(|| {
                    let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
                    format!("{} is not one of: {}", quoted(text), names.join(", "))
                })
            }
        }

        impl SettingKind for $name {
            type Value = Self;
            const FORM: Form = Form::Choice(&[$($text),+]);

            fn read(text: &str) -> Result<Self, String> {
                Self::parse(text)
            }
        }
    };
}

named! {
    /// What is spoken at a listener or a target.
    Scheme {
        /// MQTT over TCP.
        Mqtt = "mqtt",
        /// MQTT over TLS.
        Mqtts = "mqtts",
        /// MQTT over WebSocket.
        Ws = "ws",
        /// MQTT over WebSocket over TLS.
        Wss = "wss",
        /// MQTT over a Unix socket.
        Unix = "unix",
    }
}

impl Scheme {
    /// Whether it is encrypted.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    /// Whether it is a WebSocket.
    #[must_use]
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// Whether clients of a TLS listener show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientTlsSetting {
    /// They are not asked for one.
    Unasked,
    /// They are asked, and come in without one, too.
    Optional,
    /// Who shows none stays out.
    Required,
}

impl ClientTlsSetting {
    const OPTIONAL: &'static str = "optional";
}

impl SettingKind for ClientTlsSetting {
    type Value = Self;
    const FORM: Form = Form::Boolean { or: Some(Self::OPTIONAL) };

    fn read(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case(Self::OPTIONAL) {
            return Ok(Self::Optional);
        }
        match boolean(text) {
            Ok(false) => Ok(Self::Unasked),
            Ok(true) => Ok(Self::Required),
            Err(_) => Err(format!("{} is not true, false or {}", quoted(text), Self::OPTIONAL)),
        }
    }
}

named! {
    /// What follows where clients send faster than rates allow.
    RateActionSetting {
        /// They wait.
        Wait = "wait",
        /// Their PUBLISH packets are refused.
        Refuse = "refuse",
    }
}

named! {
    /// The PROXY header that a broker is sent.
    SendProxy {
        /// None.
        Off = "off",
        /// Version 1, text.
        V1 = "v1",
        /// Version 2, binary, with TLS facts.
        V2 = "v2",
    }
}

named! {
    /// What an answer that never came means.
    OnError {
        /// The packet is refused.
        Deny = "deny",
        /// It goes through.
        Allow = "allow",
    }
}

named! {
    /// What a client that waits for its CONNACK sees where the broker, or an answer about it, stayed away.
    OnUnavailable {
        /// Its connection ends without a word.
        Close = "close",
        /// CONNACK 0x88 / 3.
        Connack = "connack",
    }
}

named! {
    /// How the policy service is asked.
    PolicyMode {
        /// By stream where the service offers it, else unary.
        Auto = "auto",
        /// Always unary.
        Unary = "unary",
    }
}

named! {
    /// How important a log line is.
    LogLevel {
        /// Something is broken.
        Error = "error",
        /// Something is odd.
        Warn = "warn",
        /// Something an operator wants to know.
        Info = "info",
        /// Connections.
        Debug = "debug",
        /// Packets.
        Trace = "trace",
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

named! {
    /// How a log line looks.
    LogFormat {
        /// For people.
        Text = "text",
        /// For machines, an object a line.
        Json = "json",
    }
}
