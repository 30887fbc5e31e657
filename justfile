# Every recipe is a plain command: `just` is a convenience, not a requirement.

# What must hold before a change lands.
ci:
    bash .ci/run

# What to run while working.
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo test --lib --bins

test:
    cargo test

# One integration test with its log: just one a_slow_reader
one name:
    cargo test --test suite {{name}} -- --nocapture

bench:
    cargo bench

# tidegate beside HAProxy and nginx: just peers --quick
peers *options:
    python3 benches/peers/run.py {{options}}

demo:
    cargo run --release -- demo

deny:
    cargo deny check
