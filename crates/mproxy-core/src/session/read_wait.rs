//! What a side waits for that is not read.

/// What a side waits for that is not read because of its own packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadWait {
    /// As many of them as may wait for decisions, acknowledgements or each other.
    Queue,
    /// There is no room for the next in a budget.
    Budget,
    /// The client is over one of its rates.
    Rate,
}
