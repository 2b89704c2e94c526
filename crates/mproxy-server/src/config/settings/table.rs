//! The table of all settings, a row each. To add one, write its row here, with its documentation, and read it where it is
//! used: rows of a `struct` are its fields, [`General`], [`ListenerLimits`] of a listener and so on; a row that takes more
//! thought is a constant that the rooms of `config` read. `MPROXY_WRITE_DOCS=1 cargo test -p mproxy-server --test config
//! generated` then writes documentation, example and schema.

use super::{Needs, Reload, Section, SettingKind, SettingOf, SettingPlace, SettingRow, Values};
use crate::config::{
    ClientTlsSetting, LogFormat, LogLevel, OnError, OnUnavailable, PolicyMode, RateActionSetting, Scheme,
    SendProxy, kind,
};
use kind::Optional;

/// Sections of the table. The first paragraph of a comment is the line in `--help`.
macro_rules! section {
    (
        $(#[doc = $title:literal])+
        $(#[derive($also:ident)])?
        pub struct $name:ident {
            $($(#[doc = $text:literal])+ $field:ident: $kind:ty = $row:expr;)+
        }
    ) => {
        $(#[doc = $title])+
        #[derive(Clone, Debug, PartialEq $(, $also)?)]
        pub struct $name {
            $($(#[doc = $text])+ pub $field: <$kind as SettingKind>::Value,)+
        }

        impl $name {
            const ROWS: &'static [SettingRow] =
                &[$({ const ROW: SettingOf<$kind> = $row; ROW.text(concat!($($text, "\n"),+)).row },)+];

            /// What holds at this place.
            pub(in crate::config) fn read(values: &impl Values, place: SettingPlace) -> Self {
                Self { $($field: { const ROW: SettingOf<$kind> = $row; values.get(&ROW, place) },)+ }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: { const ROW: SettingOf<$kind> = $row; ROW.default_value() },)+ }
            }
        }
    };
    (
        $(#[doc = $title:literal])+
        const $name:ident {
            $($(#[doc = $text:literal])+ $row:ident: $kind:ty = $value:expr;)+
        }
    ) => {
        $($(#[doc = $text])+ pub(in crate::config) const $row: SettingOf<$kind> =
            $value.text(concat!($($text, "\n"),+));)+

        $(#[doc = $title])+
        const $name: &[SettingRow] = &[$($row.row),+];
    };
}

const fn new<K: SettingKind>(key: &'static str) -> SettingOf<K> {
    SettingOf::new(key)
}

/// All sections, in the order of the documentation.
pub const SECTIONS: &[Section] = &[
    Section { name: "general", rows: General::ROWS },
    Section { name: "protection", rows: ProtectionSettings::ROWS },
    Section { name: "listeners", rows: LISTENERS },
    Section { name: "limits", rows: ListenerLimits::ROWS },
    Section { name: "tls", rows: TLS },
    Section { name: "target", rows: TARGET },
    Section { name: "websocket", rows: Web::ROWS },
    Section { name: "unix", rows: UNIX },
    Section { name: "proxy", rows: PROXY },
    Section { name: "policy", rows: POLICY },
    Section { name: "questions", rows: Questions::ROWS },
    Section { name: "shadow", rows: ShadowSettings::ROWS },
    Section { name: "events", rows: Events::ROWS },
    Section { name: "admin", rows: AdminSettings::ROWS },
    Section { name: "admin_client", rows: AdminClientSettings::ROWS },
    Section { name: "log", rows: Log::ROWS },
    Section { name: "decision_log", rows: DecisionLogSettings::ROWS },
    Section { name: "otel", rows: Otel::ROWS },
    Section { name: "listener", rows: ONE_LISTENER },
];

section! {
    /// What holds for mproxy as a whole.
    pub struct General {
        /// Name of this mproxy in events and logs.
        instance: kind::InstanceName = new("instance").variable("MPROXY_INSTANCE").default("mproxy")
            .left_out("the host's name").in_force("\"edge-1\"");
        /// Rule file, asked before the hook service.
        ///
        /// [Its format](rules.md).
        acl_file: Optional<kind::FileName> = new("acl_file").variable("MPROXY_ACL_FILE").flag("acl-file")
            .reload(Reload::Contents).in_force("\"deploy/demo-rules.toml\"");
        /// Most connections over all listeners; further ones are closed at once and counted.
        ///
        /// Connections that are not admitted yet may have to make room first: see [fair shares](#fair-shares). There are
        /// never more than [file descriptors](#file-descriptors) have room for.
        max_connections: kind::Count = new("max_connections").now().variable("MPROXY_MAX_CONNECTIONS")
            .flag("max-connections").default("100000").in_force("50_000");
        /// Most connections that are not admitted yet, over all listeners.
        ///
        /// A connection is admitted when its handshakes, its CONNECT and the decision on it are done.
        max_pending: Optional<kind::Count> = new("max_pending").now().variable("MPROXY_MAX_PENDING")
            .left_out("no limit of its own").example("1000");
        /// Dials to one broker that are under way at a time; the others wait, and addresses take turns.
        ///
        /// A dial is under way until the broker has sent its first packet, but no longer than 100 ms after it was connected.
        /// The default stays below the accept queue of Mosquitto, 100 connections. See
        /// [protection](protection.md#how-fast-brokers-are-dialled).
        max_dials: kind::Count = new("max_dials").for_new().variable("MPROXY_MAX_DIALS").default("64");
        /// How long mproxy waits for connections to end when it stops; then it closes them.
        drain_timeout: kind::Period = new("drain_timeout").now().variable("MPROXY_DRAIN_TIMEOUT").default("30s")
            .in_force("\"20s\"");
        /// Over how long clients are told to leave when mproxy stops, so that they do not come back all at once.
        ///
        /// Left out: each a millisecond after the one before, but within half of `drain_timeout`.
        drain_spread: Optional<kind::Period> = new("drain_spread").now().variable("MPROXY_DRAIN_SPREAD")
            .left_out("one a millisecond").in_force("\"10s\"");
        /// How long a new process may take to come up in an upgrade; then the old one goes on serving.
        ///
        /// See [upgrade](upgrade.md).
        upgrade_timeout: kind::Deadline = new("upgrade_timeout").now().variable("MPROXY_UPGRADE_TIMEOUT")
            .default("30s").in_force("\"60s\"");
        /// How long connections may stay with the old process after an upgrade, before they are told to leave.
        ///
        /// They then leave as when mproxy stops. See [upgrade](upgrade.md).
        upgrade_stay: kind::Period = new("upgrade_stay").now().variable("MPROXY_UPGRADE_STAY").default("0s")
            .in_force("\"10m\"");
        /// Another server for 5.0 clients that are told to leave when mproxy stops: `host` or `host:port`.
        ///
        /// They get DISCONNECT 0x9C with this server reference in place of 0x8B.
        drain_server_reference: Optional<kind::AnyText> = new("drain_server_reference").now()
            .variable("MPROXY_DRAIN_SERVER_REFERENCE").in_force("\"standby.example:1883\"");
        /// Most bytes that all connections together may make mproxy hold.
        ///
        /// See [memory](#how-much-clients-may-make-mproxy-hold).
        budget_total: kind::Budget = new("budget.total").now().variable("MPROXY_BUDGET_TOTAL").default("512MiB");
    }
}

section! {
    /// Limits for whoever comes, [whatever the listener](protection.md).
    pub struct ProtectionSettings {
        /// Connections that may come from one address: all of them at once, then one after the other.
        ///
        /// `20/s`, `100/m` or `500/h`. An address is an IPv4 address or the /64 of an IPv6 address; after a PROXY header
        /// the address that it names. What is over is closed before any handshake.
        address_rate: Optional<kind::Rate> = new("protection.address_rate").now().variable("MPROXY_ADDRESS_RATE")
            .left_out("no limit").example("\"60/m\"");
        /// The same for one network, a /24 or, of IPv6, a /48.
        network_rate: Optional<kind::Rate> = new("protection.network_rate").now().variable("MPROXY_NETWORK_RATE")
            .left_out("no limit").example("\"600/m\"");
        /// Connections that may come to all listeners together.
        total_rate: Optional<kind::Rate> = new("protection.total_rate").now().variable("MPROXY_TOTAL_RATE")
            .left_out("no limit").example("\"5000/s\"");
        /// Most connections of one address at a time.
        ///
        /// Behind a NAT many clients have one address.
        address_connections: Optional<kind::Count> = new("protection.address_connections").now()
            .variable("MPROXY_ADDRESS_CONNECTIONS").left_out("no limit").example("1000");
        /// Most connections of one network at a time, a /24 or, of IPv6, a /48.
        network_connections: Optional<kind::Count> = new("protection.network_connections").now()
            .variable("MPROXY_NETWORK_CONNECTIONS").left_out("no limit").example("10_000");
        /// Logins of one user name that may fail from one address; from then on it has to wait before each further one.
        ///
        /// What waits is refused (0x9F; 3.x: 3) before the hook service is asked or a password is hashed. See
        /// [failed logins](protection.md#failed-logins).
        login_failures: Optional<kind::Count> = new("protection.login_failures").now()
            .variable("MPROXY_LOGIN_FAILURES").left_out("no limit").example("5");
        /// The first wait after `login_failures`; each further failure doubles it.
        login_backoff: kind::Deadline = new("protection.login_backoff").now().variable("MPROXY_LOGIN_BACKOFF")
            .default("1s");
        /// The longest wait. So long after a wait without another failure, failures are forgotten.
        login_backoff_max: kind::Deadline = new("protection.login_backoff_max").now()
            .variable("MPROXY_LOGIN_BACKOFF_MAX").default("5m");
        /// How often a client may connect, by client id and address; one that connects more often is put aside.
        ///
        /// `15/m`: it is put aside for `flapping_pause` and meets `on_unavailable` (0x9F; 3.x: 3), before its CONNECT is
        /// decided. See [clients that connect over and over](protection.md#clients-that-connect-over-and-over).
        flapping_rate: Optional<kind::Rate> = new("protection.flapping_rate").now().variable("MPROXY_FLAPPING_RATE")
            .left_out("no limit").example("\"15/m\"");
        /// How long a client is put aside that connects more often than `flapping_rate`.
        flapping_pause: kind::Deadline = new("protection.flapping_pause").now().variable("MPROXY_FLAPPING_PAUSE")
            .default("5m");
        /// PUBLISH packets a second that all clients of one user name may send together.
        ///
        /// A second's worth may come at once. `rate_action` of the listener says what follows. See
        /// [rates](protection.md#what-each-client-may-do).
        user_messages_per_second: Optional<kind::Count> = new("protection.user_messages_per_second").for_new()
            .variable("MPROXY_USER_MESSAGES_PER_SECOND").left_out("no limit").example("100");
        /// Bytes a second that all clients of one user name may send together.
        user_bytes_per_second: Optional<kind::Throughput> = new("protection.user_bytes_per_second").for_new()
            .variable("MPROXY_USER_BYTES_PER_SECOND").left_out("no limit").example("\"256KiB\"");
        /// Percent of mproxy's file descriptors in use from which new connections are refused.
        ///
        /// Clients are closed before any handshake, or told, as `on_unavailable` says. Who is in notices nothing. See
        /// [watermarks](protection.md#watermarks).
        descriptors_refuse: Optional<kind::Percent> = new("protection.descriptors_refuse").now()
            .variable("MPROXY_DESCRIPTORS_REFUSE").left_out("no limit of its own").example("\"90%\"");
        /// Percent of the file descriptors from which on sessions are disconnected, the cheapest to lose first.
        descriptors_drain: Optional<kind::Percent> = new("protection.descriptors_drain").now()
            .variable("MPROXY_DESCRIPTORS_DRAIN").left_out("no limit of its own").example("\"95%\"");
        /// Bytes of resident memory from which new connections are refused.
        memory_refuse: Optional<kind::Budget> = new("protection.memory_refuse").now()
            .variable("MPROXY_MEMORY_REFUSE").left_out("no limit").example("\"800MiB\"");
        /// Bytes of resident memory from which on sessions are disconnected, the cheapest to lose first.
        memory_drain: Optional<kind::Budget> = new("protection.memory_drain").now()
            .variable("MPROXY_MEMORY_DRAIN").left_out("no limit").example("\"900MiB\"");
        /// File in which bans are kept, so that they outlive mproxy.
        ///
        /// [What bans are](protection.md#bans). It is made with the first ban; its folder has to exist. Each mproxy needs its own.
        bans_file: Optional<kind::FileName> = new("protection.bans_file").variable("MPROXY_BANS_FILE")
            .example("\"/var/lib/mproxy/bans.json\"");
    }
}

section! {
    /// The four listeners that need no `[[listeners]]`, and what the others inherit of them.
    const LISTENERS {
        /// Address at which the MQTT and MQTTS listeners accept connections.
        MQTT_HOST: kind::Host = new("mqtt.host").variable("MPROXY_MQTT_HOST").flag("mqtt-host").default("0.0.0.0");
        /// Port of the MQTT listener, or `off`.
        ///
        /// `off` closes this listener; the same applies to `mqtts.port`, `ws.port` and `wss.port`.
        MQTT_PORT: kind::PortOrOff = new("mqtt.port").variable("MPROXY_MQTT_PORT").flag("mqtt-port").default("1883");
        /// Host of the broker behind the MQTT and MQTTS listeners.
        ///
        /// `0.0.0.0` is this machine. A link-local address needs its interface: `fe80::1%eth0`.
        MQTT_TARGET_HOST: kind::Host = new("mqtt.target.host").for_new()
            .variable("MPROXY_MQTT_TARGET_HOST").flag("target-host")
            .default("0.0.0.0").in_force("\"127.0.0.1\"");
        /// Port of the broker behind the MQTT and MQTTS listeners.
        MQTT_TARGET_PORT: kind::TargetPort = new("mqtt.target.port").for_new().variable("MPROXY_MQTT_TARGET_PORT")
            .flag("target-port").default("1884").in_force("1884");
        /// Transport to the broker behind the MQTT and MQTTS listeners.
        MQTT_TARGET_SCHEME: Scheme = new("mqtt.target.scheme").for_new()
            .variable("MPROXY_MQTT_TARGET_SCHEME").default("mqtt");
        /// Path of the broker behind the MQTT and MQTTS listeners, if it is reached over WebSocket.
        MQTT_TARGET_PATH: kind::TargetPath = new("mqtt.target.path").for_new().default("/mqtt");
        /// Unix socket of the broker behind the MQTT and MQTTS listeners, instead of host and port.
        ///
        /// Then `mqtt.target.scheme` is `unix` and may be left out. See [Unix sockets](#unix-sockets).
        MQTT_TARGET_SOCKET: kind::SocketPath = new("mqtt.target.socket").for_new().variable("MPROXY_MQTT_TARGET_SOCKET")
            .example("\"/run/mosquitto/mqtt.sock\"");
        /// Port of the MQTTS (MQTT over TLS) listener, or `off`.
        MQTTS_PORT: kind::PortOrOff = new("mqtts.port").variable("MPROXY_MQTTS_PORT").default("8883");
        /// Address at which the WS and WSS listeners accept connections.
        WS_HOST: kind::Host = new("ws.host").variable("MPROXY_WS_HOST").default("0.0.0.0");
        /// Port of the WebSocket (WS) listener, or `off`.
        WS_PORT: kind::PortOrOff = new("ws.port").variable("MPROXY_WS_PORT").default("8080");
        /// Path of the WebSocket (WS) listener.
        WS_PATH: kind::ListenerPath = new("ws.path").for_new().variable("MPROXY_WS_PATH").default("/mqtt");
        /// Host of the broker behind the WS and WSS listeners.
        WS_TARGET_HOST: kind::Host = new("ws.target.host").for_new()
            .variable("MPROXY_WS_TARGET_HOST").default("localhost");
        /// Port of the broker behind the WS and WSS listeners.
        WS_TARGET_PORT: kind::TargetPort = new("ws.target.port").for_new()
            .variable("MPROXY_WS_TARGET_PORT").default("8888");
        /// Transport to the broker behind the WS and WSS listeners.
        WS_TARGET_SCHEME: Scheme = new("ws.target.scheme").for_new().variable("MPROXY_WS_TARGET_SCHEME").default("ws");
        /// Path of the broker behind the WS and WSS listeners, if it is reached over WebSocket.
        WS_TARGET_PATH: kind::TargetPath = new("ws.target.path").for_new()
            .variable("MPROXY_WS_TARGET_PATH").default("/mqtt");
        /// Unix socket of the broker behind the WS and WSS listeners, instead of host, port and path.
        ///
        /// Then `ws.target.scheme` is `unix` and may be left out.
        WS_TARGET_SOCKET: kind::SocketPath = new("ws.target.socket").for_new().variable("MPROXY_WS_TARGET_SOCKET")
            .example("\"/run/mosquitto/mqtt.sock\"");
        /// Port of the WSS (WebSocket over TLS) listener, or `off`.
        WSS_PORT: kind::PortOrOff = new("wss.port").variable("MPROXY_WSS_PORT").default("8080");
        /// Path of the WSS (WebSocket over TLS) listener.
        WSS_PATH: kind::ListenerPath = new("wss.path").for_new().variable("MPROXY_WSS_PATH").default("/mqtt");
    }
}

section! {
    /// What the clients of a listener may do.
    pub struct ListenerLimits {
        /// Deadline for a complete CONNECT after the connection was accepted, and again for its admission.
        ///
        /// The first period includes the PROXY header and the TLS and WebSocket handshakes. The second one begins with
        /// the complete CONNECT and ends when the broker has accepted the client. Meanwhile a failed dial, and a
        /// question whose answer was unavailable or late, are repeated after 0.1 to 1 s.
        connect_timeout: kind::Deadline = new("connect_timeout").for_new()
            .variable("MPROXY_CONNECT_TIMEOUT").default("10s")
            .at_listener("limits.connect_timeout").in_force("\"5s\"");
        /// What a connecting client sees if the broker or the hook service stays unavailable.
        ///
        /// `close` closes the connection without CONNACK, as if there were no broker, and clients try again. `connack`
        /// refuses with 0x88 (3.x: return code 3); after that some clients never try again. [All
        /// cases](refusals.md#what-trouble-looks-like-to-a-client-that-waits-for-its-connack).
        on_unavailable: OnUnavailable = new("on_unavailable").for_new()
            .variable("MPROXY_ON_UNAVAILABLE").flag("on-unavailable")
            .default("close").at_listener("on_unavailable");
        /// Whether AUTH packets of MQTT 5.0 pass through to the broker, even where the hook service wants AuthExchange.
        ///
        /// For brokers that answer [enhanced authentication](hooks.md#enhanced-authentication) themselves. What neither the
        /// hook service nor the [rule file](rules.md#a-newer-token-in-an-open-session) answers passes in any case.
        pass_auth: kind::TrueFalse = new("pass_auth").for_new().variable("MPROXY_PASS_AUTH").default("false")
            .at_listener("pass_auth");
        /// Largest packet of a client; a larger one closes the connection before it is buffered.
        ///
        /// 5.0 clients receive 0x95. The default is the largest packet that is possible in MQTT.
        max_packet_size: kind::PacketSize = new("max_packet_size").for_new().variable("MPROXY_MAX_PACKET_SIZE")
            .flag("max-packet-size").default("268435460").at_listener("limits.max_packet_size");
        /// Largest CONNECT; a larger one is refused (0x95) before it is buffered.
        ///
        /// User name, password and will of 64 KiB each fit into the default.
        max_connect_size: kind::PacketSize = new("max_connect_size").for_new().variable("MPROXY_MAX_CONNECT_SIZE")
            .default("384KiB").at_listener("limits.max_connect_size");
        /// Most bytes of user properties in one packet of a 5.0 client.
        ///
        /// In a CONNECT those of the will count, too. A packet with more is refused with 0x97.
        max_user_properties: kind::PacketSize = new("max_user_properties").for_new()
            .variable("MPROXY_MAX_USER_PROPERTIES")
            .default("64KiB").at_listener("limits.max_user_properties");
        /// Longest keep alive that a client may have.
        ///
        /// A 5.0 client that asks for more, or for none, gets this one instead (Server Keep Alive). A 3.x client cannot
        /// be told, and is refused with return code 2, as by Mosquitto.
        max_keep_alive: Optional<kind::KeepAlive> = new("max_keep_alive").for_new().variable("MPROXY_MAX_KEEP_ALIVE")
            .at_listener("limits.max_keep_alive").left_out("no limit").example("300");
        /// Longest time that the session of a 5.0 client may outlast its connection.
        ///
        /// A client that asks for more gets this instead, and its CONNACK says so. 3.x has no session expiry.
        max_session_expiry: Optional<kind::SessionExpiry> = new("max_session_expiry").for_new()
            .variable("MPROXY_MAX_SESSION_EXPIRY").at_listener("limits.max_session_expiry").left_out("no limit")
            .example("86400");
        /// Longest topic of a client's PUBLISH or will, and longest filter, in bytes.
        ///
        /// A longer one is refused: 0x90, a filter 0x8F. Of a shared subscription, what is subscribed to counts.
        max_topic_length: Optional<kind::Count> = new("max_topic_length").for_new()
            .variable("MPROXY_MAX_TOPIC_LENGTH").at_listener("limits.max_topic_length").left_out("no limit")
            .example("256");
        /// Most levels of a client's topics and filters; `a/b/c` has three.
        ///
        /// A deeper one is refused: 0x90, a filter 0x8F.
        max_topic_levels: Optional<kind::Count> = new("max_topic_levels").for_new()
            .variable("MPROXY_MAX_TOPIC_LEVELS").at_listener("limits.max_topic_levels").left_out("no limit")
            .example("8");
        /// Most subscriptions of a client at a time; further ones are refused with 0x97.
        ///
        /// Those count that it has made since it connected. If its grant has a limit too, the lower one holds.
        max_subscriptions: Optional<kind::Count> = new("max_subscriptions").for_new()
            .variable("MPROXY_MAX_SUBSCRIPTIONS").at_listener("limits.max_subscriptions").left_out("no limit")
            .example("100");
        /// PUBLISH packets a second that a client may send.
        ///
        /// A second's worth may come at once. `rate_action` says what follows. If its grant has a rate, too, both hold. See
        /// [rates](protection.md#what-each-client-may-do).
        client_messages_per_second: Optional<kind::Count> = new("client_messages_per_second").for_new()
            .variable("MPROXY_CLIENT_MESSAGES_PER_SECOND").at_listener("limits.client_messages_per_second")
            .left_out("no limit").example("50");
        /// Bytes a second that a client may send.
        client_bytes_per_second: Optional<kind::Throughput> = new("client_bytes_per_second").for_new()
            .variable("MPROXY_CLIENT_BYTES_PER_SECOND").at_listener("limits.client_bytes_per_second")
            .left_out("no limit").example("\"64KiB\"");
        /// PUBLISH packets a second that all clients of one listener may send together.
        listener_messages_per_second: Optional<kind::Count> = new("listener_messages_per_second").for_new()
            .variable("MPROXY_LISTENER_MESSAGES_PER_SECOND").at_listener("limits.messages_per_second")
            .left_out("no limit").example("20_000");
        /// Bytes a second that all clients of one listener may send together.
        listener_bytes_per_second: Optional<kind::Throughput> = new("listener_bytes_per_second").for_new()
            .variable("MPROXY_LISTENER_BYTES_PER_SECOND").at_listener("limits.bytes_per_second")
            .left_out("no limit").example("\"20MiB\"");
        /// What follows where clients send faster than these rates allow.
        ///
        /// `wait`: a client is not read until it is within its rates again, for less than half its keep alive; else it is
        /// disconnected (0x96). `refuse`: a PUBLISH is refused with 0x97.
        rate_action: RateActionSetting = new("rate_action").for_new().variable("MPROXY_RATE_ACTION")
            .default("wait").at_listener("limits.rate_action");
        /// Most bytes that one connection may make mproxy hold.
        ///
        /// See [memory](#how-much-clients-may-make-mproxy-hold).
        budget_connection: kind::Budget = new("budget.connection").now()
            .variable("MPROXY_BUDGET_CONNECTION").default("3MiB")
            .at_listener("budget.connection");
        /// Most bytes that all connections of one listener may make mproxy hold.
        ///
        /// See [memory](#how-much-clients-may-make-mproxy-hold).
        budget_listener: kind::Budget = new("budget.listener").now()
            .variable("MPROXY_BUDGET_LISTENER").default("256MiB")
            .at_listener("budget.listener");
        /// Most connections of this listener; further ones are closed at once and counted.
        max_connections: Optional<kind::Count> = new("listeners[].limits.max_connections").now()
            .left_out("no limit of its own").example("40_000");
        /// Clients that are admitted in a second at most; the others wait, and addresses take turns.
        ///
        /// Before the hook service is asked, a password is hashed or the broker is dialled. A client that is not admitted
        /// within its `connect_timeout` meets `on_unavailable`. See [protection](protection.md#how-fast-they-are-admitted).
        max_admissions_per_second: Optional<kind::Count> = new("max_admissions_per_second").now()
            .variable("MPROXY_MAX_ADMISSIONS_PER_SECOND").at_listener("limits.max_admissions_per_second")
            .left_out("no limit").example("500");
        /// Most clients that wait to be admitted.
        admission_queue: kind::Count = new("admission_queue").now().variable("MPROXY_ADMISSION_QUEUE")
            .default("10000").at_listener("limits.admission_queue");
        /// Connections that may come to one listener: all of them at once, then one after the other.
        ///
        /// `500/s`, `1000/m`. What is over is closed before any handshake.
        connection_rate: Optional<kind::Rate> = new("connection_rate").now().variable("MPROXY_CONNECTION_RATE")
            .at_listener("limits.connection_rate").left_out("no limit").example("\"1000/s\"");
    }
}

section! {
    /// TLS towards clients.
    const TLS {
        /// Whether clients must connect over TLS and present a certificate.
        ///
        /// The certificate has to be signed by a CA of `tls.ca_certs`, or [pinned](#certificates-of-every-kind) there.
        /// With `optional`, clients at TLS listeners are asked for a certificate, and connect without one as well: a
        /// [rule file](rules.md#grants-what-clients-may-do-for-whom-they-are) says who needs what. A certificate that is
        /// presented has to be valid all the same. A listener with its own `tls.ca_certs` requires certificates unless it
        /// sets this to `false` or `optional`. A reload that would change who needs one leaves all of TLS towards clients
        /// to the next start.
        CLIENT_TLS: ClientTlsSetting = new("client_tls").variable("MPROXY_CLIENT_TLS").default("false")
            .at_listener("tls.client_tls").needs(Needs::Tls);
        /// Certificate chain of the server in PEM, the server's own certificate first.
        ///
        /// A listener without certificates of its own uses these, and those of `[[tls.certificates]]`.
        SERVER_CERT: kind::FileName = file("tls.server_cert").variable("MPROXY_SERVER_CERT").needs(Needs::Tls)
            .at_listener("tls.server_cert").example("\"/etc/mproxy/server.pem\"");
        /// Private key of the server certificate, in PEM.
        SERVER_KEY: kind::FileName = file("tls.server_key").variable("MPROXY_SERVER_KEY").needs(Needs::Tls)
            .at_listener("tls.server_key").example("\"/etc/mproxy/server.key\"");
        /// OCSP response to staple to the server certificate, in DER.
        OCSP: kind::FileName = file("tls.ocsp").variable("MPROXY_SERVER_OCSP").needs(Needs::Tls)
            .at_listener("tls.ocsp").example("\"/etc/mproxy/server.ocsp\"");
        /// CAs of client certificates, and pinned client certificates, in PEM.
        ///
        /// See [certificates of every kind](#certificates-of-every-kind).
        CA_CERTS: kind::FileName = file("tls.ca_certs").variable("MPROXY_CA_CERTS").needs(Needs::Tls)
            .at_listener("tls.ca_certs").example("\"/etc/mproxy/devices-ca.pem\"");
        /// Revocation lists (CRLs) for client certificates, in PEM.
        ///
        /// Each CA of a chain except the root needs one. If a list is out of date, clients of its CA are refused.
        CRLS: kind::FileNames = new("tls.crls").variable("MPROXY_CRLS").reload(Reload::Contents).needs(Needs::Tls)
            .at_listener("tls.crls").example("[\"/etc/mproxy/devices.crl\"]");
        /// Application protocols (ALPN) of MQTT over TLS, the preferred one first.
        ///
        /// A client that offers only other protocols is refused; a client that offers none is accepted. `[]` turns ALPN
        /// off. WebSocket always has `http/1.1`.
        ALPN: kind::Alpn = new("tls.alpn").for_new()
            .default("mqtt,x-amzn-mqtt-ca").at_listener("tls.alpn").needs(Needs::Tls);
        /// Certificate chain of a further server certificate, in PEM.
        ///
        /// There may be any number of `[[tls.certificates]]`. The name that a client asks for (SNI) selects one; names
        /// such as `*.example.org` are possible.
        MORE_CERT: kind::FileName = file("tls.certificates[].server_cert").needs(Needs::Tls)
            .at_listener("tls.certificates[].server_cert").example("\"/etc/mproxy/other.pem\"");
        /// Private key of this further server certificate, in PEM.
        MORE_KEY: kind::FileName = file("tls.certificates[].server_key").needs(Needs::Tls)
            .at_listener("tls.certificates[].server_key").example("\"/etc/mproxy/other.key\"");
        /// OCSP response to staple to this further server certificate, in DER.
        MORE_OCSP: kind::FileName = file("tls.certificates[].ocsp").needs(Needs::Tls)
            .at_listener("tls.certificates[].ocsp").example("\"/etc/mproxy/other.ocsp\"");
    }
}

const fn file<K: SettingKind>(key: &'static str) -> SettingOf<K> {
    new(key).reload(Reload::Contents)
}

section! {
    /// TLS towards the broker, and what it is sent first.
    const TARGET {
        /// CAs to trust for the broker, or the broker's own certificate to pin, in PEM.
        ///
        /// See [certificates of every kind](#certificates-of-every-kind).
        TARGET_CA_CERTS: kind::FileName = file("target.ca_certs").variable("MPROXY_TARGET_CA_CERTS")
            .at_listener("target.ca_certs").needs(Needs::TargetTls).left_out("the system's roots")
            .example("\"/etc/mproxy/broker-ca.pem\"");
        /// Client certificate that mproxy presents to the broker, in PEM.
        TARGET_CERT: kind::FileName = file("target.cert").variable("MPROXY_TARGET_CERT").at_listener("target.cert")
            .needs(Needs::TargetTls).example("\"/etc/mproxy/client.pem\"");
        /// Private key of the client certificate for the broker, in PEM.
        TARGET_KEY: kind::FileName = file("target.key").variable("MPROXY_TARGET_KEY").at_listener("target.key")
            .needs(Needs::TargetTls).example("\"/etc/mproxy/client.key\"");
        /// Revocation lists (CRLs) for broker certificates, in PEM.
        ///
        /// The same rules apply as for `tls.crls`.
        TARGET_CRLS: kind::FileNames = new("target.crls").variable("MPROXY_TARGET_CRLS").reload(Reload::Contents)
            .at_listener("target.crls").needs(Needs::TargetTls).example("[\"/etc/mproxy/brokers.crl\"]");
        /// Server name (SNI) that the broker is asked for and that its certificate must contain.
        TARGET_SERVER_NAME: kind::ServerName = new("target.server_name").for_new().variable("MPROXY_TARGET_SERVER_NAME")
            .at_listener("target.server_name").needs(Needs::TargetTls).left_out("the target's host")
            .example("\"broker.internal\"");
        /// Application protocols (ALPN) that are offered to the broker.
        TARGET_ALPN: kind::Alpn = new("target.alpn").for_new().at_listener("target.alpn").needs(Needs::TargetTls)
            .example("[\"mqtt\"]");
        /// Whether the broker's certificate is verified.
        ///
        /// The only other value is `i-know-that-anybody-can-pretend-to-be-the-broker`. Then mproxy only verifies that
        /// the broker has the key of its certificate: anybody who answers in its place can read and change everything,
        /// and a warning at each start says so. Better: a private CA in `target.ca_certs` and a `target.server_name`.
        TARGET_VERIFY: kind::Verify = new("target.verify").for_new().default("full").at_listener("target.verify")
            .needs(Needs::TargetTls);
        /// PROXY header that mproxy sends to the broker first.
        ///
        /// `v1` has the addresses. `v2` also has TLS version, common name, whether it was verified, SNI, ALPN and
        /// connection id.
        TARGET_PROXY_PROTOCOL: SendProxy = new("target.proxy_protocol").for_new()
            .variable("MPROXY_TARGET_PROXY_PROTOCOL")
            .default("off").at_listener("target.proxy_protocol");
    }
}

section! {
    /// Who may come by WebSocket, and what the hook service is told of the request.
    pub struct Web {
        /// Origins of web pages that may connect.
        ///
        /// Others get 403. Written as browsers send them, `https://app.example.org`; upper case and the default port
        /// (443 for https, 80 for http) are normalised. A client that is not a browser sends no origin and may always
        /// connect.
        origins: kind::Origins = new("ws.origins").for_new().variable("MPROXY_WS_ORIGINS").at_listener("ws.origins")
            .needs(Needs::WebSocket).left_out("all may").example("[\"https://app.example.org\"]");
        /// Headers of the upgrade request that mproxy passes to the hook service.
        headers: kind::Headers = new("ws.headers").for_new().variable("MPROXY_WS_HEADERS").at_listener("ws.headers")
            .needs(Needs::WebSocket).example("[\"user-agent\"]");
        /// Cookies of the upgrade request that mproxy passes to the hook service; it passes no others.
        cookies: kind::Cookies = new("ws.cookies").for_new().variable("MPROXY_WS_COOKIES").at_listener("ws.cookies")
            .needs(Needs::WebSocket).example("[\"session\"]");
        /// Where the upgrade request has the client's token: `header:NAME`, `cookie:NAME` or `query:NAME`.
        ///
        /// The token is for the [rule file](rules.md#clients-with-tokens) alone. mproxy takes it out of what logs, the admin
        /// API and the hook service see.
        token: Optional<kind::TokenPlace> = new("ws.token").for_new().variable("MPROXY_WS_TOKEN")
            .at_listener("ws.token").needs(Needs::WebSocket).example("\"query:access_token\"");
    }
}

section! {
    /// Clients of this machine.
    const UNIX {
        /// Unix socket at which mproxy accepts connections.
        ///
        /// Its folder has to exist. Outside of `[[listeners]]` it opens a listener called `unix` with the target of the
        /// MQTT listener. In `[[listeners]]` it takes the place of host and port.
        UNIX_PATH: kind::SocketPath = new("unix.path").variable("MPROXY_UNIX_PATH").at_listener("unix.path")
            .needs(Needs::Unix).example("\"/run/mproxy/mqtt.sock\"");
        /// Permissions of the Unix socket, octal.
        ///
        /// Whoever may write to the file can connect: with `0660` its owner and its group, with `0666` everybody on
        /// this machine.
        UNIX_MODE: kind::Mode = new("unix.mode").variable("MPROXY_UNIX_MODE").at_listener("unix.mode")
            .needs(Needs::Unix).default("0660").example("\"0660\"");
        /// Owner of the Unix socket: a user of `/etc/passwd`, or a number.
        UNIX_OWNER: kind::UserName = new("unix.owner").variable("MPROXY_UNIX_OWNER").at_listener("unix.owner")
            .needs(Needs::Unix).left_out("the user that mproxy runs as").example("\"mproxy\"");
        /// Group of the Unix socket: a group of `/etc/group`, or a number.
        UNIX_GROUP: kind::UserName = new("unix.group").variable("MPROXY_UNIX_GROUP").at_listener("unix.group")
            .needs(Needs::Unix).left_out("the group that mproxy runs as").example("\"mqtt\"");
    }
}

section! {
    /// Clients behind load balancers.
    const PROXY {
        /// Whether every connection begins with a PROXY header, version 1 or 2.
        ///
        /// The client is then the one that the header names.
        PROXY_PROTOCOL: kind::OnOff = new("proxy_protocol").for_new().variable("MPROXY_PROXY_PROTOCOL").default("off")
            .at_listener("proxy_protocol");
        /// Networks that may send PROXY headers.
        ///
        /// A connection from elsewhere is refused before any of it is read. The default is loopback, private and
        /// link-local ranges.
        PROXY_FROM: kind::Networks = new("proxy_from").for_new().variable("MPROXY_PROXY_FROM").at_listener("proxy_from")
            // Where a load balancer of one's own stands.
            .default("127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,::1/128,fc00::/7,fe80::/10");
    }
}

section! {
    /// The hook service, and what it means that its answer fails.
    const POLICY {
        /// Hook service: `http://host:port`, `https://host:port` or `unix:/path` for gRPC, `http+json://host:port/prefix` or
        /// `https+json://host:port/prefix` for JSON.
        ///
        /// If there are several, the first healthy one is asked. [How to write one](hooks.md).
        POLICY_URL: kind::PolicyUrls = new("policy.url").variable("MPROXY_POLICY_URL").flag("policy-url")
            .in_force("[\"http://127.0.0.1:50051\", \"http://127.0.0.1:50052\"]");
        /// What a failed answer of the hook service means: one that did not arrive or could not be read.
        ///
        /// It applies to [nothing else](hooks.md#when-an-answer-fails). In the file it may be a table with a value for
        /// each hook.
        ON_ERROR: OnError = new("policy.on_error").for_new().variable("MPROXY_POLICY_ON_ERROR").flag("policy-on-error")
            .default("deny");
        /// What a failed answer to AuthConnect means.
        ON_ERROR_CONNECT: OnError = new("policy.on_error.connect").for_new()
            .left_out("`policy.on_error`").in_force("\"deny\"");
        /// What a failed answer to AuthPublish means.
        ON_ERROR_PUBLISH: OnError = new("policy.on_error.publish").for_new()
            .left_out("`policy.on_error`").in_force("\"deny\"");
        /// What a failed answer to AuthSubscribe means.
        ON_ERROR_SUBSCRIBE: OnError = new("policy.on_error.subscribe").for_new()
            .left_out("`policy.on_error`").in_force("\"deny\"");
        /// What a failed answer to AuthDeliver means.
        ON_ERROR_DELIVER: OnError = new("policy.on_error.deliver").for_new()
            .left_out("`policy.on_error`").in_force("\"allow\"");
        /// CAs to trust for the hook service over `https://` and `https+json://`, in PEM.
        POLICY_CA_CERTS: kind::FileName = file("policy.ca_certs").variable("MPROXY_POLICY_CA_CERTS")
            .left_out("the system's roots").example("\"/etc/mproxy/hooks-ca.pem\"");
        /// Client certificate that mproxy presents to the hook service, in PEM.
        POLICY_CERT: kind::FileName = file("policy.cert").variable("MPROXY_POLICY_CERT")
            .example("\"/etc/mproxy/hooks.pem\"");
        /// Private key of the client certificate for the hook service, in PEM.
        POLICY_KEY: kind::FileName = file("policy.key").variable("MPROXY_POLICY_KEY")
            .example("\"/etc/mproxy/hooks.key\"");
    }
}

section! {
    /// How the hook service is asked.
    pub struct Questions {
        /// Deadline for the answer to one question, including the time in the queue.
        timeout: kind::Deadline = new("policy.timeout").now().variable("MPROXY_POLICY_TIMEOUT").flag("policy-timeout")
            .default("1s").in_force("\"500ms\"");
        /// How long a grant stays in force after its ttl while its renewal fails.
        ///
        /// Then the hook service is asked about every packet, and `policy.on_error` decides about what the service does
        /// not want to be asked about. See [grants](hooks.md#grants).
        grant_staleness: kind::Period = new("policy.grant_staleness").for_new()
            .variable("MPROXY_POLICY_GRANT_STALENESS")
            .default("60s");
        /// Whether questions and events go over streams, if the hook service offers them.
        ///
        /// `unary`: no streams are used. See [streams](hooks.md#streams).
        mode: PolicyMode = new("policy.mode").variable("MPROXY_POLICY_MODE").default("auto");
    }
}

section! {
    /// A second hook service that is asked [for comparison](hooks.md#try-a-policy-before-it-is-in-force).
    pub struct ShadowSettings {
        /// Hook service that is asked the same as the one in `policy.url`, and whose answers change nothing.
        ///
        /// What it would decide otherwise is counted and logged. It gets no passwords and no events.
        url: Optional<kind::PolicyUrls> = new("policy.shadow.url").variable("MPROXY_SHADOW_URL")
            .in_force("\"http://127.0.0.1:50061\"");
        /// Of the questions that a grant answers, one in so many is put to it.
        one_in: kind::Count = new("policy.shadow.one_in").variable("MPROXY_SHADOW_ONE_IN").default("100")
            .in_force("10");
    }
}

section! {
    /// How the hook service is told of events, over [a stream](hooks.md#events-that-do-not-get-lost).
    pub struct Events {
        /// Bytes of events that are kept until the hook service has confirmed them.
        ///
        /// Each counts 256 bytes and what it contains. If there is no room, new events are dropped and counted; the last
        /// quarter is for other events than `Publish`.
        buffer: kind::Budget = new("events.buffer").variable("MPROXY_EVENTS_BUFFER").default("64MiB")
            .in_force("\"32MiB\"");
        /// How long the hook service may confirm nothing while events wait, before another endpoint is tried.
        confirm_timeout: kind::Deadline = new("events.confirm_timeout").variable("MPROXY_EVENTS_CONFIRM_TIMEOUT")
            .default("30s").in_force("\"10s\"");
        /// Folder in which unconfirmed events are kept on disk, so that they outlive mproxy.
        ///
        /// It is created if it does not exist. Each mproxy needs its own. See [the spool](hooks.md#the-spool).
        spool: Optional<kind::FileName> = new("events.spool").variable("MPROXY_EVENTS_SPOOL")
            .in_force("\"/var/lib/mproxy/events\"");
        /// Bytes of all files in this folder at most.
        spool_size: kind::Budget = new("events.spool_size").variable("MPROXY_EVENTS_SPOOL_SIZE").default("256MiB")
            .in_force("\"1GiB\"");
    }
}

section! {
    /// Admin API and metrics.
    pub struct AdminSettings {
        /// Address at which mproxy serves health, metrics and admin API.
        ///
        /// [What they offer](admin.md).
        host: kind::Host = new("admin.host").variable("MPROXY_ADMIN_HOST").flag("admin-host").default("127.0.0.1")
            .in_force("\"127.0.0.1\"");
        /// Port for health, metrics and admin API.
        port: kind::Port = new("admin.port").variable("MPROXY_ADMIN_PORT").flag("admin-port").default("9180")
            .in_force("9180");
        /// Bearer token that calls of the admin API need.
        ///
        /// Without a token only callers on this machine may use the admin API.
        token: Optional<kind::Token> = new("admin.token").now().variable("MPROXY_ADMIN_TOKEN").masked()
            .example("\"a-long-random-text\"");
        /// Certificate chain that the admin port shows, in PEM. With it and `admin.tls.server_key` the port has TLS.
        ///
        /// See [TLS for the admin port](admin.md#tls).
        server_cert: Optional<kind::FileName> = file("admin.tls.server_cert").variable("MPROXY_ADMIN_SERVER_CERT")
            .example("\"/etc/mproxy/admin.pem\"");
        /// Private key of this certificate, in PEM.
        server_key: Optional<kind::FileName> = file("admin.tls.server_key").variable("MPROXY_ADMIN_SERVER_KEY")
            .example("\"/etc/mproxy/admin.key\"");
        /// CAs of client certificates, and pinned client certificates, in PEM. With it every caller of the admin port needs a
        /// client certificate.
        ca_certs: Optional<kind::FileName> = file("admin.tls.ca_certs").variable("MPROXY_ADMIN_CA_CERTS")
            .example("\"/etc/mproxy/operators-ca.pem\"");
        /// Revocation lists (CRLs) for these client certificates, in PEM.
        crls: Optional<kind::FileNames> = file("admin.tls.crls").variable("MPROXY_ADMIN_CRLS")
            .example("[\"/etc/mproxy/operators.crl\"]");
    }
}

section! {
    /// How commands such as `mproxy sessions` reach the admin API. mproxy itself does not use it.
    pub struct AdminClientSettings {
        /// Admin API that commands ask: `http://host:port` or `https://host:port`.
        url: Optional<kind::AdminUrl> = new("admin.client.url").now().variable("MPROXY_ADMIN_URL").flag("url")
            .left_out("`admin.host` and `admin.port`").example("\"https://mproxy.example:9180\"");
        /// CAs that commands trust for the admin API, or its own certificate, in PEM.
        ca_certs: Optional<kind::FileName> = new("admin.client.ca_certs").now().variable("MPROXY_ADMIN_URL_CA_CERTS")
            .flag("ca-cert").left_out("the system's roots; without a URL, `admin.tls.server_cert`")
            .example("\"/etc/mproxy/admin-ca.pem\"");
        /// Client certificate that commands present to the admin API, in PEM.
        cert: Optional<kind::FileName> = new("admin.client.cert").now().variable("MPROXY_ADMIN_URL_CERT").flag("cert")
            .example("\"/etc/mproxy/operator.pem\"");
        /// Private key of this client certificate, in PEM.
        key: Optional<kind::FileName> = new("admin.client.key").now().variable("MPROXY_ADMIN_URL_KEY").flag("key")
            .example("\"/etc/mproxy/operator.key\"");
    }
}

section! {
    /// Logging, to standard error.
    #[derive(Copy)]
    pub struct Log {
        /// Least severe level of log lines that are written.
        ///
        /// `debug` has lines for each connection, `trace` for each packet.
        level: LogLevel = new("log.level").variable("MPROXY_LOG_LEVEL").flag("log-level").default("debug")
            .now().in_force("\"info\"");
        /// Format of log lines.
        format: LogFormat = new("log.format").variable("MPROXY_LOG_FORMAT").flag("log-format").default("text")
            .in_force("\"json\"");
    }
}

section! {
    /// The [decision log](admin.md#why-was-my-client-refused): why clients were refused.
    pub struct DecisionLogSettings {
        /// Bytes of records that are kept in memory; 0 keeps none.
        ///
        /// The oldest make room for new ones. 1 MiB are some two thousand refusals.
        memory: kind::Memory = new("decision_log.memory").variable("MPROXY_DECISION_LOG_MEMORY").default("1MiB")
            .in_force("\"4MiB\"");
        /// File to which records are written, too, as lines of JSON.
        file: Optional<kind::FileName> = new("decision_log.file").variable("MPROXY_DECISION_LOG")
            .example("\"/var/log/mproxy/decisions.jsonl\"");
        /// Size of this file after which another one is begun.
        ///
        /// The old one is renamed: `decisions.jsonl.1`, then `.2`.
        file_size: kind::Budget = new("decision_log.file_size").variable("MPROXY_DECISION_LOG_SIZE").default("64MiB")
            .in_force("\"16MiB\"");
        /// Files that are kept, including the one that is written.
        files: kind::Count = new("decision_log.files").variable("MPROXY_DECISION_LOG_FILES").default("5")
            .in_force("3");
        /// Of the decisions that allow, one in so many is recorded, too.
        ///
        /// They have a quarter of the memory, so that they drive no refusal out.
        allowed_one_in: Optional<kind::Count> = new("decision_log.allowed_one_in")
            .variable("MPROXY_DECISION_LOG_ALLOWED_ONE_IN").in_force("1000");
    }
}

section! {
    /// [Traces](admin.md#traces), and logs [by OTLP](admin.md#logs-by-otlp), by the names of the OpenTelemetry standard.
    pub struct Otel {
        /// OTLP endpoint, to which traces are sent, and logs if `otel.logs_exporter` says so. Without one nothing is sent.
        ///
        /// With the protocol `http/protobuf`, `/v1/traces` or `/v1/logs` is added to it. `https://` is checked against `otel.ca_certs`, or the system's roots.
        endpoint: Optional<kind::OtlpEndpoint> = new("otel.endpoint").variable("OTEL_EXPORTER_OTLP_ENDPOINT")
            .example("\"http://127.0.0.1:4317\"");
        /// The same for traces alone. It comes before `otel.endpoint`, and nothing is added to it.
        traces_endpoint: Optional<kind::OtlpEndpoint> = new("otel.traces_endpoint")
            .variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").example("\"http://127.0.0.1:4317\"");
        /// Protocol of the endpoint: `grpc` or `http/protobuf`.
        protocol: kind::OtlpProtocol = new("otel.protocol").variable("OTEL_EXPORTER_OTLP_PROTOCOL").default("grpc");
        /// The same for traces alone. It comes before `otel.protocol`.
        traces_protocol: Optional<kind::OtlpProtocol> = new("otel.traces_protocol")
            .variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").example("\"grpc\"");
        /// Headers that go with each request, `name=value` between commas; values may be percent-encoded.
        headers: Optional<kind::OtlpHeaders> = new("otel.headers").variable("OTEL_EXPORTER_OTLP_HEADERS").masked()
            .example("\"api-key=secret\"");
        /// The same for traces alone. It comes before `otel.headers`.
        traces_headers: Optional<kind::OtlpHeaders> = new("otel.traces_headers")
            .variable("OTEL_EXPORTER_OTLP_TRACES_HEADERS").masked().example("\"api-key=secret\"");
        /// Milliseconds that one request to the endpoint may take.
        timeout: kind::Milliseconds = new("otel.timeout").variable("OTEL_EXPORTER_OTLP_TIMEOUT").default("10000");
        /// The same for traces alone. It comes before `otel.timeout`.
        traces_timeout: Optional<kind::Milliseconds> = new("otel.traces_timeout")
            .variable("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").example("10000");
        /// PEM file of the CAs that sign the endpoint's certificate.
        ca_certs: Optional<kind::FileName> = new("otel.ca_certs").variable("OTEL_EXPORTER_OTLP_CERTIFICATE")
            .left_out("the system's").example("\"collector-ca.pem\"");
        /// PEM file of the certificate chain that mproxy presents to the endpoint.
        cert: Optional<kind::FileName> = new("otel.cert").variable("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE")
            .example("\"mproxy.pem\"");
        /// PEM file of its private key.
        key: Optional<kind::FileName> = new("otel.key").variable("OTEL_EXPORTER_OTLP_CLIENT_KEY")
            .example("\"mproxy.key\"");
        /// Name of this service in traces.
        service_name: Optional<kind::AnyText> = new("otel.service_name").variable("OTEL_SERVICE_NAME")
            .left_out("`service.name` of the resource attributes, or `mproxy`").example("\"mqtt-edge\"");
        /// Attributes of this process in traces, `name=value` between commas.
        resource_attributes: Optional<kind::ResourceAttributes> = new("otel.resource_attributes")
            .variable("OTEL_RESOURCE_ATTRIBUTES").example("\"deployment.environment.name=test\"");
        /// Which traces are sampled.
        ///
        /// `parentbased_…`: where a trace began elsewhere, it was decided there.
        sampler: kind::Sampler = new("otel.sampler").variable("OTEL_TRACES_SAMPLER").default("parentbased_always_on");
        /// Share of traces that a `…traceidratio` sampler takes, from 0 to 1.
        sampler_arg: Optional<kind::AnyText> = new("otel.sampler_arg").variable("OTEL_TRACES_SAMPLER_ARG")
            .left_out("`1`").example("\"0.01\"");
        /// Spans that wait for the endpoint at most. Further ones are dropped and counted.
        queue: kind::Spans = new("otel.queue").variable("OTEL_BSP_MAX_QUEUE_SIZE").default("2048");
        /// Spans that are sent in one request at most.
        batch: kind::Spans = new("otel.batch").variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").default("512");
        /// Milliseconds after which spans are sent even if they do not fill a request.
        delay: kind::Milliseconds = new("otel.delay").variable("OTEL_BSP_SCHEDULE_DELAY").default("5000");
        /// Whether traces are sent: `none` turns them off.
        exporter: kind::OtelExporter = new("otel.exporter").variable("OTEL_TRACES_EXPORTER").default("otlp");
        /// Whether logs are sent by OTLP, beside what is written to standard error: `otlp` turns that on.
        logs_exporter: kind::OtelExporter = new("otel.logs_exporter").variable("OTEL_LOGS_EXPORTER").default("none")
            .example("\"otlp\"");
        /// OTLP endpoint of logs alone. It comes before `otel.endpoint`, and nothing is added to it.
        logs_endpoint: Optional<kind::OtlpEndpoint> = new("otel.logs_endpoint")
            .variable("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT").example("\"http://127.0.0.1:4317\"");
        /// Protocol for logs alone. It comes before `otel.protocol`.
        logs_protocol: Optional<kind::OtlpProtocol> = new("otel.logs_protocol")
            .variable("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL").example("\"grpc\"");
        /// Headers for logs alone. They come before `otel.headers`.
        logs_headers: Optional<kind::OtlpHeaders> = new("otel.logs_headers")
            .variable("OTEL_EXPORTER_OTLP_LOGS_HEADERS").masked().example("\"api-key=secret\"");
        /// Milliseconds that one request with logs may take. It comes before `otel.timeout`.
        logs_timeout: Optional<kind::Milliseconds> = new("otel.logs_timeout")
            .variable("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT").example("10000");
        /// Log records that wait for the endpoint at most. Further ones are dropped and counted.
        logs_queue: kind::Spans = new("otel.logs_queue").variable("OTEL_BLRP_MAX_QUEUE_SIZE").default("2048");
        /// Log records that are sent in one request at most.
        logs_batch: kind::Spans = new("otel.logs_batch").variable("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE").default("512");
        /// Milliseconds after which log records are sent even if they do not fill a request.
        logs_delay: kind::Milliseconds = new("otel.logs_delay").variable("OTEL_BLRP_SCHEDULE_DELAY").default("1000");
        /// Turns traces and logs by OTLP off, whatever else is set.
        disabled: kind::TrueFalse = new("otel.disabled").variable("OTEL_SDK_DISABLED").default("false");
    }
}

section! {
    /// What one of `[[listeners]]` has to itself.
    const ONE_LISTENER {
        /// Name of the listener in logs, metrics and events.
        NAME: kind::Label = new("listeners[].name").left_out("`listener-0`, `listener-1`, …").example("\"devices\"");
        /// Transport of the listener.
        TRANSPORT: Scheme = new("listeners[].transport").default("mqtt").example("\"mqtts\"");
        /// Address at which the listener accepts connections.
        HOST: kind::Host = new("listeners[].host").left_out("`mqtt.host` or `ws.host`").example("\"0.0.0.0\"");
        /// Port of the listener. Either this or `unix.path` is required.
        PORT: kind::Port = new("listeners[].port").left_out("an error").example("8883");
        /// Path of a WS or WSS listener.
        PATH: kind::ListenerPath = new("listeners[].path").for_new().needs(Needs::WebSocket)
            .left_out("`ws.path` or `wss.path`").example("\"/mqtt\"");
        /// Host of the broker behind this listener.
        OWN_TARGET_HOST: kind::Host = new("listeners[].target.host").for_new()
            .left_out("`mqtt.target.host` or `ws.target.host`").example("\"broker-1\"");
        /// Port of the broker behind this listener.
        OWN_TARGET_PORT: kind::TargetPort = new("listeners[].target.port").for_new()
            .left_out("`mqtt.target.port` or `ws.target.port`").example("1884");
        /// Transport to the broker behind this listener.
        OWN_TARGET_SCHEME: Scheme = new("listeners[].target.scheme").for_new()
            .left_out("`mqtt.target.scheme` or `ws.target.scheme`").example("\"mqtt\"");
        /// Path of the broker behind this listener, if it is reached over WebSocket.
        OWN_TARGET_PATH: kind::TargetPath = new("listeners[].target.path").for_new().needs(Needs::TargetWebSocket)
            .left_out("`mqtt.target.path` or `ws.target.path`").example("\"/mqtt\"");
        /// Unix socket of the broker behind this listener.
        OWN_TARGET_SOCKET: kind::SocketPath = new("listeners[].target.socket").for_new()
            .left_out("`mqtt.target.socket` or `ws.target.socket`").example("\"/run/mosquitto/mqtt.sock\"");
    }
}
