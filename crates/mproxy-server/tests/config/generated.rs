//! What is written from the table of settings: the tables of `docs/configuration.md`, `deploy/mproxy.example.toml` and
//! `deploy/mproxy.schema.json`. `MPROXY_WRITE_DOCS=1` writes them, else a test fails where they are old.

use std::path::{Path, PathBuf};

use mproxy_server::config::settings::{
    self, Applies, Example, Form, Needs, Reload, SECTIONS, Section, SettingRow, find,
};
use serde_json::{Map, Value, json};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_default()
}

/// Writes the file if that was asked for, and holds it against what it should be.
#[track_caller]
fn is_current(name: &str, wanted: &str, is_same: impl Fn(&str) -> bool) {
    if std::env::var_os("MPROXY_WRITE_DOCS").is_some() {
        std::fs::write(path(name), wanted).unwrap();
    }
    assert!(
        is_same(&read(name)),
        "{name} is old: MPROXY_WRITE_DOCS=1 cargo test -p mproxy-server --test config generated"
    );
}

/// The text with what stands between these two lines replaced.
#[track_caller]
fn filled(text: &str, open: &str, close: &str, content: &str) -> String {
    let begin = text.find(open).unwrap_or_else(|| panic!("no line {open}")) + open.len();
    let end = begin + text[begin..].find(close).unwrap_or_else(|| panic!("no line {close} after {open}"));
    format!("{}\n{content}{}", &text[..begin], &text[end..])
}

// ---- documentation

#[test]
fn tables_of_the_documentation_are_current() {
    const NAME: &str = "docs/configuration.md";
    let mut page = read(NAME);
    for section in SECTIONS {
        let table = if section.name == "listener" { listener_table() } else { table(section) };
        page = filled(&page, &format!("<!-- settings: {} -->", section.name), "<!-- end -->", &table);
    }
    is_current(NAME, &page, |found| found == page);
}

fn table(section: &Section) -> String {
    let rows = || section.rows.iter().filter(|row| row.applies() != Applies::OneListener);
    let flags = rows().any(|row| row.flag.is_some());
    let flag = |text: &str| if flags { format!(" {text} |") } else { String::new() };
    let mut table = format!("| Variable | In the file |{} Type | Meaning | Default |\n", flag("Flag"));
    table += &format!("|---|---|{}---|---|---|\n", if flags { "---|" } else { "" });
    for row in rows() {
        let code = |text: Option<String>| text.map(|text| format!("`{text}`")).unwrap_or_default();
        table += &format!(
            "| {} | `{}` |{} {} | {} | {} |\n",
            code(row.variable.map(str::to_owned)),
            row.key,
            flag(&code(row.flag.map(|flag| format!("--{flag}")))),
            kind(row),
            meaning(row),
            default(row),
        );
    }
    table
}

/// Everything that one of `[[listeners]]` takes.
fn listener_table() -> String {
    let mut table = "| Key | Type | Only with | Meaning | If left out |\n|---|---|---|---|---|\n".to_owned();
    for key in settings::listener_keys() {
        let row = find(&format!("listeners[0].{key}")).expect("a row");
        let (meaning, left_out) = match row.applies() {
            Applies::OneListener => (meaning(row), default(row)),
            // Said above.
            Applies::Listeners | Applies::Process => {
                (row.paragraphs().next().unwrap_or_default(), format!("`{}`", row.key))
            }
        };
        table += &format!("| `{key}` | {} | {} | {meaning} | {left_out} |\n", kind(row), needs(row.needs));
    }
    table
}

const fn needs(needs: Needs) -> &'static str {
    match needs {
        Needs::Nothing => "",
        Needs::WebSocket => "`ws`, `wss`",
        Needs::Tls => "`mqtts`, `wss`",
        Needs::Unix => "`unix`",
        Needs::TargetWebSocket => "a target of `ws`, `wss`",
        Needs::TargetTls => "a target of `mqtts`, `wss`",
    }
}

