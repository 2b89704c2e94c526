//! File descriptors. A connection takes two, and when none is left nobody is served: no broker can be dialled, no health
//! check accepted, no file opened. So there are only as many connections as leave some for all else. The account:
//!
//! | who holds descriptors | how many | out of |
//! |---|---|---|
//! | an admitted connection | 2: the client's, the broker's, which is dialled or looked up meanwhile | [`room`] |
//! | a connection that has not been admitted: in a handshake, before its CONNECT, waiting for a turn or an answer | 1, and a second that its question to a hook service over HTTP/1.1, and then its broker, may take | [`room`] |
//! | a stream whose session is over, for 2 s at most | 1 | [`room`]: half a connection, closed at once when a connection wants its place |
//! | what a listener has just accepted | 1 for each listener | [`reserve`] |
//! | callers of the admin API | 1 each, [`callers`] at most: half of it | [`reserve`] |
//! | listeners, the log, spools, the file of bans, hook service, keys, traces, the runtime | some 32 | [`reserve`] |

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The client's socket, and the broker's.
const EACH: u64 = 2;

/// Callers of the admin API, listeners, the hook service, files.
const ALL_ELSE: u64 = 160;

/// What mproxy itself has open: listeners, the log, the runtime.
pub(crate) const OWN: u64 = 32;

/// Of a large limit one in so many is for all else.
const SHARE: u64 = 32;

/// Raises the limit of open files of this process as far as it may. Where that fails, it stays.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

/// How many files may be open; `None`: as many as there are.
pub(crate) fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many are for all else than connections, within this limit.
fn reserve(limit: u64) -> u64 {
    (limit / SHARE).clamp(ALL_ELSE.min(limit / 4), 4096)
}

/// How many callers of the admin API may be connected, where there may be `most` in any case.
pub(crate) fn callers(limit: Option<u64>, most: usize) -> usize {
    let half = limit.map_or(usize::MAX, |limit| usize::try_from(reserve(limit) / 2).unwrap_or(usize::MAX));
    most.min(half).max(1)
}

/// Whether so many percent of them can come to be in use, with so many connections.
pub(crate) fn is_within_reach(percent: u8, limit: u64, connections: usize) -> bool {
    limit * u64::from(percent) / 100 <= EACH * connections as u64 + OWN
}

/// How many connections have room within this limit.
pub(crate) fn room(limit: Option<u64>) -> usize {
    let connections = limit.map(|limit| (limit - reserve(limit)) / EACH);
    connections.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::{callers, is_within_reach, room};

    #[test]
    fn connections_leave_descriptors_for_all_else() {
        for (limit, connections) in
            [(0, 0), (3, 1), (256, 96), (1024, 432), (20_000, 9687), (262_144, 129_024)]
        {
            assert_eq!(room(Some(limit)), connections, "{limit}");
        }
        assert_eq!(room(None), usize::MAX);
    }

    #[test]
    fn a_mark_is_within_reach_where_connections_can_use_as_many() {
        let reaches = |percent, limit| is_within_reach(percent, limit, room(Some(limit)));
        assert_eq!([90, 95, 97].map(|percent| reaches(percent, 1024)), [false; 3]);
        assert_eq!([90, 95, 97].map(|percent| reaches(percent, 2048)), [true, false, false]);
        assert_eq!([90, 95, 98].map(|percent| reaches(percent, 20_000)), [true, true, false]);
        assert!(!is_within_reach(90, 20_000, 100), "because of max_connections");
    }

    #[test]
    fn callers_of_the_admin_api_leave_half_of_the_rest() {
        for (limit, most) in [(0, 1), (256, 32), (400, 50), (2048, 80), (20_000, 128)] {
            assert_eq!(callers(Some(limit), 128), most, "{limit}");
        }
        assert_eq!(callers(None, 128), 128);
    }
}
