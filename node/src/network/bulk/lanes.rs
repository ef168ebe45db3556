//! The groups of one large blob, brought by several holders at once, over several streams where a holder is alone.
//! A lane holds one group in memory and writes it once it is verified; who is slow keeps nothing from the others: when
//! nothing is left to hand out, what a late lane has not brought is asked of another, too, and of one more where a lane is stuck.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use synod_protocol::identity::{BlobId, PeerId};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::super::config::{
    BLOB_CHUNK_BYTES, BLOB_GROUP_BYTES, BULK_CHUNK_TIMEOUT, BULK_REQUEST_TIMEOUT, GROUPS_A_LANE, LANE_GROUPS, LANES,
    LANES_PER_HOLDER,
};
use super::fetch::{Fetcher, Link, Progress, Trouble, ask};
use super::link::{Path, Stream, within};
use super::tree::{GroupCheck, Tree, group_length};
use super::wire::{Kind, Request};

/// So many holders share a blob's lanes.
const SPREAD_FROM: usize = 3;

/// How long a lane may take before any has ended, and at the least.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
const LEAST_PATIENCE: Duration = Duration::from_millis(250);
/// The most, however slow lanes have been: a holder that drips must not teach patience. A lane that takes longer is stuck.
const MOST_PATIENCE: Duration = Duration::from_secs(15);
/// A lane asks for so much as it brings in this time, so that who is only slow is not taken to be stuck.
const TURN: Duration = Duration::from_secs(5);
/// Groups that a lane asks for first, when nobody knows its pace.
const FIRST_GROUPS: u64 = 4;

/// A blob whose tree is here, and the file that it comes into.
pub(super) struct Whole {
    pub(super) blob: BlobId,
    pub(super) length: u64,
    pub(super) path: PathBuf,
    pub(super) tree: Arc<Tree>,
}

/// A place for one stream to a holder.
struct Lane {
    number: usize,
    holder: PeerId,
    /// Beside another lane to the same holder.
    second: bool,
    /// Groups that it may be asked for at once.
    most: u64,
    /// What the holder's last answer left open.
    open: Option<(Link, Stream)>,
}

impl Lane {
    fn new(number: usize, holder: PeerId) -> Self {
        Self {
            number,
            holder,
            second: false,
            most: FIRST_GROUPS,
            open: None,
        }
    }
}

/// How a lane's work on a span ended.
struct Ended {
    lane: Lane,
    span: Range<u64>,
    /// The first group of the span that is not in the file.
    reached: u64,
    moved: u64,
    result: Result<Stays, Trouble>,
}

/// Whether a lane goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stays {
    Yes,
    /// A relay carries one stream of a fetch: it loads a third party.
    No,
}

/// The lanes of one fetch.
pub(super) struct Lanes<'a> {
    fetcher: &'a Fetcher,
    whole: Whole,
    idle: VecDeque<Lane>,
    lanes: usize,
    /// Whether several holders have lanes: then who is late is not asked again on another lane of its own.
    shared: bool,
    reserve: Reserve,
}

/// Holders without a lane: each takes the place of one that does not help, or comes beside one that is stuck.
struct Reserve {
    holders: VecDeque<PeerId>,
    /// Lanes that may come beside the others, one for each: so many groups more are in memory.
    rescuers: usize,
    /// Lanes opened so far, which are numbered.
    opened: usize,
}

impl Reserve {
    fn lane(&mut self) -> Option<Lane> {
        let holder = self.holders.pop_front()?;
        self.opened += 1;
        Some(Lane::new(self.opened - 1, holder))
    }

    /// A lane beside those that are stuck, if it helps. The stuck one goes on: it may be the only one that brings anything.
    fn rescuer(&mut self, busy: &BTreeMap<usize, Busy>, missing: &BTreeSet<u64>) -> Option<Lane> {
        let helper = *self.holders.front()?;
        rest_of_late(busy, missing, Busy::stuck_at, Instant::now(), helper, true)?;
        self.rescuers = self.rescuers.checked_sub(1)?;
        self.lane()
    }
}

