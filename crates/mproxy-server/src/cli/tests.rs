use std::path::Path;
use std::time::Duration;

use super::password::{first_line, hash};
use super::*;
use crate::config::{self, Loaded};

fn read(line: &str) -> Result<Cli, clap::Error> {
    Cli::read_from(line.split_whitespace().map(OsString::from))
}

fn parse(line: &str) -> Cli {
    read(line).expect("a command line")
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::grammar().debug_assert();
}

#[test]
fn help_of_a_command_shows_what_it_follows_and_it_takes_nothing_else() {
    let help = |command: &str| read(&format!("mproxy {command} --help")).expect_err("help").to_string();
    let rows = |of_commands| settings::all().filter(move |row| is_of_commands(row) == of_commands);
    for flag in rows(true).filter_map(|row| row.flag) {
        let flag = format!("--{flag}");
        assert!(help("sessions").contains(&flag) && !help("run").contains(&flag), "{flag}");
        assert!(read(&format!("mproxy run {flag} 1")).is_err(), "{flag}");
        let given = parse(&format!("mproxy sessions {flag} 1"));
        assert!(matches!(&given.flags().values[..], [(_, one)] if one == "1"), "{flag}");
    }
    let flags = || rows(false).filter_map(|row| Some((row.key, row.flag?)));
    for (key, flag) in flags() {
        let flag = format!("--{flag}");
        assert!(help("run").contains(&flag) && help("check").contains(&flag), "{flag}");
        assert_eq!(help("demo").contains(&flag), OF_DEMO.contains(&key), "{flag}");
        assert!(!help("hash-password").contains(&flag), "{flag}");
        let given = |command: &str| read(&format!("mproxy {command} {flag} 1")).map(|cli| cli.task());
        assert_eq!(given("demo").is_ok(), OF_DEMO.contains(&key), "{flag}");
        assert!(given("hash-password").is_err(), "{flag}");
        assert!(read(&format!("mproxy {flag} 1 hash-password")).is_err(), "{flag}");
    }
    assert!(!help("hash-password").contains("--config"));
    assert!(read("mproxy hash-password --config x").is_err());
    assert!(OF_DEMO.iter().all(|key| flags().any(|(known, _)| known == *key)));
}

#[test]
fn a_deadline_is_at_most_a_minute() {
    let timeout = timeout_argument;
    assert_eq!(timeout("1m"), Ok(Duration::from_secs(60)));
    assert!(timeout("61s").is_err() && timeout("0s").is_err() && timeout("x").is_err());
}

#[test]
fn without_a_command_it_runs() {
    assert_eq!(parse("mproxy").task(), Command::Run);
    assert_eq!(parse("mproxy run").task(), Command::Run);
    assert_eq!(parse("mproxy hash-password").task(), Command::HashPassword);
}

#[test]
fn flags_stand_before_or_after_the_command() {
    for line in [
        "mproxy check --config a.toml --mqtt-port 1",
        "mproxy --config a.toml --mqtt-port 1 check",
        "mproxy --config a.toml check --mqtt-port 1",
    ] {
        let cli = parse(line);
        assert_eq!(cli.task(), Command::Check);
        assert_eq!(cli.flags().config, Some("a.toml".into()));
        assert_eq!(cli.flags().values, [("mqtt.port", "1".to_owned())]);
    }
}

#[test]
fn help_names_every_variable() {
    let help = Cli::command().render_long_help().to_string();
    for variable in settings::all().filter_map(|row| row.variable) {
        assert!(help.contains(variable), "{variable}");
    }
    assert!(help.contains("MPROXY_CONFIG"));
}

