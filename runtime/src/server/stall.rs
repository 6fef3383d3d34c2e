//! Readers that do not read: what they hold is taken back.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// Hands `stream` on until the reader has not taken what is there for `limit`; then drops it, with everything it holds. The
/// reader finds a proper end behind what it has not read yet.
///
/// A body alone cannot do so: nobody polls it while its reader does not read.
pub(crate) fn while_read<S>(stream: S, limit: Duration) -> impl Stream<Item = S::Item> + Send
where
    S: Stream<Item: Send> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    // It ends with its stream or with its reader, whichever is first.
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                () = sender.closed() => return,
            };
            let Some(item) = next else { return };
            match timeout(limit, sender.send(item)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    tracing::info!("a stream was ended: its reader did not read");
                    return;
                }
            }
        }
    });
    futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) })
}

/// A connection whose writes fail when the other end has taken nothing for a while.
#[derive(Debug)]
pub(super) struct Stalling<S> {
    stream: S,
    limit: Duration,
    /// Runs while a write waits.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, alarm: None }
    }

    fn bounded<T>(&mut self, context: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.alarm = None;
            return written;
        }
        let limit = self.limit;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        match alarm.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the other end does not read"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncWriteExt as _;
    use tokio::sync::Semaphore;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Numbers for ever, holding a place.
    fn numbers(places: &Arc<Semaphore>) -> impl Stream<Item = u64> + Send + 'static + use<> {
        let place = Arc::clone(places).try_acquire_owned().expect("a place");
        futures::stream::iter(0_u64..).map(move |number| {
            let _ = &place;
            number
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_nobody_reads_gives_its_place_back() {
        let places = Arc::new(Semaphore::new(1));
        let mut stream = std::pin::pin!(while_read(numbers(&places), LIMIT));
        for expected in 0..100 {
            tokio::time::sleep(LIMIT / 2).await;
            assert_eq!(stream.next().await, Some(expected), "slow is not stalled");
        }
        assert_eq!(places.available_permits(), 0);
        let _place = timeout(LIMIT * 2, places.acquire()).await.expect("given back").expect("open");
        let rest: Vec<u64> = stream.collect().await;
        assert_eq!(rest, [100], "what was ready is there, then it ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_goes_away_ends_the_stream_at_once() {
        let places = Arc::new(Semaphore::new(1));
        let held = Arc::clone(&places).try_acquire_owned().expect("a place");
        let silent = futures::stream::pending::<()>().map(move |()| held.num_permits());
        drop(while_read(silent, LIMIT));
        let began = Instant::now();
        let _place = places.acquire().await.expect("open");
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_fails() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut stream = Stalling::new(ours, LIMIT);
        let began = Instant::now();
        let error = stream.write_all(&[0; 64]).await.expect_err("nobody reads");
        assert_eq!((error.kind(), began.elapsed().as_secs()), (ErrorKind::TimedOut, LIMIT.as_secs()));
    }
}
