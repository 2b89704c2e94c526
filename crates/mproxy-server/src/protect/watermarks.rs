//! What mproxy uses of what its machine has, against two marks of it: at the first nobody else comes in, at the second the
//! cheapest sessions to lose have to go. Decided from numbers alone; whoever reads them is `serve`.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::telemetry::watermarks::WatermarkMetrics;

/// A level is left when there is a twentieth less in use than its mark, so that it is not left and reached by turns.
const LEFT_BELOW: u64 = 95;

/// Of which there is only so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    Descriptors,
    Memory,
}

impl Resource {
    pub(crate) const ALL: [Self; 2] = [Self::Descriptors, Self::Memory];

    /// The label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
        }
    }
}

/// How short it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum WatermarkLevel {
    #[default]
    Normal,
    /// Nobody else comes in.
    Refusing,
    /// Some have to go.
    Draining,
}

impl WatermarkLevel {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Refusing => "refusing",
            Self::Draining => "draining",
        }
    }
}

/// What is in use of a resource, and from where on it is short. A mark that is absent is never reached.
///
/// Descriptors of strangers are apart: they come back before any session has to go
/// ([`OpenConnections::of_strangers`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourceUse {
    pub(crate) used: u64,
    /// Besides, by strangers.
    pub(crate) strangers: u64,
    pub(crate) refuse_at: Option<u64>,
    pub(crate) drain_at: Option<u64>,
}

impl ResourceUse {
    /// How short it is, where it was so short before.
    pub(crate) fn level(&self, before: WatermarkLevel) -> WatermarkLevel {
        let reached = |mark: Option<u64>, level| {
            let below = |mark: u64| if before >= level { mark * LEFT_BELOW / 100 } else { mark };
            mark.is_some_and(|mark| self.used >= below(mark))
        };
        if reached(self.drain_at, WatermarkLevel::Draining) {
            WatermarkLevel::Draining
        } else if reached(self.refuse_at, WatermarkLevel::Refusing) {
            WatermarkLevel::Refusing
        } else {
            WatermarkLevel::Normal
        }
    }

    /// How much has to become free for the second mark to be left.
    pub(crate) fn excess(&self) -> u64 {
        self.drain_at.map_or(0, |mark| (self.used + 1).saturating_sub(mark * LEFT_BELOW / 100))
    }
}

/// How short what is at present.
#[derive(Debug)]
pub(crate) struct Watermarks {
    /// The worse of all.
    level: AtomicU8,
    /// As many connections may be open, until somebody looks again, for the first mark not to be reached: each takes two
    /// descriptors.
    most_let_in: AtomicUsize,
    /// The same for the second mark: who comes as far as its CONNECT, to be told.
    most_told: AtomicUsize,
    /// Since the last look there were as many.
    is_full: AtomicBool,
    seen: Mutex<[(WatermarkLevel, ResourceUse); Resource::ALL.len()]>,
    metrics: WatermarkMetrics,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self::new(WatermarkMetrics::default())
    }
}

impl Watermarks {
    pub(crate) fn new(metrics: WatermarkMetrics) -> Self {
        for resource in Resource::ALL {
            metrics.set(resource.name(), WatermarkLevel::Normal as u8);
        }
        Self {
            level: AtomicU8::new(WatermarkLevel::Normal as u8),
            most_let_in: AtomicUsize::new(usize::MAX),
            most_told: AtomicUsize::new(usize::MAX),
            is_full: AtomicBool::new(false),
            seen: Mutex::default(),
            metrics,
        }
    }
}

/// A resource whose level is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LevelChange {
    pub(crate) resource: Resource,
    pub(crate) before: WatermarkLevel,
    pub(crate) level: WatermarkLevel,
    pub(crate) in_use: ResourceUse,
}

/// How many connections there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OpenConnections {
    pub(crate) open: usize,
    /// Those of them that have been admitted.
    pub(crate) admitted: usize,
    /// Streams whose sessions are over.
    pub(crate) parting: usize,
}

impl OpenConnections {
    /// Descriptors that come back before any session has to go: a stream that waits for its peer has one, and so has a
    /// connection that has not been admitted.
    pub(crate) fn of_strangers(&self) -> u64 {
        (self.open.saturating_sub(self.admitted) + self.parting) as u64
    }
}

impl Watermarks {
    /// So many connections may be open until somebody looks again: of those that are let in, or, `is_told`, with those that
    /// come only to be told that they are not.
    pub(crate) fn places(&self, is_told: bool) -> usize {
        let places = if is_told { &self.most_told } else { &self.most_let_in };
        places.load(Ordering::Relaxed)
    }

    /// There are as many, or descriptors or memory are short: nobody else is let in until somebody looks again.
    pub(crate) fn be_full(&self) {
        self.is_full.store(true, Ordering::Relaxed);
    }

