//! File descriptors. A connection takes two, and when none is left nobody is served: no broker can be dialled, no health
//! check accepted, no file opened. So there are only as many connections as leave some for all else.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The client's socket, and the broker's.
const EACH: u64 = 2;

/// Callers of the admin API, listeners, the hook service, files.
const ALL_ELSE: u64 = 160;

/// Streams linger a moment after their sessions, and the more connections there are, the more do.
const LINGERING: u64 = 32;

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

/// How many connections have room within this limit.
pub(crate) fn room(limit: Option<u64>) -> usize {
    let connections = limit.map(|limit| {
        let others = (limit / LINGERING).clamp(ALL_ELSE.min(limit / 4), 4096);
        (limit - others) / EACH
    });
    connections.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::room;

    #[test]
    fn connections_leave_descriptors_for_all_else() {
        for (limit, connections) in
            [(0, 0), (3, 1), (256, 96), (1024, 432), (20_000, 9687), (262_144, 129_024)]
        {
            assert_eq!(room(Some(limit)), connections, "{limit}");
        }
        assert_eq!(room(None), usize::MAX);
    }
}
