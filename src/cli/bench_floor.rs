//! `forelog bench-floor`, hidden: mounts a filesystem that does nothing, served as forelog's own mounts are. What a job costs
//! there is the transport's; what it costs on forelog beyond that is forelog's (`mount-scripts/bench`).

use super::logging;
use super::resolve::default_threads;
use crate::config::{Idle, LogLevel, Transport, WaitUmount};
use crate::control::Verdict;
use crate::gateway::Awake;
use crate::mount::{Floor, How, serve_floor};
use crate::sys::fusemount::{self, MountOptions};
use crate::sys::signal::SignalThread;
use crate::sys::{paths, worker};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(Debug, Args)]
pub struct BenchFloorArgs {
    /// Where programs see it: an empty directory
    pub mountpoint: PathBuf,
    /// How requests come from the kernel
    #[arg(long, default_value = "auto", value_parser = ["auto", "uring", "device"])]
    pub transport: String,
    /// Threads that serve requests [default: as a mount has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: Option<u8>,
}

/// As `--interval` is by default: how often it is looked whether CPUs may halt.
const TICK: Duration = Duration::from_millis(50);

/// Runs the verb: in front, until a signal or until someone unmounts it.
pub fn run(args: &BenchFloorArgs) -> Verdict {
    logging::init(LogLevel::Info);
    match paths::canonical(&args.mountpoint).map_err(|e| e.to_string()).and_then(|dir| serve(&dir, args)) {
        Ok(()) => Verdict::done(""),
        Err(e) => Verdict::refused(format!("{}: {e}", args.mountpoint.display())),
    }
}

fn serve(dir: &Path, args: &BenchFloorArgs) -> Result<(), String> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let floor = Arc::new(Floor::new(uid.as_raw(), gid.as_raw()));
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    let _signals = SignalThread::start(move |_| tell.store(true, Ordering::Release))
        .map_err(|e| format!("cannot take signals: {e}"))?;
    let options =
        MountOptions { fsname: "bench-floor".into(), allow_other: uid.is_root(), ..MountOptions::default() };
    let transport = match args.transport.as_str() {
        "uring" => Transport::Uring,
        "device" => Transport::Device,
        _ => Transport::Auto,
    };
    let how = How {
        threads: args.threads.map_or_else(default_threads, usize::from),
        transport,
        wait_umount: WaitUmount::Auto,
    };
    let served = serve_floor(floor.clone(), dir, &options, how).map_err(|e| e.to_string())?;
    log::info!("{}: requests come over {}", dir.display(), served.transport.name());
    let mut awake = Awake::new(Idle::Auto);
    while !served.ended() {
        worker::sleep(TICK);
        awake.tick(floor.meter.asked(), TICK);
        if told.swap(false, Ordering::AcqRel) {
            fusemount::unmount(dir, false)
                .or_else(|_| fusemount::unmount(dir, true))
                .map_err(|e| format!("unmounting failed: {e}"))?;
        }
    }
    served.join().map_err(|e| format!("serving it failed: {e}"))
}
