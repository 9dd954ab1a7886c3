//! F2: the inodes and names as programs see them: the backing's, changed by what the log holds.

pub mod acl;
mod dir;
mod names;
mod node;
pub mod places;

pub use dir::{Dir, Entry, SEEN_NAMES_MAX};
pub use node::Node;
pub use places::{Place, Places};
