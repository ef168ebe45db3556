//! Tests of the bulk plane against peers that drip and peers that idle, over real sockets on loopback.
//! Its control plane is a table of addresses; nothing here asserts how fast anything is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use synod_protocol::identity::{BlobId, Identity, PeerId};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::super::config::QUIC_WINDOW_BYTES_OF_STRANGERS;
use super::super::contact::Candidates;
use super::super::counters::Counters;
use super::super::event::{FetchFailure, FetchId, FetchedFrom, NetworkEvent};
use super::super::{Command, NetworkConfig, NetworkHandle, Wanted};
use super::connection::CLOSED_AS_IDLE;
use super::endpoint::SERVER_NAME;
use super::tree::Tree;
use super::wire::{Answer, Kind, REQUEST_BYTES, Request, Status};
use super::{BlobAccess, BulkTask, Listener};

/// Ends a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// A bulk plane that finds peers at these addresses.
struct World {
    handle: NetworkHandle,
    events: mpsc::Receiver<NetworkEvent>,
    address: SocketAddr,
    folder: TempDir,
    _ends: tokio_util::sync::DropGuard,
}

fn identity(seed: u8) -> Identity {
    Identity::from_secret([seed; 32])
}

fn listener(seed: u8) -> Listener {
    Listener::bind(&NetworkConfig::loopback(), &identity(seed)).expect("loopback is free")
}

impl World {
    fn start(seed: u8, addresses: BTreeMap<PeerId, SocketAddr>) -> Self {
        let (control, mut commands) = mpsc::channel(8);
        let (traffic, _nobody) = mpsc::channel(1);
        let (bulk, bulk_queue) = mpsc::channel(8);
        let (events_in, events) = mpsc::channel(8);
        let (wanted_in, wanted) = watch::channel(Wanted::default());
        let handle = NetworkHandle {
            peer_id: identity(seed).peer_id(),
            control,
            traffic,
            bulk,
            wanted: Arc::new(wanted_in),
            counters: Arc::new(Counters::default()),
        };
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                if let Command::Contact(peer, reply) = command {
                    drop(reply.send(Candidates {
                        addresses: addresses.get(&peer).copied().into_iter().collect(),
                        connected: true,
                        complete: true,
                    }));
                }
            }
        });
        let listener = listener(seed);
        let address = listener.addresses()[0];
        let folder = TempDir::new().expect("a temporary folder");
        let blobs = BlobAccess::folder(folder.path());
        let streams = libp2p_stream::Behaviour::new().new_control();
        let task = BulkTask::new(listener, streams, blobs, wanted, handle.clone(), bulk_queue, events_in);
        let shutdown = CancellationToken::new();
        tokio::spawn(task.expect("it is set up").run(shutdown.clone()));
        Self {
            handle,
            events,
            address,
            folder,
            _ends: shutdown.drop_guard(),
        }
    }

    async fn fetch(&mut self, bytes: &[u8], from: [PeerId; 2], timeout: Duration) -> Result<FetchedFrom, FetchFailure> {
        let (blob, length) = (BlobId::of(bytes), bytes.len() as u64);
        let asked = self.handle.fetch(FetchId(1), blob, length, from.to_vec(), timeout);
        asked.expect("the queue has room");
        match tokio::time::timeout(PATIENCE, self.events.recv()).await {
            Ok(Some(NetworkEvent::Fetched { outcome, .. })) => outcome,
            other => panic!("no answer: {other:?}"),
        }
    }
}

