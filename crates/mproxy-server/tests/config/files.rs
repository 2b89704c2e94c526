//! Files that the configuration names: what only reading them shows.

use mproxy_server::config;

use crate::scene;

/// A folder with a CA, two certificates with their keys, and something that is no PEM.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(folder.path().join(format!("{name}.pem")), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }
    std::fs::write(
        folder.path().join("nonsense"),
        "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    std::fs::write(folder.path().join("empty"), "").unwrap();
    folder
}

/// What reading the files shows, with the folder's path left out.
fn shown(folder: &tempfile::TempDir, file: &str) -> Vec<String> {
    let place = format!("{}/", folder.path().display());
    let loaded = scene().file(&file.replace("DIR/", &place)).works();
    config::files::faults(&loaded).iter().map(|problem| problem.to_string().replace(&place, "")).collect()
}

#[test]
fn files_that_hold_what_they_should_are_no_fault() {
    let folder = folder();
    let file = r#"
        client_tls = true
        [tls]
        ca_certs = "DIR/one.pem"
        server_cert = "DIR/one.pem"
        server_key = "DIR/one.key"
        [[tls.certificates]]
        server_cert = "DIR/two.pem"
        server_key = "DIR/two.key"
        [mqtt.target]
        scheme = "mqtts"
        [target]
        ca_certs = "DIR/two.pem"
        [policy]
        url = "https://hooks:1"
        ca_certs = "DIR/one.pem"
        cert = "DIR/one.pem"
        key = "DIR/one.key"
    "#;
    assert_eq!(shown(&folder, file), [""; 0]);
}

#[test]
fn every_file_that_is_wrong_is_told_once_with_the_key_that_named_it() {
    let folder = folder();
    let file = r#"
        client_tls = true
        [tls]
        ca_certs = "DIR/empty"
        server_cert = "DIR/gone.pem"
        server_key = "DIR/nonsense"
        crls = ["DIR/gone.crl", "DIR/one.pem"]
        [[tls.certificates]]
        server_cert = "DIR/one.pem"
        server_key = "DIR/two.key"
        [mqtt.target]
        scheme = "mqtts"
        [target]
        ca_certs = "DIR/nonsense"
        [policy]
        url = "https://hooks:1"
        ca_certs = "DIR/gone.ca"
    "#;
    let faults = shown(&folder, file);
    for words in [
        ["mproxy.toml:4 tls.ca_certs: ", "empty contains no certificate"],
        ["mproxy.toml:5 tls.server_cert: ", "gone.pem cannot be read: No such file"],
        ["mproxy.toml:6 tls.server_key: ", "nonsense "],
        ["mproxy.toml:7 tls.crls: ", "gone.crl cannot be read"],
        ["mproxy.toml:7 tls.crls: ", "one.pem contains no certificate revocation list"],
        [
            "mproxy.toml:10 tls.certificates[0].server_key: ",
            "two.key cannot be used: it is not the key of one.pem",
        ],
        ["mproxy.toml:14 target.ca_certs: ", "nonsense is not PEM"],
        ["mproxy.toml:17 policy.ca_certs: ", "gone.ca cannot be read"],
    ] {
        let found = faults.iter().filter(|fault| words.iter().all(|word| fault.contains(word))).count();
        assert_eq!(found, 1, "{words:?} in {faults:#?}");
    }
    assert_eq!(faults.len(), 8, "{faults:#?}");
}

#[test]
fn files_of_what_does_not_open_are_not_read() {
    let folder = folder();
    assert_eq!(
        shown(
            &folder,
            "[target]\nca_certs = \"DIR/gone\"\n[policy]\ncert = \"DIR/gone\"\nkey = \"DIR/gone\"\n"
        ),
        [""; 0]
    );
}

#[test]
fn what_is_past_its_date_is_a_warning_with_the_key_that_named_it() {
    use std::time::{Duration, UNIX_EPOCH};
    let folder = folder();
    let make = |name: &str, years: (i32, i32)| {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join(format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
    };
    make("old", (2000, 2001));
    make("early", (2090, 2091));
    let file = r#"
        client_tls = true
        [tls]
        ca_certs = "DIR/early.pem"
        server_cert = "DIR/old.pem"
        server_key = "DIR/old.key"
        [mqtt.target]
        scheme = "mqtts"
        [target]
        ca_certs = "DIR/old.pem"
        [policy]
        url = "https://hooks:1"
        ca_certs = "DIR/one.pem"
        cert = "DIR/old.pem"
        key = "DIR/old.key"
    "#;
    let place = format!("{}/", folder.path().display());
    let loaded = scene().file(&file.replace("DIR/", &place)).works();
    let now = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let warnings = config::files::warnings(&loaded, now);
    let warnings: Vec<_> = warnings.iter().map(|warning| warning.to_string().replace(&place, "")).collect();
    for words in [
        [
            "mproxy.toml:4 tls.ca_certs: ",
            "early.pem: the CA certificate of CN=early is valid only from 2090-01-01",
        ],
        ["mproxy.toml:5 tls.server_cert: ", "old.pem: the certificate of CN=old has expired on 2001-01-01"],
        [
            "mproxy.toml:10 target.ca_certs: ",
            "old.pem: the CA certificate of CN=old has expired on 2001-01-01",
        ],
        ["mproxy.toml:14 policy.cert: ", "old.pem: the certificate of CN=old has expired"],
    ] {
        let found = warnings.iter().filter(|one| words.iter().all(|word| one.contains(word))).count();
        assert_eq!(found, 1, "{words:?} in {warnings:#?}");
    }
    assert_eq!(warnings.len(), 4, "{warnings:#?}");
}
