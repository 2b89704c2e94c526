//! What mproxy uses of its machine, looked at once a second: when it runs short nobody else comes in, and when it runs
//! shorter still the sessions go that are the cheapest to lose.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::House;
use crate::descriptors;
use crate::protect::watermarks::{LevelChange, OpenConnections, Resource, ResourceUse, WatermarkLevel};
use crate::registry::{ConnectionCommand, Handle};
use crate::telemetry::process;

const LOOK: Duration = Duration::from_secs(1);

/// Of those that could go, one in so many goes with each look, where it is not known how many it takes: memory comes back
/// with some delay.
const SHARE: usize = 100;

/// But at least so many.
const AT_LEAST: usize = 8;

/// What clients and brokers do not use: listeners, the log, the runtime.
const OWN_DESCRIPTORS: u64 = 32;

/// Connections looked at before others on this thread get their turn.
const AT_A_TIME: usize = 1024;

impl House {
    /// Looks, for as long as it is polled.
    pub(crate) async fn watch_resources(self: Arc<Self>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let connections = self.connections();
            let uses = self.uses(connections);
            for change in self.protection.watermarks.look(uses, connections) {
                tell(&change);
            }
            for (resource, in_use) in Resource::ALL.into_iter().zip(uses) {
                if self.protection.watermarks.level_of(resource) == WatermarkLevel::Draining {
                    self.shed(how_many(resource, &in_use, connections)).await;
                }
            }
        }
    }

    fn connections(&self) -> OpenConnections {
        OpenConnections { open: self.open.load(Ordering::Relaxed), pending: self.pending.len() }
    }

    fn uses(&self, connections: OpenConnections) -> [ResourceUse; Resource::ALL.len()] {
        let marks = self.protection.marks();
        let limit = descriptors::limit();
        let share =
            |percent: Option<u8>| limit.zip(percent).map(|(limit, percent)| limit * u64::from(percent) / 100);
        let both = 2 * connections.open as u64 - (connections.pending as u64).min(connections.open as u64);
        let descriptors = ResourceUse {
            // Before Linux 6.2 the kernel does not say, and to count them would be a walk over all connections.
            used: process::open_files().unwrap_or(both + OWN_DESCRIPTORS),
            refuse_at: share(marks.descriptors_refuse),
            drain_at: share(marks.descriptors_drain),
        };
        let memory = ResourceUse {
            used: process::resident_bytes().unwrap_or(0),
            refuse_at: marks.memory_refuse,
            drain_at: marks.memory_drain,
        };
        [descriptors, memory]
    }

    /// Has so many connections end, those that are the cheapest to lose first: who has not been admitted, then who began
    /// with a clean session, of which no broker keeps anything, then the others; of each kind the newest first, which had
    /// least time to become anything. What is in flight is finished; who was told before and is still there is cut.
    async fn shed(&self, count: usize) {
        let mut candidates: Vec<(ShedOrder, Arc<Handle>)> = Vec::new();
        let mut after = None;
        loop {
            let (some, next) = self.registry.some_after(after, AT_A_TIME);
            candidates.extend(some.into_iter().map(|handle| (ShedOrder::of(&handle), handle)));
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
        for (order, handle) in &candidates {
            handle.send(if order.is_stranger() { ConnectionCommand::Evict } else { ConnectionCommand::Shed });
        }
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

    const fn is_stranger(self) -> bool {
        self.kind == 0
    }
}

/// How many connections have to go now.
fn how_many(resource: Resource, in_use: &ResourceUse, connections: OpenConnections) -> usize {
    match resource {
        // Two for each.
        Resource::Descriptors => (in_use.excess() / 2 + 1) as usize,
        Resource::Memory => (connections.open / SHARE).max(AT_LEAST),
    }
}

fn tell(change: &LevelChange) {
    let LevelChange { resource, before, level, in_use: ResourceUse { used, refuse_at, drain_at } } = *change;
    let (resource, state) = (resource.name(), level.name());
    if level > before {
        warn!(resource, state, used, refuse_at, drain_at, "watermark reached");
    } else {
        info!(resource, state, used, refuse_at, drain_at, "watermark left");
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
        let in_use = ResourceUse { used: 1000, refuse_at: Some(900), drain_at: Some(1000) };
        let connections = OpenConnections { open: 5000, pending: 0 };
        assert_eq!(how_many(Resource::Descriptors, &in_use, connections), 26, "51 descriptors");
        assert_eq!(how_many(Resource::Memory, &in_use, connections), 50);
        assert_eq!(how_many(Resource::Memory, &in_use, OpenConnections::default()), 8);
    }
}
