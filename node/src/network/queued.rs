//! A message's bytes on their way to the driver, counted for as long as anybody holds them.
//! It bounds memory and nothing else: how often a peer may speak is the swarm task's business.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::counters::Counters;

/// The bytes of a message that came. They count as queued until this is dropped; a clone does not count.
pub struct MessageBytes {
    bytes: Vec<u8>,
    counters: Option<Arc<Counters>>,
}

impl MessageBytes {
    /// Counts the bytes; none when more than `limit` would then be queued.
    pub(super) fn queued(bytes: Vec<u8>, limit: u64, counters: &Arc<Counters>) -> Option<Self> {
        let length = bytes.len() as u64;
        let before = counters.inbound_bytes.fetch_add(length, Relaxed);
        // Built before the check, so that a refusal gives the count back as every other end does.
        let queued = Self {
            bytes,
            counters: Some(Arc::clone(counters)),
        };
        (before + length <= limit).then_some(queued)
    }
}

impl Drop for MessageBytes {
    fn drop(&mut self) {
        if let Some(counters) = &self.counters {
            counters.inbound_bytes.fetch_sub(self.bytes.len() as u64, Relaxed);
        }
    }
}

impl Clone for MessageBytes {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            counters: None,
        }
    }
}

impl Deref for MessageBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for MessageBytes {
    fn eq(&self, other: &T) -> bool {
        self.bytes == other.as_ref()
    }
}

impl Eq for MessageBytes {}

impl AsRef<[u8]> for MessageBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for MessageBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_they_are_dropped_and_never_over_the_limit() {
        let counters = Arc::new(Counters::default());
        let count = || counters.inbound_bytes.load(Relaxed);
        let first = MessageBytes::queued(vec![1; 60], 100, &counters).expect("there is room");
        assert!(MessageBytes::queued(vec![1; 41], 100, &counters).is_none());
        assert_eq!(count(), 60, "what was refused does not count");
        let copy = first.clone();
        let second = MessageBytes::queued(vec![2; 40], 100, &counters).expect("it fits to the byte");
        assert_eq!(count(), 100);
        assert_eq!(copy, first);
        assert_ne!(second, first);
        drop((copy, first));
        assert_eq!(count(), 40);
        drop(second);
        assert_eq!(count(), 0);
    }
}
