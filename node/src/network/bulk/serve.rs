//! Serving blobs: one stream, any number of requests, every wait and every number bounded.
//! It serves whoever the driver allows and who knows the id; it does not judge why.

use std::fs::File;
use std::io::{self, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use synod_protocol::identity::{BlobId, PeerId};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::super::Wanted;
use super::super::config::{
    BLOB_CHUNK_BYTES, BULK_CHUNK_TIMEOUT, BULK_IDLE_OF_STRANGERS, BULK_REQUEST_TIMEOUT, BULK_STREAM_IDLE,
    BULK_TREE_TIMEOUT, DENIALS_PER_CONNECTION,
};
use super::super::counters::{Counters, Tally, count};
use super::access::BlobAccess;
use super::link::{Stream, within};
use super::tree::TreeRequest;
use super::wire::{Answer, Kind, REQUEST_BYTES, Request, Status};

/// How long an asker waits for a list of group hashes before it is told to ask again: the answer reaches it in time.
const TREE_PATIENCE: Duration = BULK_TREE_TIMEOUT.saturating_sub(BULK_REQUEST_TIMEOUT);

/// What serving needs; cheap to clone.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) blobs: BlobAccess,
    pub(super) trees: mpsc::Sender<TreeRequest>,
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) counters: Arc<Counters>,
    /// Places for blobs served at once to everyone.
    pub(super) places: Arc<Semaphore>,
}

/// The asker.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) peer: PeerId,
    /// Places for blobs served at once to this peer.
    pub(super) places: Arc<Semaphore>,
    pub(super) tally: Arc<Tally>,
    /// Denied requests of this connection.
    pub(super) denials: Arc<AtomicU32>,
}

impl Asker {
    /// Whether the connection was denied so often that it is closed.
    pub(super) fn wears_out(&self) -> bool {
        self.denials.load(Relaxed) >= DENIALS_PER_CONNECTION
    }
}

impl Server {
    /// Answers the requests of one stream until it ends or breaks the rules.
    pub(super) async fn serve(self, asker: Asker, mut stream: Stream) {
        while !asker.wears_out() {
            let idle = match self.wanted.borrow().may_connect(&asker.peer) {
                true => BULK_STREAM_IDLE,
                false => BULK_IDLE_OF_STRANGERS,
            };
            let request = match read_request(&mut stream, idle).await {
                Ok(Some(request)) => request,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(peer = %asker.peer, %error, "a request for a blob did not come whole");
                    break;
                }
            };
            if let Err(error) = self.answer(&asker, &mut stream, request).await {
                tracing::debug!(peer = %asker.peer, %error, "serving a blob ended early");
                break;
            }
        }
        // Bytes that are under way are still delivered.
        let _peer_gone = within(BULK_CHUNK_TIMEOUT, stream.write.shutdown()).await;
    }

    async fn answer(&self, asker: &Asker, stream: &mut Stream, request: Option<Request>) -> io::Result<()> {
        let Some(request) = request else {
            refuse(stream, Status::BadRequest).await?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an unreadable request"));
        };
        if !self.wanted.borrow().may_fetch_blob(&asker.peer, &request.blob) {
            count(&self.counters.drops.blob_denied);
            asker.denials.fetch_add(1, Relaxed);
            return refuse(stream, Status::Denied).await;
        }
        let (Ok(_place), Ok(_own_place)) = (self.places.try_acquire(), asker.places.try_acquire()) else {
            count(&self.counters.drops.blob_busy);
            return refuse(stream, Status::Busy).await;
        };
        match request.kind {
            Kind::Tree => self.answer_tree(asker, stream, request.blob).await,
            Kind::Range => self.answer_range(asker, stream, request).await,
        }
    }

    async fn answer_tree(&self, asker: &Asker, stream: &mut Stream, blob: BlobId) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        if self.trees.try_send((blob, reply)).is_err() {
            count(&self.counters.drops.blob_busy);
            return refuse(stream, Status::Busy).await;
        }
        let tree = match tokio::time::timeout(TREE_PATIENCE, answer).await {
            Ok(Ok(Some(tree))) => tree,
            Ok(Ok(None)) => return refuse(stream, Status::NotFound).await,
            // It is being computed, or waits for others': the blob is here.
            Ok(Err(_)) | Err(_) => {
                count(&self.counters.drops.blob_busy);
                return refuse(stream, Status::Busy).await;
            }
        };
        write(
            stream,
            &Answer {
                status: Status::Ok,
                blob_length: tree.length(),
            }
            .to_bytes(),
        )
        .await?;
        for piece in tree.to_bytes().chunks(BLOB_CHUNK_BYTES) {
            write(stream, piece).await?;
            self.sent(asker, piece.len());
        }
        stream.write.flush().await
    }

    async fn answer_range(&self, asker: &Asker, stream: &mut Stream, request: Request) -> io::Result<()> {
        let (file, length) = match self.blobs.open(request.blob).await {
            Ok(Some(found)) => found,
            Ok(None) => return refuse(stream, Status::NotFound).await,
            Err(error) => {
                tracing::warn!(blob = %request.blob, %error, "a blob of the store cannot be read");
                return refuse(stream, Status::NotFound).await;
            }
        };
        if request.offset > length {
            return refuse(stream, Status::BadRequest).await;
        }
        write(
            stream,
            &Answer {
                status: Status::Ok,
                blob_length: length,
            }
            .to_bytes(),
        )
        .await?;
        let left = request.length.min(length - request.offset);
        self.send_file(asker, stream, file, request.offset, left).await?;
        self.counters.bulk.item_out();
        asker.tally.item_out();
        stream.write.flush().await
    }

    async fn send_file(
        &self,
        asker: &Asker,
        stream: &mut Stream,
        file: File,
        offset: u64,
        mut left: u64,
    ) -> io::Result<()> {
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(BLOB_CHUNK_BYTES);
        file.seek(SeekFrom::Start(offset)).await?;
        let mut piece = vec![0; BLOB_CHUNK_BYTES];
        while left > 0 {
            let take = left.min(BLOB_CHUNK_BYTES as u64) as usize;
            file.read_exact(&mut piece[..take]).await?;
            write(stream, &piece[..take]).await?;
            self.sent(asker, take);
            left -= take as u64;
        }
        Ok(())
    }

    fn sent(&self, asker: &Asker, bytes: usize) {
        self.counters.bulk.sent(bytes as u64);
        asker.tally.sent(bytes as u64);
    }
}

