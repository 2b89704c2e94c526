//! What a status of gRPC says, in one line, and whether it is the service's own.

use std::error::Error;

use tonic::{Status, TimeoutExpired};

use crate::causes::with_causes;

/// A status in one line: with its causes where it arose on our side, and else in quotes, so that what a service says is not
/// taken for words or fields of ours.
pub(crate) fn describe_status(status: &Status) -> String {
    match status.source() {
        Some(source) => format!("{:?}: {}: {}", status.code(), status.message(), with_causes(source)),
        None => format!("{:?}: {:?}", status.code(), status.message()),
    }
}

/// No answer came before the deadline.
pub(super) fn late() -> Status {
    Status::deadline_exceeded("no answer in time")
}

/// Whether the call broke with its transport; a status that the service sent has no cause on our side.
pub(crate) fn is_transport_failure(status: &Status) -> bool {
    let mut source = status.source();
    let any = source.is_some();
    while let Some(cause) = source {
        // tonic's own timer: the transport is sound, the answer was late.
        if cause.is::<TimeoutExpired>() {
            return false;
        }
        source = cause.source();
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_says_stands_in_quotes() {
        let status = Status::internal("x\" user=\"root\n");
        assert_eq!(describe_status(&status), r#"Internal: "x\" user=\"root\n""#);
        let here = Status::from_error(Box::new(std::io::Error::other("broken pipe")));
        assert_eq!(describe_status(&here), "Unknown: broken pipe: broken pipe");
    }
}
