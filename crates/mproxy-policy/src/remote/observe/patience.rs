//! How long a service may leave everything unconfirmed. Told the time, and reads no clock.

use std::time::Duration;

use tokio::time::Instant;

/// Since when the service owes a confirmation.
#[derive(Debug)]
pub(super) struct Patience {
    within: Duration,
    owed_since: Option<Instant>,
}

impl Patience {
    pub(super) const fn new(within: Duration) -> Self {
        Self { within, owed_since: None }
    }

    /// Something was sent, or looked through; `waiting`: some of it is not confirmed.
    pub(super) fn sent(&mut self, waiting: bool, now: Instant) {
        // To send more does not put it off, or a service that never confirms would be waited for as long as events
        // come.
        self.owed_since = if waiting { self.owed_since.or(Some(now)) } else { None };
    }

    /// Something was confirmed; `waiting`: not all of it.
    pub(super) fn confirmed(&mut self, waiting: bool, now: Instant) {
        // Any step forward counts: a service may be slow.
        self.owed_since = waiting.then_some(now);
    }

    /// When the stream is given up. `None`: nothing is owed.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.owed_since.and_then(|since| since.checked_add(self.within))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_confirmation_gives_new_time_and_sending_more_gives_none() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut patience = Patience::new(10 * second);
        assert_eq!(patience.deadline(), None);
        patience.sent(true, start);
        patience.sent(true, start + second);
        assert_eq!(patience.deadline(), Some(start + 10 * second));
        patience.confirmed(true, start + 5 * second);
        assert_eq!(patience.deadline(), Some(start + 15 * second));
        patience.confirmed(false, start + 6 * second);
        assert_eq!(patience.deadline(), None, "an idle service owes nothing");
    }
}
