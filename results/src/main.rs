//! Makes docs/results.md: trains small models, measures them, and draws what came out.

fn main() {}
