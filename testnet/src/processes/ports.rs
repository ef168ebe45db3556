//! Free ports on loopback, in pairs: messages on the first, models and updates on the next, each over TCP and UDP.
//! It only looks; another program may still take them before a node does, and then the node says so.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

use super::ProcessError;

/// Below the range from which systems choose ports for outgoing connections.
const FROM: u16 = 18_000;
const TO: u16 = 31_998;

/// Pairs handed out in this process so far.
static HANDED_OUT: AtomicU32 = AtomicU32::new(0);

/// The first port of a free pair. Never the same twice in a process; processes begin at different places.
pub fn free_pair() -> Result<u16, ProcessError> {
    let pairs = u32::from((TO - FROM) / 2);
    let start = std::process::id().wrapping_mul(37) % pairs;
    for _ in 0..pairs {
        let step = HANDED_OUT.fetch_add(1, Ordering::Relaxed);
        let port = FROM + 2 * ((start + step) % pairs) as u16;
        if is_free(port) && is_free(port + 1) {
            return Ok(port);
        }
    }
    Err(ProcessError::NoPorts { from: FROM, to: TO })
}

fn is_free(port: u16) -> bool {
    let at = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_free_and_differ() {
        let (first, second) = (free_pair().unwrap(), free_pair().unwrap());
        assert!(first.abs_diff(second) >= 2);
        let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        assert!(!is_free(first));
        drop(taken);
        assert!(is_free(first));
    }
}
