//! Work whose panic ends nothing but itself.
//!
//! A panic is a bug. Where a task would end by it and nobody would notice, a socket would be deaf or a
//! backend never checked again: there it is an error like any other, and whoever gets it goes on.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use thiserror::Error;

/// The work has panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a bug: this program has panicked; what it said then is on standard error")]
pub struct Panicked;

/// Runs `work` to its end.
///
/// Cancel safe as far as `work` is.
///
/// # Errors
///
/// It has panicked, and is dropped. What it has changed by then stays changed.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut work = Box::pin(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn poll<T>(work: impl Future<Output = T>) -> Poll<T> {
        pin!(work).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_panic_is_an_error_and_all_else_is_as_it_was() {
        assert_eq!(poll(caught(ready(7))), Poll::Ready(Ok(7)));
        assert_eq!(poll(caught(pending::<()>())), Poll::Pending);
        let done = poll(caught(async { std::hint::black_box(None::<u8>).unwrap() }));
        assert_eq!(done, Poll::Ready(Err(Panicked)));
    }
}
