//! The parser's tree as an expression: what there is, by name, and of which type.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, SelectExpr, SourceInfo, operators};
use mproxy_core::rule::condition::{Arithmetic, BoolExpr, IntExpr, Presence, Relation, TextExpr, TextTest};

use super::ConditionError;
use super::names::{self, NamedValue};
use super::typed::{Loose, Typed, TypedResult};

/// Of the text of one condition.
pub(super) struct Translator<'t> {
    text: &'t str,
    source: &'t SourceInfo,
}

type Translated<T> = Result<T, ConditionError>;

impl<'t> Translator<'t> {
    pub(super) const fn new(text: &'t str, source: &'t SourceInfo) -> Self {
        Self { text, source }
    }

    /// The whole of it.
    pub(super) fn condition(&self, tree: &IdedExpr) -> Translated<BoolExpr> {
        self.bool(tree)
    }

    fn bool(&self, of: &IdedExpr) -> Translated<BoolExpr> {
        self.within(of, self.typed(of)?.into_bool())
    }

    fn int(&self, of: &IdedExpr) -> Translated<IntExpr> {
        self.within(of, self.typed(of)?.into_int())
    }

    fn text(&self, of: &IdedExpr) -> Translated<TextExpr> {
        self.within(of, self.typed(of)?.into_text())
    }

    fn typed(&self, of: &IdedExpr) -> Translated<Typed> {
        match &of.expr {
            Expr::Literal(literal) => self.within(of, literal_value(literal)),
            Expr::List(list) => {
                let members = list.elements.iter().map(|member| self.typed(member));
                let members = members.collect::<Translated<Vec<_>>>()?;
                self.within(of, Typed::list(members))
            }
            Expr::Ident(_) | Expr::Select(_) => self.named(of),
            Expr::Call(call) => self.call(of, call),
            Expr::Map(_) | Expr::Struct(_) | Expr::Comprehension(_) | Expr::Unspecified => {
                Err(self.fault(of, "only texts, whole numbers, true, false and lists can be written here"))
            }
        }
    }

    fn named(&self, of: &IdedExpr) -> Translated<Typed> {
        let Some(parts) = name_parts(of) else {
            return Err(self.fault(of, "only client, claim and time have parts"));
        };
        match self.within(of, names::find(&parts))? {
            NamedValue::Value(value) => Ok(value),
            NamedValue::Table(_) => Err(self.fault(of, "say which: a name has to follow it")),
            NamedValue::Payload => Err(self.fault(of, "payloads are not held; size(payload) is known")),
        }
    }

    fn call(&self, of: &IdedExpr, call: &CallExpr) -> Translated<Typed> {
        let name = &*call.func_name;
        match (name, &call.target, &*call.args) {
            (operators::LOGICAL_AND, None, [_, _]) => {
                self.each(of, name).map(|all| BoolExpr::All(all.into())).map(Typed::Bool)
            }
            (operators::LOGICAL_OR, None, [_, _]) => {
                self.each(of, name).map(|all| BoolExpr::Any(all.into())).map(Typed::Bool)
            }
            (operators::LOGICAL_NOT, None, [one]) => Ok(Typed::Bool(BoolExpr::Not(self.bool(one)?.into()))),
            (operators::NEGATE, None, [one]) => Ok(Typed::Int(IntExpr::Negative(self.int(one)?.into()))),
            (operators::CONDITIONAL, None, [condition, yes, no]) => {
                let condition = self.bool(condition)?;
                let (yes, no) = (self.typed(yes)?, self.typed(no)?);
                self.within(of, yes.or(condition, no))
            }
            (operators::IN, None, [one, list]) => self.member_of(of, one, list).map(Typed::Bool),
            (operators::INDEX, None, [list, place]) => self.index(of, list, place),
            (_, None, [one, other]) if relation(name).is_some() => {
                let (one, other) = (self.typed(one)?, self.typed(other)?);
                let Some(relation) = relation(name) else {
                    return Err(self.fault(of, names::no_function(name)));
                };
                self.within(of, one.compare(relation, other)).map(Typed::Bool)
            }
            (_, None, [one, other]) if arithmetic(name).is_some() => self.arithmetic(of, name, one, other),
            ("size", None, [one]) => self.size(of, one),
            ("size", Some(one), []) => self.size(of, one),
            ("has", None, [one]) => self.has(one).map(Typed::Bool),
            ("int", None, [one]) => match self.typed(one)? {
                Typed::Text(text) => Ok(Typed::Int(IntExpr::Parsed(text.into()))),
                other => self.within(one, other.into_int()).map(Typed::Int),
            },
            ("bool", None, [one]) => match self.typed(one)? {
                Typed::Text(text) => Ok(Typed::Bool(BoolExpr::Parsed(text.into()))),
                other => self.within(one, other.into_bool()).map(Typed::Bool),
            },
            ("startsWith", Some(text), [part]) => self.test(TextTest::StartsWith, text, part),
            ("endsWith", Some(text), [part]) => self.test(TextTest::EndsWith, text, part),
            ("contains", Some(text), [part]) => self.test(TextTest::Contains, text, part),
            ("startsWith" | "endsWith" | "contains", ..) => {
                Err(self
                    .fault(of, format!("{name}() stands behind a text, and takes another one: a.{name}(b)")))
            }
            ("size" | "has" | "int" | "bool", ..) => Err(self.fault(of, format!("{name}() takes one value"))),
            _ => Err(self.fault(of, names::no_function(name))),
        }
    }

