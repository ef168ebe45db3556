//! The machines' time: milliseconds since the Unix epoch when the process began, and monotonic from there.
//! A step of the system's clock does not reach a machine.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use synod_protocol::contract::Time;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Instant,
    began_unix_ms: u64,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        let began_unix_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        Self {
            began: Instant::now(),
            began_unix_ms,
        }
    }

    /// Now.
    pub fn now(&self) -> Time {
        Time(self.began_unix_ms + self.began.elapsed().as_millis() as u64)
    }

    /// The instant at which it will be `time`; the past becomes now.
    pub fn instant_of(&self, time: Time) -> Instant {
        self.began + Duration::from_millis(time.0.saturating_sub(self.began_unix_ms))
    }

    /// Since the process began.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }
}

/// The system's time, in seconds since the Unix epoch: for keys that expire and for dates in records.
pub fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
