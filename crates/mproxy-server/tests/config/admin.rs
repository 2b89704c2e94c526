//! TLS of the admin port, and how commands reach it.

use mproxy_server::config::{AdminAddress, admin};

use super::*;

const CERT: [(&str, &str); 2] =
    [("MPROXY_ADMIN_SERVER_CERT", "admin.pem"), ("MPROXY_ADMIN_SERVER_KEY", "admin.key")];

fn with(variables: &[(&str, &str)]) -> Scene {
    variables.iter().fold(guarded(), |scene, (name, value)| scene.env(name, value))
}

#[test]
fn who_asks_for_client_certificates_has_one_to_show() {
    let asks = [("MPROXY_ADMIN_CA_CERTS", "ca.pem"), ("MPROXY_ADMIN_CRLS", "a.crl,b.crl")];
    let config = with(&[&CERT[..], &asks].concat()).works().config;
    let tls = admin::tls(&config.admin).expect("TLS");
    assert_eq!((tls.client_ca, tls.crls.len()), (Some("ca.pem".into()), 2));
    assert_eq!(admin::tls(&with(&[]).works().config.admin), None);
    // It must not end in a port without TLS that nobody needs a certificate for.
    says(&with(&asks[..1]).fault(), &["MPROXY_ADMIN_CA_CERTS", "needs MPROXY_ADMIN_SERVER_CERT"]);
    says(&with(&CERT[..1]).fault(), &["MPROXY_ADMIN_SERVER_CERT", "needs MPROXY_ADMIN_SERVER_KEY"]);
    says(&with(&CERT[1..]).fault(), &["MPROXY_ADMIN_SERVER_KEY", "needs MPROXY_ADMIN_SERVER_CERT"]);
    says(
        &with(&[&CERT[..], &asks[1..]].concat()).fault(),
        &["MPROXY_ADMIN_CRLS", "needs MPROXY_ADMIN_CA_CERTS"],
    );
}

#[test]
fn everybody_is_who_reaches_the_port_where_no_certificate_is_asked_for() {
    let far = [("MPROXY_ADMIN_HOST", "0.0.0.0"), ("MPROXY_ADMIN_CA_CERTS", "ca.pem")];
    let told = |variables: &[(&str, &str)]| with(&[&CERT[..], variables].concat()).warnings().join("\n");
    assert!(told(&far[..1]).contains("health and metrics are open to everybody"));
    assert!(told(&far).contains("health and metrics are open to whoever has a client certificate"));
}

#[test]
fn a_url_says_where_the_admin_api_is() {
    let url = |text: &str| with(&[("MPROXY_ADMIN_URL", text)]).works().config.admin_client.url;
    let at = |is_tls, host: &str, port| Some(AdminAddress { is_tls, host: host.to_owned(), port });
    assert_eq!(url("http://127.0.0.1:9180"), at(false, "127.0.0.1", 9180));
    assert_eq!(url("https://mproxy.example/"), at(true, "mproxy.example", 443));
    assert_eq!(url("https://[::1]:9180"), at(true, "::1", 9180));
    for text in [
        "mproxy.example:9180",
        "https://",
        "https://a:0",
        "https://a:b",
        "https://u:p@a",
        "https://a/b",
        "ftp://a",
        "https://::1",
    ] {
        let fault = with(&[("MPROXY_ADMIN_URL", text)]).fault();
        assert!(fault.contains("expected http://host:port or https://host:port"), "{text}: {fault}");
        assert!(!fault.contains("u:p"), "{fault}");
    }
}

#[test]
fn certificates_of_commands_need_a_connection_that_has_tls() {
    let own = [("MPROXY_ADMIN_URL_CERT", "me.pem"), ("MPROXY_ADMIN_URL_KEY", "me.key")];
    with(&[&own[..], &[("MPROXY_ADMIN_URL", "https://a:1")]].concat()).works();
    with(&[&own[..], &CERT].concat()).works();
    let faults = with(&[&own[..], &CERT, &[("MPROXY_ADMIN_URL", "http://a:1")]].concat()).faults();
    assert_eq!(faults.len(), 2, "{faults:#?}");
    says(&faults[0], &["MPROXY_ADMIN_URL_CERT", "needs an https:// URL"]);
    says(&with(&[("MPROXY_ADMIN_URL_CA_CERTS", "ca.pem")]).fault(), &["needs an https:// URL"]);
}
