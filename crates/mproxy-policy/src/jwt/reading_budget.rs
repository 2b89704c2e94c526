//! How often a key set is read, whatever tokens say. Pure: the time is an argument.
//!
//! A set that is old and one that lacks a key have budgets of their own: neither takes the readings of the other.

use std::time::Duration;

use mproxy_core::neighbours::Neighbours;
use tokio::time::Instant;

/// So many readings for the same reason may follow each other at once; then there is one each [`PAUSE`].
const BURST: u32 = 4;

/// So many of them for keys that clients of one address name: anybody can make up the name of a key.
const BURST_OF_ADDRESS: u32 = 2;

/// Less than a CONNECT waits for keys: who comes when there is none left has the next one, whoever else waits for it.
const PAUSE: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub(super) struct ReadingBudget {
    of_age: ReadingTokens,
    of_unknown_keys: ReadingTokens,
    /// Those for whom a key was looked for lately. As few as there were readings.
    of_addresses: Vec<(Neighbours, ReadingTokens)>,
}

/// Readings that may begin now, and when there is one more.
#[derive(Clone, Copy, Debug)]
struct ReadingTokens {
    free: u32,
    most: u32,
    counted: Instant,
    pause: Duration,
}

impl ReadingBudget {
    /// `refresh`: how old a set may be.
    pub(super) fn new(refresh: Duration, now: Instant) -> Self {
        Self {
            of_age: ReadingTokens::new(BURST, refresh.clamp(Duration::from_millis(100), PAUSE), now),
            of_unknown_keys: ReadingTokens::new(BURST, PAUSE, now),
            of_addresses: Vec::new(),
        }
    }

    /// Takes a reading of a set that is too old, or was not read yet.
    pub(super) fn take_for_age(&mut self, now: Instant) -> bool {
        let may = self.of_age.wait(now).is_ok();
        self.of_age.free -= u32::from(may);
        may
    }

    /// Takes a reading for somebody from there, whose token names a key that is not in the set.
    ///
    /// # Errors
    /// When to ask again: in a [`PAUSE`] at the latest.
    pub(super) fn take_for_key(&mut self, from: Neighbours, now: Instant) -> Result<(), Instant> {
        self.of_addresses.retain_mut(|(_, tokens)| tokens.wait(now).is_err() || tokens.free < tokens.most);
        let known = self.of_addresses.iter().position(|(who, _)| *who == from);
        let own = known.and_then(|at| self.of_addresses.get_mut(at)).map(|(_, tokens)| tokens);
        let mut new = ReadingTokens::new(BURST_OF_ADDRESS, PAUSE, now);
        let is_new = own.is_none();
        let own = own.unwrap_or(&mut new);
        own.wait(now)?;
        self.of_unknown_keys.wait(now)?;
        own.free -= 1;
        self.of_unknown_keys.free -= 1;
        if is_new {
            self.of_addresses.push((from, new));
        }
        Ok(())
    }
}

impl ReadingTokens {
    const fn new(most: u32, pause: Duration, now: Instant) -> Self {
        Self { free: most, most, counted: now, pause }
    }

    /// Whether there is one. `Err`: when there will be.
    fn wait(&mut self, now: Instant) -> Result<(), Instant> {
        let passed = now.saturating_duration_since(self.counted).as_millis() / self.pause.as_millis().max(1);
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if self.free.saturating_add(passed) >= self.most {
            (self.free, self.counted) = (self.most, now);
        } else {
            self.free += passed;
            self.counted += self.pause * passed;
        }
        if self.free > 0 { Ok(()) } else { Err(self.counted + self.pause) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> Neighbours {
        std::net::IpAddr::from([192, 0, 2, last]).into()
    }

    #[test]
    fn one_address_leaves_readings_to_others_and_has_one_itself_before_long() {
        let began = Instant::now();
        let mut budget = ReadingBudget::new(Duration::from_secs(300), began);
        let mut taken = 0;
        // Ten a second, for a minute.
        for tenth in 0..600 {
            let now = began + Duration::from_millis(100) * tenth;
            match budget.take_for_key(from(1), now) {
                Ok(()) => taken += 1,
                Err(at) => assert!(at > now && at <= now + PAUSE, "{:?}", at - now),
            }
            if tenth % 300 == 299 {
                assert_eq!(budget.take_for_key(from(2), now), Ok(()), "at once");
            }
        }
        assert!((14..=17).contains(&taken), "{taken}");
    }

    #[test]
    fn many_addresses_have_so_many_readings_and_little_is_remembered_of_them() {
        let began = Instant::now();
        let mut budget = ReadingBudget::new(Duration::from_secs(300), began);
        let mut taken = 0;
        for at in 0..2560_u32 {
            let now = began + Duration::from_millis(10) * at;
            taken += u32::from(budget.take_for_key(from((at % 256) as u8), now).is_ok());
            assert!(budget.of_addresses.len() <= 2 * BURST as usize);
        }
        assert!(taken <= BURST + 7, "{taken} in 25.6 s");
    }

    #[test]
    fn a_set_that_is_often_read_for_its_age_is_read_for_a_new_key_as_well() {
        let began = Instant::now();
        let mut budget = ReadingBudget::new(Duration::from_secs(1), began);
        for second in 0..60 {
            assert!(budget.take_for_age(began + Duration::from_secs(second)), "each second, as is asked for");
        }
        assert_eq!(budget.take_for_key(from(1), began + Duration::from_secs(60)), Ok(()));
        // What is not there, or cannot be read, is not asked for without end.
        let mut failing = ReadingBudget::new(Duration::from_secs(300), began);
        let tries = (0..400).filter(|at| failing.take_for_age(began + Duration::from_millis(10) * *at));
        assert_eq!(tries.count(), BURST as usize);
    }
}