fn kind(row: &SettingRow) -> String {
    match row.form {
        Form::Text(of) => of.to_owned(),
        Form::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Form::Boolean { or: None } => "`true`, `false`".to_owned(),
        Form::Boolean { or: Some(word) } => format!("`true`, `false`, `{word}`"),
        Form::Number { of, or: None, .. } => of.to_owned(),
        Form::Number { of, or: Some(word), .. } => format!("{of}, `{word}`"),
        Form::Duration => "duration".to_owned(),
        Form::Size { .. } => "size".to_owned(),
        Form::Seconds { .. } => "seconds".to_owned(),
        Form::List(of) => format!("list: {of}"),
    }
}

fn meaning(row: &SettingRow) -> String {
    let own = row.at_listener.filter(|_| row.applies() == Applies::Listeners);
    let own = own.map(|key| format!("Per listener: `{key}`."));
    row.paragraphs().chain(own).chain(on_reload(row)).collect::<Vec<_>>().join(" ")
}

/// What a reload does about it; nothing where it waits for the next start.
fn on_reload(row: &SettingRow) -> Option<String> {
    let text = match row.reload {
        Reload::Restart => return None,
        Reload::Contents => "Reload: the file is read again.",
        Reload::Value => "Reload: at once.",
        Reload::NewConnections => "Reload: for new connections.",
    };
    Some(text.to_owned())
}

fn default(row: &SettingRow) -> String {
    match (row.left_out, row.default) {
        (Some(text), _) => text.to_owned(),
        (None, Some(text)) => format!("`{}`", text.replace(',', ", ")),
        (None, None) => "none".to_owned(),
    }
}

/// Variables of builds and tests, a typing error that the documentation shows, one that Kubernetes sets, and those of another
/// program from which somebody may come.
const NOT_SETTINGS: [&str; 8] = [
    "MPROXY_COMMIT",
    "MPROXY_WRITE_DOCS",
    "MPROXY_VECTORS",
    "MPROXY_MQTT_TARGT_HOST",
    "MPROXY_PORT",
    "MPROXY_HTTP_HOST",
    "MPROXY_HTTP_PORT",
    "MPROXY_HTTP_TARGET_SCHEMA",
];

