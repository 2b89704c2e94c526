//! New files under running connections.

use std::sync::Arc;

use mproxy_tcp::tls::{ClientTls, Reloadable, ServerTls, TlsStream, accept, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::authority::Identities as _;
use crate::certificates::{Authority, Folder};

/// A connection through the configuration in force, if the client believes the server.
async fn meet(
    server: &Reloadable<ServerTls>,
    client: &Reloadable<ClientTls>,
) -> Option<(TlsStream<DuplexStream>, TlsStream<DuplexStream>)> {
    let (here, there) = duplex(1 << 16);
    let (accepted, connected) = tokio::join!(
        accept(here, server.current(), |_| true),
        connect(there, client.current(), "broker.example")
    );
    Some((accepted.ok()?.0, connected.ok()?))
}

#[tokio::test]
async fn new_handshakes_see_the_new_certificate_and_nobody_is_dropped() {
    let (folder, old, new) = (Folder::default(), Authority::root("old"), Authority::root("new"));
    let identity = folder.identity("server", &old.sign_numbered("broker.example", 1));
    let server = ServerTls { identities: vec![identity], ..ServerTls::default() };
    let server = Reloadable::new(server).unwrap();
    let roots = Some(folder.write("roots.pem", old.pem()));
    let client = Reloadable::new(ClientTls { roots, ..ClientTls::default() }).unwrap();
    let mut living = Vec::new();
    for _ in 0..20 {
        living.push(meet(&server, &client).await.unwrap());
    }

    folder.identity("server", &new.sign_numbered("broker.example", 1));
    assert!(server.has_changed());
    server.reload().unwrap();
    assert!(!server.has_changed());
    assert!(meet(&server, &client).await.is_none(), "the client trusts the old CA only");
    folder.write("roots.pem", new.pem());
    client.reload().unwrap();
    meet(&server, &client).await.unwrap();

    for (here, there) in &mut living {
        here.write_all(b"still").await.unwrap();
        here.flush().await.unwrap();
        let mut came = [0; 5];
        there.read_exact(&mut came).await.unwrap();
        assert_eq!(&came, b"still");
    }
}

#[tokio::test]
async fn a_broken_file_leaves_the_old_one_in_force_and_is_named() {
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let signed = root.sign_numbered("broker.example", 1);
    let identity = folder.identity("server", &signed);
    let server = ServerTls { identities: vec![identity], ..ServerTls::default() };
    let server = Reloadable::new(server).unwrap();
    let roots = Some(folder.write("roots.pem", root.pem()));
    let client = Reloadable::new(ClientTls { roots, ..ClientTls::default() }).unwrap();
    let before = server.current();

    // The certificate is there already, its key is not yet.
    let next = root.sign_numbered("broker.example", 2);
    folder.write("server.crt", &next.chain);
    let error = server.reload().unwrap_err().to_string();
    assert!(error.contains("server.key cannot be used: it is not the key of"), "{error}");
    assert!(Arc::ptr_eq(&before, &server.current()));
    assert!(!server.has_changed(), "it was looked at: nobody has to be told every few seconds");
    meet(&server, &client).await.unwrap();

    folder.write("server.key", "");
    assert!(server.has_changed());
    let error = server.reload().unwrap_err().to_string();
    assert!(error.ends_with("server.key contains no private key: it is empty"), "{error}");

    folder.write("server.key", &next.key);
    assert!(server.has_changed());
    server.reload().unwrap();
    assert!(!Arc::ptr_eq(&before, &server.current()));
    meet(&server, &client).await.unwrap();
}

#[test]
fn a_file_that_goes_and_comes_again_is_noticed() {
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let path = folder.write("roots.pem", root.pem());
    let client = Reloadable::new(ClientTls { roots: Some(path.clone()), ..ClientTls::default() }).unwrap();
    assert_eq!(client.files(), std::slice::from_ref(&path));
    std::fs::remove_file(&path).unwrap();
    assert!(client.has_changed());
    let error = client.reload().unwrap_err().to_string();
    assert!(error.ends_with("roots.pem cannot be read"), "{error}");
    assert!(!client.has_changed());
    folder.write("roots.pem", root.pem());
    assert!(client.has_changed());
    client.reload().unwrap();
}

#[test]
fn a_reload_takes_revocations_along() {
    let (folder, root) = (Folder::default(), Authority::root("root"));
    let identity = folder.identity("server", &root.sign_numbered("broker.example", 1));
    let ca = folder.write("ca.pem()", root.pem());
    let list = folder.write("revoked.pem", root.revoke(&[]));
    let server = ServerTls {
        identities: vec![identity],
        client_ca: Some(ca),
        crls: vec![list],
        ..ServerTls::default()
    };
    let server = Reloadable::new(server).unwrap();
    folder.write("revoked.pem", "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n");
    let error = server.reload().unwrap_err().to_string();
    assert!(error.contains("revoked.pem cannot be used"), "{error}");
    folder.write("revoked.pem", root.revoke(&[2, 3, 4]));
    server.reload().unwrap();
}
