//! The kinds of values: what each is read into, and the form that help, documentation and schema give for it.
//! The rooms `value`, `list` and `choice` read the text.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use hyper::header::HeaderName;
use mproxy_tcp::networks::Network;
use mproxy_tcp::tls::Verification;

use super::token_place::RequestTokenPlace;
use super::value::{AdminAddress, EventRate, Secret};
use super::value::{
    LARGEST_PACKET, LEAST_BUDGET, LEAST_PACKET, MOST_MILLISECONDS, MOST_SPANS, OTEL_EXPORTERS,
    OTLP_PROTOCOLS, SAMPLERS,
};
use super::{list, value};

/// A kind of value.
pub trait SettingKind: 'static {
    /// What the text is read into.
    type Value: Clone + fmt::Debug + PartialEq + 'static;
    /// How the text looks.
    const FORM: Form;

    /// Reads the text of a value.
    ///
    /// # Errors
    /// Says what is wrong and what would be right.
    fn read(text: &str) -> Result<Self::Value, String>;

    /// What it means that nothing was written and there is no default; `None` where that is for the reader to decide.
    fn absent() -> Option<Self::Value> {
        None
    }

    /// What stands in for a value that cannot be read, so that no second error follows from it; else the default.
    fn unreadable() -> Option<Self::Value> {
        None
    }
}

/// How a value looks when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A text, and what it is.
    Text(&'static str),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Boolean {
        /// A word that may stand in its place.
        or: Option<&'static str>,
    },
    /// A whole number, and what it is.
    Number {
        /// What it counts.
        of: &'static str,
        /// The smallest.
        least: u64,
        /// The largest.
        most: u64,
        /// A word that may stand in its place.
        or: Option<&'static str>,
    },
    /// `250ms`, `1m30s`.
    Duration,
    /// Bytes: a number, or with a unit, `256KiB`.
    Size {
        /// The smallest.
        least: u64,
        /// The largest.
        most: u64,
    },
    /// Seconds: a number, or a duration.
    Seconds {
        /// The smallest.
        least: u64,
        /// The largest.
        most: u64,
    },
    /// A list of texts, each of which is this; between commas in a variable.
    List(&'static str),
}

impl Form {
    /// Whether it may be a list in the file.
    #[must_use]
    pub const fn is_list(self) -> bool {
        matches!(self, Self::List(_))
    }
}

/// A value that may be left out.
#[derive(Debug)]
pub struct Optional<K>(PhantomData<K>);

impl<K: SettingKind> SettingKind for Optional<K> {
    type Value = Option<K::Value>;
    const FORM: Form = K::FORM;

    fn read(text: &str) -> Result<Self::Value, String> {
        K::read(text).map(Some)
    }

    fn absent() -> Option<Self::Value> {
        Some(None)
    }
}

