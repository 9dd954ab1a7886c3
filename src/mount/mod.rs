//! F5: the only module that names fuser and the kernel's FUSE interface. It turns requests into calls of `fs/` and
//! their outcomes into replies; nothing else. `ops` is the same for all requests, whichever way they came; `floor` takes its
//! place where the transport alone is to be measured.

mod adapter;
mod answer;
mod caller;
mod convert;
mod floor;
mod ops;
mod reply;
mod ring;
mod serve;
mod session;
mod trim;
pub mod wire;

pub use caller::Callers;
pub use floor::Floor;
pub use ops::{Answer, AtEnd};
pub use session::{How, Served, serve, serve_floor};
