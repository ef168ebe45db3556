//! The next batches, read on a thread of their own while the model computes.
//! It changes neither the order nor the content of batches.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use super::{Batch, DataError, Dataset, Order};

/// Batches that wait at most: one is being computed on, one is ready, one is being read.
const READY: usize = 1;

/// Batches of consecutive rows, in order.
#[derive(Debug)]
pub struct Prefetch {
    batches: Option<Receiver<Result<Batch, DataError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Begins to read the batches of `rows` rows each with these numbers: number `n` begins at position `n · rows`.
    pub fn new(data: Arc<Dataset>, order: Order, rows: usize, numbers: Range<u64>) -> Self {
        let rows = rows as u64;
        Self::of(
            data,
            order,
            numbers.map(move |number| number * rows..(number + 1) * rows),
        )
    }

    /// Begins to read batches of the rows at these positions.
    pub fn of(data: Arc<Dataset>, order: Order, batches: impl Iterator<Item = Range<u64>> + Send + 'static) -> Self {
        let (sender, receiver) = sync_channel(READY);
        let read = move || {
            for rows in batches {
                let count = rows.end.saturating_sub(rows.start) as usize;
                let batch = data.training_batch(order, rows.start, count);
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    break;
                }
            }
        };
        Self {
            batches: Some(receiver),
            thread: Some(std::thread::spawn(read)),
        }
    }
}

impl Iterator for Prefetch {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.as_ref()?.recv().ok()
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // The thread ends when nobody listens any more.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // It only panics where this program is wrong, and says so itself.
            let _ = thread.join();
        }
    }
}