impl<'a> Lanes<'a> {
    /// Lanes to these holders, likeliest first, for so many groups.
    pub(super) fn new(fetcher: &'a Fetcher, whole: Whole, holders: &[PeerId], groups: usize) -> Self {
        // Of two, the second is who spoke of the blob, and everybody asks it: it takes the place of the first where that fails.
        let spread = if holders.len() < SPREAD_FROM { 1 } else { holders.len() };
        let lanes = (groups / GROUPS_A_LANE).clamp(1, LANES.min(LANES_PER_HOLDER * spread));
        let turns = holders[..spread.min(holders.len())].iter().copied().cycle();
        let idle: VecDeque<Lane> = turns
            .take(lanes)
            .enumerate()
            .map(|(number, holder)| Lane {
                second: number >= spread,
                ..Lane::new(number, holder)
            })
            .collect();
        Self {
            fetcher,
            whole,
            lanes,
            shared: lanes.min(spread) > 1,
            reserve: Reserve {
                holders: holders.iter().skip(lanes.min(spread)).copied().collect(),
                rescuers: lanes,
                opened: lanes,
            },
            idle,
        }
    }

    /// Brings what is missing. Gives the holder that completed it; none when no holder is left that helps; an error of our
    /// own disk. Every other trouble is noted where it belongs.
    pub(super) async fn fill(mut self, progress: &mut Progress) -> io::Result<Option<PeerId>> {
        let mut waiting = progress.missing.clone();
        let mut busy: BTreeMap<usize, Busy> = BTreeMap::new();
        // The longest time a group that any lane has taken that brought all of its span.
        let mut pace: Option<Duration> = None;
        let (fetcher, whole) = (self.fetcher, &self.whole);
        let mut working = FuturesUnordered::new();
        loop {
            for _ in 0..self.idle.len() {
                let Some(lane) = self.idle.pop_front() else { break };
                let late_at = |one: &Busy| one.late_at(pace);
                let now = Instant::now();
                let late = || rest_of_late(&busy, &progress.missing, late_at, now, lane.holder, self.shared);
                let Some(span) = take_span(&mut waiting, self.lanes, lane.most).or_else(late) else {
                    self.idle.push_back(lane);
                    continue;
                };
                let since = Instant::now();
                busy.insert(
                    lane.number,
                    Busy {
                        span: span.clone(),
                        holder: lane.holder,
                        since,
                    },
                );
                working.push(bring(fetcher, whole, lane, span));
            }
            if let Some(lane) = self.reserve.rescuer(&busy, &progress.missing) {
                self.shared = true;
                self.idle.push_back(lane);
                continue;
            }
            let ended = tokio::select! {
                ended = working.next() => ended,
                () = sleep_until(next_look(&busy, pace, !self.idle.is_empty())) => continue,
            };
            let Some(mut ended) = ended else {
                return Ok(None);
            };
            if let Some(busy) = busy.remove(&ended.lane.number)
                && ended.result.is_ok()
                && ended.reached > ended.span.start
            {
                let took = busy.since.elapsed() / u32::try_from(ended.reached - ended.span.start).unwrap_or(1);
                pace = pace.max(Some(took));
                ended.lane.most = groups_in_a_turn(took);
            }
            progress.moved += ended.moved;
            for group in ended.span.start..ended.reached {
                progress.missing.remove(&group);
                waiting.remove(&group);
            }
            if progress.missing.is_empty() {
                return Ok(Some(ended.lane.holder));
            }
            // What it did not bring is handed out again, but for what another lane is bringing.
            let others = |group: &u64| busy.values().any(|busy| busy.span.contains(group));
            let left = (ended.reached..ended.span.end).filter(|group| progress.missing.contains(group));
            waiting.extend(left.filter(|group| !others(group)));
            match ended.result {
                Ok(Stays::Yes) if !progress.is_out(&ended.lane.holder) => {
                    self.idle.push_back(ended.lane);
                    continue;
                }
                Ok(_) => {}
                Err(Trouble::Disk(error)) => return Err(error),
                // Its other lanes may go on.
                Err(Trouble::Busy) => progress.note(ended.lane.holder, Trouble::Busy),
                Err(trouble) => {
                    let holder = ended.lane.holder;
                    progress.note(holder, trouble);
                    self.idle.retain(|lane| lane.holder != holder);
                }
            }
            self.idle.extend(self.reserve.lane());
        }
    }
}

