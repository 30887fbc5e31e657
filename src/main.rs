//! The binary: arguments → library → exit code. Nothing else.

fn main() {}
