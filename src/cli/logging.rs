//! The program's log lines: to stderr, which in the background is the log file.

/// A log file larger than this is set aside when a mount starts.
pub const ROTATE_BYTES: u64 = 16 << 20;

/// Starts logging; `RUST_LOG` says what, `info` and above by default.
pub fn init() {
    let env = env_logger::Env::default().default_filter_or("info");
    // A second start, as tests do, keeps the first.
    env_logger::Builder::from_env(env).format_timestamp_millis().try_init().ok();
}