/// When the next lane is late, where an idle one could do its work, or stuck. Those that are so already were offered just now;
/// what changes for them comes with the end of a lane.
fn next_look(busy: &BTreeMap<usize, Busy>, pace: Option<Duration>, some_idle: bool) -> Option<Instant> {
    let now = Instant::now();
    let late = busy.values().filter(|_| some_idle).map(|one| one.late_at(pace));
    let stuck = busy.values().map(Busy::stuck_at);
    late.chain(stuck).filter(|at| *at > now).min()
}

fn groups_in_a_turn(pace: Duration) -> u64 {
    let groups = TURN.as_micros() / pace.as_micros().max(1);
    u64::try_from(groups).unwrap_or(u64::MAX).clamp(1, LANE_GROUPS)
}

/// The next groups in a row that nobody brings yet, `most` of them: fewer towards the end, so that all lanes end together.
fn take_span(waiting: &mut BTreeSet<u64>, lanes: usize, most: u64) -> Option<Range<u64>> {
    let first = *waiting.first()?;
    let share = (waiting.len() as u64).div_ceil(2 * lanes.max(1) as u64);
    let most = share.clamp(1, most);
    let mut span = first..first;
    while span.end - span.start < most && waiting.remove(&span.end) {
        span.end += 1;
    }
    Some(span)
}

/// What a lane is bringing, and since when.
struct Busy {
    span: Range<u64>,
    holder: PeerId,
    since: Instant,
}

impl Busy {
    /// When it counts as late: after twice the time that the slowest lane has taken for as much.
    fn late_at(&self, pace: Option<Duration>) -> Instant {
        let groups = u32::try_from(self.span.end - self.span.start).unwrap_or(u32::MAX);
        let usual = pace.map_or(FIRST_PATIENCE, |pace| pace.saturating_mul(2).saturating_mul(groups));
        self.since + usual.clamp(LEAST_PATIENCE, MOST_PATIENCE)
    }

    /// When it counts as stuck, whatever the pace.
    fn stuck_at(&self) -> Instant {
        self.since + MOST_PATIENCE
    }
}

/// What a late lane has not brought, the latest first, for a free lane of `helper`: of what late lanes of others bring, and no
/// lane that is in time. Where holders are not `shared`, also of one lane of its own.
fn rest_of_late(
    busy: &BTreeMap<usize, Busy>,
    missing: &BTreeSet<u64>,
    late_at: impl Fn(&Busy) -> Instant,
    now: Instant,
    helper: PeerId,
    shared: bool,
) -> Option<Range<u64>> {
    // What of it is missing begins here; none where another lane has brought all of it meanwhile.
    let rest = |one: &Busy| missing.range(one.span.clone()).next().map(|first| *first..one.span.end);
    let may_help = |rest: &Range<u64>| {
        let asked: Vec<&Busy> = busy.values().filter(|one| one.span.contains(&rest.start)).collect();
        let of_others = asked.iter().all(|one| one.holder != helper);
        asked.iter().all(|one| late_at(one) <= now) && (of_others || (asked.len() == 1 && !shared))
    };
    busy.values()
        .filter(|one| late_at(one) <= now)
        .filter_map(|one| Some((late_at(one), rest(one).filter(may_help)?)))
        .min_by_key(|(late_at, _)| *late_at)
        .map(|(_, rest)| rest)
}

