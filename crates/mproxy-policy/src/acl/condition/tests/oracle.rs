//! Random conditions and random messages, held against the interpreter of the `cel` crate.
//!
//! `PROPTEST_CASES` says how many conditions there are, and `MPROXY_SEED` where to begin.

use std::collections::HashMap;
use std::env;

use cel::{Context, Program, Value};
use mproxy_codec::types::{QoS, Version};
use mproxy_core::rule::condition::ConditionSubject;
use mproxy_core::rule::{Message, WallTime, Who};

use super::*;

/// Conditions where nobody says how many.
const CASES: u64 = 300;

/// Messages that each is held against.
const MESSAGES: usize = 6;

const TEXTS: [&str; 8] = ["a", "b", "", "ab", "7", "-3", "ä/b", "true"];

/// Numbers without a pattern, and the same ones for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn quoted(&mut self) -> String {
        format!("'{}'", self.of(&TEXTS))
    }

    fn flag(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self
                .of(&["true", "false", "retain", "claim.flag", "has(claim.t)", "has(claim.gone)"])
                .to_owned();
        }
        let below = depth - 1;
        match self.below(16) {
            0 | 1 => format!("{} && {}", self.inner(below), self.inner(below)),
            2 | 3 => format!("{} || {}", self.inner(below), self.inner(below)),
            4 => format!("!{}", self.inner(below)),
            5 => format!("({} ? {} : {})", self.inner(below), self.inner(below), self.inner(below)),
            6 => format!("{} == {}", self.inner(below), self.inner(below)),
            7 | 8 => format!("{} {} {}", self.number(below), self.relation(), self.number(below)),
            9 | 10 => format!("{} {} {}", self.text(below), self.relation(), self.text(below)),
            11 => {
                let test = self.of(&["startsWith", "endsWith", "contains"]);
                format!("{}.{test}({})", self.text(below), self.text(below))
            }
            12 => format!("{} in {}", self.text(below), self.list(below)),
            13 => format!("{} in [{}, {}]", self.number(below), self.number(below), self.number(below)),
            // Of two claims it is not known that they are lists.
            14 => format!(
                "{} {} {}",
                self.list(below),
                self.of(&["==", "!="]),
                self.of(&["levels", "['a']", "[]"])
            ),
            _ => format!("{} in {}", self.quoted(), self.of(&["claim", "client.attributes"])),
        }
    }

    /// In brackets: `!=` and `in` bind less than what they stand in.
    fn inner(&mut self, depth: usize) -> String {
        format!("({})", self.flag(depth))
    }

    fn relation(&mut self) -> &'static str {
        self.of(&["==", "!=", "<", "<=", ">", ">="])
    }

    fn number(&mut self, depth: usize) -> String {
        if depth == 0 {
            let all = [
                "0",
                "1",
                "-7",
                "3",
                "9223372036854775807",
                "qos",
                "size(payload)",
                "time.hour",
                "time.minute",
            ];
            return match self.below(3) {
                0 => "int(claim.n)".to_owned(),
                _ => self.of(&all).to_owned(),
            };
        }
        let below = depth - 1;
        match self.below(8) {
            0 => format!("({} ? {} : {})", self.inner(below), self.number(below), self.number(below)),
            1 | 2 => {
                let operator = self.of(&["+", "-", "*", "/", "%"]);
                format!("({} {operator} {})", self.number(below), self.number(below))
            }
            // Of a claim it is not known whether it is a list.
            3 => format!("size((true ? {} : ''))", self.text(below)),
            4 => format!("size({})", self.of(&["levels", "[]", "['a', topic]"])),
            5 => format!("int({})", self.text(below)),
            6 => format!("-({})", self.number(below)),
            _ => self.number(0),
        }
    }

    fn text(&mut self, depth: usize) -> String {
        let all =
            ["client.id", "client.username", "client.listener", "topic", "claim.t", "claim.gone", "claim.t"];
        if depth == 0 {
            return if self.below(2) == 0 { self.quoted() } else { self.of(&all).to_owned() };
        }
        let below = depth - 1;
        match self.below(4) {
            0 => format!("({} ? {} : {})", self.inner(below), self.text(below), self.text(below)),
            1 => format!("{}[{}]", self.list(below), self.number(below)),
            _ => self.text(0),
        }
    }

    fn list(&mut self, depth: usize) -> String {
        match self.below(4) {
            0 => "levels".to_owned(),
            1 => "claim.l".to_owned(),
            2 => format!("[{}]", self.quoted()),
            _ => format!("[{}, {}]", self.text(depth.saturating_sub(1)), self.text(0)),
        }
    }
}

/// A client and a message, for both.
struct Scene {
    client_id: &'static str,
    username: Option<&'static str>,
    claims: Vec<(String, String)>,
    topic: &'static str,
    qos: QoS,
    retain: bool,
    payload: u32,
    time: u64,
}

