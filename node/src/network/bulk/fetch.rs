//! Fetching one blob: holders asked in order, the next also where one is slow, for a small one or for the tree of a large one,
//! whose groups several bring at once (`lanes`). Each group is verified before it is written, and kept. It believes nobody:
//! a wrong group names its sender.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use synod_protocol::identity::{BlobId, PeerId};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use super::super::config::{
    BLOB_CHUNK_BYTES, BLOB_MAX_BYTES, BULK_ANSWER_TIMEOUT, BULK_CHUNK_TIMEOUT, BULK_REQUEST_TIMEOUT, BULK_TREE_TIMEOUT,
    HOLDERS_PAUSE,
};
use super::super::counters::{Counters, Tally};
use super::super::event::{FetchFailure, FetchId, FetchedFrom, NetworkEvent};
use super::access::{BlobAccess, blocking};
use super::lanes::{Lanes, Whole};
use super::link::{Dialer, Path, Stream, within};
use super::tree::{Tree, group_count, group_length, missing_groups};
use super::wire::{ANSWER_BYTES, Answer, Kind, Request, Status};

/// Holders of which one small blob, or tree, is asked at once: a second beside one that is slow.
const ASKED_AT_ONCE: usize = 2;
/// How long the first is asked alone.
const ALONE: Duration = Duration::from_secs(5);
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
pub(super) enum Trouble {
    /// It sent wrong bytes.
    Lie,
    NotFound,
    Denied,
    WrongLength(u64),
    /// It serves too many already: perhaps later, on the same way.
    Busy,
    /// Slow, or gone: perhaps later, on another way.
    Later(String),
    /// Our disk.
    Disk(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Later(error.to_string())
    }
}

/// What one holder gave, verified.
enum Given {
    Blob(Vec<u8>),
    Tree(Arc<Tree>),
}

/// What is known of one fetch so far.
pub(super) struct Progress {
    blob: BlobId,
    length: u64,
    path: PathBuf,
    file: File,
    tree: Option<Arc<Tree>>,
    /// The groups that are not in the file yet, verified.
    pub(super) missing: BTreeSet<u64>,
    pub(super) moved: u64,
    liars: Vec<PeerId>,
    denied: Vec<PeerId>,
    wrong_length: Option<(PeerId, u64)>,
    without: BTreeSet<PeerId>,
    last: String,
}

