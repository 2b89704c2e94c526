//! A part of a condition with its type, and as the type that its place needs.

use mproxy_core::rule::WEEKDAYS;
use mproxy_core::rule::condition::{BoolExpr, IntExpr, Relation, TextExpr, TextList};

/// A part of a condition, and its type.
#[derive(Clone, Debug)]
pub(super) enum Typed {
    Bool(BoolExpr),
    Int(IntExpr),
    /// A number that is written as an unsigned one.
    Unsigned(i64),
    Text(TextExpr),
    Texts(TextList),
    Ints(Vec<IntExpr>),
    /// What is of the type that its place needs.
    Loose(Loose),
}

/// Claims and attributes are kept as texts; what they are is what is asked of them.
#[derive(Clone, Debug)]
pub(super) enum Loose {
    /// All values of a claim or an attribute.
    Attribute(Box<str>),
    /// One of them.
    Member(TextExpr),
    /// `[]`
    NoMembers,
    /// One of two of these.
    Choice(Box<(BoolExpr, Self, Self)>),
}

/// What is wrong, in words.
pub(super) type TypedResult<T> = Result<T, String>;

impl Typed {
    const fn name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "true or false",
            Self::Int(_) | Self::Unsigned(_) => "a number",
            Self::Text(_) => "a text",
            Self::Texts(_) | Self::Ints(_) | Self::Loose(Loose::NoMembers) => "a list",
            Self::Loose(_) => "a claim or attribute",
        }
    }

    fn no(&self, wanted: &str) -> String {
        let hint = match (self, wanted) {
            (Self::Text(_), "a number") => "; int() makes one of it",
            (Self::Text(_), "true or false") => "; bool() makes that of it",
            (Self::Texts(_) | Self::Ints(_), "a number") => "; size() is how many members it has",
            _ => "",
        };
        format!("this is {}, where {wanted} is needed{hint}", self.name())
    }

    pub(super) fn into_bool(self) -> TypedResult<BoolExpr> {
        match self {
            Self::Bool(one) => Ok(one),
            Self::Loose(one) => one.map(&BoolExpr::If, &|text| BoolExpr::Parsed(text.into())),
            _ => Err(self.no("true or false")),
        }
    }

    pub(super) fn into_int(self) -> TypedResult<IntExpr> {
        match self {
            Self::Int(one) => Ok(one),
            Self::Unsigned(number) => {
                Err(format!("no value here is an unsigned number; write {number} in place of {number}u"))
            }
            Self::Loose(one) => one.map(&IntExpr::If, &|text| IntExpr::Parsed(text.into())),
            _ => Err(self.no("a number")),
        }
    }

    /// A number that is compared: CEL compares unsigned ones with others.
    fn into_compared(self) -> TypedResult<IntExpr> {
        match self {
            Self::Unsigned(number) => Ok(IntExpr::Const(number)),
            other => other.into_int(),
        }
    }

    pub(super) fn into_text(self) -> TypedResult<TextExpr> {
        match self {
            Self::Text(one) => Ok(one),
            Self::Loose(one) => one.map(&TextExpr::If, &|text| text),
            _ => Err(self.no("a text")),
        }
    }

    fn into_texts(self) -> TypedResult<TextList> {
        match self {
            Self::Texts(list) => Ok(list),
            Self::Loose(Loose::Attribute(name)) => Ok(TextList::Attribute(name)),
            Self::Loose(Loose::NoMembers) => Ok(TextList::Listed(Box::default())),
            _ => Err(self.no("a list")),
        }
    }

    const fn is_int(&self) -> bool {
        matches!(self, Self::Int(_) | Self::Unsigned(_))
    }

    const fn is_list(&self) -> bool {
        matches!(self, Self::Texts(_) | Self::Ints(_) | Self::Loose(Loose::NoMembers))
    }

    /// A list of these.
    pub(super) fn list(members: Vec<Self>) -> TypedResult<Self> {
        if members.is_empty() {
            return Ok(Self::Loose(Loose::NoMembers));
        }
        if members.iter().any(Self::is_int) {
            return members.into_iter().map(Self::into_compared).collect::<Result<_, _>>().map(Self::Ints);
        }
        let texts = members.into_iter().map(Self::into_text).collect::<Result<_, _>>()?;
        Ok(Self::Texts(TextList::Listed(texts)))
    }

    /// `condition ? self : other`
    pub(super) fn or(self, condition: BoolExpr, other: Self) -> TypedResult<Self> {
        Ok(match (self, other) {
            (Self::Loose(yes), Self::Loose(no)) => Self::Loose(Loose::Choice(Box::new((condition, yes, no)))),
            (yes, no) if yes.is_list() || no.is_list() => {
                return Err("a list cannot be chosen by ?:".to_owned());
            }
            (yes, no) if yes.is_int() || no.is_int() => {
                Self::Int(IntExpr::If(Box::new((condition, yes.into_int()?, no.into_int()?))))
            }
            (yes @ Self::Text(_), no) | (yes, no @ Self::Text(_)) => {
                Self::Text(TextExpr::If(Box::new((condition, yes.into_text()?, no.into_text()?))))
            }
            (yes, no) => Self::Bool(BoolExpr::If(Box::new((condition, yes.into_bool()?, no.into_bool()?)))),
        })
    }

    /// How two values compare.
    pub(super) fn compare(self, relation: Relation, other: Self) -> TypedResult<BoolExpr> {
        let is_equality = matches!(relation, Relation::Equal | Relation::NotEqual);
        if self.is_int() || other.is_int() {
            let both = (self.into_compared()?, other.into_compared()?);
            return Ok(BoolExpr::Ints(relation, Box::new(both)));
        }
        if self.is_list() || other.is_list() {
            if !is_equality || matches!((&self, &other), (Self::Ints(_), _) | (_, Self::Ints(_))) {
                return Err("lists are compared with == and !=, and only lists of texts".to_owned());
            }
            let same = BoolExpr::SameTexts(Box::new((self.into_texts()?, other.into_texts()?)));
            return Ok(same.is(relation));
        }
        if matches!(self, Self::Bool(_)) || matches!(other, Self::Bool(_)) {
            if !is_equality {
                return Err("true and false are compared with == and !=".to_owned());
            }
            return Ok(BoolExpr::Same(Box::new((self.into_bool()?, other.into_bool()?))).is(relation));
        }
        if !is_equality && matches!((&self, &other), (Self::Loose(_), Self::Loose(_))) {
            return Err(
                "whether these are numbers or texts cannot be told; write int() around one".to_owned()
            );
        }
        let both = (self.into_text()?, other.into_text()?);
        check_known(&both.0, &both.1)?;
        check_known(&both.1, &both.0)?;
        Ok(BoolExpr::Texts(relation, Box::new(both)))
    }

    /// `self in list`
    pub(super) fn within(self, list: Self) -> TypedResult<BoolExpr> {
        match list {
            Self::Ints(members) => Ok(BoolExpr::IntIn(Box::new((self.into_compared()?, members.into())))),
            Self::Loose(Loose::NoMembers) if self.is_int() => {
                Ok(BoolExpr::IntIn(Box::new((self.into_compared()?, Box::default()))))
            }
            list => {
                let texts = list.into_texts()?;
                // Members of a claim are kept as texts, whatever they were.
                let text = match (self, &texts) {
                    (Self::Int(IntExpr::Const(number)) | Self::Unsigned(number), TextList::Attribute(_)) => {
                        TextExpr::Const(number.to_string().into())
                    }
                    (one, _) => one.into_text()?,
                };
                if let TextList::Listed(members) = &texts {
                    members.iter().try_for_each(|member| check_known(&text, member))?;
                }
                Ok(BoolExpr::TextIn(Box::new((text, texts))))
            }
        }
    }

    /// `size(self)`
    pub(super) fn size(self) -> TypedResult<IntExpr> {
        match self {
            Self::Text(text) | Self::Loose(Loose::Member(text)) => Ok(IntExpr::Length(text.into())),
            Self::Texts(list) => Ok(IntExpr::Count(list.into())),
            Self::Loose(Loose::Attribute(_)) => {
                let what = "whether a claim or attribute is a text or a list cannot be told; \
                            size(claim.name[0]) is the size of its first text";
                Err(what.to_owned())
            }
            _ => Err(self.no("a text or a list")),
        }
    }

    /// `self[place]`
    pub(super) fn member(self, place: Self) -> TypedResult<Self> {
        let (list, is_loose) = match self {
            Self::Texts(list) => (list, false),
            Self::Loose(Loose::Attribute(_)) => (self.into_texts()?, true),
            _ => return Err(self.no("a list")),
        };
        let member = TextExpr::Member(Box::new((list, place.into_int()?)));
        Ok(if is_loose { Self::Loose(Loose::Member(member)) } else { Self::Text(member) })
    }
}

