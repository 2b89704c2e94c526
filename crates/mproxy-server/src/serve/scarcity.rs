//! What mproxy uses of its machine, looked at once a second: when it runs short nobody else comes in, and when it runs
//! shorter still the sessions go that are the cheapest to lose.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::House;
use crate::descriptors;
use crate::protect::watermarks::{LevelChange, OpenConnections, Resource, ResourceUse, WatermarkLevel};
use crate::registry::{ConnectionCommand, Handle};
use crate::telemetry::process;

const LOOK: Duration = Duration::from_secs(1);

/// Of those that could go, one in so many goes with each look, rounded up, where it is not known how many it takes: memory
/// comes back with some delay.
const SHARE: usize = 100;

/// Connections looked at before others on this thread get their turn.
const AT_A_TIME: usize = 1024;

impl House {
    /// Looks, for as long as it is polled.
    pub(crate) async fn watch_resources(self: Arc<Self>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.protection.bans.expire(SystemTime::now());
            let connections = self.connections();
            let uses = self.uses(connections);
            for change in self.protection.watermarks.look(uses, connections) {
                tell(&change);
            }
            for (resource, in_use) in Resource::ALL.into_iter().zip(uses) {
                if self.protection.watermarks.level_of(resource) == WatermarkLevel::Draining {
                    let strangers = self.close_strangers();
                    // No session goes for memory that they held.
                    if resource == Resource::Descriptors || strangers == 0 {
                        self.shed(how_many(resource, &in_use, connections)).await;
                    }
                }
            }
        }
    }

    fn connections(&self) -> OpenConnections {
        // In this order: who comes meanwhile is at worst taken for one that has been admitted.
        let (parting, admitted) = (self.parting.len(), self.admitted.load(Ordering::Acquire));
        OpenConnections { open: self.open.load(Ordering::Acquire), admitted, parting }
    }

    /// Closes who has not been admitted, and streams whose sessions are over. How many.
    fn close_strangers(&self) -> usize {
        self.parting.evict_all() + self.pending.evict_all()
    }

    fn uses(&self, connections: OpenConnections) -> [ResourceUse; Resource::ALL.len()] {
        let marks = self.protection.marks();
        let limit = descriptors::limit();
        let share =
            |percent: Option<u8>| limit.zip(percent).map(|(limit, percent)| limit * u64::from(percent) / 100);
        let strangers = connections.of_strangers();
        let descriptors = ResourceUse {
            // Before Linux 6.2 the kernel does not say, and to count them would be a walk over all connections.
            used: process::open_files().map_or_else(
                || 2 * connections.admitted as u64 + descriptors::OWN,
                |files| files.saturating_sub(strangers),
            ),
            strangers,
            refuse_at: share(marks.descriptors_refuse),
            drain_at: share(marks.descriptors_drain),
        };
        let memory = ResourceUse {
            used: process::resident_bytes().unwrap_or(0),
            strangers: 0,
            refuse_at: marks.memory_refuse,
            drain_at: marks.memory_drain,
        };
        [descriptors, memory]
    }

    /// Has so many sessions end, those that are the cheapest to lose first: whose broker has not answered, then who began
    /// with a clean session, of which no broker keeps anything, then the others; of each kind the newest first, which had
    /// least time to become anything. What is in flight is finished; who was told before and is still there is cut.
    async fn shed(&self, count: usize) {
        let mut candidates: Vec<(ShedOrder, Arc<Handle>)> = Vec::new();
        let mut after = None;
        loop {
            let (some, next) = self.registry.some_after(after, AT_A_TIME);
            // The others have been told to leave by now.
            let admitted = some.into_iter().filter(|handle| handle.is_admitted());
            candidates.extend(admitted.map(|handle| (ShedOrder::of(&handle), handle)));
            // No more than these are of use, whatever the number of connections.
            if candidates.len() > 2 * count.max(AT_A_TIME) {
                keep_first(&mut candidates, count);
            }
            if next.is_none() {
                break;
            }
            after = next;
            tokio::task::yield_now().await;
        }
        keep_first(&mut candidates, count);
        candidates.iter().for_each(|(_, handle)| handle.send(ConnectionCommand::Shed));
        if !candidates.is_empty() {
            warn!(
                connections = candidates.len(),
                "second watermark reached, disconnecting the cheapest sessions to lose"
            );
        }
    }
}

fn keep_first(candidates: &mut Vec<(ShedOrder, Arc<Handle>)>, count: usize) {
    candidates.sort_unstable_by_key(|(order, _)| *order);
    candidates.truncate(count);
}

/// What it costs to lose a connection: the smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ShedOrder {
    kind: u8,
    /// Newest first.
    age: std::cmp::Reverse<u64>,
}

impl ShedOrder {
    fn of(handle: &Handle) -> Self {
        let kind = match handle.peer() {
            None => 0,
            Some(peer) if peer.clean_start => 1,
            Some(_) => 2,
        };
        Self { kind, age: std::cmp::Reverse(handle.origin().epoch) }
    }
}

/// How many connections have to go now.
fn how_many(resource: Resource, in_use: &ResourceUse, connections: OpenConnections) -> usize {
    match resource {
        // Two for each.
        Resource::Descriptors => (in_use.excess() / 2 + 1) as usize,
        Resource::Memory => connections.admitted.div_ceil(SHARE),
    }
}

fn tell(change: &LevelChange) {
    let LevelChange { resource, before, level, in_use } = *change;
    let ResourceUse { used, strangers, refuse_at, drain_at } = in_use;
    let (resource, state) = (resource.name(), level.name());
    if level > before {
        warn!(resource, state, used, strangers, refuse_at, drain_at, "watermark reached");
    } else {
        info!(resource, state, used, strangers, refuse_at, drain_at, "watermark left");
    }
}

#[cfg(test)]
mod tests {
    use mproxy_core::Peer;
    use mproxy_core::peer::Origin;

    use super::*;
    use crate::example_peer;

    fn handle(epoch: u64, clean_start: Option<bool>) -> Arc<Handle> {
        let origin = Arc::new(Origin { epoch, ..example_peer::origin(u128::from(epoch)) });
        let handle = Arc::new(Handle::new(&origin));
        if let Some(clean_start) = clean_start {
            let peer = Peer { clean_start, ..example_peer::peer(origin, "c") };
            handle.set_peer(&Arc::new(peer));
        }
        handle
    }

    #[test]
    fn strangers_go_first_then_clean_sessions_and_the_newest_of_each() {
        let all =
            [(1, Some(true)), (2, Some(false)), (3, Some(true)), (4, None), (5, Some(false)), (6, None)];
        let mut candidates: Vec<_> = all
            .map(|(epoch, clean)| handle(epoch, clean))
            .map(|handle| (ShedOrder::of(&handle), handle))
            .into();
        keep_first(&mut candidates, 5);
        let epochs: Vec<_> = candidates.iter().map(|(_, handle)| handle.origin().epoch).collect();
        assert_eq!(epochs, [6, 4, 3, 1, 5]);
    }

    #[test]
    fn so_many_go_as_it_takes() {
        let in_use = ResourceUse { used: 1000, strangers: 9, refuse_at: Some(900), drain_at: Some(1000) };
        let connections = |admitted| OpenConnections { open: admitted, admitted, parting: 0 };
        assert_eq!(how_many(Resource::Descriptors, &in_use, connections(5000)), 26, "51 descriptors");
        let of = |admitted| how_many(Resource::Memory, &in_use, connections(admitted));
        assert_eq!([0, 1, 100, 101, 4999].map(of), [0, 1, 1, 2, 50], "one in a hundred, rounded up");
    }
}
