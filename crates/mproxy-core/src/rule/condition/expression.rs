//! The kinds of expressions, one for each type.

use serde::{Deserialize, Serialize};

/// Yes or no.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum BoolExpr {
    /// This.
    Const(bool),
    /// The RETAIN flag.
    Retain,
    /// Whether the client has something.
    Has(Presence),
    /// `true` or `false`, written out.
    Parsed(Box<TextExpr>),
    /// `!`
    Not(Box<Self>),
    /// `&&`: no if one of them is no, whatever the others are.
    All(Box<[Self]>),
    /// `||`: yes if one of them is yes, whatever the others are.
    Any(Box<[Self]>),
    /// `a ? b : c`
    If(Box<(Self, Self, Self)>),
    /// `==` of two flags.
    Same(Box<(Self, Self)>),
    /// Of two numbers.
    Ints(Relation, Box<(IntExpr, IntExpr)>),
    /// Of two texts.
    Texts(Relation, Box<(TextExpr, TextExpr)>),
    /// `==` of two lists of texts.
    SameTexts(Box<(TextList, TextList)>),
    /// What the first text is to the second.
    Test(TextTest, Box<(TextExpr, TextExpr)>),
    /// `in`, of numbers.
    IntIn(Box<(IntExpr, Box<[IntExpr]>)>),
    /// `in`, of texts.
    TextIn(Box<(TextExpr, TextList)>),
}

/// A number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum IntExpr {
    /// This.
    Const(i64),
    /// The QoS: of a subscription the one that is asked for.
    Qos,
    /// Bytes of the payload.
    PayloadSize,
    /// Of the time of day.
    Time(TimeField),
    /// A number, written out in decimal.
    Parsed(Box<TextExpr>),
    /// Characters of a text.
    Length(Box<TextExpr>),
    /// Members of a list.
    Count(Box<TextList>),
    /// `-`
    Negative(Box<Self>),
    /// Of two numbers.
    Arithmetic(Arithmetic, Box<(Self, Self)>),
    /// `a ? b : c`
    If(Box<(BoolExpr, Self, Self)>),
}

/// A text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TextExpr {
    /// This.
    Const(Box<str>),
    /// The client id.
    ClientId,
    /// The user name.
    Username,
    /// The name of the listener.
    Listener,
    /// `tcp` for example.
    Transport,
    /// The client's IP address, without the port.
    Address,
    /// `3.1`, `3.1.1` or `5.0`.
    Version,
    /// The topic or filter.
    Topic,
    /// The day of the week: `monday` for example.
    Weekday,
    /// The one value of a claim or an attribute.
    Attribute(Box<str>),
    /// A member of a list.
    Member(Box<(TextList, IntExpr)>),
    /// `a ? b : c`
    If(Box<(BoolExpr, Self, Self)>),
}

/// A list of texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TextList {
    /// These.
    Listed(Box<[TextExpr]>),
    /// The levels of the topic or filter.
    Levels,
    /// The values of a claim or an attribute.
    Attribute(Box<str>),
}

/// What a client may have or not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Presence {
    /// A user name.
    Username,
    /// An IP address.
    Address,
    /// This claim or attribute.
    Attribute(Box<str>),
}

/// How two values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// What is looked for in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TextTest {
    /// At its beginning.
    StartsWith,
    /// At its end.
    EndsWith,
    /// Anywhere.
    Contains,
}

/// What is made of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arithmetic {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Remainder,
}

/// A number of the time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeField {
    /// 0 to 23.
    Hour,
    /// 0 to 59.
    Minute,
    /// 0 to 59.
    Second,
}
