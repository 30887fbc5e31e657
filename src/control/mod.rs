//! The control plane: the single writer of all health and failover state.
//!
//! ```text
//! reports, checks, actions, requests ─► controller ─► keeper: what follows? ─► follow ─► publish
//!                                       controller.rs  keeper.rs (pure)        follow.rs  pool.rs
//! ```
//!
//! It runs on a thread of its own, so that a slow check or a big answer cannot delay bytes, and a busy
//! worker cannot delay a check. The data path never waits for it, but where a takeover asks for that.

mod answers;
mod checks;
mod controller;
mod demotion;
pub mod event;
mod fate;
mod files;
mod follow;
pub mod handle;
pub mod keeper;
mod names;
mod overview;
mod parted;
mod places;
mod pool;
pub mod recovery;
pub mod reload;
mod repair;
mod resume;
mod state_file;
mod takeover;
mod timers;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder as RuntimeBuilder, LocalOptions};
use tokio_util::sync::CancellationToken;

use controller::Controller;
pub use controller::{ControlError, Setup};
use event::Events;
pub use files::absent;
pub use handle::Handle;
pub use places::Places;

use crate::config::model::Config;
use crate::state::Snapshot;

/// How long faces may take to end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The running control plane.
#[derive(Debug)]
pub struct Control {
    handle: Handle,
    stop: CancellationToken,
    /// Another process goes on.
    retired: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Out of memory, threads or descriptors.
    #[error("cannot start the control thread: {0}")]
    Thread(#[from] io::Error),
    /// The configuration asks for what cannot be made.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl Control {
    /// Starts the control plane of the pools of `snapshot`: their first rotations are in force when
    /// this returns. Blocks for that long. What `faces` makes of a handle runs beside it, on its thread,
    /// until it ends by itself once the control plane has: it is waited for, for a second at most.
    ///
    /// # Errors
    ///
    /// See [`StartError`]; nothing is left running then.
    pub fn start<F: Future<Output = ()> + 'static>(
        setup: Setup,
        config: Config,
        snapshot: Arc<Snapshot>,
        faces: impl FnOnce(Handle) -> F + Send + 'static,
    ) -> Result<Self, StartError> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let retired = Arc::new(AtomicBool::new(false));
        let is_retired = Arc::clone(&retired);
        let (started, when_started) = sync_channel::<Result<Handle, StartError>>(1);
        let thread = Builder::new().name("control".into()).spawn(move || {
            let runtime = RuntimeBuilder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error.into()))),
            };
            runtime.block_on(async {
                let events = Events::default();
                let config = Arc::new(ArcSwap::from_pointee(config));
                let (handle, requests) = Handle::new(events.clone(), Arc::clone(&config));
                let what = (config, snapshot);
                match Controller::new(setup, what, (events, requests)) {
                    Ok(controller) => {
                        let faces = tokio::task::spawn_local(faces(handle.clone()));
                        let _ = started.send(Ok(handle));
                        controller.run(stopped, &is_retired).await;
                        // Who still asks is told that it has ended.
                        let _ = tokio::time::timeout(LAST_ANSWERS, faces).await;
                    }
                    Err(error) => drop(started.send(Err(error.into()))),
                }
            });
        })?;
        let ended = || io::Error::other("the thread ended at once");
        let handle = when_started.recv().map_err(|_| StartError::from(ended()))??;
        Ok(Self { handle, stop, retired, thread })
    }

    /// A way to ask it.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends it without saving: another process goes on.
    pub fn retire(self) {
        self.retired.store(true, Relaxed);
        self.stop();
    }

    /// Ends it, and saves what survives. Blocks until that is done: a file is written.
    pub fn stop(self) {
        self.stop.cancel();
        // A control thread that has panicked has said so.
        let _ = self.thread.join();
    }
}
