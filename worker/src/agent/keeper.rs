//! Work that must go on for as long as the agent does: when it ends, that is told, and it is begun again.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;

/// A task that ends at once each time must not burn a CPU; one that ended once is missed for no longer than this.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Keeps work going in a task of its own. Aborting the task ends the work too.
pub(super) fn keep_going<W>(
    what: &'static str,
    mut begin: impl FnMut() -> W + Send + 'static,
    mut tell: impl FnMut(String) + Send + 'static,
) -> JoinHandle<()>
where
    W: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        loop {
            let mut work = tokio::task::JoinSet::new();
            work.spawn(begin());
            let why = match work.join_next().await {
                Some(Err(error)) => error.to_string(),
                Some(Ok(())) | None => "it came to an end".to_owned(),
            };
            tracing::error!(why, "{what} stopped; it is begun again");
            tell(format!("{what} stopped ({why}); it is begun again"));
            tokio::time::sleep(PAUSE).await;
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn work_that_panics_is_told_and_begun_again() {
        static BEGUN: AtomicU32 = AtomicU32::new(0);
        let (told, mut said) = mpsc::unbounded_channel();
        let (went_on, mut goes_on) = mpsc::unbounded_channel();
        let begin = move || {
            let went_on = went_on.clone();
            async move {
                assert!(BEGUN.fetch_add(1, Ordering::Relaxed) > 0, "the first time it fails");
                let _ = went_on.send(());
                std::future::pending::<()>().await;
            }
        };
        let keeper = keep_going("the test", begin, move |text| drop(told.send(text)));
        assert!(said.recv().await.is_some_and(|text| text.contains("the test stopped") && text.contains("panicked")));
        assert_eq!(goes_on.recv().await, Some(()));
        keeper.abort();
    }
}