#[test]
fn every_variable_in_the_documentation_is_a_setting() {
    let mut names = vec!["README.md".to_owned(), "docker-compose.yml".to_owned()];
    for entry in std::fs::read_dir(path("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        names.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    let known = |name: &str| {
        let mut variables = settings::all().filter_map(|row| row.variable).chain([settings::CONFIG_VARIABLE]);
        NOT_SETTINGS.contains(&name) || variables.any(|variable| variable == name)
    };
    for file in names {
        let text = read(&file);
        let is_word = |c: char| c.is_ascii_uppercase() || c == '_';
        for (at, _) in text.match_indices("MPROXY_") {
            let name = text[at..].split(|c| !is_word(c)).next().unwrap_or_default();
            assert!(known(name), "{file}: {name}");
        }
    }
}

// ---- example

#[test]
fn settings_of_the_example_file_are_current() {
    const NAME: &str = "deploy/mproxy.example.toml";
    let text = filled(&read(NAME), "# <settings>", "# <end>", &all_settings());
    let text = filled(&text, "# <listener>", "# <end>", &all_of_a_listener());
    is_current(NAME, &text, |found| found == text);
}

fn all_settings() -> String {
    let mut text = String::new();
    let mut last = "";
    for key in settings::keys() {
        let row = find(key).expect("a row");
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        if section != last {
            text += &match section.strip_suffix("[]") {
                Some(list) => format!("\n#[[{list}]]\n"),
                None => format!("\n[{section}]\n"),
            };
            last = section;
        }
        let in_force = if matches!(row.example, Some(Example::InForce(_))) { "" } else { "#" };
        text += &format!("# {}\n{in_force}{name} = {}\n", comment(row), example(row));
    }
    text
}

fn all_of_a_listener() -> String {
    let (lists, keys): (Vec<_>, Vec<_>) =
        settings::listener_keys().into_iter().partition(|key| key.contains("[]"));
    let row = |key: &str| find(&format!("listeners[0].{key}")).expect("a row");
    let line = |name: &str, row: &SettingRow| {
        format!("{:<60} # {}\n", format!("#{name} = {}", example(row)), row.about())
    };
    let mut text = "#[[listeners]]\n".to_owned();
    for key in keys {
        text += &line(key, row(key));
    }
    let mut last = "";
    for key in lists {
        let (list, name) = key.split_once("[].").expect("a list");
        if list != last {
            text += &format!("#[[listeners.{list}]]\n");
            last = list;
        }
        text += &line(name, row(key));
    }
    text
}

fn comment(row: &SettingRow) -> String {
    let choices = row.choices().join(", ");
    let choices = if choices.is_empty() { String::new() } else { format!(": {choices}") };
    let default = row.default_shown().map_or_else(String::new, |default| format!(" (default: {default})"));
    format!("{}{choices}{default}", row.about())
}

/// As TOML: what the row shows, or its default.
fn example(row: &SettingRow) -> String {
    match (row.example, row.default) {
        (Some(Example::InForce(toml) | Example::Commented(toml)), _) => toml.to_owned(),
        (None, Some(text)) => literal(row, text),
        (None, None) => panic!("{} has neither an example nor a default", row.key),
    }
}

fn literal(row: &SettingRow, text: &str) -> String {
    match row.form {
        Form::List(_) => {
            let members: Vec<_> = text.split(',').map(|member| format!("{member:?}")).collect();
            format!("[{}]", members.join(", "))
        }
        Form::Boolean { or } if or != Some(text) => text.to_owned(),
        // What begins with a 0 is no number of TOML.
        _ if text.parse::<u64>().is_ok_and(|number| number.to_string() == text) => text.to_owned(),
        _ => format!("{text:?}"),
    }
}

#[test]
fn every_example_can_be_read() {
    for row in settings::all() {
        let example = example(row);
        let table: toml::Table = format!("value = {example}").parse().unwrap();
        let text = match &table["value"] {
            toml::Value::Array(members) => {
                members.iter().map(|member| member.as_str().unwrap()).collect::<Vec<_>>().join(",")
            }
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        assert_eq!((row.check)(&text), Ok(()), "{} = {example}", row.key);
        assert!(accepts(&leaf(row), &json_of(&table["value"])), "{} = {example}", row.key);
    }
}

#[test]
fn every_row_says_what_it_is() {
    for row in settings::all() {
        assert!(!row.about().is_empty(), "{}", row.key);
        assert!(!row.about().contains("]("), "{}: no links in --help", row.key);
        assert!(row.text.trim().ends_with('.'), "{}", row.key);
    }
}

/// How the code gets at the rows of each structure of the table.
const READ_AS: [(&str, &str); 12] = [
    ("General", "general."),
    ("ProtectionSettings", "settings."),
    ("ListenerLimits", "limits."),
    ("Web", "Web {"),
    ("Questions", "questions."),
    ("Events", "events."),
    ("AdminSettings", "admin."),
    ("AdminClientSettings", "client."),
    ("ShadowSettings", "shadow."),
    ("Log", "log."),
    ("DecisionLogSettings", "decision_log."),
    ("Otel", "otel."),
];

#[test]
fn every_row_is_read() {
    let table = read("crates/mproxy-server/src/config/settings/table.rs");
    let code = code(&path("crates/mproxy-server/src"));
    let mut unread = Vec::new();
    for row in settings::all() {
        // The constructor of the row is where its key stands first.
        let (before, _) = table.split_once(&format!("({:?})", row.key)).expect("the key stands in the table");
        let name = before.rsplit_once('\n').unwrap().1.split(':').next().unwrap().trim();
        let is_constant = name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        let section = || before.rsplit_once("pub struct ").unwrap().1.split(' ').next().unwrap();
        let word = |text: &str| code.split(text).skip(1).any(|after| !after.starts_with(is_of_a_name));
        let is_read = if is_constant {
            // Files of TLS are read by the names that their keys end with.
            let end = row.key.rsplit('.').next().unwrap();
            word(&format!("table::{name}"))
                || (row.reload == Reload::Contents && code.contains(&format!("{end}\"")))
        } else {
            let (_, read_as) = READ_AS.iter().find(|(known, _)| *known == section()).expect("a structure");
            match read_as.strip_suffix(" {") {
                Some(_) => {
                    code.split(read_as).skip(1).any(|fields| fields.split('}').next().unwrap().contains(name))
                }
                None => word(&format!("{read_as}{name}")),
            }
        };
        unread.extend((!is_read).then_some(row.key));
    }
    assert_eq!(unread, Vec::<&str>::new(), "rows that no code reads");
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// All code there but for the table of settings itself.
fn code(folder: &Path) -> String {
    let mut code = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            code += &self::code(&path);
        } else if !path.ends_with("settings/table.rs") {
            code += &std::fs::read_to_string(path).unwrap();
        }
    }
    code
}

// ---- schema

#[test]
fn the_schema_is_current() {
    let schema = schema();
    let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
    // Other crates of a build may have serde_json keep the order of keys.
    is_current("deploy/mproxy.schema.json", &text, |found| {
        serde_json::from_str::<Value>(found).is_ok_and(|found| found == schema)
    });
}

#[test]
fn the_schema_takes_the_example_and_no_unknown_key() {
    let schema = schema();
    let json = |toml: &str| json_of(&toml::Value::Table(toml.parse().unwrap()));
    assert!(accepts(&schema, &json(&read("deploy/mproxy.example.toml"))));
    assert!(
        accepts(&schema, &json("client_tls = \"optional\"\n"))
            && accepts(&schema, &json("client_tls = true\n"))
    );
    assert!(accepts(&schema, &json("policy.on_error = \"deny\"\nmqtt.port = \"off\"\n")));
    assert!(accepts(&schema, &json(crate::listeners::NAMED)));
    assert!(accepts(&schema, &json("[[listeners]]\ntransport = \"unix\"\nunix.path = \"/run/mqtt.sock\"\n")));
    for wrong in [
        "mqtt.prot = 1",
        "mqtt.port = -1",
        "log.level = \"loud\"",
        "[[listeners]]\nname = \"a\"\n",
        "[[listeners]]\ntransport = \"unix\"\nport = 1\n",
        "[[listeners]]\ntransport = \"unix\"\nunix.mode = \"0660\"\n",
        "[[listeners]]\ntransport = \"ws\"\nunix.path = \"/run/mqtt.sock\"\n",
        "[[listeners]]\nport = 1\nlimits.max_conections = 1\n",
        "policy.on_error = \"maybe\"",
        "policy.on_error.conect = \"deny\"",
        "client_tls = 3",
        "client_tls = \"maybe\"",
        "decision_log.allowed_one_in = \"optional\"",
    ] {
        assert!(!accepts(&schema, &json(wrong)), "{wrong}");
    }
}

fn schema() -> Value {
    let row = |root: &str, key: &str| find(&format!("{root}{key}")).expect("a row");
    let keys = settings::listener_keys();
    let mut listener = object(&keys.iter().map(|key| (*key, row("listeners[0].", key))).collect::<Vec<_>>());
    // As `listed` in `config/listeners.rs` asks: which of the two depends on the transport.
    let (at_path, at_port): (Vec<_>, Vec<_>) = row("listeners[0].", "transport")
        .choices()
        .iter()
        .copied()
        .partition(|transport| *transport == "unix");
    listener["anyOf"] = json!([
        { "properties": { "transport": { "enum": at_port } }, "required": ["port"] },
        {
            "properties": { "transport": { "enum": at_path }, "unix": { "required": ["path"] } },
            "required": ["transport", "unix"],
        },
    ]);
    let keys = settings::keys();
    let mut schema = object(&keys.iter().map(|key| (*key, row("", key))).collect::<Vec<_>>());
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("mproxy");
    schema["description"] = json!("The configuration file of mproxy. Written from its table of settings.");
    schema["properties"]["listeners"] = json!({
        "type": "array",
        "items": listener,
        "description": "Any number of listeners. Where there are some, only these open.",
    });
    schema
}

/// A table with these keys.
fn object(rows: &[(&str, &SettingRow)]) -> Value {
    let mut properties = Map::new();
    for (key, _) in rows {
        let name = key.split('.').next().unwrap_or(key);
        let inner: Vec<_> = rows
            .iter()
            .filter_map(|(key, row)| Some((key.strip_prefix(name)?.strip_prefix('.')?, *row)))
            .collect();
        let own = rows.iter().find(|(key, _)| *key == name).map(|(_, row)| leaf(row));
        let value = match (own, inner.is_empty()) {
            (Some(own), true) => own,
            (Some(own), false) => json!({ "anyOf": [own, object(&inner)] }),
            (None, _) if name.ends_with("[]") => json!({ "type": "array", "items": object(&inner) }),
            (None, _) => object(&inner),
        };
        properties.insert(name.trim_end_matches("[]").to_owned(), value);
    }
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn leaf(row: &SettingRow) -> Value {
    const DURATION: &str = "^([0-9]+(ms|s|m|h))+$";
    let number = |least: u64, most: u64| json!({ "type": "integer", "minimum": least, "maximum": most });
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let any = |one: Value, other: Value| json!({ "anyOf": [one, other] });
    let mut leaf = match row.form {
        Form::Text(_) => json!({ "type": "string" }),
        Form::Choice(words) => json!({ "enum": words }),
        Form::Boolean { or: None } => json!({ "type": "boolean" }),
        Form::Boolean { or: Some(word) } => json!({ "enum": [true, false, word] }),
        Form::Number { least, most, or: None, .. } => number(least, most),
        Form::Number { least, most, or: Some(word), .. } => {
            any(number(least, most), json!({ "enum": [word] }))
        }
        Form::Duration => text(DURATION),
        Form::Size { least, most } => any(number(least, most), text("^[0-9]+ *(B|KiB|MiB|GiB)?$")),
        Form::Seconds { least, most } => any(number(least, most), text(DURATION)),
        Form::List(_) => {
            any(json!({ "type": "array", "items": { "type": "string" } }), json!({ "type": "string" }))
        }
    };
    let meaning = row.paragraphs().map(|paragraph| without_links(&paragraph)).collect::<Vec<_>>();
    let left_out = row.left_out.map(|text| format!("If left out: {text}."));
    leaf["description"] =
        json!(meaning.into_iter().chain(on_reload(row)).chain(left_out).collect::<Vec<_>>().join("\n\n"));
    if let (Some(default), None) = (row.default, row.left_out) {
        let table: toml::Table = format!("value = {}", literal(row, default)).parse().unwrap();
        leaf["default"] = json_of(&table["value"]);
    }
    leaf
}

/// Links as the text that they have: where an editor shows them, they lead nowhere.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        plain += before;
        match link.split_once("](").and_then(|(name, rest)| Some((name, rest.split_once(')')?.1))) {
            Some((name, after)) => (plain, rest) = (plain + name, after),
            None => (plain, rest) = (plain + "[", link),
        }
    }
    plain + rest
}

