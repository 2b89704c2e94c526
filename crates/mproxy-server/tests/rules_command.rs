//! `mproxy rules`: tables of cases, those of the examples among them, and what is said of one client.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mproxy_testkit::certificates::Folder;

fn mproxy(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_mproxy")).arg("rules").args(arguments).env_clear().output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/rules").join(name)
}

#[test]
fn the_examples_decide_as_their_cases_say() {
    let mut tables = 0;
    for entry in std::fs::read_dir(deploy("")).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.to_str().unwrap().strip_suffix(".cases.toml") else { continue };
        tables += 1;
        let (code, out, err) = mproxy(&["test", &format!("{name}.toml"), path.to_str().unwrap()]);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.ends_with(" 0 failed\n"), "{out}");
    }
    assert!(tables > 0);
}

#[test]
fn a_case_that_fails_says_what_was_decided_and_by_which_rule() {
    let folder = Folder::default();
    let rules =
        folder.write("r.toml", "[[rules]]\neffect = \"allow\"\ntopics = [\"a/${clientid}\"]\nmax_qos = 1\n");
    let cases = folder.write(
        "c.toml",
        "[[cases]]\nclient = { client_id = \"c\" }\npublish = \"a/c\"\nexpect = \"deny\"\n\
         [[cases]]\nclient = { client_id = \"c\" }\npublish = \"a/c\"\nexpect = \"allow\"\nline = 7\n\
         [[cases]]\nclient = { client_id = \"d\" }\nsubscribe = \"a/d\"\nqos = 2\nexpect = \"allow\"\nline = 1\n\
         [[cases]]\nclient = { client_id = \"d\" }\nreceive = \"x\"\nexpect = \"allow\"\n",
    );
    let (code, out, err) = mproxy(&["test", rules.to_str().unwrap(), cases.to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (1, ""));
    let at = |line| format!("{}:{line}", cases.display());
    let expected = [
        format!(
            "FAIL  {}: c publish a/c: expected deny, but allowed with QoS 0 by the rule in line 1",
            at(1)
        ),
        format!(
            "FAIL  {}: c publish a/c: expected allow by the rule in line 7, but allowed with QoS 0 by the rule in line 1",
            at(5)
        ),
        format!("ok    {}: d subscribe a/d: allowed with QoS 1 by the rule in line 1", at(10)),
        format!(
            "ok    {}: d receive x: allowed with QoS 0 by no rule names receive, so deliveries are not judged",
            at(16)
        ),
        "4 cases, 2 failed".to_owned(),
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    let (_, quiet, _) = mproxy(&["test", "--quiet", rules.to_str().unwrap(), cases.to_str().unwrap()]);
    assert_eq!(quiet.lines().count(), 3);
}

#[test]
fn what_is_wrong_with_both_files_is_told_all_at_once() {
    let folder = Folder::default();
    let rules = folder.write("r.toml", "[[rules]]\neffect = \"alow\"\ntopics = [\"a\"]\n");
    let cases = folder.write(
        "c.toml",
        "[[cases]]\nclient = \"ann\"\npublish = \"a\"\nsubscribe = \"a\"\nexpect = \"maybe\"\ncolour = 1\n[[cases]]\n",
    );
    let (code, out, err) = mproxy(&["test", rules.to_str().unwrap(), cases.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (2, ""));
    for expected in [
        "r.toml:2: rules[0].effect: \"alow\" is none of allow, deny",
        "c.toml:2: cases[0].client: there is no [clients.ann]",
        "c.toml:1: cases[0]: a case has one of publish, subscribe, receive, will",
        "c.toml:5: cases[0].expect: \"maybe\" is none of allow, deny",
        "c.toml:6: cases[0].colour: unknown key",
        "c.toml:7: cases[1].client: is missing",
    ] {
        assert!(err.contains(expected), "{expected}\n{err}");
    }
    let nowhere = mproxy(&["test", "/nowhere/r.toml", "/nowhere/c.toml"]);
    assert!(nowhere.0 == 2 && nowhere.2.contains("/nowhere/r.toml") && nowhere.2.contains("/nowhere/c.toml"));
}

#[test]
fn one_client_is_explained() {
    let rules = deploy("tenants.toml");
    let rules = rules.to_str().unwrap();
    let device = ["--client-id", "d-1", "--username", "d-1", "--group", "device", "--claim", "tenant=acme"];
    let said = |what: &[&str]| mproxy(&[&["explain", rules], what, &device[..]].concat());
    let (code, out, err) = said(&["publish", "up/d-1/x", "--qos", "1"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("allowed with QoS 1 by the rule in line "), "{out}");
    assert_eq!(said(&["publish", "up/d-2/x"]).1, "refused with 0x87 by the default of its grant\n");
    assert_eq!(
        said(&["publish", "up/+/x"]).1,
        "refused with 0x87 by MQTT: not a topic, or not a topic filter\n"
    );
    let of_tenant = |tenant: &str| {
        let claim = format!("tenant={tenant}");
        let client = ["--username", "d-1", "--group", "device", "--claim", &claim];
        mproxy(&[&["explain", rules, "publish", "a"], &client[..]].concat())
    };
    let (code, out, _) = of_tenant("a/b");
    assert_eq!(code, 1);
    assert!(out.contains("the prefix of its grant"), "{out}");
    // As a running mproxy refuses it.
    let (code, out, _) = mproxy(&["explain", rules, "publish", "a", "--username", "d-1", "--claim", "x=y"]);
    assert_eq!((code, out.contains("token lacks claim tenant")), (1, true), "{out}");
    let operator = ["--uri", "spiffe://example.org/ops/night", "--listener", "mqtts"];
    let (code, out, _) = mproxy(&[&["explain", rules, "publish", "tenants/acme/x"], &operator[..]].concat());
    assert_eq!(code, 0, "a certificate may have no more than a URI: {out}");
    let (code, _, err) = mproxy(&["explain", rules, "publish", "a", "--group", "device"]);
    assert_eq!(code, 2);
    assert!(err.starts_with("mproxy: there is no such client: it has groups"), "{err}");
}
