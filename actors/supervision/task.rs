//! The only place where tasks that are not actors are spawned.

use futures_util::FutureExt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use tokio::task::JoinHandle;

/// Ends its task when dropped.
#[derive(Debug)]
#[must_use = "dropping the guard aborts the task at once"]
pub struct TaskGuard(Option<JoinHandle<()>>);

/// Runs `work` beside the actors. A panic in it is logged under `name`, and only logged: work that must not be lost
/// belongs into an actor.
#[allow(clippy::disallowed_methods)] // the one permitted place
pub fn spawn_task(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> TaskGuard {
    TaskGuard(Some(tokio::spawn(async move {
        if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
            tracing::error!(task = name, panic = panic_text(&*panic), "task panicked");
        }
    })))
}

impl TaskGuard {
    /// Lets the task run to its end, whatever becomes of us.
    pub fn detach(mut self) {
        self.0 = None;
    }

    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the task to end by itself.
    pub async fn finished(mut self) {
        if let Some(handle) = self.0.as_mut() {
            // Panics were caught inside; what is left is that the runtime is going down.
            let _ = handle.await;
        }
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "a panic without a text",
    }
}
