//! F5: the only module that names fuser and the kernel's FUSE interface. It turns requests into calls of `fs/` and
//! their outcomes into replies; nothing else. `ops` is the same for all requests, whichever way they came.

mod adapter;
mod answer;
mod caller;
mod convert;
mod ops;
mod reply;
mod ring;
mod session;
mod trim;
pub mod wire;

pub use caller::Callers;
pub use ops::{Answer, AtEnd};
pub use session::{How, Served, serve};