macro_rules! kinds {
    ($($(#[$about:meta])* $name:ident: $value:ty = $read:expr, $form:expr
        $(, absent: $absent:expr)? $(, unreadable: $unreadable:expr)?;)+) => {$(
        $(#[$about])*
        #[derive(Debug)]
        pub enum $name {}

        impl SettingKind for $name {
            type Value = $value;
            const FORM: Form = $form;

            fn read(text: &str) -> Result<Self::Value, String> {
                $read(text)
            }

            $(fn absent() -> Option<Self::Value> {
                Some($absent)
            })?

            $(fn unreadable() -> Option<Self::Value> {
                Some($unreadable)
            })?
        }
    )+};
}

const fn number(of: &'static str, least: u64, most: u64) -> Form {
    Form::Number { of, least, most, or: None }
}

const FILE: Form = Form::Text("file");

kinds! {
    /// A port to listen at; 0 takes any free one, and is in no other's way.
    Port: u16 = value::bind_port, number("port", 0, 65535), unreadable: 0;
    /// The same, or `off`.
    PortOrOff: Option<u16> = value::port_or_off, Form::Number { of: "port", least: 0, most: 65535, or: Some("off") },
        unreadable: Some(0);
    /// A port to connect to.
    TargetPort: u16 = value::target_port, number("port", 1, 65535);
    /// An address or host name.
    Host: String = value::host, Form::Text("host");
    /// The name that a certificate is for.
    ServerName: String = value::name, Form::Text("host");
    /// What is asked of a WebSocket broker.
    TargetPath: String = value::path, Form::Text("path");
    /// What requests to a WebSocket listener are compared with.
    ListenerPath: String = value::own_path, Form::Text("path");
    /// Where a Unix socket is.
    SocketPath: PathBuf = value::socket, Form::Text("path of a socket");
    /// Permissions of a file.
    Mode: u32 = value::mode, Form::Text("octal mode");
    /// A user or group.
    UserName: String = value::user, Form::Text("name or number");
    /// The name of a file.
    FileName: PathBuf = value::file, FILE;
    /// Names of files.
    FileNames: Vec<PathBuf> = list::files, Form::List("file");
    /// A name that is also a label in metrics.
    Label: String = value::label, Form::Text("name");
    /// The name of this instance.
    InstanceName: String = value::instance, Form::Text("name");
    /// A bearer token.
    Token: Secret = value::token, Form::Text("token");
    /// `true` or `false`.
    TrueFalse: bool = value::boolean, Form::Boolean { or: None };
    /// `on` or `off`.
    OnOff: bool = value::switch, Form::Choice(&["off", "on"]);
    /// A number of connections.
    Count: usize = value::connections, number("number", 1, u32::MAX as u64);
    /// How often something may happen.
    Rate: EventRate = value::event_rate, Form::Text("rate");
    /// A share.
    Percent: u8 = value::percent, Form::Text("percent");
    /// Bytes of a packet.
    PacketSize: u32 = value::packet_size, Form::Size { least: LEAST_PACKET, most: LARGEST_PACKET };
    /// Bytes that may be held.
    Budget: usize = value::budget, Form::Size { least: LEAST_BUDGET, most: i64::MAX as u64 };
    /// Bytes a second.
    Throughput: usize = value::throughput, Form::Size { least: 1, most: i64::MAX as u64 };
    /// Bytes that are kept, or 0.
    Memory: usize = value::memory, Form::Size { least: 0, most: i64::MAX as u64 };
    /// How long something may take, or nothing.
    Period: Duration = value::duration, Form::Duration;
    /// How long something may take, more than nothing.
    Deadline: Duration = value::deadline, Form::Duration;
    /// The longest keep alive.
    KeepAlive: u16 = value::keep_alive, Form::Seconds { least: 1, most: 65535 };
    /// The longest session expiry.
    SessionExpiry: u32 = value::session_expiry, Form::Seconds { least: 0, most: u32::MAX as u64 };
    /// Where the hook service is.
    PolicyUrls: Vec<String> = value::policy_urls, Form::List("URL");
    /// Where an admin API is.
    AdminUrl: AdminAddress = value::admin_url, Form::Text("URL");
    /// Where traces go.
    OtlpEndpoint: String = value::otlp_endpoint, Form::Text("URL");
    /// A sampler of OpenTelemetry.
    Sampler: String = value::sampler, Form::Choice(&SAMPLERS);
    /// A protocol of OTLP.
    OtlpProtocol: String = value::otlp_protocol, Form::Choice(&OTLP_PROTOCOLS);
    /// Headers of requests to a collector.
    OtlpHeaders: Secret = value::otlp_headers, Form::Text("headers");
    /// Attributes of a process.
    ResourceAttributes: Vec<(String, String)> = value::resource_attributes, Form::Text("attributes");
    /// Whether something is sent to a collector.
    OtelExporter: String = value::otel_exporter, Form::Choice(&OTEL_EXPORTERS);
    /// A number of spans, or of log records.
    Spans: usize = value::spans, number("number", 1, MOST_SPANS);
    /// A time in milliseconds, as OpenTelemetry has them.
    Milliseconds: Duration = value::milliseconds, number("milliseconds", 1, MOST_MILLISECONDS);
    /// Anything.
    AnyText: String = value::text, Form::Text("text");
    /// Networks.
    Networks: Vec<Network> = list::networks, Form::List("network");
    /// Application protocols of TLS.
    Alpn: Vec<Vec<u8>> = list::alpn, Form::List("protocol");
    /// Origins of web pages; none permits all.
    Origins: Option<Vec<String>> = list::origins, Form::List("origin"), absent: None;
    /// Names of headers.
    Headers: Vec<HeaderName> = list::headers, Form::List("header"), absent: Vec::new();
    /// Where a WebSocket request has its token.
    TokenPlace: RequestTokenPlace = RequestTokenPlace::parse, Form::Text("place");
    /// Names of cookies.
    Cookies: Vec<String> = list::cookies, Form::List("cookie"), absent: Vec::new();
    /// How far the certificate of a broker is verified. The value that turns that off is in the documentation alone.
    Verify: Verification = value::verification, Form::Text("`full`");
}
