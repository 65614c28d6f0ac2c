//! Readers that others have written may panic on damaged bytes: here such a panic becomes an error.
//!
//! A program that prints panics asks [`is_guarded`] first, so that nobody takes a damaged file for a crash. Does not know what is read.

use crate::{Error, Kind, Result};
use futures::Stream;
use std::any::Any;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread, at this moment, becomes an error.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// What `read` gives, which changes nothing of ours.
///
/// # Errors
/// [`Kind::Corrupt`]: it has panicked.
pub(crate) fn guarded<T>(read: impl FnOnce() -> T) -> Result<T> {
    let before = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(before);
    outcome.map_err(|panic| Error::new(Kind::Corrupt, format!("the reader has given up: {}", words(&*panic))))
}

/// What the future `read` gives, which changes nothing of ours.
///
/// # Errors
/// [`Kind::Corrupt`]: it has panicked.
pub(crate) async fn guarded_future<F: Future>(read: F) -> Result<F::Output> {
    let mut read = pin!(read);
    poll_fn(|context| match guarded(|| read.as_mut().poll(context)) {
        Ok(poll) => poll.map(Ok),
        Err(error) => Poll::Ready(Err(error)),
    })
    .await
}

/// A stream whose panics become its last item.
pub(crate) struct Guarded<S>(Option<S>);

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(Some(stream))
    }
}

impl<S: Stream + Unpin> Stream for Guarded<S> {
    type Item = Result<S::Item>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.0 else { return Poll::Ready(None) };
        match guarded(|| Pin::new(stream).poll_next(context)) {
            Ok(poll) => poll.map(|item| item.map(Ok)),
            Err(error) => {
                self.0 = None;
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it does not say why")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    #[tokio::test]
    async fn panics_become_errors() {
        assert_eq!(guarded(|| 1).expect("no panic"), 1);
        assert_eq!(guarded_future(async { 2 }).await.expect("no panic"), 2);
        let error = guarded(|| panic!("a length of {}", -1)).expect_err("a panic");
        assert!(error.kind() == Kind::Corrupt && error.to_string().contains("a length of -1"), "{error}");
        let error = guarded_future(async {
            tokio::task::yield_now().await;
            panic!("later")
        })
        .await
        .expect_err("a panic");
        assert!(error.to_string().contains("later"), "{error}");
        let mut stream = Guarded::new(futures::stream::iter([1, 0, 1]).map(|by| 7 / by));
        assert!(matches!((stream.next().await, stream.next().await, stream.next().await), (Some(Ok(7)), Some(Err(_)), None)));
        assert!(!is_guarded());
    }
}
