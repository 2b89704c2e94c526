//! As whom the broker knows clients that the rule file lets in: client ids with a prefix, fixed credentials.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::sync::Arc;

use common::{Client, client};
use futures_util::FutureExt;
use mproxy_codec::types::{QoS, Version};
use mproxy_core::policy::{Admission, Decider, Decision};
use mproxy_policy::acl::{Acl, AclAdviser, UnknownUsers};
use mproxy_sim::Verdict;
use mproxy_testkit::certificates::Folder;
use mproxy_testkit::tokens::{TokenSigner, seconds_from_now};
use proptest::prelude::*;

/// What the file says of a client at once; `None`: it leaves it to others.
fn says(text: &str, others: UnknownUsers, client: &Client) -> Option<Result<Admission, u8>> {
    let acl = Acl::parse(text, "rules.toml").unwrap_or_else(|errors| panic!("{errors}"));
    answers(&AclAdviser::new(acl, others), client)
}

fn answers(adviser: &dyn Decider, client: &Client) -> Option<Result<Admission, u8>> {
    let ruling = client.connects(adviser).now_or_never().unwrap()?;
    Some(match ruling.verdict {
        Verdict::Connect(Decision::Allow(admission)) => Ok(admission.map(|one| *one).unwrap_or_default()),
        Verdict::Connect(Decision::Refuse(refusal)) => Err(refusal.reason.0),
        other => panic!("{other:?}"),
    })
}

fn said(text: &str, client: &Client) -> Result<Admission, u8> {
    says(text, UnknownUsers::Refuse, client).unwrap()
}

/// What the broker knows the client as.
fn at_broker(text: &str, client: &Client) -> Result<Option<String>, u8> {
    said(text, client).map(|admission| admission.broker_client_id.map(String::from))
}

const PREFIXES: &str = "anonymous = true\n[[grants]]\nclient_ids = [\"c1\"]\nclient_id_prefix = \"acme-\"\n\
                        [[grants]]\ngroups = [\"x\"]\nclient_id_prefix = \"u.${username}-\"\n";

#[test]
fn the_first_prefix_that_is_for_a_client_stands_before_its_id() {
    assert_eq!(at_broker(PREFIXES, &client("c1", None)), Ok(Some("acme-c1".to_owned())));
    // Whom no prefix is for keeps its id, if nobody with a prefix may be called so.
    assert_eq!(at_broker(PREFIXES, &client("c2", None)), Ok(None));
    assert_eq!(at_broker(PREFIXES, &client("acme-c1", None)), Err(0x85));
    let left = says(PREFIXES, UnknownUsers::LeaveToOthers, &client("acme-c1", Some("ann")));
    assert_eq!(left, Some(Err(0x85)), "nor if somebody else would let it in");
    assert_eq!(says(PREFIXES, UnknownUsers::LeaveToOthers, &client("c2", Some("ann"))), None);
}

#[test]
fn a_client_without_an_id_gets_one_to_which_it_can_come_back() {
    let text = "anonymous = true\n[[grants]]\nclient_id_prefix = \"acme-\"\n";
    let nameless = |version, clean_start| {
        let mut somebody = client("", None);
        let peer = Arc::make_mut(&mut somebody.peer);
        (peer.version, peer.clean_start) = (version, clean_start);
        said(text, &somebody).unwrap()
    };
    for (version, clean_start) in [(Version::V5, true), (Version::V5, false), (Version::V311, true)] {
        let Admission { client_id, broker_client_id, .. } = nameless(version, clean_start);
        let own = client_id.unwrap();
        assert_eq!(own.len(), 32);
        assert_eq!(broker_client_id.as_deref(), Some(&*format!("acme-{own}")));
        assert_eq!(at_broker(text, &client(&own, None)), Ok(Some(format!("acme-{own}"))));
    }
    // [MQTT-3.1.3-8]: this one is for the broker to refuse.
    assert_eq!(nameless(Version::V311, false).broker_client_id, None);
}

#[test]
fn a_prefix_that_could_be_part_of_an_id_is_told_with_its_line() {
    let faults = |prefixes: &[&str]| {
        let entries = prefixes.iter().map(|prefix| format!("[[grants]]\nclient_id_prefix = \"{prefix}\"\n"));
        let errors = Acl::parse(&entries.collect::<String>(), "rules.toml").unwrap_err();
        errors.to_string()
    };
    for (prefixes, told) in [
        (&["${username}"][..], ":2: grants[0].client_id_prefix: \"${username}\": end it with a character"),
        (&[""], ":2: grants[0].client_id_prefix: \"\": end it with a character"),
        (&["a-b-"], ":2: grants[0].client_id_prefix: \"a-b-\": '-' at its end may not stand elsewhere in it"),
        (&["a-", "b:"], ":4: grants[1].client_id_prefix: \"b:\": ends with ':', and the one before with '-'"),
        (
            &["acme-", "${username}-"],
            ":4: grants[1].client_id_prefix: \"${username}-\": of some client it is the same as \"acme-\" of another one",
        ),
        (&["${who}-"], ":2: grants[0].client_id_prefix: \"${who}-\": unknown variable"),
    ] {
        let shown = faults(prefixes);
        assert!(shown.contains(told), "{told} is not in {shown}");
    }
}

