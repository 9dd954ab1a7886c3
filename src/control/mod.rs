//! F5: the control channel of a running gateway: a private unix socket on which `status`, `flush` and
//! `umount` ask and the gateway answers; and the seam through which the verbs reach the engine.

pub mod client;
pub mod codec;
pub mod engine;
pub mod exporter;
pub mod locate;
pub mod metrics;
pub mod protocol;
pub mod queue;
pub mod render;
pub mod series;
pub mod server;
pub mod status;

pub use engine::{Abilities, Engine, Replay, Train};
pub use protocol::{CHANGED_MEANWHILE, Progress, SampleBatch, Verdict};
pub use queue::QueueView;
pub use server::{ControlTarget, Server};
pub use status::Status;