    /// The members of `a && b && c`, however they are put together.
    fn each(&self, of: &IdedExpr, operator: &str) -> Translated<Vec<BoolExpr>> {
        match &of.expr {
            Expr::Call(CallExpr { func_name, target: None, args }) if func_name == operator => {
                let mut all = Vec::new();
                for one in args {
                    all.extend(self.each(one, operator)?);
                }
                Ok(all)
            }
            _ => Ok(vec![self.bool(of)?]),
        }
    }

    fn member_of(&self, of: &IdedExpr, one: &IdedExpr, list: &IdedExpr) -> Translated<BoolExpr> {
        if let Some(parts) = name_parts(list)
            && let Ok(NamedValue::Table(prefix)) = names::find(&parts)
        {
            return match &one.expr {
                Expr::Literal(LiteralValue::String(name)) => {
                    let name = format!("{prefix}{}", name.inner());
                    Ok(BoolExpr::Has(Presence::Attribute(name.into())))
                }
                _ => Err(self.fault(one, "the name of a claim or an attribute has to be written out")),
            };
        }
        let (one, list) = (self.typed(one)?, self.typed(list)?);
        self.within(of, one.within(list))
    }

    /// `claim["name"]`, or a member of a list.
    fn index(&self, of: &IdedExpr, list: &IdedExpr, place: &IdedExpr) -> Translated<Typed> {
        if name_parts(of).is_some() {
            return self.named(of);
        }
        let (list, place) = (self.typed(list)?, self.typed(place)?);
        self.within(of, list.member(place))
    }

    fn arithmetic(&self, of: &IdedExpr, name: &str, one: &IdedExpr, other: &IdedExpr) -> Translated<Typed> {
        let Some(operator) = arithmetic(name) else { return Err(self.fault(of, names::no_function(name))) };
        let (left, right) = (self.typed(one)?, self.typed(other)?);
        if operator == Arithmetic::Add && matches!((&left, &right), (Typed::Text(_), _) | (_, Typed::Text(_)))
        {
            return Err(
                self.fault(of, "texts are not joined, as a decision allocates nothing; compare their parts")
            );
        }
        let both = (self.within(one, left.into_int())?, self.within(other, right.into_int())?);
        Ok(Typed::Int(IntExpr::Arithmetic(operator, Box::new(both))))
    }

    fn size(&self, of: &IdedExpr, one: &IdedExpr) -> Translated<Typed> {
        if let Some(parts) = name_parts(one)
            && let Ok(NamedValue::Payload) = names::find(&parts)
        {
            return Ok(Typed::Int(IntExpr::PayloadSize));
        }
        let size = self.typed(one)?.size();
        self.within(of, size).map(Typed::Int)
    }

    fn test(&self, test: TextTest, text: &IdedExpr, part: &IdedExpr) -> Translated<Typed> {
        let both = (self.text(text)?, self.text(part)?);
        Ok(Typed::Bool(BoolExpr::Test(test, Box::new(both))))
    }