impl Fetcher {
    /// Runs a fetch to its end, or until it is cancelled. Gives the answer for the driver, and how many bytes of a blob
    /// that did not come whole are on the disk.
    pub(super) async fn run(self, request: FetchRequest) -> (NetworkEvent, u64) {
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

    async fn fetch(&self, request: &FetchRequest, liars: &mut Vec<PeerId>) -> Result<FetchedFrom, FetchFailure> {
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
            missing: (0..group_count(request.expected_len)).collect(),
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
        &self,
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
            if progress.tree.is_none() {
                match timeout_at(deadline, self.ask_some(&left, progress)).await {
                    Ok(Ok(Some(holder))) if progress.tree.is_none() => return Ok(holder),
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return Err(FetchFailure::Disk(error.to_string())),
                    Err(_) => return Err(progress.too_late()),
                }
            }
            if let Some(whole) = progress.whole() {
                left.retain(|peer| !progress.is_out(peer));
                let lanes = Lanes::new(self, whole, &left, progress.missing.len());
                let Ok(result) = timeout_at(deadline, lanes.fill(progress)).await else {
                    return Err(progress.too_late());
                };
                match result {
                    Ok(Some(holder)) => return Ok(holder),
                    Ok(None) => {}
                    Err(error) => return Err(FetchFailure::Disk(error.to_string())),
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

    /// Asks these holders in order for a small blob, or for the tree of a large one, until one of them helps: that one. An
    /// error of our own disk.
    async fn ask_some(&self, holders: &[PeerId], progress: &mut Progress) -> io::Result<Option<PeerId>> {
        let (blob, length) = (progress.blob, progress.length);
        let mut left = holders.iter().copied();
        let mut next = left.next();
        let mut asked = FuturesUnordered::new();
        loop {
            // The first, and then one more whenever one fails or is slow.
            if let Some(holder) = next {
                asked.push(self.clone().ask(holder, blob, length));
                next = left.next();
            }
            let may_ask = next.is_some() && asked.len() < ASKED_AT_ONCE;
            let ended = tokio::select! {
                ended = asked.next() => ended,
                () = tokio::time::sleep(ALONE), if may_ask => continue,
            };
            let Some((holder, moved, result)) = ended else {
                return Ok(None);
            };
            progress.moved += moved;
            match result {
                Ok(given) => {
                    progress.take(given).await?;
                    return Ok(Some(holder));
                }
                Err(trouble) => progress.note(holder, trouble),
            }
        }
    }

    /// Asks one holder for a small blob, or for the tree of a large one; also gives how many bytes came.
    async fn ask(mut self, holder: PeerId, blob: BlobId, length: u64) -> (PeerId, u64, Result<Given, Trouble>) {
        let link = match self.find(holder).await {
            Ok(link) => link,
            Err(reason) => return (holder, 0, Err(Trouble::Later(reason))),
        };
        let mut moved = 0;
        let opened = within(BULK_REQUEST_TIMEOUT, self.dialer.open(holder, &link.path)).await;
        let result = match opened {
            Ok(mut stream) => self.transfer(&mut stream, &link.tally, blob, length, &mut moved).await,
            Err(error) => Err(error.into()),
        };
        if let Err(Trouble::Later(_)) = &result {
            self.forget(holder, &link).await;
        }
        (holder, moved, result)
    }

    /// Another way may work better.
    pub(super) async fn forget(&self, holder: PeerId, link: &Link) {
        // The bulk task is only gone when everything ends.
        let _ending = self.links.send(LinkRequest::Forget(holder, link.path.name())).await;
    }

    pub(super) async fn find(&self, holder: PeerId) -> Result<Link, String> {
        let ending = |_| "the node is shutting down".to_owned();
        let (reply, answer) = oneshot::channel();
        self.links
            .send(LinkRequest::Find(holder, reply))
            .await
            .map_err(|_| "the node is shutting down".to_owned())?;
        answer.await.map_err(ending)?
    }

    async fn transfer(
        &self,
        stream: &mut Stream,
        tally: &Tally,
        blob: BlobId,
        length: u64,
        moved: &mut u64,
    ) -> Result<Given, Trouble> {
        let is_tree = Tree::needed(length);
        let (kind, asked, patience) = match is_tree {
            true => (Kind::Tree, 0, BULK_TREE_TIMEOUT),
            false => (Kind::Range, length, BULK_REQUEST_TIMEOUT),
        };
        let request = Request {
            kind,
            blob,
            offset: 0,
            length: asked,
        };
        ask(stream, request, length, patience).await?;
        let comes = if is_tree { 32 * group_count(length) } else { length };
        let mut bytes = vec![0; comes as usize];
        // A holder that drips brings each chunk in time, and never all.
        within(BULK_ANSWER_TIMEOUT, async {
            for piece in bytes.chunks_mut(BLOB_CHUNK_BYTES) {
                within(BULK_CHUNK_TIMEOUT, stream.read.read_exact(piece)).await?;
                *moved += self.received(tally, piece.len());
            }
            Ok(())
        })
        .await?;
        if is_tree {
            let tree = Tree::verified(&blob, length, &bytes).ok_or(Trouble::Lie)?;
            return Ok(Given::Tree(Arc::new(tree)));
        }
        if BlobId::of(&bytes) != blob {
            return Err(Trouble::Lie);
        }
        tally.item_in();
        Ok(Given::Blob(bytes))
    }

    /// Counts bytes that came, and gives them back.
    pub(super) fn received(&self, tally: &Tally, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        self.counters.bulk.received(bytes);
        tally.received(bytes);
        bytes
    }
}

/// Sends a request and reads the answer's header; afterwards the stream holds the bytes.
pub(super) async fn ask(
    stream: &mut Stream,
    request: Request,
    expected: u64,
    patience: Duration,
) -> Result<(), Trouble> {
    let mut bytes = [0; ANSWER_BYTES];
    within(BULK_REQUEST_TIMEOUT, async {
        stream.write.write_all(&request.to_bytes()).await?;
        stream.write.flush().await
    })
    .await?;
    let header = within(patience, stream.read.read_exact(&mut bytes)).await;
    // It is still reading the blob for its hashes, perhaps behind others': that is no fault of it, nor of the way to it.
    let is_late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    if request.kind == Kind::Tree && header.as_ref().is_err_and(is_late) {
        return Err(Trouble::Busy);
    }
    header?;
    let answer =
        Answer::from_bytes(&bytes).ok_or_else(|| Trouble::Later("it answered in another version".to_owned()))?;
    match answer.status {
        Status::Ok if answer.blob_length == expected => Ok(()),
        Status::Ok => Err(Trouble::WrongLength(answer.blob_length)),
        Status::NotFound => Err(Trouble::NotFound),
        Status::Denied => Err(Trouble::Denied),
        Status::Busy => Err(Trouble::Busy),
        Status::BadRequest => Err(Trouble::Later("it could not read the request".to_owned())),
    }
}

impl Progress {
    async fn take(&mut self, given: Given) -> io::Result<()> {
        match given {
            Given::Tree(tree) => {
                self.tree = Some(tree);
                self.resume().await
            }
            Given::Blob(bytes) => {
                self.file.set_len(0).await?;
                self.file.write_all(&bytes).await?;
                self.missing.clear();
                Ok(())
            }
        }
    }

    /// Leaves out what an earlier try left in the file; the tree tells whether it is right.
    async fn resume(&mut self) -> io::Result<()> {
        let Some(tree) = self.tree.clone() else { return Ok(()) };
        let (blob, path) = (self.blob, self.path.clone());
        self.missing = blocking(move || missing_groups(&blob, &tree, std::fs::File::open(path)?)).await?;
        let here = group_count(self.length) - self.missing.len() as u64;
        if here > 0 {
            tracing::debug!(blob = %blob.short(), mebibytes = here, "resuming");
        }
        Ok(())
    }

    /// The blob whose groups lanes may bring; None while its tree is not here.
    fn whole(&self) -> Option<Whole> {
        let tree = self.tree.clone()?;
        Some(Whole {
            blob: self.blob,
            length: self.length,
            path: self.path.clone(),
            tree,
        })
    }

    /// Bytes that are in the file, verified.
    fn have(&self) -> u64 {
        let missing: u64 = self.missing.iter().map(|group| group_length(*group, self.length)).sum();
        self.length - missing
    }

    pub(super) fn note(&mut self, holder: PeerId, trouble: Trouble) {
        tracing::debug!(blob = %self.blob.short(), %holder, %trouble, "a holder could not help");
        self.last = format!("{holder}: {trouble}");
        self.denied.retain(|peer| *peer != holder);
        match trouble {
            Trouble::Lie if !self.liars.contains(&holder) => self.liars.push(holder),
            Trouble::Lie => {}
            Trouble::NotFound => drop(self.without.insert(holder)),
            Trouble::WrongLength(says) => self.wrong_length = Some((holder, says)),
            Trouble::Denied => self.denied.push(holder),
            Trouble::Busy | Trouble::Later(_) | Trouble::Disk(_) => {}
        }
        if matches!(trouble, Trouble::WrongLength(_)) {
            self.without.insert(holder);
        }
    }

    /// Whether asking this holder again is pointless.
    pub(super) fn is_out(&self, peer: &PeerId) -> bool {
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
                bytes: self.have(),
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
            Self::Busy => f.write_str("it serves too many already"),
            Self::Later(reason) => f.write_str(reason),
            Self::Disk(error) => write!(f, "our disk: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_holder_that_still_reads_its_blob_for_the_tree_is_only_busy() {
        for (kind, is_busy) in [(Kind::Tree, true), (Kind::Range, false)] {
            let (ours, _silent) = tokio::io::duplex(1024);
            let request = Request {
                kind,
                blob: BlobId([1; 32]),
                offset: 0,
                length: 0,
            };
            let outcome = ask(&mut Stream::of(ours), request, 5 << 20, Duration::from_millis(20)).await;
            assert_eq!(matches!(outcome, Err(Trouble::Busy)), is_busy, "{kind:?}");
            assert_eq!(matches!(outcome, Err(Trouble::Later(_))), !is_busy, "{kind:?}");
        }
    }
}