impl Scene {
    fn new(random: &mut Random) -> Self {
        let mut claims = vec![
            ("claim.t".to_owned(), random.of(&TEXTS).to_owned()),
            ("claim.n".to_owned(), random.of(&["0", "5", "-9223372036854775808", "x"]).to_owned()),
            ("claim.flag".to_owned(), random.of(&["true", "false"]).to_owned()),
            ("group".to_owned(), random.of(&TEXTS).to_owned()),
        ];
        claims.extend((0..=random.below(3)).map(|_| ("claim.l".to_owned(), random.of(&TEXTS).to_owned())));
        Self {
            client_id: random.of(&TEXTS),
            username: random.of(&[None, Some("a"), Some("7")]),
            claims,
            topic: random.of(&["a", "a/b", "/", "ä/b", "a/b/7", "b//"]),
            qos: random.of(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]),
            retain: random.below(2) == 0,
            payload: random.of(&[0, 1, 7, 1 << 20]),
            time: random.next() % (1 << 33),
        }
    }

    fn ours(&self, condition: &Condition) -> Result<bool, ()> {
        let who = Who {
            client_id: self.client_id,
            username: self.username,
            listener: Some("a"),
            version: Some(Version::V5),
            attributes: &self.claims,
            ..Who::NOBODY
        };
        let time = Some(WallTime::since_1970(Duration::from_secs(self.time)));
        let Self { topic, qos, retain, payload, .. } = *self;
        let message = Message { topic, qos, retain, payload: payload as usize, time };
        condition.holds(who, ConditionSubject::Message(message)).map_err(drop)
    }

    fn theirs(&self, program: &Program) -> Result<bool, ()> {
        let text = |text: &str| Value::from(text.to_owned());
        let claim = |name: &str| {
            let found = self.claims.iter().find(|(own, _)| own == name);
            text(&found.expect("all have it").1)
        };
        let list: Vec<Value> =
            self.claims.iter().filter(|(name, _)| name == "claim.l").map(|(_, value)| text(value)).collect();
        let flag = claim("claim.flag") == text("true");
        let claims: HashMap<String, Value> = [
            ("t", claim("claim.t")),
            ("n", claim("claim.n")),
            ("flag", Value::Bool(flag)),
            ("l", Value::from(list)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let attributes: HashMap<String, Value> = [("group".to_owned(), claim("group"))].into();
        let mut client: HashMap<String, Value> =
            [("id", text(self.client_id)), ("listener", text("a")), ("attributes", Value::from(attributes))]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
        client.extend(self.username.map(|name| ("username".to_owned(), text(name))));
        let clock = WallTime::since_1970(Duration::from_secs(self.time));
        let time: HashMap<String, Value> =
            [("hour", clock.hour()), ("minute", clock.minute()), ("second", clock.second())]
                .map(|(name, value)| (name.to_owned(), Value::Int(i64::from(value))))
                .into();
        let levels: Vec<Value> = self.topic.split('/').map(text).collect();
        let mut context = Context::default();
        for (name, value) in [
            ("client", Value::from(client)),
            ("claim", Value::from(claims)),
            ("time", Value::from(time)),
            ("topic", text(self.topic)),
            ("levels", Value::from(levels)),
            ("qos", Value::Int(self.qos as i64)),
            ("retain", Value::Bool(self.retain)),
            ("payload_size", Value::Int(i64::from(self.payload))),
        ] {
            context.add_variable_from_value(name, value);
        }
        match program.execute(&context) {
            Ok(Value::Bool(value)) => Ok(value),
            Ok(other) => panic!("it is {other:?}"),
            Err(_) => Err(()),
        }
    }
}

#[test]
fn conditions_come_to_what_the_interpreter_of_the_cel_crate_says() {
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
    let (cases, seed) = (number("PROPTEST_CASES").unwrap_or(CASES), number("MPROXY_SEED").unwrap_or(1));
    let (mut compared, mut valued, mut refused) = (0, 0, 0);
    for case in seed..seed + cases {
        let mut random = Random(case);
        let depth = 1 + random.below(4);
        let text = random.flag(depth);
        let of_messages = Actions::NONE.with(Act::Publish);
        let Ok(condition) = compile(&text, ConditionPlace::Rule(of_messages)) else {
            // Too deep or too large; what else there is is compared.
            refused += 1;
            continue;
        };
        let theirs = Program::compile(&text.replace("size(payload)", "payload_size"));
        let theirs = theirs.unwrap_or_else(|error| panic!("MPROXY_SEED={case}: {text}: {error}"));
        for _ in 0..MESSAGES {
            let scene = Scene::new(&mut random);
            let (own, other) = (scene.ours(&condition), scene.theirs(&theirs));
            assert_eq!(own, other, "MPROXY_SEED={case}: {text}");
            compared += 1;
            valued += usize::from(own.is_ok());
        }
    }
    println!("{compared} compared, {valued} of them with a value, {refused} conditions refused");
    assert!(compared > 0 && valued > compared / 4, "{valued} of {compared} have a value");
}
