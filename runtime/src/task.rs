//! Background tasks whose end is noticed: a panic is logged with what it means, and the task begins anew.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Before a task that panicked begins anew: a bug that strikes at once must not fill the log.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Runs what `make` makes until it ends by itself. When it panics, that is logged with `meanwhile` (what does not happen
/// until it runs again), and `make` is asked for a new one.
pub fn keep<F>(name: &'static str, meanwhile: &'static str, make: impl FnMut() -> F + Send + 'static) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(kept(name, meanwhile, make))
}

/// As [`keep`], for a task that has no end of its own: it runs until `stop`, and ending before is an error too.
pub fn keep_until<F>(
    name: &'static str,
    meanwhile: &'static str,
    stop: CancellationToken,
    mut make: impl FnMut() -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        let endless = async {
            loop {
                kept(name, meanwhile, &mut make).await;
                tracing::error!(task = name, meanwhile, "background task ended unexpectedly; it begins anew");
                tokio::time::sleep(RESTART_AFTER).await;
            }
        };
        tokio::select! { () = endless => {}, () = stop.cancelled() => {} }
    })
}

/// The same, without a task of its own.
pub(crate) async fn kept<F: Future<Output = ()>>(
    name: &'static str,
    meanwhile: &'static str,
    mut make: impl FnMut() -> F,
) {
    // The first call of `make` is inside as well: it may panic like all the rest.
    while let Err(panic) = AssertUnwindSafe(async { make().await }).catch_unwind().await {
        let said = said(&*panic);
        tracing::error!(
            task = name,
            panic = said,
            meanwhile,
            "background task panicked; it begins anew, please report this"
        );
        tokio::time::sleep(RESTART_AFTER).await;
    }
}

/// What a panic said.
pub(crate) fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_begins_anew_and_its_proper_end_is_the_end() {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let task = keep("test", "nothing is tested", move || {
            let run = counted.fetch_add(1, Ordering::Relaxed);
            async move { assert!(run >= 2, "not yet") }
        });
        assert!(task.await.is_ok());
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_without_an_end_begins_anew_until_it_is_stopped() {
        let (stop, runs) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let (counted, stopper) = (Arc::clone(&runs), stop.clone());
        let task = keep_until("test", "nothing is tested", stop, move || {
            if counted.fetch_add(1, Ordering::Relaxed) == 2 {
                stopper.cancel();
            }
            std::future::ready(())
        });
        assert!(task.await.is_ok());
        assert!(runs.load(Ordering::Relaxed) >= 3);
    }
}