/// Serves one blob, its tree at once; before each of these pieces of a range it pauses.
async fn drip(listener: Listener, bytes: Vec<u8>, piece: usize, pause: Duration) {
    let (blob, length) = (BlobId::of(&bytes), bytes.len() as u64);
    let mut file = tempfile::tempfile().expect("a temporary file");
    std::io::Write::write_all(&mut file, &bytes).expect("it is written");
    std::io::Seek::rewind(&mut file).expect("it rewinds");
    let tree = Tree::of_file(&blob, file, length)
        .expect("it is read")
        .expect("it is the blob");
    let shared = Arc::new((bytes, tree));
    while let Some(incoming) = listener.quic.accept().await {
        let Ok(connection) = incoming.await else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((mut write, mut read)) = connection.accept_bi().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let (bytes, tree) = &*shared;
                    let mut request = [0; REQUEST_BYTES];
                    while read.read_exact(&mut request).await.is_ok() {
                        let request = Request::from_bytes(&request).expect("a request");
                        let answer = Answer {
                            status: Status::Ok,
                            blob_length: length,
                        };
                        // An asker that has it from another hangs up.
                        if write.write_all(&answer.to_bytes()).await.is_err() {
                            return;
                        }
                        let end = (request.offset + request.length) as usize;
                        let (comes, pause) = match request.kind {
                            Kind::Tree => (tree.to_bytes(), Duration::ZERO),
                            Kind::Range => (&bytes[request.offset as usize..end], pause),
                        };
                        for piece in comes.chunks(piece) {
                            tokio::time::sleep(pause).await;
                            if write.write_all(piece).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
    }
}

/// The asker names a holder that drips and an honest one, in this order; the outcome, and the honest one.
async fn fetch_beside_dripper(
    bytes: &[u8],
    piece: usize,
    pause: Duration,
) -> (Result<FetchedFrom, FetchFailure>, PeerId) {
    let dripper = listener(7);
    let honest = World::start(2, BTreeMap::new());
    let (slow, good) = (identity(7).peer_id(), honest.handle.peer_id());
    let addresses = BTreeMap::from([(slow, dripper.addresses()[0]), (good, honest.address)]);
    let mut asker = World::start(1, addresses);
    std::fs::write(honest.folder.path().join(BlobId::of(bytes).to_string()), bytes).expect("it is written");
    honest.handle.allow(asker.handle.peer_id());
    tokio::spawn(drip(dripper, bytes.to_vec(), piece, pause));
    let outcome = asker.fetch(bytes, [slow, good], Duration::from_secs(40)).await;
    (outcome, good)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_blob_comes_from_the_second_holder_where_the_first_is_slow() {
    // Each piece comes in time, and all of it would be here after a while.
    let (outcome, good) = fetch_beside_dripper(&[3; 5000], 2500, Duration::from_secs(6)).await;
    assert_eq!(outcome.map(|from| from.peer), Ok(Some(good)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_whose_only_lane_is_stuck_comes_from_another_holder() {
    // A lane's chunks come in time; its first mebibyte would be here after more than a minute.
    let bytes: Vec<u8> = (0..3 << 20).map(|at: u32| (at % 251) as u8).collect();
    let (outcome, good) = fetch_beside_dripper(&bytes, 256 << 10, Duration::from_secs(17)).await;
    assert_eq!(outcome.map(|from| from.peer), Ok(Some(good)));
}

async fn connect(from: &Listener, seed: u8, to: SocketAddr) -> quinn::Connection {
    let config = from
        .credentials
        .quic_client(&identity(seed).peer_id())
        .expect("settings");
    let connecting = from.quic.connect_with(config, to, SERVER_NAME).expect("an address");
    connecting.await.expect("it answers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_idles_is_sent_away_and_a_member_is_not() {
    let world = World::start(1, BTreeMap::new());
    world.handle.allow(identity(2).peer_id());
    let (at_member, at_stranger) = (listener(2), listener(3));
    let member = connect(&at_member, 1, world.address).await;
    let stranger = connect(&at_stranger, 1, world.address).await;
    let closed = tokio::time::timeout(PATIENCE, stranger.closed()).await;
    let Ok(quinn::ConnectionError::ApplicationClosed(close)) = closed else {
        panic!("it was not closed as idle: {closed:?}");
    };
    assert_eq!(close.error_code, CLOSED_AS_IDLE.into());
    assert_eq!(member.close_reason(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_unknown_peer_sends_unasked_is_bounded() {
    let (server, client) = (listener(1), listener(2));
    let address = server.addresses()[0];
    let (connection, accepted) = tokio::join!(connect(&client, 1, address), async {
        server
            .quic
            .accept()
            .await
            .expect("it listens")
            .await
            .expect("they agree")
    });
    let (mut write, _read) = connection.open_bi().await.expect("a stream");
    let mut taken = 0;
    // Nobody reads there: what is taken fills the window.
    let fill = async {
        while let Ok(bytes) = write.write(&[0; 1 << 16]).await {
            taken += bytes;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(1), fill).await.is_err());
    assert_eq!(taken, QUIC_WINDOW_BYTES_OF_STRANGERS as usize);
    drop(accepted);
}
