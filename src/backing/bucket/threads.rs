//! The runtime of the SDK's requests, which may end on one of its own threads: with the last request that was under way.

use std::ops::Deref;
use tokio::runtime::Runtime;

/// A runtime that is let go without waiting, as a wait would panic on its own threads.
pub struct Threads(Option<Runtime>);

impl From<Runtime> for Threads {
    fn from(runtime: Runtime) -> Threads {
        Threads(Some(runtime))
    }
}

impl Deref for Threads {
    type Target = Runtime;
    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("taken by drop alone")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn may_end_on_its_own_thread() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let threads = Arc::new(Threads::from(runtime));
        let (ended, end) = std::sync::mpsc::channel();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let last = threads.clone();
        threads.spawn(async move {
            gone.recv().unwrap();
            drop(last);
            ended.send(()).unwrap();
        });
        drop(threads);
        go.send(()).unwrap();
        end.recv_timeout(Duration::from_secs(20)).expect("no panic");
    }
}