/// Until then; for ever without a time.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn bring(fetcher: &Fetcher, whole: &Whole, mut lane: Lane, span: Range<u64>) -> Ended {
    let (mut reached, mut moved) = (span.start, 0);
    let result = bring_span(fetcher, whole, &mut lane, span.clone(), &mut reached, &mut moved).await;
    if result.is_err()
        && let Some((link, _)) = lane.open.take()
        && matches!(result, Err(Trouble::Later(_)))
    {
        fetcher.forget(lane.holder, &link).await;
    }
    Ended {
        lane,
        span,
        reached,
        moved,
        result,
    }
}

async fn bring_span(
    fetcher: &Fetcher,
    whole: &Whole,
    lane: &mut Lane,
    span: Range<u64>,
    reached: &mut u64,
    moved: &mut u64,
) -> Result<Stays, Trouble> {
    let offset = span.start * BLOB_GROUP_BYTES;
    let request = Request {
        kind: Kind::Range,
        blob: whole.blob,
        offset,
        length: (span.end * BLOB_GROUP_BYTES).min(whole.length) - offset,
    };
    let began = loop {
        let kept = lane.open.is_some();
        let Some(stream) = stream_of(fetcher, lane).await? else {
            return Ok(Stays::No);
        };
        let began = Instant::now();
        match ask(stream, request, whole.length, BULK_REQUEST_TIMEOUT).await {
            // Holders close streams that were idle for long: that is no trouble of theirs.
            Err(Trouble::Later(_)) if kept => lane.open = None,
            result => {
                result?;
                break began;
            }
        }
    };
    let Some((link, stream)) = &mut lane.open else {
        return Ok(Stays::No);
    };
    let mut file = open(whole).await.map_err(Trouble::Disk)?;
    let mut bytes = vec![0; BLOB_GROUP_BYTES as usize];
    for group in span {
        let bytes = &mut bytes[..group_length(group, whole.length) as usize];
        let mut check = GroupCheck::new(group);
        for piece in bytes.chunks_mut(BLOB_CHUNK_BYTES) {
            within(BULK_CHUNK_TIMEOUT, stream.read.read_exact(piece)).await?;
            *moved += fetcher.received(&link.tally, piece.len());
            check.update(piece);
        }
        if !check.holds(&whole.blob, Some(&whole.tree)) {
            return Err(Trouble::Lie);
        }
        let at = SeekFrom::Start(group * BLOB_GROUP_BYTES);
        file.seek(at).await.map_err(Trouble::Disk)?;
        file.write_all(bytes).await.map_err(Trouble::Disk)?;
        file.flush().await.map_err(Trouble::Disk)?;
        *reached = group + 1;
    }
    link.tally.item_in();
    link.tally.took(request.length, began.elapsed());
    Ok(Stays::Yes)
}

/// The lane's stream, opened where it has none. None where a relay carries it and it is not its holder's first.
async fn stream_of<'l>(fetcher: &Fetcher, lane: &'l mut Lane) -> Result<Option<&'l mut Stream>, Trouble> {
    if lane.open.is_none() {
        let link = fetcher.find(lane.holder).await.map_err(Trouble::Later)?;
        if lane.second && matches!(link.path, Path::Relay) {
            return Ok(None);
        }
        let mut dialer = fetcher.dialer.clone();
        let opened = within(BULK_REQUEST_TIMEOUT, dialer.open(lane.holder, &link.path)).await;
        match opened {
            Ok(stream) => lane.open = Some((link, stream)),
            Err(error) => {
                fetcher.forget(lane.holder, &link).await;
                return Err(error.into());
            }
        }
    }
    Ok(lane.open.as_mut().map(|(_, stream)| stream))
}

