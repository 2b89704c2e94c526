//! Conditions as a rule file writes them, in the Common Expression Language: read by the `cel` crate, and made into core's
//! typed expressions. Everything that can be wrong before a packet comes is said here.
//!
//! The parser recurses deeply for little text, so there are bounds on what it is given, and it runs on a stack that holds
//! what they allow. Who writes the file is trusted; who generates it may make mistakes.
//!
//! See docs/adr/0049.
//!
//! | room | holds |
//! |---|---|
//! | `names` | the values and functions that there are |
//! | `translate` | the parser's tree as an expression |
//! | `typed` | a part of it with its type, and as the type that its place needs |

use std::thread;

use cel::Env;
use mproxy_core::rule::condition::{Condition, ConditionReads, TooComplex};
use mproxy_core::rule::{Act, Actions};

use self::translate::Translator;

mod names;
mod translate;
mod typed;

#[cfg(test)]
mod tests;

/// Bytes of the longest condition.
const LONGEST: usize = 2048;

/// Brackets within brackets.
const NESTED: usize = 12;

/// What the parser may nest by other means than brackets, chains of `?:` for example.
const RECURSION: u16 = 32;

/// The parser takes some 90 KiB of stack for each pair of brackets.
const STACK: usize = 16 << 20;

/// Where a condition stands: not everything is known there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConditionPlace {
    /// In a rule about these.
    Rule(Actions),
    /// In a grant: it is evaluated when the client is let in.
    Grant,
}

/// What is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConditionError {
    /// Where, in bytes from its beginning.
    pub(super) at: usize,
    pub(super) what: String,
}

impl ConditionError {
    fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }

    /// Of the condition as a whole.
    fn whole(what: impl Into<String>) -> Self {
        Self::new(0, what)
    }
}

/// Compiles a condition.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn compile(text: &str, place: ConditionPlace) -> Result<Condition, ConditionError> {
    if text.len() > LONGEST {
        return Err(ConditionError::whole(format!(
            "it is longer than {LONGEST} bytes; make several rules of it"
        )));
    }
    check_nesting(text)?;
    // Beside the caller's stack, and what the parser makes of it is gone when the thread is.
    let condition = thread::scope(|scope| {
        let parser = thread::Builder::new().name("condition".to_owned()).stack_size(STACK);
        let parsing = parser.spawn_scoped(scope, || parse(text));
        parsing.map(|parsing| parsing.join())
    });
    let condition = match condition {
        Ok(Ok(parsed)) => parsed?,
        Ok(Err(_)) => return Err(ConditionError::whole("the parser gave up on it")),
        Err(error) => return Err(ConditionError::whole(format!("no thread to read it: {error}"))),
    };
    check_place(condition.reads(), place)?;
    Ok(condition)
}

fn parse(text: &str) -> Result<Condition, ConditionError> {
    // Without macros: `all`, `exists`, `map` and `filter` would be loops, whose cost nothing bounds.
    let parser = Env::default().with_optional_support(false).parser().max_recursion_depth(RECURSION);
    let (tree, source) = parser.parse_with_source_info(text).map_err(|errors| syntax(text, &errors))?;
    let expression = Translator::new(text, &source).condition(&tree)?;
    Condition::new(expression).map_err(|error: TooComplex| ConditionError::whole(error.to_string()))
}

/// The first of the parser's errors, in our words where it says them.
fn syntax(text: &str, errors: &cel::ParseErrors) -> ConditionError {
    let Some(first) = errors.errors.first() else { return ConditionError::whole("not an expression") };
    let (line, column) = (first.pos.0, first.pos.1);
    let before: usize =
        text.split_inclusive('\n').take(usize::try_from(line - 1).unwrap_or(0)).map(str::len).sum();
    let rest = text.get(before..).unwrap_or_default();
    let column = usize::try_from(column - 1).unwrap_or(0);
    let within = rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at);
    ConditionError::new(before + within, format!("not an expression: {}", first.msg))
}

/// Brackets within brackets, whatever stands between them. Those that close within quotes do not count, and those that open
/// there do: a quote that is misread makes the bound narrower and never wider.
fn check_nesting(text: &str) -> Result<(), ConditionError> {
    let (mut depth, mut quote, mut escaped) = (0_usize, None, false);
    for (at, sign) in text.char_indices() {
        match sign {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if quote.is_none() => depth = depth.saturating_sub(1),
            '"' | '\'' if escaped => {}
            '"' | '\'' if quote == Some(sign) => quote = None,
            '"' | '\'' if quote.is_none() => quote = Some(sign),
            _ => {}
        }
        escaped = sign == '\\' && !escaped;
        if depth > NESTED {
            let what = format!("brackets are nested more than {NESTED} deep; make several rules of it");
            return Err(ConditionError::new(at, what));
        }
    }
    Ok(())
}

/// Whether what it reads is known where it stands.
fn check_place(reads: ConditionReads, place: ConditionPlace) -> Result<(), ConditionError> {
    let of_message = [
        ("payload", ConditionReads::PAYLOAD),
        ("retain", ConditionReads::RETAIN),
        ("qos", ConditionReads::QOS),
        ("topic and levels", ConditionReads::TOPIC),
    ];
    let read = |known: usize| of_message.into_iter().take(known).find(|(_, kind)| reads.any_of(*kind));
    match place {
        ConditionPlace::Rule(actions) if actions.has(Act::Subscribe) => match read(2) {
            None => Ok(()),
            Some((name, _)) => Err(ConditionError::whole(format!(
                "a subscription has no {name}; name the rule's actions, without subscribe"
            ))),
        },
        ConditionPlace::Rule(_) => Ok(()),
        ConditionPlace::Grant => match read(of_message.len()) {
            None => Ok(()),
            Some((name, _)) => Err(ConditionError::whole(format!(
                "{name} cannot be read here, as a grant is chosen when its client connects; write it in grants.rules"
            ))),
        },
    }
}
