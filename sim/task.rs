//! The one place in this crate that starts tasks: requests in flight and timers, each owned by the actor that holds its handle.

use std::future::Future;
use tokio::task::AbortHandle;

/// Runs `work` beside the caller. It ends by itself or when the handle is aborted; it answers by messages only.
#[allow(clippy::disallowed_methods)] // the one permitted place of the fleet
pub(crate) fn start(work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(work).abort_handle()
}
