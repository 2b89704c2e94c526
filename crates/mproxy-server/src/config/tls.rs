//! TLS as it is written: what listeners show and ask for, and whom mproxy believes among brokers. Reads no file.

use std::path::PathBuf;

use mproxy_tcp::tls::{ClientTls, Identity, ServerTls, WithoutCertificate};

use super::origin::ValueOrigin;
use super::reader::{SettingReader, spoken};
use super::settings::{Needs, SettingPlace, table};
use super::{ClientTlsSetting, ConfigProblem, Scheme};

/// TLS towards clients as one table of the file has it; what it leaves out is the outer one's.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    client_tls: Option<ClientTlsSetting>,
    /// What is shown where no name was asked for, or none fits.
    first: Option<Identity>,
    further: Vec<Identity>,
    ca_certs: Option<PathBuf>,
    crls: Option<Vec<PathBuf>>,
    alpn: Option<Vec<Vec<u8>>>,
}

impl Own {
    /// What this place says, and inherits from nowhere.
    pub(super) fn read(reader: &mut SettingReader<'_>, place: SettingPlace) -> Self {
        let root = root(place);
        Self {
            first: certificate(reader, &format!("{root}tls.")),
            further: certificates(reader, &format!("{root}tls.certificates")),
            client_tls: reader.own(&table::CLIENT_TLS, place),
            ca_certs: reader.own(&table::CA_CERTS, place),
            crls: reader.own(&table::CRLS, place),
            alpn: reader.own(&table::ALPN, place),
        }
    }

    /// Whether clients have to show a certificate.
    pub(super) fn requires_client(&self) -> bool {
        self.client_tls == Some(ClientTlsSetting::Required)
    }

    /// What becomes of clients without a certificate, where they are asked for one.
    fn asks_client(&self) -> Option<WithoutCertificate> {
        match self.client_tls? {
            ClientTlsSetting::Unasked => None,
            ClientTlsSetting::Optional => Some(WithoutCertificate::Admit),
            ClientTlsSetting::Required => Some(WithoutCertificate::Refuse),
        }
    }

    /// The value that asks clients, as it is written.
    fn asking_value(&self) -> &'static str {
        match self.asks_client() {
            Some(WithoutCertificate::Admit) => "optional",
            Some(WithoutCertificate::Refuse) | None => "true",
        }
    }

    /// Whether there is anything to show to clients.
    pub(super) fn has_certificate(&self) -> bool {
        self.first.is_some() || !self.further.is_empty()
    }

    /// Faults for what is missing to ask clients for certificates.
    pub(super) fn complete(&self, reader: &mut SettingReader<'_>) {
        let needs = [
            ("tls.server_cert", self.has_certificate()),
            ("tls.server_key", self.has_certificate()),
            ("tls.ca_certs", self.ca_certs.is_some()),
        ];
        for (key, is_there) in needs {
            if self.asks_client().is_some() && !is_there && reader.written.get(key).is_none() {
                reader.fault("client_tls", format!("{} needs {}", self.asking_value(), spoken(key)));
            }
        }
    }

    /// For a listener of this transport; `None` where it has no TLS, or nothing to show.
    pub(super) fn server(&self, transport: Scheme) -> Option<ServerTls> {
        let identities: Vec<_> = self.first.iter().chain(&self.further).cloned().collect();
        if identities.is_empty() || !transport.is_tls() {
            return None;
        }
        let without_certificate = self.asks_client();
        let client_ca = self.ca_certs.clone().filter(|_| without_certificate.is_some());
        Some(ServerTls {
            identities,
            crls: self.crls.clone().filter(|_| client_ca.is_some()).unwrap_or_default(),
            client_ca,
            without_certificate: without_certificate.unwrap_or_default(),
            alpn: match transport {
                Scheme::Mqtt | Scheme::Mqtts | Scheme::Unix => self.alpn.clone().unwrap_or_default(),
                // MQTT is agreed on by the upgrade, as a subprotocol.
                Scheme::Ws | Scheme::Wss => vec![b"http/1.1".to_vec()],
            },
        })
    }

    fn over(self, common: &Self) -> Self {
        // Whoever names a CA for its clients wants to see their certificates, unless it says otherwise itself.
        let asks = self.client_tls.or_else(|| self.ca_certs.as_ref().map(|_| ClientTlsSetting::Required));
        let has_own = self.has_certificate();
        Self {
            client_tls: asks.or(common.client_tls),
            // Both of one place: a listener with a certificate of its own shows none of the outer
            // ones, whatever name is asked for.
            first: if has_own { self.first } else { common.first.clone() },
            further: if has_own { self.further } else { common.further.clone() },
            ca_certs: self.ca_certs.or_else(|| common.ca_certs.clone()),
            crls: self.crls.or_else(|| common.crls.clone()),
            alpn: self.alpn.or_else(|| common.alpn.clone()),
        }
    }
}

