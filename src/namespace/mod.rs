//! F2: the inodes and names as programs see them: the backing's, changed by what the log holds.

pub mod acl;
mod dir;
mod names;
mod node;
pub mod places;

pub use dir::{Dir, Entry};
pub use node::Node;
pub use places::{Place, Places};
