//! Values that are taken, and those that are not.

use std::time::Duration;

use super::*;

#[test]
fn durations_have_units() {
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
    assert_eq!(duration("0s"), Ok(Duration::ZERO));
    for wrong in ["", "5", "s", "1 s", "1.5s", "-1s", "1d", "25h", "99999999999s", "1s "] {
        assert!(duration(wrong).is_err(), "{wrong:?}");
    }
    assert!(deadline("0ms").is_err());
}

#[test]
fn what_mqtt_counts_in_seconds_may_be_written_so() {
    assert_eq!((keep_alive("90"), keep_alive("1m30s")), (Ok(90), Ok(90)));
    assert_eq!((session_expiry("0"), session_expiry("604800")), (Ok(0), Ok(604_800)));
    for wrong in ["", "0", "0s", "65536", "20h", "-1", "x"] {
        assert!(keep_alive(wrong).is_err(), "{wrong:?}");
    }
    assert!(session_expiry("4294967296").is_err());
}

#[test]
fn sizes_are_plain_or_binary() {
    assert_eq!(packet_size("256KiB"), Ok(256 << 10));
    assert_eq!(packet_size("1 MiB"), Ok(1 << 20));
    assert_eq!(packet_size("268435460"), Ok(268_435_460));
    for wrong in ["", "KiB", "1kb", "15", "268435461", "1GiB", "99999999999999999999", "18014398509481984KiB"]
    {
        assert!(packet_size(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn hosts_are_addresses_or_names() {
    assert_eq!(host("[::1]").as_deref(), Ok("::1"));
    for right in ["0.0.0.0", "::", "broker-0.mqtt_ns.svc", "localhost"] {
        assert_eq!(host(right).as_deref(), Ok(right));
    }
    for link in ["fe80::1%eth0", "fe80::1%2", "febf::1%br-0.7"] {
        assert_eq!(host(link).as_deref(), Ok(link));
        assert_eq!(host(&format!("[{link}]")).as_deref(), Ok(link));
        assert!(name(link).is_err(), "{link}");
    }
    for wrong in ["fe80::1", "fe80::1%", "fe80::1%a/b", "::1%eth0", "10.0.0.1%eth0", "broker%eth0"] {
        assert!(host(wrong).is_err(), "{wrong:?}");
    }
    for wrong in ["", "a b", "mqtt://broker", "broker:1883", "[broker]", "bröker", "a/b"] {
        assert!(host(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_path_that_no_request_could_match_is_told() {
    for right in ["/", "/mqtt", "/a/b-c_d~", "/%20"] {
        assert_eq!((own_path(right).as_deref(), path(right).as_deref()), (Ok(right), Ok(right)));
    }
    assert_eq!(path("/mqtt?x=1").as_deref(), Ok("/mqtt?x=1"));
    let told = own_path("/mqtt?x=1").expect_err("a query is never compared");
    assert!(told.contains("write \"/mqtt\" instead"), "{told}");
    for wrong in ["", "mqtt", "/a b", "/a#b", "/a<b", "/\u{e9}", "*"] {
        assert!(own_path(wrong).is_err() && path(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn policy_urls_have_five_forms() {
    assert_eq!(
        policy_urls("http://a:1, https://[::1]:2/,unix:///run/p.sock"),
        Ok(vec!["http://a:1".into(), "https://[::1]:2".into(), "unix:/run/p.sock".into()])
    );
    assert_eq!(
        policy_urls("http+json://a:1/,https+json://[::1]:2/v1/hooks/, http+json://a:1"),
        Ok(vec!["http+json://a:1".into(), "https+json://[::1]:2/v1/hooks".into(), "http+json://a:1".into()])
    );
    for wrong in [
        "",
        "a:1",
        "http+json://a/p",
        "http+json://a:0/p",
        "http+json://a:1/p?q",
        "http+json://::1:2/p",
        "json://a:1",
        "http://",
        "http://a:0",
        "http://a:1/p",
        "http://a:1,",
        "unix:p",
        "http://::1:2",
        "http://a",
        "http://[fe80::1%eth0]:1",
        "ftp://a:1",
    ] {
        assert!(policy_urls(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_password_in_a_url_is_not_repeated() {
    for url in ["http://me:hunter2@host:1", "https+json://me:hunter2@host:1/p"] {
        let error = policy_urls(url).expect_err("refused");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn long_values_are_cut_when_repeated() {
    assert!(quoted(&"ü".repeat(1000)).chars().count() < 90);
}
