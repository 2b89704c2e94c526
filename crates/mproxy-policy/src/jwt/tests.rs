//! What is a token, and which are valid. All of the attacks that take no server.

use jsonwebtoken::Algorithm;
use mproxy_core::token::token_in;
use mproxy_testkit::tokens::{RSA_1024_PUBLIC, RSA_PUBLIC, TokenSigner, key_set};
use serde_json::{Value, json};

use super::key::{SetKeys, TokenKey};
use super::*;

const NOW: Duration = Duration::from_secs(1_800_000_000);

fn claims(more: &Value) -> Value {
    let mut claims = json!({ "sub": "ann", "exp": NOW.as_secs() + 60 });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn key_of(signer: &TokenSigner) -> TokenKey {
    let make = if matches!(signer, TokenSigner::Hs256(_)) { TokenKey::secret } else { TokenKey::public };
    make(&signer.verifying_file(), None, &[]).unwrap()
}

fn terms(keys: Vec<TokenKey>) -> TokenTerms {
    TokenTerms { keys: TokenKeys::new(keys), ..TokenTerms::default() }
}

fn judge(terms: &TokenTerms, token: &str) -> Result<ValidToken, TokenError> {
    terms.judge(token, NOW, &TokenKeys::default())
}

#[test]
fn a_signature_of_each_kind_is_verified_by_its_own_key_and_by_no_other() {
    let signers = TokenSigner::each();
    for signer in &signers {
        let token = signer.token(&claims(&json!({})));
        let valid = judge(&terms(vec![key_of(signer)]), &token).unwrap();
        assert_eq!((valid.claims.text("sub"), valid.expires), (Some("ann"), NOW.as_secs() + 60));
        for other in signers.iter().filter(|other| other.verifying_file() != signer.verifying_file()) {
            assert!(judge(&terms(vec![key_of(other)]), &token).is_err(), "{}", signer.algorithm());
        }
        // Any other byte of it is another token.
        let (message, signature) = token.rsplit_once('.').unwrap();
        let mut bytes = base64(signature);
        bytes[7] ^= 1;
        let forged = format!("{message}.{}", to_base64(&bytes));
        assert_eq!(judge(&terms(vec![key_of(signer)]), &forged).unwrap_err(), TokenError::Signature);
    }
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine;
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

fn to_base64(bytes: &[u8]) -> String {
    use base64::Engine;
    URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn no_signature_is_none() {
    let signer = TokenSigner::hs256();
    let terms = terms(vec![key_of(&signer)]);
    for alg in ["none", "None", "NONE", "nOnE", "", "HS1", "ES256K", "ES512"] {
        let header = json!({ "alg": alg }).to_string();
        let message = format!(
            "{}.{}",
            to_base64(header.as_bytes()),
            to_base64(claims(&json!({})).to_string().as_bytes())
        );
        for token in [format!("{message}."), signer.sign_text(&header, &claims(&json!({})).to_string())] {
            assert!(token_in(&token).is_some() && judge(&terms, &token).is_err(), "{alg}");
        }
    }
    let unsigned = TokenSigner::hs256().token(&claims(&json!({})));
    let (message, _) = unsigned.rsplit_once('.').unwrap();
    assert!(judge(&terms, &format!("{message}.")).is_err() && judge(&terms, message).is_err());
}

/// CVE-2015-9235 and its like: the public key taken for a secret.
#[test]
fn a_public_key_is_no_secret() {
    for signer in [TokenSigner::rs256(), TokenSigner::es256(), TokenSigner::ed_dsa()] {
        let terms = terms(vec![key_of(&signer)]);
        let public = signer.verifying_file();
        let der = Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            String::from_utf8(public.clone())
                .unwrap()
                .lines()
                .filter(|line| !line.starts_with('-'))
                .collect::<String>(),
        )
        .unwrap();
        for secret in [public.clone(), public[..public.len() - 1].to_vec(), der] {
            let token = TokenSigner::Hs256(secret).token(&claims(&json!({})));
            assert_eq!(judge(&terms, &token).unwrap_err(), TokenError::UnknownKey);
        }
    }
    // Nor may somebody write it into a rule file as one.
    assert_eq!(TokenKey::secret(RSA_PUBLIC.as_bytes(), None, &[]).unwrap_err(), KeyError::PublicSecret);
}

#[test]
fn a_key_verifies_the_algorithms_that_it_was_given_for() {
    let only = TokenKey::public(RSA_PUBLIC.as_bytes(), None, &[Algorithm::PS256]).unwrap();
    let terms = terms(vec![only]);
    assert!(judge(&terms, &TokenSigner::ps256().token(&claims(&json!({})))).is_ok());
    for signer in [TokenSigner::rs256(), TokenSigner::rs512()] {
        assert_eq!(judge(&terms, &signer.token(&claims(&json!({})))).unwrap_err(), TokenError::UnknownKey);
    }
}

#[test]
fn a_key_id_is_a_name_and_nothing_else() {
    let signer = TokenSigner::es256();
    let named = TokenKey::public(&signer.verifying_file(), Some("k1"), &[]).unwrap();
    let terms = terms(vec![named]);
    let token = |id: &str| signer.token_with(&json!({ "kid": id }), &claims(&json!({})));
    assert!(judge(&terms, &token("k1")).is_ok() && judge(&terms, &signer.token(&claims(&json!({})))).is_ok());
    for id in [
        "",
        "k2",
        "K1",
        "../../dev/null",
        "/dev/null",
        "k1\0",
        "k1' OR 1=1 --",
        "http://127.0.0.1/k",
        "| cat /etc/passwd",
    ] {
        assert_eq!(judge(&terms, &token(id)).unwrap_err(), TokenError::UnknownKey, "{id:?}");
    }
    // The key that a token brings along, or says where to find, is nobody's.
    let own = TokenSigner::es256();
    for header in [
        json!({ "jwk": own.jwk("k1") }),
        json!({ "jku": "http://127.0.0.1:1/keys", "kid": "k1" }),
        json!({ "x5u": "http://127.0.0.1:1/keys" }),
    ] {
        assert_eq!(
            judge(&terms, &own.token_with(&header, &claims(&json!({})))).unwrap_err(),
            TokenError::Signature
        );
    }
}

#[test]
fn a_critical_header_is_not_understood() {
    let signer = TokenSigner::es256();
    for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!(null)] {
        let token = signer.token_with(&json!({ "crit": crit, "b64": false }), &claims(&json!({})));
        assert_eq!(judge(&terms(vec![key_of(&signer)]), &token).unwrap_err(), TokenError::Critical);
    }
}

#[test]
fn what_is_too_large_or_too_deep_or_says_a_thing_twice_is_refused() {
    let signer = TokenSigner::hs256();
    let terms = terms(vec![key_of(&signer)]);
    let huge = signer.token(&claims(&json!({ "x": "y".repeat(TOKEN_MOST) })));
    assert_eq!(judge(&terms, &huge).unwrap_err(), TokenError::TooLarge);
    let header = json!({ "alg": "HS256" }).to_string();
    let exp = NOW.as_secs() + 60;
    let deep = format!("{{\"sub\":\"a\",\"exp\":{exp},\"x\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    let twice = format!(r#"{{"sub":"a","exp":{exp},"sub":"b"}}"#);
    let twice_within = format!(r#"{{"sub":"a","exp":{exp},"o":{{"x":1,"x":2}}}}"#);
    for wrong in [deep, twice, twice_within, "[]".to_owned(), "{".to_owned(), String::new()] {
        assert_eq!(
            judge(&terms, &signer.sign_text(&header, &wrong)).unwrap_err(),
            TokenError::Claims,
            "{wrong:.60}"
        );
    }
    // A name that is a kilobyte long costs no more than its bytes; one that is no text names nothing.
    for id in [json!("k".repeat(8 << 10)), json!(7), json!(["k1"]), json!({ "a": 1 })] {
        let token = signer.token_with(&json!({ "kid": id }), &claims(&json!({})));
        let judged = judge(&terms, &token).map(|_| ());
        assert!(if id.is_string() { judged.is_ok() } else { judged.is_err() }, "{judged:?}");
    }
    let deep_header = format!("{{\"alg\":\"HS256\",\"x\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    let twice_header = r#"{"alg":"HS256","alg":"HS256"}"#.to_owned();
    for wrong in [deep_header, twice_header, "{}".to_owned(), "null".to_owned()] {
        let token = signer.sign_text(&wrong, &claims(&json!({})).to_string());
        assert!(
            matches!(judge(&terms, &token), Err(TokenError::Malformed | TokenError::Algorithm)),
            "{wrong:.60}"
        );
    }
}

#[test]
fn what_begins_like_a_token_is_one_and_wrong() {
    let signer = TokenSigner::hs256();
    let terms = terms(vec![key_of(&signer)]);
    let token = signer.token(&claims(&json!({})));
    for wrong in [
        format!("{token}="),
        format!("{token} "),
        format!("{token}.x"),
        format!("{token}\n"),
        token.replacen('.', "..", 1),
        token.replacen('.', "", 2),
        "eyJhbGciOiJIUzI1NiJ9.".to_owned(),
        "eyJ..".to_owned(),
        token.replace('e', "\u{435}"),
    ] {
        assert!(judge(&terms, &wrong).is_err(), "{wrong}");
        assert!(token_in(&wrong).is_some() || !wrong.contains('.') || !wrong.starts_with('e'), "{wrong}");
    }
}

#[test]
fn a_token_holds_until_its_end_and_not_a_second_longer() {
    let signer = TokenSigner::hs256();
    let terms = TokenTerms { leeway: Duration::from_secs(30), ..terms(vec![key_of(&signer)]) };
    let at = |name: &str, seconds: i64| {
        let time = i64::try_from(NOW.as_secs()).unwrap() + seconds;
        judge(&terms, &signer.token(&claims(&json!({ name: time })))).map(|_| ())
    };
    assert_eq!(
        (at("exp", 1), at("exp", 0), at("exp", -1)),
        (Ok(()), Err(TokenError::Expired), Err(TokenError::Expired))
    );
    for name in ["nbf", "iat"] {
        assert_eq!((at(name, 30), at(name, 31)), (Ok(()), Err(TokenError::NotYet)), "{name}");
    }
    for wrong in [json!("1"), json!(-1), json!(true), json!([1]), json!({}), json!(1e300)] {
        for name in ["exp", "nbf", "iat"] {
            let token = signer.token(&claims(&json!({ name: wrong })));
            let error = judge(&terms, &token).unwrap_err();
            assert!(
                error == TokenError::Claim(name.into()) || error == TokenError::Claims,
                "{wrong} {error}"
            );
        }
    }
    for none in [json!({ "sub": "a" }), json!({ "sub": "a", "exp": null })] {
        assert_eq!(judge(&terms, &signer.token(&none)).unwrap_err(), TokenError::Missing("exp".into()));
    }
}

#[test]
fn issuer_audience_and_what_is_required_have_to_be_there() {
    let signer = TokenSigner::hs256();
    let names = |all: &[&str]| -> Box<[Box<str>]> { all.iter().map(|one| Box::from(*one)).collect() };
    let strict = TokenTerms {
        issuers: names(&["i1", "i2"]),
        audiences: names(&["mqtt"]),
        required: names(&["tenant"]),
        ..terms(vec![key_of(&signer)])
    };
    let said = |more: Value| judge(&strict, &signer.token(&claims(&more))).map(|_| ());
    for audience in [json!("mqtt"), json!(["x", "mqtt"])] {
        assert_eq!(said(json!({ "iss": "i2", "aud": audience, "tenant": "t" })), Ok(()));
    }
    for audience in
        [json!("MQTT"), json!([]), json!(["x"]), json!(7), json!({}), json!(["mqtt", 7]), json!(null)]
    {
        assert_eq!(
            said(json!({ "iss": "i1", "aud": audience, "tenant": "t" })),
            Err(TokenError::Audience),
            "{audience}"
        );
    }
    for issuer in [json!("i3"), json!(["i1"]), json!(null), json!("")] {
        assert_eq!(said(json!({ "iss": issuer, "aud": "mqtt", "tenant": "t" })), Err(TokenError::Issuer));
    }
    for tenant in
        [json!({ "iss": "i1", "aud": "mqtt" }), json!({ "iss": "i1", "aud": "mqtt", "tenant": null })]
    {
        assert_eq!(said(tenant), Err(TokenError::Missing("tenant".into())));
    }
    // One that is meant for somebody is not for whoever has no name.
    let open = terms(vec![key_of(&signer)]);
    assert_eq!(
        judge(&open, &signer.token(&claims(&json!({ "aud": "x" })))).unwrap_err(),
        TokenError::Audience
    );
}

#[test]
fn keys_of_the_wrong_kind_or_size_are_told() {
    let public = |pem: &[u8]| TokenKey::public(pem, None, &[]).map(|_| ());
    assert_eq!(public(RSA_1024_PUBLIC.as_bytes()), Err(KeyError::RsaSize(1024)));
    let private = include_bytes!("../../../mproxy-testkit/src/tokens/rsa.pem");
    assert_eq!(public(private), Err(KeyError::Private));
    for wrong in [&b""[..], b"sesame", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
        assert_eq!(public(wrong), Err(KeyError::NotPublic));
    }
    let two = [TokenSigner::es256().verifying_file(), TokenSigner::es256().verifying_file()].concat();
    assert_eq!(public(&two), Err(KeyError::SeveralKeys));
    // secp256k1 has points as long as those of P-256.
    let koblitz = b"-----BEGIN PUBLIC KEY-----\n\
        MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEeb5mfvncu6xVoGKVzocLBwKb/NstzijZWfKBWxb4F5hIOtp3JqPEZV2k+/wOEQio/Re0SKaFVBmcR9CP+xDUuA==\n\
        -----END PUBLIC KEY-----\n";
    assert_eq!(public(koblitz), Err(KeyError::NotPublic));
    let secret =
        |bytes: &[u8], algorithms: &[Algorithm]| TokenKey::secret(bytes, None, algorithms).map(|_| ());
    assert_eq!(secret(b"sesame\n", &[]), Err(KeyError::ShortSecret(6, "HS256", 32)));
    assert_eq!(secret(&[b'x'; 40], &[Algorithm::HS512]), Err(KeyError::ShortSecret(40, "HS512", 64)));
    assert_eq!(secret(&[b'x'; 64], &[Algorithm::HS512]), Ok(()));
    let es = TokenSigner::es256().verifying_file();
    assert_eq!(
        TokenKey::public(&es, None, &[Algorithm::RS256]).unwrap_err(),
        KeyError::Algorithm("RS256", "ES256".to_owned())
    );
}

fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

#[test]
fn a_key_set_has_the_keys_that_can_verify_and_leaves_the_others_out() {
    let signers: Vec<_> =
        TokenSigner::each().into_iter().filter(|one| !matches!(one, TokenSigner::Hs256(_))).collect();
    let mut keys: Vec<_> = signers.iter().enumerate().map(|(at, one)| one.jwk(&format!("k{at}"))).collect();
    let mut encrypting = signers[0].jwk("enc");
    encrypting["use"] = json!("enc");
    let useless = [
        TokenSigner::hs256().jwk("secret"),
        encrypting,
        json!({ "kty": "EC", "crv": "P-521", "x": "AA", "y": "AA" }),
        json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }),
        json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" }),
        with(signers[0].jwk("confused"), "alg", json!("HS256")),
        with(signers[0].jwk("none"), "alg", json!("none")),
        with(signers[2].jwk("short"), "x", json!("AAAA")),
        with(signers[0].jwk("ops"), "key_ops", json!(["encrypt"])),
        json!({ "kty": "weird" }),
        json!(7),
    ];
    keys.extend(useless.clone());
    let SetKeys { keys: set, left_out } = TokenKeys::of_set(key_set(&keys).as_bytes()).unwrap();
    assert_eq!(set.count(), signers.len());
    // Each of the others can be named, and why.
    let why = |id: &str| left_out.iter().find(|(own, _)| own == id).map(|(_, why)| why.as_str());
    assert_eq!(left_out.len(), useless.len());
    assert_eq!(why("secret"), Some("a secret, and what is published is none"));
    assert_eq!(why("enc"), Some("a key for another use than signatures"));
    assert!(["confused", "none", "short", "ops"].iter().all(|id| why(id).is_some_and(|why| !why.is_empty())));
    assert_eq!(left_out.iter().filter(|(id, why)| id == "-" && !why.is_empty()).count(), useless.len() - 6);
    for (at, signer) in signers.iter().enumerate() {
        let token = signer.token_with(&json!({ "kid": format!("k{at}") }), &claims(&json!({})));
        assert!(TokenTerms::default().judge(&token, NOW, &set).is_ok(), "{}", signer.algorithm());
        let unnamed = signer.token(&claims(&json!({})));
        assert!(TokenTerms::default().judge(&unnamed, NOW, &set).is_ok(), "{}", signer.algorithm());
    }
    assert!(matches!(TokenKeys::of_set(key_set(&useless).as_bytes()), Err(KeyError::NoKey(_))));
    let many = vec![signers[0].jwk("k"); 65];
    assert_eq!(TokenKeys::of_set(key_set(&many).as_bytes()).unwrap_err(), KeyError::TooMany(65));
    for wrong in ["", "{}", "[]", "{\"keys\":7}", "<html>"] {
        assert!(matches!(TokenKeys::of_set(wrong.as_bytes()), Err(KeyError::NotASet(_))), "{wrong}");
    }
}