fn json_of(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => json!(text),
        toml::Value::Integer(number) => json!(number),
        toml::Value::Float(number) => json!(number),
        toml::Value::Boolean(value) => json!(value),
        toml::Value::Datetime(time) => json!(time.to_string()),
        toml::Value::Array(members) => members.iter().map(json_of).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.iter().map(|(key, value)| (key.clone(), json_of(value))).collect())
        }
    }
}

/// As much of JSON schema as ours uses; patterns are for editors.
fn accepts(schema: &Value, value: &Value) -> bool {
    let is_type = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64(),
        Some(other) => panic!("{other}"),
        None => true,
    };
    let is_any = |schemas: &Vec<Value>| schemas.iter().any(|schema| accepts(schema, value));
    let is_closed = schema["additionalProperties"] == json!(false);
    let is_key = |(key, value): (&String, &Value)| {
        schema["properties"].get(key).map_or(!is_closed, |schema| accepts(schema, value))
    };
    let within = |number: i64| {
        schema["minimum"].as_i64().is_none_or(|least| least <= number)
            && schema["maximum"].as_i64().is_none_or(|most| number <= most)
    };
    is_type
        && schema["enum"].as_array().is_none_or(|words| words.contains(value))
        && schema["anyOf"].as_array().is_none_or(is_any)
        && value.as_i64().is_none_or(within)
        && value.as_object().is_none_or(|table| !schema["properties"].is_object() || table.iter().all(is_key))
        && schema["required"]
            .as_array()
            .is_none_or(|keys| keys.iter().all(|key| !value[key.as_str().unwrap()].is_null()))
        && value.as_array().is_none_or(|members| {
            schema.get("items").is_none_or(|items| members.iter().all(|member| accepts(items, member)))
        })
}