fn checked(env: &[(&str, &str)], more: &[&str]) -> (ExitCode, String, String) {
    let env: Vec<_> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let loaded = config::load(&Flags::default(), env, |_| Err(io::ErrorKind::NotFound.into()));
    let more = |_: &Loaded| more.iter().map(|fault| (*fault).to_owned()).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = check(loaded, more, &mut out, &mut err).expect("a Vec takes everything");
    (code, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

#[test]
fn check_ends_with_two_where_there_is_a_fault() {
    let code = |code: ExitCode| format!("{code:?}");
    let two = code(ExitCode::from(2));
    let (good, page, warnings) = checked(&[], &[]);
    assert_eq!(code(good), code(ExitCode::SUCCESS));
    assert!(page.contains("[mqtt]") && warnings.contains("everything is allowed"));
    let (bad, page, faults) = checked(&[("MPROXY_MQTT_PORT", "x")], &[]);
    assert_eq!((code(bad), page.as_str()), (two, ""));
    assert!(faults.contains("environment variable MPROXY_MQTT_PORT"), "{faults}");
}

#[test]
fn check_shows_errors_in_files_alone_and_counts_them() {
    let (bad, page, faults) = checked(&[], &["acl.toml:3: no such effect", "acl.toml:9: is missing"]);
    assert_eq!(format!("{bad:?}"), format!("{:?}", ExitCode::from(2)));
    assert_eq!(page, "");
    let lines: Vec<_> = faults.lines().collect();
    assert_eq!(lines[..2], ["mproxy: acl.toml:3: no such effect", "mproxy: acl.toml:9: is missing"]);
    assert_eq!(lines[2..], ["mproxy: 2 errors in files that the configuration names, no port was opened"]);
}

#[test]
fn a_decision_log_that_cannot_be_written_is_an_error_with_where_it_was_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let faults = |path: &Path| {
        let env = [("MPROXY_DECISION_LOG".into(), path.into())];
        let loaded = config::load(&Flags::default(), env, |_| Err(io::ErrorKind::NotFound.into()));
        file_faults(&loaded.expect("a configuration"))
    };
    let path = folder.path().join("missing/d.jsonl");
    let [fault] = &faults(&path)[..] else { panic!("one") };
    assert!(fault.starts_with("environment variable MPROXY_DECISION_LOG: "), "{fault}");
    assert!(
        fault.contains("the decision log cannot be written there") && fault.contains("No such file"),
        "{fault}"
    );
    assert!(fault.contains(&*path.to_string_lossy()), "{fault}");
    assert_eq!(faults(folder.path()).len(), 1, "a folder");
    let path = folder.path().join("d.jsonl");
    assert!(faults(&path).is_empty() && !path.exists(), "looking at it makes no file");
}

#[test]
fn no_password_has_no_hash() {
    assert!(hash("").is_err());
    assert!(hash("secret").expect("a hash").starts_with("$argon2id$"));
}

#[test]
fn a_line_is_a_password_without_its_end() {
    assert_eq!(first_line(&b"secret\r\nmore"[..]).expect("read"), "secret");
    assert_eq!(first_line(&b"no end"[..]).expect("read"), "no end");
    assert_eq!(first_line(&b"\n"[..]).expect("read"), "");
}

/// All commands but those whose flags are the settings.
fn reference() -> String {
    // Lines as they are: whether clap wraps them depends on what else is built with it.
    let mut grammar = Cli::grammar().term_width(0);
    grammar.build();
    let mut text = String::new();
    let shown = |command: &&mut clap::Command| !["run", "check", "help"].contains(&command.get_name());
    for command in grammar.get_subcommands_mut().filter(shown) {
        let help = command.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        text += &format!(
            "\n```text\n$ mproxy help {}\n{}\n```\n",
            command.get_name(),
            lines.join("\n").trim_end()
        );
    }
    text
}

#[test]
fn the_page_of_the_commands_has_all_flags() {
    const MARK: &str = "cargo test -p mproxy-server --lib cli -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
    let page = std::fs::read_to_string(path).expect("docs/cli.md");
    let (written, flags) = page.split_once(MARK).expect("the mark before all flags");
    if std::env::var_os("MPROXY_WRITE_DOCS").is_some() {
        std::fs::write(path, format!("{written}{MARK}{}", reference())).expect("docs/cli.md is written");
        return;
    }
    assert!(flags == reference(), "run MPROXY_WRITE_DOCS=1 cargo test -p mproxy-server --lib cli");
    for name in AdminCommand::names() {
        assert!(written.contains(&format!("`mproxy {name}")), "docs/cli.md does not tell of mproxy {name}");
    }
}

fn script(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    write_completions(&CompletionsCommand::of(shell), &mut script).expect("a Vec takes everything");
    String::from_utf8(script).expect("text")
}

#[test]
fn completions_know_the_words_of_flags_and_offer_no_flag_without_effect() {
    use clap_complete::Shell;
    for words in [words::ORDERS.join(" "), words::STATES.join(" "), words::SIDES.join(" ")] {
        assert!(script(Shell::Bash).contains(&words) && script(Shell::Zsh).contains(&words), "{words}");
    }
    for shell in [Shell::Bash, Shell::Zsh] {
        assert!(script(shell).contains("error warn info debug trace"), "{shell}");
    }
    let fish = script(Shell::Fish);
    let of = |command: &str| {
        // One of them may have several lines.
        let entries = fish.split("complete -c mproxy ");
        let own = format!("using_subcommand {command}\"");
        entries.filter(|entry| entry.contains(&own)).collect::<String>()
    };
    assert!(of("completions").contains("-a \"bash elvish fish powershell zsh\""), "{}", of("completions"));
    assert!(of("sessions").contains("connected_since") && of("sessions").contains("-l admin-port"));
    assert!(of("run").contains("-l log-level") && of("run").contains("trace"), "{}", of("run"));
    for (command, flag) in
        [("sessions", "log-level"), ("sessions", "log-format"), ("demo", "acl-file"), ("man", "config")]
    {
        assert!(!of(command).contains(&format!("-l {flag} ")), "{command} {flag}");
    }
}

#[test]
fn completions_and_pages_know_every_command() {
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
        let mut script = Vec::new();
        let command = CompletionsCommand::of(shell);
        write_completions(&command, &mut script).expect("a Vec takes everything");
        let script = String::from_utf8(script).expect("text");
        for name in AdminCommand::names() {
            assert!(script.contains(&name), "{shell}: {name}");
        }
        assert!(script.contains("--admin-port") || script.contains("admin-port"), "{shell}");
    }
    let mut page = Vec::new();
    write_man(&ManCommand::default(), &mut page).expect("a Vec takes everything");
    let page = String::from_utf8(page).expect("text");
    assert!(page.contains(".TH mproxy 1") && page.contains("mproxy\\-sessions(1)"), "{page}");
}

#[test]
fn a_kick_says_whom_and_of_everybody_only_on_purpose() {
    for wrong in [
        "mproxy kick",
        "mproxy kick --yes",
        "mproxy kick id --username ann",
        "mproxy kick --all --username ann",
        "mproxy kick id --all",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    for right in [
        "mproxy kick id",
        "mproxy kick --username ann --listener mqtt",
        "mproxy kick --all --reason 0x8B --text bye",
        "mproxy kick --address 10.0.0.0/8 --attribute k=v",
    ] {
        assert!(read(right).is_ok(), "{right}");
    }
}