/// Of one `[[listeners]]`: its own, or the one of all. With too little, or with TLS where there is none, a fault.
pub(super) fn of_listener(
    reader: &mut SettingReader<'_>,
    index: usize,
    common: &Own,
    transport: Scheme,
) -> Option<ServerTls> {
    let root = format!("listeners[{index}].");
    let faults = reader.faults.len();
    let layer = Own::read(reader, SettingPlace::Listener(index)).over(common);
    if !transport.is_tls() {
        if let Some(key) = reader.first_that_needs(Needs::Tls, &root) {
            reader.fault(&key, format!("transport {} has no TLS", transport.name()));
        } else if layer.requires_client() {
            let client_tls = spoken("client_tls");
            let text = format!("clients need no certificate at this listener, although {client_tls} is true");
            reader.warn(&format!("{root}port"), text);
        }
        return None;
    }
    // Where one was written and cannot be had, that was told.
    let is_named = |root: &str| {
        let mut files = [table::SERVER_CERT, table::SERVER_KEY].into_iter();
        files.any(|file| reader.written.get(&format!("{root}{}", file.row.key)).is_some())
    };
    let was_told = reader.faults.len() > faults || is_named(&root) || is_named("");
    if !layer.has_certificate() && !was_told {
        let text = format!("{} needs a server certificate and key", transport.name());
        reader.fault(&format!("{root}transport"), text);
    }
    let own = |key: &str| Some(format!("{root}{key}")).filter(|key| reader.written.get(key).is_some());
    let asks = layer.asks_client().is_some();
    if asks && layer.ca_certs.is_none() {
        let key = own("tls.client_tls").unwrap_or_else(|| "client_tls".to_owned());
        reader.fault(&key, format!("{} needs tls.ca_certs, too", layer.asking_value()));
    } else if let Some(key) = own("tls.crls").filter(|_| !asks) {
        reader.fault(&key, "needs client certificates: this listener does not ask for them");
    }
    if let Some(key) = own("tls.alpn").filter(|_| transport == Scheme::Wss) {
        reader.fault(&key, "applies to MQTT over TLS only: WebSocket is always http/1.1");
    }
    layer.server(transport)
}

/// How the keys of this place begin.
fn root(place: SettingPlace) -> String {
    match place {
        SettingPlace::Process => String::new(),
        SettingPlace::Listener(index) => format!("listeners[{index}]."),
    }
}

/// The certificate whose keys begin like this.
fn certificate(reader: &mut SettingReader<'_>, at: &str) -> Option<Identity> {
    let [cert, key, ocsp] = ["server_cert", "server_key", "ocsp"].map(|name| format!("{at}{name}"));
    let staple = reader.file(&ocsp);
    let is_alone = [&cert, &key].iter().all(|key| reader.written.get(key).is_none());
    if staple.is_some() && is_alone {
        reader.fault(&ocsp, format!("needs {}, too", spoken(&cert)));
    }
    reader.identity(&cert, &key).map(|(cert, key)| Identity { cert, key, ocsp: staple })
}

/// All tables of the list.
fn certificates(reader: &mut SettingReader<'_>, list: &str) -> Vec<Identity> {
    let mut all = Vec::new();
    for (index, origin) in reader.written.tables(list).iter().enumerate() {
        let at = format!("{list}[{index}].");
        let is_empty = ["server_cert", "server_key", "ocsp"]
            .iter()
            .all(|name| reader.written.get(&format!("{at}{name}")).is_none());
        if is_empty {
            reader
                .faults
                .push(ConfigProblem::new(ValueOrigin::clone(origin), "needs server_cert and server_key"));
        }
        all.extend(certificate(reader, &at));
    }
    all
}

/// Towards a broker: what this place does not say is as in `common`.
pub(super) fn of_target(reader: &mut SettingReader<'_>, place: SettingPlace, common: ClientTls) -> ClientTls {
    let root = root(place);
    let at = |key: &str| format!("{root}target.{key}");
    let identity = reader.identity(&at("cert"), &at("key"));
    let identity = identity.map(|(cert, key)| Identity { cert, key, ocsp: None });
    ClientTls {
        roots: reader.own(&table::TARGET_CA_CERTS, place).or(common.roots),
        identity: identity.or(common.identity),
        crls: reader.own(&table::TARGET_CRLS, place).unwrap_or(common.crls),
        alpn: reader.own(&table::TARGET_ALPN, place).unwrap_or(common.alpn),
        verification: reader.own(&table::TARGET_VERIFY, place).unwrap_or(common.verification),
    }
}
