//! F4: undo: what was kept, read into a history, and what an object was at a moment of it. No change is made here.
//!
//! A name is found backwards: what it led to before the first record after the moment, else what it leads to now. Content
//! and attributes are found forwards: from a base (the object's creation, or what the backing held before the first store
//! after the moment) over the records up to the moment. Where a record or a base may be missing, that is an error.

mod history;
mod object;
mod past;
#[cfg(test)]
mod tests;
mod versions;

pub use history::{DataAt, History, Image, Rec, load};
pub use object::{Content, Piece, Source, Xattrs};
pub use past::Past;
pub use versions::{Version, What, candidates, versions};