async fn open(whole: &Whole) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(&whole.path).await?;
    file.set_max_buf_size(BLOB_CHUNK_BYTES);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_hand_everything_out_once_and_shrink_towards_the_end() {
        let mut waiting: BTreeSet<u64> = (0..300).filter(|group| *group != 7).collect();
        let mut spans = Vec::new();
        while let Some(span) = take_span(&mut waiting, 4, LANE_GROUPS) {
            spans.push(span);
        }
        let all: Vec<u64> = spans.iter().cloned().flatten().collect();
        assert_eq!(all, (0..300).filter(|group| *group != 7).collect::<Vec<_>>());
        assert!(spans.iter().all(|span| span.end - span.start <= LANE_GROUPS));
        assert_eq!(spans[0], 0..7, "a group that is here ends a span");
        assert_eq!(spans[spans.len() - 1], 299..300);
    }

    #[test]
    fn what_a_late_lane_has_not_brought_is_asked_of_one_other() {
        let missing: BTreeSet<u64> = [12, 13, 14, 20].into();
        let since = Instant::now();
        let holder = PeerId([1; 32]);
        let lane = |span| Busy { span, holder, since };
        let mut busy = BTreeMap::from([(0, lane(10..15)), (1, lane(20..21))]);
        let late_at = |one: &Busy| one.late_at(Some(Duration::from_secs(1)));
        let rest = |busy: &BTreeMap<usize, Busy>, seconds| {
            rest_of_late(
                busy,
                &missing,
                late_at,
                since + Duration::from_secs(seconds),
                holder,
                false,
            )
        };
        assert_eq!(rest(&busy, 1), None, "nobody is late yet");
        assert_eq!(rest(&busy, 3), Some(20..21), "one group takes two seconds at the most");
        busy.insert(2, lane(20..21));
        assert_eq!(rest(&busy, 3), None, "it has its second already");
        assert_eq!(rest(&busy, 11), Some(12..15));
        busy.insert(3, lane(12..15));
        assert_eq!(
            rest(&busy, 11),
            None,
            "its rest has a second, though its first groups are here"
        );
        // The latest of all, whose span another has brought meanwhile, hides none that is late too.
        busy = BTreeMap::from([(0, lane(15..16)), (1, lane(20..21))]);
        assert_eq!(rest(&busy, 11), Some(20..21));
        let at = since + Duration::from_secs(11);
        assert_eq!(
            rest_of_late(&busy, &missing, late_at, at, holder, true),
            None,
            "its own"
        );
    }

    #[test]
    fn another_holder_helps_where_all_who_are_asked_are_late() {
        let (slow, helper) = (PeerId([1; 32]), PeerId([2; 32]));
        let now = Instant::now();
        let lane = |since: Duration| Busy {
            span: 10..15,
            holder: slow,
            since: now - since,
        };
        let missing: BTreeSet<u64> = [12, 13, 14].into();
        let late_at = |one: &Busy| one.late_at(Some(Duration::from_secs(1)));
        let rest = |busy: &BTreeMap<usize, Busy>| rest_of_late(busy, &missing, late_at, now, helper, true);
        let mut busy = BTreeMap::from([(0, lane(Duration::from_secs(12))), (1, lane(Duration::from_secs(1)))]);
        assert_eq!(rest(&busy), None, "a second lane to the slow one has just begun");
        busy.insert(1, lane(Duration::from_secs(11)));
        assert_eq!(rest(&busy), Some(12..15));
        busy.insert(
            2,
            Busy {
                span: 12..15,
                holder: helper,
                since: now,
            },
        );
        assert_eq!(rest(&busy), None, "it helps already");
    }

    #[test]
    fn slow_lanes_do_not_make_patience_without_end() {
        let since = Instant::now();
        let lane = Busy {
            span: 0..32,
            holder: PeerId([1; 32]),
            since,
        };
        assert_eq!(lane.late_at(Some(Duration::from_secs(20))), since + MOST_PATIENCE);
        assert_eq!(lane.late_at(Some(Duration::ZERO)), since + LEAST_PATIENCE);
    }
}
