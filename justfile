# One door to all commands. `just check` is what CI runs.

# Everything that has to hold before a change is taken; or only some steps: `just check format clippy`.
check *steps:
    bash .ci/run {{ steps }}

# All tests of all crates, with what they need installed first.
test *args:
    bash .ci/test {{ args }}

# A broker, mproxy before it and example rules, on this machine.
demo *args:
    cargo run --bin mproxy -- demo {{ args }}

# Fuzz one target for a minute (or so many seconds): `just fuzz client_v5 600`.
fuzz target="client_v5" seconds="60":
    cargo +nightly fuzz run {{ target }} -- -max_total_time={{ seconds }}

# The benchmarks of the codec and core.
bench *args:
    cargo bench --workspace {{ args }}

# mproxy beside nginx and haproxy; the report goes into bench/README.md: `just measure --help`.
measure *args:
    bash bench/run {{ args }}

# The documentation of our own crates.
doc *args:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps {{ args }}
