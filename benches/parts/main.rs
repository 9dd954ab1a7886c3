//! The parts of the write path, one at a time and without FUSE: `cargo bench`. `cargo test --bench parts` runs each once,
//! to see that it still works. The whole, with FUSE and beside others, is measured by `mount-scripts/bench`.
//!
//! The log and the backing are real files below the target directory, so appends and syncs cost what this disk does.

mod extents;
mod log;
mod metrics;
mod planning;
mod world;

fn main() {
    divan::main();
}
