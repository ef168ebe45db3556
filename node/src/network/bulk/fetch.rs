//! Fetching one blob: holders asked in order, each group verified as it arrives, what is verified is kept.
//! It holds a quarter mebibyte of the blob at most, and believes nobody: a wrong group names its sender.

use std::collections::BTreeSet;
use std::io::{self, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use synod_protocol::identity::{BlobId, PeerId};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use super::super::config::{
    BLOB_CHUNK_BYTES, BLOB_GROUP_BYTES, BLOB_MAX_BYTES, BULK_CHUNK_TIMEOUT, BULK_REQUEST_TIMEOUT, BULK_TREE_TIMEOUT,
    HOLDERS_PAUSE,
};
use super::super::counters::{Counters, Tally};
use super::super::event::{FetchFailure, FetchId, FetchedFrom, NetworkEvent};
use super::access::{BlobAccess, blocking};
use super::link::{Dialer, Path, Stream, within};
use super::tree::{GroupCheck, Tree, group_count, group_length, verified_prefix};
use super::wire::{ANSWER_BYTES, Answer, Kind, Request, Status};

/// Longest pause between two rounds of asking.
const PAUSE_CAP: Duration = Duration::from_secs(5);
/// Rounds of asking in which everyone refused before that is the answer.
const DENIED_ROUNDS: u32 = 4;

/// A fetch as the driver ordered it.
#[derive(Debug)]
pub(in super::super) struct FetchRequest {
    pub(in super::super) id: FetchId,
    pub(in super::super) blob: BlobId,
    pub(in super::super) expected_len: u64,
    pub(in super::super) from: Vec<PeerId>,
    pub(in super::super) timeout: Duration,
    pub(in super::super) since: Instant,
    /// Nobody wants it any more.
    pub(in super::super) cancelled: CancellationToken,
}

impl FetchRequest {
    pub(super) fn deadline(&self) -> Instant {
        self.since + self.timeout.min(Duration::from_secs(7 * 86_400))
    }

    pub(super) fn answer(&self, outcome: Result<FetchedFrom, FetchFailure>, liars: Vec<PeerId>) -> NetworkEvent {
        NetworkEvent::Fetched {
            id: self.id,
            blob: self.blob,
            outcome,
            liars,
        }
    }
}

/// A way to a holder, and where its bytes are counted.
pub(super) struct Link {
    pub(super) path: Path,
    pub(super) tally: Arc<Tally>,
}

/// Questions of a fetch to the bulk task, which owns the ways to peers.
pub(super) enum LinkRequest {
    /// Find or reuse a way.
    Find(PeerId, oneshot::Sender<Result<Link, String>>),
    /// This way did not work; find another next time.
    Forget(PeerId, &'static str),
}

/// What a running fetch needs besides its order.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub(super) own: PeerId,
    pub(super) blobs: BlobAccess,
    pub(super) dialer: Dialer,
    pub(super) links: mpsc::Sender<LinkRequest>,
    pub(super) counters: Arc<Counters>,
}

/// Why one holder could not help.
enum Trouble {
    /// It sent wrong bytes.
    Lie,
    NotFound,
    Denied,
    WrongLength(u64),
    /// Busy, slow, gone: perhaps later.
    Later(String),
    /// Our disk.
    Disk(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Later(error.to_string())
    }
}

/// What is known of one fetch so far.
struct Progress {
    blob: BlobId,
    length: u64,
    path: PathBuf,
    file: File,
    tree: Option<Tree>,
    /// Verified bytes at the file's start: whole groups, or all.
    have: u64,
    moved: u64,
    liars: Vec<PeerId>,
    denied: Vec<PeerId>,
    wrong_length: Option<(PeerId, u64)>,
    without: BTreeSet<PeerId>,
    last: String,
}

impl Fetcher {
    /// Runs a fetch to its end, or until it is cancelled. Gives the answer for the driver, and how many bytes of a blob
    /// that did not come whole are on the disk.
    pub(super) async fn run(mut self, request: FetchRequest) -> (NetworkEvent, u64) {
        let mut liars = Vec::new();
        let outcome = self.fetch(&request, &mut liars).await;
        let left = match &outcome {
            Ok(_) => 0,
            Err(_) => self.blobs.keep_partial(request.blob).await,
        };
        match &outcome {
            Ok(from) => tracing::debug!(blob = %request.blob.short(), bytes = from.bytes, took = ?from.took, "fetched"),
            Err(failure) => tracing::debug!(blob = %request.blob.short(), %failure, "not fetched"),
        }
        (request.answer(outcome, liars), left)
    }

    async fn fetch(&mut self, request: &FetchRequest, liars: &mut Vec<PeerId>) -> Result<FetchedFrom, FetchFailure> {
        let disk = |error: io::Error| FetchFailure::Disk(error.to_string());
        if request.expected_len > BLOB_MAX_BYTES {
            return Err(FetchFailure::TooLarge {
                expected: request.expected_len,
            });
        }
        if let Some((_, says)) = self.blobs.open(request.blob).await.map_err(disk)? {
            if says != request.expected_len {
                return Err(FetchFailure::OtherLength {
                    expected: request.expected_len,
                    says,
                });
            }
            return Ok(FetchedFrom {
                peer: None,
                bytes: 0,
                took: request.since.elapsed(),
            });
        }
        let mut holders: Vec<PeerId> = Vec::new();
        for peer in &request.from {
            if *peer != self.own && !holders.contains(peer) {
                holders.push(*peer);
            }
        }
        if holders.is_empty() {
            return Err(FetchFailure::NoHolder);
        }
        let mut progress = self.begin(request).await.map_err(disk)?;
        let result = tokio::select! {
            result = self.ask_in_turn(request, &holders, &mut progress) => result,
            () = request.cancelled.cancelled() => Err(FetchFailure::Cancelled),
        };
        liars.append(&mut progress.liars);
        let holder = result?;
        progress.file.flush().await.map_err(disk)?;
        let Progress { path, file, moved, .. } = progress;
        drop(file);
        self.blobs.commit(request.blob, path).await.map_err(disk)?;
        self.counters.bulk.item_in();
        Ok(FetchedFrom {
            peer: Some(holder),
            bytes: moved,
            took: request.since.elapsed(),
        })
    }

    async fn begin(&self, request: &FetchRequest) -> io::Result<Progress> {
        let path = self.blobs.partial(request.blob).await?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .await?;
        file.set_max_buf_size(BLOB_CHUNK_BYTES);
        if file.metadata().await?.len() > request.expected_len {
            file.set_len(request.expected_len).await?;
        }
        Ok(Progress {
            blob: request.blob,
            length: request.expected_len,
            path,
            file,
            tree: None,
            have: 0,
            moved: 0,
            liars: Vec::new(),
            denied: Vec::new(),
            wrong_length: None,
            without: BTreeSet::new(),
            last: "no holder answered".to_owned(),
        })
    }

    /// Asks the holders in order until the blob is complete, nobody is left who could have it, or the time is up.
    async fn ask_in_turn(
        &mut self,
        request: &FetchRequest,
        holders: &[PeerId],
        progress: &mut Progress,
    ) -> Result<PeerId, FetchFailure> {
        let deadline = tokio::time::Instant::from_std(request.deadline());
        let mut pause = HOLDERS_PAUSE;
        let mut denied_rounds = 0;
        loop {
            let mut left: Vec<PeerId> = holders.iter().copied().filter(|peer| !progress.is_out(peer)).collect();
            if left.is_empty() {
                return Err(progress.refusal());
            }
            // Who refused may let us in soon; who can serve comes first.
            left.sort_by_key(|peer| progress.denied.contains(peer));
            for holder in left {
                let Ok(result) = timeout_at(deadline, self.ask(holder, progress)).await else {
                    return Err(progress.too_late());
                };
                match result {
                    Ok(()) => return Ok(holder),
                    Err(Trouble::Disk(error)) => return Err(FetchFailure::Disk(error.to_string())),
                    Err(trouble) => progress.note(holder, trouble),
                }
            }
            // A newcomer's roster entry may be on its way to the holders, but not for ever.
            denied_rounds += u32::from(
                holders
                    .iter()
                    .all(|peer| progress.denied.contains(peer) || progress.is_out(peer)),
            );
            if denied_rounds == DENIED_ROUNDS || tokio::time::Instant::now() + pause >= deadline {
                return Err(progress.too_late());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_CAP);
        }
    }

    async fn ask(&mut self, holder: PeerId, progress: &mut Progress) -> Result<(), Trouble> {
        let link = self.find(holder).await.map_err(Trouble::Later)?;
        let opened = within(BULK_REQUEST_TIMEOUT, self.dialer.open(holder, &link.path)).await;
        let result = match opened {
            Ok(mut stream) => self.transfer(&mut stream, &link.tally, progress).await,
            Err(error) => Err(error.into()),
        };
        if let Err(Trouble::Later(_)) = &result {
            // Another way may work better; the bulk task is only gone when everything ends.
            let _ending = self.links.send(LinkRequest::Forget(holder, link.path.name())).await;
        }
        result
    }

    async fn find(&self, holder: PeerId) -> Result<Link, String> {
        let ending = |_| "the node is shutting down".to_owned();
        let (reply, answer) = oneshot::channel();
        self.links
            .send(LinkRequest::Find(holder, reply))
            .await
            .map_err(|_| "the node is shutting down".to_owned())?;
        answer.await.map_err(ending)?
    }

    async fn transfer(&self, stream: &mut Stream, tally: &Tally, progress: &mut Progress) -> Result<(), Trouble> {
        if Tree::needed(progress.length) && progress.tree.is_none() {
            progress.tree = Some(self.receive_tree(stream, tally, progress).await?);
            progress.resume().await.map_err(Trouble::Disk)?;
        }
        let wanted = progress.length - progress.have;
        let request = Request {
            kind: Kind::Range,
            blob: progress.blob,
            offset: progress.have,
            length: wanted,
        };
        ask(stream, request, progress.length, BULK_REQUEST_TIMEOUT).await?;
        progress
            .file
            .seek(SeekFrom::Start(progress.have))
            .await
            .map_err(Trouble::Disk)?;
        let mut piece = vec![0; BLOB_CHUNK_BYTES];
        for group in progress.have / BLOB_GROUP_BYTES..group_count(progress.length) {
            let mut check = GroupCheck::new(group);
            let mut left = group_length(group, progress.length);
            while left > 0 {
                let take = left.min(BLOB_CHUNK_BYTES as u64) as usize;
                within(BULK_CHUNK_TIMEOUT, stream.read.read_exact(&mut piece[..take])).await?;
                self.received(tally, take, progress);
                check.update(&piece[..take]);
                progress.file.write_all(&piece[..take]).await.map_err(Trouble::Disk)?;
                left -= take as u64;
            }
            if !check.holds(&progress.blob, progress.tree.as_ref()) {
                return Err(Trouble::Lie);
            }
            progress.have += group_length(group, progress.length);
        }
        tally.item_in();
        let empty_is_wrong = progress.length == 0 && progress.blob != BlobId::of(&[]);
        if empty_is_wrong { Err(Trouble::Lie) } else { Ok(()) }
    }

    async fn receive_tree(&self, stream: &mut Stream, tally: &Tally, progress: &mut Progress) -> Result<Tree, Trouble> {
        let request = Request {
            kind: Kind::Tree,
            blob: progress.blob,
            offset: 0,
            length: 0,
        };
        ask(stream, request, progress.length, BULK_TREE_TIMEOUT).await?;
        let mut bytes = vec![0; 32 * group_count(progress.length) as usize];
        for piece in bytes.chunks_mut(BLOB_CHUNK_BYTES) {
            within(BULK_CHUNK_TIMEOUT, stream.read.read_exact(piece)).await?;
            self.received(tally, piece.len(), progress);
        }
        Tree::verified(&progress.blob, progress.length, &bytes).ok_or(Trouble::Lie)
    }

    fn received(&self, tally: &Tally, bytes: usize, progress: &mut Progress) {
        progress.moved += bytes as u64;
        self.counters.bulk.received(bytes as u64);
        tally.received(bytes as u64);
    }
}

/// Sends a request and reads the answer's header; afterwards the stream holds the bytes.
async fn ask(stream: &mut Stream, request: Request, expected: u64, patience: Duration) -> Result<(), Trouble> {
    let mut bytes = [0; ANSWER_BYTES];
    within(BULK_REQUEST_TIMEOUT, async {
        stream.write.write_all(&request.to_bytes()).await?;
        stream.write.flush().await
    })
    .await?;
    within(patience, stream.read.read_exact(&mut bytes)).await?;
    let answer =
        Answer::from_bytes(&bytes).ok_or_else(|| Trouble::Later("it answered in another version".to_owned()))?;
    match answer.status {
        Status::Ok if answer.blob_length == expected => Ok(()),
        Status::Ok => Err(Trouble::WrongLength(answer.blob_length)),
        Status::NotFound => Err(Trouble::NotFound),
        Status::Denied => Err(Trouble::Denied),
        Status::Busy => Err(Trouble::Later("it serves too many already".to_owned())),
        Status::BadRequest => Err(Trouble::Later("it could not read the request".to_owned())),
    }
}

impl Progress {
    /// Counts what an earlier try left in the file; the tree tells whether it is right.
    async fn resume(&mut self) -> io::Result<()> {
        let Some(tree) = self.tree.clone() else { return Ok(()) };
        let blob = self.blob;
        let path = self.path.clone();
        self.have = blocking(move || verified_prefix(&blob, &tree, std::fs::File::open(path)?)).await?;
        if self.have > 0 {
            tracing::debug!(blob = %blob.short(), bytes = self.have, "resuming");
        }
        Ok(())
    }

    fn note(&mut self, holder: PeerId, trouble: Trouble) {
        tracing::debug!(blob = %self.blob.short(), %holder, %trouble, "a holder could not help");
        self.last = format!("{holder}: {trouble}");
        self.denied.retain(|peer| *peer != holder);
        match trouble {
            Trouble::Lie => self.liars.push(holder),
            Trouble::NotFound => drop(self.without.insert(holder)),
            Trouble::WrongLength(says) => self.wrong_length = Some((holder, says)),
            Trouble::Denied => self.denied.push(holder),
            Trouble::Later(_) | Trouble::Disk(_) => {}
        }
        if matches!(trouble, Trouble::WrongLength(_)) {
            self.without.insert(holder);
        }
    }

    /// Whether asking this holder again is pointless.
    fn is_out(&self, peer: &PeerId) -> bool {
        self.without.contains(peer) || self.liars.contains(peer)
    }

    /// Everyone is out: the worst that was seen is the answer.
    fn refusal(&self) -> FetchFailure {
        match (self.liars.first(), self.wrong_length) {
            (Some(peer), _) => FetchFailure::WrongDigest { peer: *peer },
            (None, Some((peer, says))) => FetchFailure::WrongLength {
                peer,
                expected: self.length,
                says,
            },
            (None, None) => FetchFailure::NotFound,
        }
    }

    fn too_late(&self) -> FetchFailure {
        match (self.liars.first(), self.denied.first()) {
            (Some(peer), _) => FetchFailure::WrongDigest { peer: *peer },
            (None, Some(peer)) if self.moved == 0 => FetchFailure::Denied { peer: *peer },
            _ if self.moved == 0 => FetchFailure::Unreachable {
                last: self.last.clone(),
            },
            _ => FetchFailure::TimedOut {
                bytes: self.have,
                last: self.last.clone(),
            },
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lie => f.write_str("it sent wrong bytes"),
            Self::NotFound => f.write_str("it does not have the blob"),
            Self::Denied => f.write_str("it does not let us fetch"),
            Self::WrongLength(says) => write!(f, "its blob is {says} bytes long"),
            Self::Later(reason) => f.write_str(reason),
            Self::Disk(error) => write!(f, "our disk: {error}"),
        }
    }
}
