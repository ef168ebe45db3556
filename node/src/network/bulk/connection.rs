//! One QUIC connection, served: its streams, and how little it may take while nobody here knows the peer.
//! It answers no request (`serve` does) and lets nobody in (`admission` does).

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::super::config::{BULK_IDLE_OF_STRANGERS, QUIC_CONNECTION_WINDOW_BYTES};
use super::link::Stream;
use super::serve::{Asker, Server};

/// QUIC's application codes for a closed connection.
pub(super) const CLOSED_BY_SHUTDOWN: u32 = 0;
const CLOSED_AS_DENIED: u32 = 1;
pub(super) const CLOSED_AS_TOO_MANY: u32 = 2;
pub(super) const CLOSED_AS_IDLE: u32 = 3;

/// Who opened the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenedBy {
    /// For a fetch of ours: it is ours to close.
    Us,
    Peer,
}

/// Serves its streams until it closes or is worn out. One that a stranger opened has a small window and closes where it idles,
/// until the peer is known.
pub(super) async fn serve(server: Server, asker: Asker, connection: quinn::Connection, opened_by: OpenedBy) {
    let mut wanted = server.wanted.clone();
    let mut known = opened_by == OpenedBy::Us;
    let mut idle_since = Instant::now();
    let mut streams = JoinSet::new();
    loop {
        if !known && wanted.borrow_and_update().may_connect(&asker.peer) {
            known = true;
            connection.set_receive_window(QUIC_CONNECTION_WINDOW_BYTES.into());
        }
        tokio::select! {
            stream = connection.accept_bi() => {
                let Ok((write, read)) = stream else { break };
                let stream = Stream { read: Box::new(read), write: Box::new(write) };
                streams.spawn(server.clone().serve(asker.clone(), stream));
            }
            Some(_ended) = streams.join_next() => {
                idle_since = Instant::now();
                if asker.wears_out() {
                    connection.close(CLOSED_AS_DENIED.into(), b"not a member");
                    break;
                }
            }
            Ok(()) = wanted.changed(), if !known => {}
            () = sleep_until(idle_since + BULK_IDLE_OF_STRANGERS), if !known && streams.is_empty() => {
                connection.close(CLOSED_AS_IDLE.into(), b"idle, and not a member");
                break;
            }
        }
    }
}