/// The next request; the outer none at the stream's end, the inner one for bytes that are no request.
async fn read_request(stream: &mut Stream, idle: Duration) -> io::Result<Option<Option<Request>>> {
    let mut bytes = [0u8; REQUEST_BYTES];
    let first = within(idle, stream.read.read(&mut bytes[..1])).await?;
    if first == 0 {
        return Ok(None);
    }
    within(BULK_REQUEST_TIMEOUT, stream.read.read_exact(&mut bytes[1..])).await?;
    Ok(Some(Request::from_bytes(&bytes)))
}

async fn refuse(stream: &mut Stream, status: Status) -> io::Result<()> {
    write(stream, &Answer { status, blob_length: 0 }.to_bytes()).await?;
    stream.write.flush().await
}

async fn write(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    within(BULK_CHUNK_TIMEOUT, stream.write.write_all(bytes)).await
}

#[cfg(test)]
mod tests {
    use super::super::wire::ANSWER_BYTES;
    use super::*;

    #[tokio::test]
    async fn a_tree_that_is_not_ready_in_time_makes_us_busy() {
        let asker = PeerId([2; 32]);
        let (_driver, wanted) = watch::channel(Wanted {
            allowed: [asker].into(),
            ..Wanted::default()
        });
        let (trees, mut tree_requests) = mpsc::channel(1);
        let server = Server {
            blobs: BlobAccess::folder("/nowhere"),
            trees,
            wanted,
            counters: Arc::default(),
            places: Arc::new(Semaphore::new(1)),
        };
        let asker = Asker {
            peer: asker,
            places: Arc::new(Semaphore::new(1)),
            tally: Arc::default(),
            denials: Arc::default(),
        };
        let (ours, mut theirs) = tokio::io::duplex(1024);
        tokio::spawn(server.serve(asker, Stream::of(ours)));
        let request = Request {
            kind: Kind::Tree,
            blob: BlobId([1; 32]),
            offset: 0,
            length: 0,
        };
        theirs.write_all(&request.to_bytes()).await.expect("it is taken");
        // Nobody answers the request for the tree.
        drop(tree_requests.recv().await);
        let mut answer = [0; ANSWER_BYTES];
        theirs.read_exact(&mut answer).await.expect("it answers");
        assert_eq!(
            Answer::from_bytes(&answer).map(|answer| answer.status),
            Some(Status::Busy)
        );
    }
}
