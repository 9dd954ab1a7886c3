//! F5: the only module that names fuser. It turns requests into calls of `fs/` and their outcomes
//! into replies; nothing else.

mod adapter;
mod caller;
mod convert;
mod reply;
mod session;
mod trim;

pub use caller::Callers;
pub use session::{Served, serve};