proptest! {
    #[test]
    fn no_two_clients_of_different_tenants_are_one_at_the_broker(
        tenants in ("[ab-]{1,3}", "[ab-]{1,3}"),
        ids in ("[ab-]{0,4}", "[ab-]{0,4}"),
    ) {
        let text = "anonymous = true\n[[grants]]\nclaims = { t = [\"yes\"] }\nclient_id_prefix = \"${attr.t}-\"\n";
        let named = |tenant: &str, id: &str| {
            let mut somebody = client(id, None);
            let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            Arc::make_mut(&mut somebody.peer).attributes = [pair("claim.t", "yes"), pair("t", tenant)].into();
            // By what the broker has it, whether it has a prefix or not.
            let admission = said(text, &somebody).ok()?;
            Some(admission.broker_client_id.map_or_else(|| id.to_owned(), String::from))
        };
        let (one, other) = (named(&tenants.0, &ids.0), named(&tenants.1, &ids.1));
        if let (Some(one), Some(other)) = (one, other) {
            prop_assert_eq!(one == other, tenants.0 == tenants.1 && ids.0 == ids.1);
        }
        // One without a prefix.
        if let (Some(one), Ok(plain)) = (named(&tenants.0, &ids.0), said(text, &client(&ids.1, None))) {
            prop_assert_eq!(plain.broker_client_id, None);
            prop_assert_ne!(one, ids.1);
        }
    }
}

#[test]
fn the_broker_gets_the_credentials_of_the_file() {
    let folder = Folder::default();
    let (signer, rules) = (TokenSigner::es256(), folder.file("rules.toml"));
    folder.write("pw.txt", "open sesame\n");
    folder.write("key.pem", signer.verifying_file());
    let login = |jwt: &str, client: &Client| {
        let text = format!(
            "anonymous = true\n[broker]\nusername = \"mproxy\"\npassword_file = \"pw.txt\"\n\
             [jwt]\naudiences = [\"mqtt\"]\n{jwt}[[jwt.keys]]\npublic_key = \"key.pem\"\n"
        );
        let acl = Acl::parse(&text, rules.to_str().unwrap()).unwrap_or_else(|errors| panic!("{errors}"));
        let adviser = AclAdviser::new(acl, UnknownUsers::Refuse);
        let admission = answers(&adviser, client).unwrap().unwrap();
        let name = |login: &mproxy_core::policy::BrokerLogin| {
            (login.username.as_deref().map(str::to_owned), login.password.as_deref().map(<[u8]>::to_vec))
        };
        admission.broker_login.as_deref().map(name)
    };
    let fixed = Some((Some("mproxy".to_owned()), Some(b"open sesame".to_vec())));
    assert_eq!(login("", &client("c", None)), fixed);
    let exp = seconds_from_now(60);
    let token = signer.token(&serde_json::json!({ "sub": "ann", "aud": "mqtt", "exp": exp }));
    let bearer = client("c", Some("any")).password(Box::leak(token.into_boxed_str()));
    assert_eq!(login("", &bearer), fixed, "also of clients with tokens");
    assert_eq!(login("broker = \"username\"\n", &bearer), None, "unless the file says otherwise of them");
}

#[test]
fn whom_others_let_in_the_file_gives_nothing() {
    let text = "[broker]\nusername = \"mproxy\"\n[[grants]]\nwill = [\"gone\"]\n\
                [[rules]]\neffect = \"allow\"\ntopics = [\"a\"]\n";
    for somebody in [client("c", None), client("c", None).will("gone", QoS::AtMostOnce, false)] {
        assert_eq!(says(text, UnknownUsers::LeaveToOthers, &somebody), None, "neither grant nor credentials");
        let admission = says(text, UnknownUsers::Refuse, &somebody).unwrap().unwrap();
        assert!(admission.grant.is_some() && admission.broker_login.is_some());
    }
}

#[test]
fn credentials_that_cannot_be_read_are_told_with_their_line() {
    let text = "[broker]\nuser = \"x\"\npassword_file = \"nowhere.txt\"\n[[rules]]\neffect = \"deny\"\ntopics = [\"#\"]\n";
    let errors = Acl::parse(text, "rules.toml").unwrap_err();
    let told: Vec<_> = errors.faults().iter().map(|fault| (fault.line, fault.key.as_str())).collect();
    assert_eq!(told, [(1, "broker.username"), (2, "broker.user"), (3, "broker.password_file")], "{errors}");
}