impl Loose {
    /// As another type: what a text becomes, and a choice of two.
    fn map<T>(
        self,
        choose: &impl Fn(Box<(BoolExpr, T, T)>) -> T,
        read: &impl Fn(TextExpr) -> T,
    ) -> TypedResult<T> {
        match self {
            Self::Attribute(name) => Ok(read(TextExpr::Attribute(name))),
            Self::Member(member) => Ok(read(member)),
            Self::NoMembers => Err("this is a list".to_owned()),
            Self::Choice(choice) => {
                let (condition, yes, no) = *choice;
                Ok(choose(Box::new((condition, yes.map(choose, read)?, no.map(choose, read)?))))
            }
        }
    }
}

trait Negated {
    fn is(self, relation: Relation) -> Self;
}

impl Negated for BoolExpr {
    /// The same, or for `!=` its contrary.
    fn is(self, relation: Relation) -> Self {
        if relation == Relation::NotEqual { Self::Not(Box::new(self)) } else { self }
    }
}

/// Whether a text that is compared with a value of few can be it.
fn check_known(value: &TextExpr, text: &TextExpr) -> TypedResult<()> {
    let TextExpr::Const(text) = text else { return Ok(()) };
    let known: &[&str] = match value {
        TextExpr::Transport => &["tcp", "tls", "ws", "wss", "unix"],
        TextExpr::Version => &["3.1", "3.1.1", "5.0"],
        TextExpr::Weekday => &WEEKDAYS,
        _ => return Ok(()),
    };
    if known.contains(&&**text) {
        return Ok(());
    }
    Err(format!("it is never {text:?}, but one of {}", known.join(", ")))
}
