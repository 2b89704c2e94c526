//! The seeded simulator over many seeds. `MPROXY_SIM_SEEDS=50000` plays more, `MPROXY_SIM_SEED=17` plays one.

use mproxy_sim::{revocations, world};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn no_packet_is_lost_doubled_overtaken_or_changed() {
    if let Some(seed) = number("MPROXY_SIM_SEED") {
        return world::run(seed);
    }
    for seed in 0..number("MPROXY_SIM_SEEDS").unwrap_or(10_000) {
        world::run(seed);
    }
}

#[test]
fn what_is_taken_back_reaches_nobody_and_nothing_else_is_lost() {
    if let Some(seed) = number("MPROXY_SIM_SEED") {
        return revocations::run(seed);
    }
    for seed in 0..number("MPROXY_SIM_SEEDS").unwrap_or(10_000) / 4 {
        revocations::run(seed);
    }
}

#[test]
fn a_session_that_moves_from_process_to_process_loses_doubles_and_changes_nothing() {
    if let Some(seed) = number("MPROXY_SIM_SEED") {
        world::run_moving(seed);
        return;
    }
    let seeds = number("MPROXY_SIM_SEEDS").unwrap_or(10_000) / 2;
    let moved: usize = (0..seeds).map(world::run_moving).sum();
    assert!(moved as u64 > 4 * seeds, "{moved} moves in {seeds} games");
}