    /// Whether nobody else may come in, as far as anybody has noticed.
    pub(crate) fn is_refusing(&self) -> bool {
        self.level() >= WatermarkLevel::Refusing || self.is_full.load(Ordering::Relaxed)
    }

    pub(crate) fn level(&self) -> WatermarkLevel {
        match self.level.load(Ordering::Relaxed) {
            0 => WatermarkLevel::Normal,
            1 => WatermarkLevel::Refusing,
            _ => WatermarkLevel::Draining,
        }
    }

    /// This is in use now. Gives what is another level than before.
    pub(crate) fn look(
        &self,
        uses: [ResourceUse; Resource::ALL.len()],
        connections: OpenConnections,
    ) -> Vec<LevelChange> {
        let mut seen = self.seen.lock();
        let mut changes = Vec::new();
        for ((resource, in_use), seen) in Resource::ALL.into_iter().zip(uses).zip(seen.iter_mut()) {
            let (before, level) = (seen.0, in_use.level(seen.0));
            if before != level {
                self.metrics.set(resource.name(), level as u8);
                changes.push(LevelChange { resource, before, level, in_use });
            }
            *seen = (level, in_use);
        }
        let worst = seen.iter().map(|(level, _)| *level).max().unwrap_or_default();
        self.level.store(worst as u8, Ordering::Relaxed);
        let [descriptors, _] = uses;
        // Those that have not been admitted are not in what is used, and want two each.
        let below = |mark: Option<u64>| {
            mark.map_or(usize::MAX, |mark| {
                connections.admitted + mark.saturating_sub(descriptors.used) as usize / 2
            })
        };
        self.most_let_in.store(below(descriptors.refuse_at.or(descriptors.drain_at)), Ordering::Relaxed);
        self.most_told.store(below(descriptors.drain_at), Ordering::Relaxed);
        self.is_full.store(false, Ordering::Relaxed);
        changes
    }

    /// How short this is.
    pub(crate) fn level_of(&self, resource: Resource) -> WatermarkLevel {
        self.seen.lock()[resource as usize].0
    }

    /// What was seen at the last look.
    pub(crate) fn seen(&self) -> [(Resource, WatermarkLevel, ResourceUse); Resource::ALL.len()] {
        let seen = *self.seen.lock();
        std::array::from_fn(|at| (Resource::ALL[at], seen[at].0, seen[at].1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(used: u64) -> ResourceUse {
        ResourceUse { used, strangers: 0, refuse_at: Some(900), drain_at: Some(970) }
    }

    #[test]
    fn levels_are_reached_and_left_apart() {
        let mut level = WatermarkLevel::Normal;
        let mut at = |now| {
            level = used(now).level(level);
            level.name()
        };
        assert_eq!(
            [899, 900, 899, 856, 855].map(&mut at),
            ["normal", "refusing", "refusing", "refusing", "refusing"]
        );
        assert_eq!(
            [854, 899, 970, 922, 921].map(&mut at),
            ["normal", "normal", "draining", "draining", "draining"]
        );
        assert_eq!([920, 855, 854].map(&mut at), ["refusing", "refusing", "normal"]);
        let unset = ResourceUse { used: u64::MAX, ..ResourceUse::default() };
        assert_eq!((unset.level(level), unset.excess()), (WatermarkLevel::Normal, 0));
        assert_eq!((used(970).excess(), used(921).excess(), used(920).excess()), (50, 1, 0));
    }

    #[test]
    fn between_two_looks_no_more_come_in_than_there_are_descriptors_for() {
        let marks = Watermarks::default();
        assert_eq!([false, true].map(|told| marks.places(told)), [usize::MAX; 2], "without a mark");
        let connections = OpenConnections { open: 100, admitted: 80, parting: 7 };
        assert_eq!(connections.of_strangers(), 27);
        assert_eq!(marks.look([used(800), ResourceUse::default()], connections), []);
        assert_eq!((marks.places(false), marks.places(true)), (130, 165), "100 are free, and 170");
        assert!(!marks.is_refusing());
        marks.be_full();
        assert!(marks.is_refusing());
        marks.look([used(800), ResourceUse::default()], connections);
        assert!(!marks.is_refusing(), "it comes back by itself");
    }

    #[test]
    fn the_worst_counts_and_changes_are_told_once() {
        let marks = Watermarks::default();
        let memory = ResourceUse { used: 10, refuse_at: Some(5), ..ResourceUse::default() };
        let changes = marks.look([used(10), memory], OpenConnections::default());
        assert_eq!(
            changes.iter().map(|change| (change.resource, change.level)).collect::<Vec<_>>(),
            [(Resource::Memory, WatermarkLevel::Refusing)]
        );
        assert!(marks.is_refusing());
        assert_eq!(marks.look([used(10), memory], OpenConnections::default()), []);
        let changes = marks.look([used(970), ResourceUse { used: 0, ..memory }], OpenConnections::default());
        assert_eq!(changes.len(), 2);
        assert_eq!(marks.level(), WatermarkLevel::Draining);
    }
}