    /// Whether the client has something; most things it always has.
    fn has(&self, of: &IdedExpr) -> Translated<BoolExpr> {
        let (Expr::Select(_), Some(parts)) = (&of.expr, name_parts(of)) else {
            return Err(self.fault(of, "has() takes a name with a dot in it, has(claim.tenant) for example"));
        };
        Ok(match self.within(of, names::find(&parts))? {
            NamedValue::Value(Typed::Loose(Loose::Attribute(name))) => {
                BoolExpr::Has(Presence::Attribute(name))
            }
            NamedValue::Value(Typed::Text(TextExpr::Username)) => BoolExpr::Has(Presence::Username),
            NamedValue::Value(Typed::Text(TextExpr::Address)) => BoolExpr::Has(Presence::Address),
            NamedValue::Value(_) => BoolExpr::Const(true),
            NamedValue::Table(_) | NamedValue::Payload => {
                return Err(self.fault(of, "say which: a name has to follow it"));
            }
        })
    }

    fn within<T>(&self, of: &IdedExpr, result: TypedResult<T>) -> Translated<T> {
        result.map_err(|what| self.fault(of, what))
    }

    /// The parser says of a call where its bracket is.
    fn fault(&self, of: &IdedExpr, what: impl Into<String>) -> ConditionError {
        let first = beginning(of);
        let place = self.source.offset_for(first.id).map_or(0, |(start, _)| start as usize);
        let name = match &first.expr {
            Expr::Call(CallExpr { func_name, .. }) if func_name.starts_with(char::is_alphabetic) => {
                func_name.len()
            }
            _ => 0,
        };
        ConditionError::new(self.text.floor_char_boundary(place.saturating_sub(name)), what)
    }
}

/// What stands leftmost in a name: the parser says of `a.b` where the dot is.
fn beginning(of: &IdedExpr) -> &IdedExpr {
    match &of.expr {
        Expr::Select(SelectExpr { operand, .. }) => beginning(operand),
        Expr::Call(CallExpr { func_name, target: None, args }) if func_name == operators::INDEX => {
            args.first().map_or(of, beginning)
        }
        _ => of,
    }
}

fn literal_value(literal: &LiteralValue) -> TypedResult<Typed> {
    Ok(match literal {
        LiteralValue::Boolean(value) => Typed::Bool(BoolExpr::Const(*value.inner())),
        LiteralValue::Int(value) => Typed::Int(IntExpr::Const(*value.inner())),
        LiteralValue::UInt(value) => match i64::try_from(*value.inner()) {
            Ok(number) => Typed::Unsigned(number),
            Err(_) => return Err("is too large a number".to_owned()),
        },
        LiteralValue::String(value) => Typed::Text(TextExpr::Const(value.inner().into())),
        LiteralValue::Double(_) => return Err("numbers are whole here".to_owned()),
        LiteralValue::Bytes(_) => return Err("a text is written without b before it".to_owned()),
        LiteralValue::Null => {
            return Err("nothing is null here; has() says whether something is there".to_owned());
        }
    })
}

/// The parts of a name with dots, or of `claim["name"]`.
fn name_parts(of: &IdedExpr) -> Option<Vec<&str>> {
    let (within, part) = match &of.expr {
        Expr::Ident(name) => return Some(vec![name]),
        Expr::Select(SelectExpr { operand, field, test: false }) => (&**operand, &**field),
        Expr::Call(CallExpr { func_name, target: None, args }) if func_name == operators::INDEX => {
            match &args[..] {
                [within, IdedExpr { expr: Expr::Literal(LiteralValue::String(part)), .. }] => {
                    (within, part.inner())
                }
                _ => return None,
            }
        }
        _ => return None,
    };
    let mut parts = name_parts(within)?;
    parts.push(part);
    Some(parts)
}

fn relation(operator: &str) -> Option<Relation> {
    Some(match operator {
        operators::EQUALS => Relation::Equal,
        operators::NOT_EQUALS => Relation::NotEqual,
        operators::LESS => Relation::Less,
        operators::LESS_EQUALS => Relation::LessOrEqual,
        operators::GREATER => Relation::Greater,
        operators::GREATER_EQUALS => Relation::GreaterOrEqual,
        _ => return None,
    })
}

fn arithmetic(operator: &str) -> Option<Arithmetic> {
    Some(match operator {
        operators::ADD => Arithmetic::Add,
        operators::SUBSTRACT => Arithmetic::Subtract,
        operators::MULTIPLY => Arithmetic::Multiply,
        operators::DIVIDE => Arithmetic::Divide,
        operators::MODULO => Arithmetic::Remainder,
        _ => return None,
    })
}
