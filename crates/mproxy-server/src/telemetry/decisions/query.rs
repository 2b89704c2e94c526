//! What is asked of the records in memory.

use std::sync::Arc;
use std::time::SystemTime;

use mproxy_core::peer::ConnectionId;
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use utoipa::openapi::Ref;
use utoipa::openapi::schema::Array;

use super::super::field_lengths::LONGEST_VALUE;
use super::entry::{DecisionEntry, OutcomeFilter, cut};
use super::ring::Ring;
use crate::timestamp::Timestamp;

/// Records looked at while the ring is locked.
const AT_A_TIME: usize = 256;

/// Records looked at for one page: then the page ends, and the next one goes on from there.
const LOOKED_AT: usize = 64 << 10;

/// Bytes of records after which a page ends.
const PAGE_BYTES: usize = 1 << 20;

/// Which records are meant. What is absent does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecisionQuery {
    /// Of this client.
    pub client_id: Option<String>,
    /// Of clients with this user name.
    pub username: Option<String>,
    /// Of this listener.
    pub listener: Option<String>,
    /// Of this hook.
    pub hook: Option<String>,
    /// Not older than this.
    pub since: Option<SystemTime>,
    /// With this outcome.
    pub outcome: OutcomeFilter,
    /// So many at most.
    pub limit: usize,
    /// Older than the one with this number.
    pub cursor: Option<u64>,
}

/// Some records, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct DecisionPage {
    #[serde(serialize_with = "in_order")]
    #[schema(schema_with = entries)]
    refusals: Vec<Arc<DecisionEntry>>,
    /// Where the next page begins (`?cursor=`); absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Since when all records are in memory.
    begins: Timestamp,
}

/// `deploy/decisions.schema.json` says what a record is.
fn entries() -> Array {
    Array::new(Ref::from_schema_name("DecisionEntry"))
}

fn in_order<S: Serializer>(entries: &[Arc<DecisionEntry>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(entries.iter().map(|entry| &**entry))
}

/// The newest refusal of this connection, among the newest records.
pub(super) fn last_refusal(ring: &Mutex<Ring>, connection_id: ConnectionId) -> Option<Arc<DecisionEntry>> {
    let (mut before, mut looked_at) = (u64::MAX, 0);
    while looked_at < LOOKED_AT {
        let some = ring.lock().before(before, AT_A_TIME, OutcomeFilter::Refused);
        before = some.last()?.0;
        looked_at += some.len();
        if let Some((_, entry)) = some.into_iter().find(|(_, entry)| entry.connection_id == connection_id) {
            return Some(entry);
        }
    }
    None
}

impl DecisionQuery {
    pub(super) fn answer(&self, ring: &Mutex<Ring>) -> DecisionPage {
        // A longer name was cut when it was recorded.
        let names = [&self.client_id, &self.username]
            .map(|name| name.as_deref().map(|name| cut(name, LONGEST_VALUE)));
        let mut refusals = Vec::new();
        let (mut before, mut looked_at, mut bytes) = (self.cursor.unwrap_or(u64::MAX), 0, 0);
        loop {
            let (some, begins) = {
                let ring = ring.lock();
                (ring.before(before, AT_A_TIME, self.outcome), ring.begins(self.outcome))
            };
            let end = |refusals, next: Option<u64>| DecisionPage {
                refusals,
                next: next.map(|next| next.to_string()),
                begins: Timestamp(begins),
            };
            if some.is_empty() {
                return end(refusals, None);
            }
            for (number, entry) in some {
                if self.passes(&entry, &names) {
                    if refusals.len() >= self.limit || bytes > PAGE_BYTES {
                        // One more than is shown: there is a next page only where it has something.
                        return end(refusals, Some(number + 1));
                    }
                    bytes += entry.weight();
                    refusals.push(entry);
                }
                before = number;
            }
            looked_at += AT_A_TIME;
            if looked_at >= LOOKED_AT {
                return end(refusals, Some(before));
            }
        }
    }

    fn passes(&self, entry: &DecisionEntry, names: &[Option<Box<str>>; 2]) -> bool {
        let wants = |wanted: Option<&str>, is: Option<&str>| wanted.is_none_or(|wanted| Some(wanted) == is);
        let [client_id, username] = names;
        // Numbers say the order, not times: a clock may be set back.
        self.since.is_none_or(|since| entry.time >= since)
            && wants(client_id.as_deref(), entry.client_id.as_deref())
            && wants(username.as_deref(), entry.username.as_deref())
            && wants(self.listener.as_deref(), Some(&entry.listener))
            && wants(self.hook.as_deref(), entry.hook)
    }
}
