//! What a text can have wrong that was meant as a pattern or a name.

use mproxy_codec::topic::TopicError;

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is no topic filter.
    #[error("not a topic filter: {0}")]
    Filter(TopicError),
    /// It begins with `$share/`.
    #[error(
        "write the filter without `$share/group/`: shared subscriptions are judged by the filter behind it"
    )]
    Shared,
    /// There is no such variable.
    #[error(
        "unknown variable `${{{0}}}`; there are ${{clientid}}, ${{username}}, ${{cn}}, ${{san.uri}}, ${{san.dns}}, \
         ${{fingerprint}}, ${{claim.name}} and ${{attr.name}}"
    )]
    Variable(String),
    /// A variable that may have several values stands there twice: whether both are to be the same could not be told.
    #[error("`${{{0}}}` may have several values, and may stand in a filter once only")]
    Repeated(String),
    /// A variable does not end.
    #[error("`${{` without `}}`")]
    Unclosed,
    /// Two variables, or a variable and a `*`, stand side by side.
    #[error("put a character between a variable and what follows it: nobody can tell where its value ends")]
    Adjacent,
}
