//! A session as its machine sees it: terms that all members share, roles, and the roster of a round.
//! It does not know models, rules or encodings: those are the worker's, and reach it as ids and verdicts.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::graph::{Graph, GraphConfig, GraphSeed, Weighting};
use crate::identity::{PeerId, SessionId};
use crate::limits;
use crate::pace::StepTerms;
use crate::shard;
use crate::sum::SumTerms;

/// What a machine has to know of its session.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// The session.
    pub session: SessionId,
    /// Its name.
    pub name: String,
    /// Who created it, and leads round 0.
    pub creator: PeerId,
    /// The protocol's terms.
    pub terms: Terms,
    /// That updates are summed securely; None: they are seen by all members.
    pub sums: Option<SumTerms>,
    /// That members take local steps by their speed; None: all take the session's number.
    pub steps: Option<StepTerms>,
    /// The whole configuration in canonical bytes, for those who join. The machine does not read it.
    pub config: Arc<[u8]>,
}

/// What a member does in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Role {
    /// Trains on its own data and sends updates.
    Trainer = 1,
    /// Computes curvature (a room to come).
    Curvature = 2,
    /// May lead rounds, and mint invites.
    Coordinator = 4,
    /// Scores on private held-out data (a room to come).
    Validator = 8,
    /// Follows and receives the model.
    Observer = 16,
}

impl Role {
    const ALL: [(Role, &'static str); 5] = [
        (Role::Trainer, "trainer"),
        (Role::Curvature, "curvature"),
        (Role::Coordinator, "coordinator"),
        (Role::Validator, "validator"),
        (Role::Observer, "observer"),
    ];
}

/// A set of roles.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
pub struct Roles(u8);

impl Roles {
    /// The set of these.
    pub fn of(roles: &[Role]) -> Self {
        Self(roles.iter().fold(0, |bits, role| bits | *role as u8))
    }

    /// Whether the set holds `role`.
    pub fn has(self, role: Role) -> bool {
        self.0 & role as u8 != 0
    }

    /// Whether every role of `self` is in `other`.
    pub fn within(self, other: Roles) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether no role is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all bits are roles that this version knows.
    pub fn is_known(self) -> bool {
        self.0 & !0b1_1111 == 0
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Role::ALL
            .iter()
            .filter(|(role, _)| self.has(*role))
            .map(|(_, name)| *name)
            .collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roles({self})")
    }
}

/// A list of role names could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: use trainer, coordinator, observer, validator or curvature, separated by commas")]
pub struct RoleError(String);

impl FromStr for Roles {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        let mut bits = 0;
        for word in text.split(',').map(str::trim) {
            let (role, _) = Role::ALL
                .iter()
                .find(|(_, name)| *name == word)
                .ok_or_else(|| RoleError(word.into()))?;
            bits |= *role as u8;
        }
        Ok(Self(bits))
    }
}

/// How a member convinces itself of a proposed state before it votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Verification {
    /// Fetch every update that the proposal uses, aggregate again, compare digests: a lying coordinator gets no vote.
    /// Costs each member the download of all updates.
    #[default]
    Recompute,
    /// Check the updates' signatures, fetch the new state, check its digest, and vote. Trusts the coordinator's arithmetic.
    Digest,
}

/// When the coordinator stops waiting for updates: `median + k · MAD` of the arrival offsets so far, once a quorum
/// is in, held between floor and cap.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadlineConfig {
    /// Never closes earlier than this after the round began, in milliseconds.
    pub floor_ms: u64,
    /// Never waits longer than this once a quorum is in, in milliseconds.
    pub cap_ms: u64,
    /// How many median absolute deviations beyond the median a member may be.
    pub k: u32,
}

impl Default for DeadlineConfig {
    fn default() -> Self {
        // k = 6 keeps honest stragglers (MAD of a normal is 0.67 sigma: 6 MAD are 4 sigma); the floor covers jitter
        // when all arrive together; the cap is what an operator would wait before calling somebody.
        Self {
            floor_ms: 2_000,
            cap_ms: 600_000,
            k: 6,
        }
    }
}

/// Who exchanges with whom.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Topology {
    /// Members send updates to a coordinator and settle one model by votes. The default: all members have the same model.
    #[default]
    Federated,
    /// No coordinator: each member keeps its own model and mixes it with its neighbours', or all agree on one by quorum.
    Decentralized(Decentralized),
    /// As federated, and the vector is in shards, each combined by two members of which the coordinator is one by chance alone:
    /// nobody downloads all updates.
    Sharded(Sharded),
}

/// How the vector of a federated session is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharded {
    /// How many shards. As many as members spreads the work evenly: each then combines two in a round.
    pub shards: u32,
}

/// How members without a coordinator find their neighbours, and how far apart they may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decentralized {
    /// Who hears from whom.
    pub graph: GraphConfig,
    /// How much a member takes from each.
    pub weighting: Weighting,
    /// Whether members hold one model by agreement.
    pub agreement: Agreement,
    /// Rounds that a member may be before the lower median of the others, and that a claim may be old or new and still be
    /// mixed; who is further behind takes its neighbours' models instead of its own.
    pub ahead: u32,
}

impl Default for Decentralized {
    fn default() -> Self {
        // Four rounds let a member be interrupted for a while, or be several times slower for some rounds, and lose nothing;
        // models of more rounds ago pull towards where everybody has left.
        Self {
            graph: GraphConfig::default(),
            weighting: Weighting::default(),
            agreement: Agreement::None,
            ahead: 4,
        }
    }
}

impl Decentralized {
    /// The graph of a round among so many trainers; the complete one where leaves have made the session's impossible.
    /// None for a member alone.
    pub fn graph_among(&self, members: usize, round: u64, seed: &GraphSeed) -> Option<Graph> {
        let graph = self.graph.build(members, round, seed);
        graph
            .or_else(|_| GraphConfig::Complete.build(members, round, seed))
            .ok()
    }
}

/// Whether members without a coordinator hold one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Agreement {
    /// Each keeps its own, and mixes it with its neighbours'.
    #[default]
    None,
    /// All hold the same, settled by more than two thirds of the voters, each in turn proposing: fewer than a third of
    /// them may lie (Tendermint: Buchman, Kwon, Milosevic 2018).
    Quorum,
}

/// What the members of a session agree on about the protocol. Part of the session's configuration, hence of its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// Rounds to settle before the session is finished.
    pub rounds: u64,
    /// Updates that a round needs at the least: with fewer trainers the session waits for others to join.
    pub min_members: u32,
    /// Trainers that must be present to begin; 0 means `min_members`.
    pub begin_members: u32,
    /// Whether the creator trains too, or only coordinates.
    pub creator_trains: bool,
    /// Members that are admitted at most.
    pub max_members: u32,
    /// Share of the roster's trainers whose updates a round needs, in percent.
    pub quorum_percent: u8,
    /// How a proposal is checked before a vote.
    pub verification: Verification,
    /// When the coordinator stops waiting.
    pub deadline: DeadlineConfig,
    /// Every member is heard at least this often, in milliseconds.
    pub heartbeat_ms: u64,
    /// A coordinator (or member) not heard for this long counts as lost, in milliseconds.
    pub lost_after_ms: u64,
    /// A member that was absent for this many settled rounds leaves the roster; it may come back by itself. By quorum they are
    /// more than the voters that may lie, whatever this says ([`rounds_to_go`](Terms::rounds_to_go)).
    pub absent_rounds: u32,
    /// Largest payload of an update, in bytes.
    pub max_payload_bytes: u64,
    /// Largest state, in bytes.
    pub max_state_bytes: u64,
    /// Who exchanges with whom.
    pub topology: Topology,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            rounds: 20,
            min_members: 2,
            begin_members: 0,
            creator_trains: true,
            max_members: 64,
            quorum_percent: 60,
            verification: Verification::Recompute,
            deadline: DeadlineConfig::default(),
            heartbeat_ms: 1_000,
            lost_after_ms: 5_000,
            absent_rounds: 3,
            max_payload_bytes: 1 << 30,
            max_state_bytes: 4 << 30,
            topology: Topology::Federated,
        }
    }
}

/// Terms that cannot work, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// A number is out of its range.
    #[error("{key} = {value} is out of range: it must be {range}")]
    Range {
        /// The key in the file.
        key: &'static str,
        /// What it holds.
        value: u64,
        /// What it may hold.
        range: &'static str,
    },
    /// A topology that cannot be among the members that the session allows.
    #[error("topology: {reason}")]
    Topology {
        /// Why, and what can.
        reason: String,
    },
}

impl Terms {
    /// Refuses terms that no session could run under.
    pub fn check(&self) -> Result<(), TermsError> {
        let range = |ok: bool, key, value, range| {
            if ok {
                Ok(())
            } else {
                Err(TermsError::Range { key, value, range })
            }
        };
        range(
            (1..=1_000_000).contains(&self.rounds),
            "rounds",
            self.rounds,
            "1 to 1000000",
        )?;
        let (min, max) = (u64::from(self.min_members), u64::from(self.max_members));
        range((1..=max).contains(&min), "min_members", min, "1 to max_members")?;
        range(max <= limits::MEMBERS as u64, "max_members", max, "at most 2048")?;
        range(
            self.begin_members <= self.max_members,
            "begin_members",
            u64::from(self.begin_members),
            "at most max_members",
        )?;
        let quorum = u64::from(self.quorum_percent);
        range((1..=100).contains(&quorum), "quorum_percent", quorum, "1 to 100")?;
        let deadline = &self.deadline;
        range(
            deadline.cap_ms <= 86_400_000,
            "deadline.cap_ms",
            deadline.cap_ms,
            "at most 86400000 (a day)",
        )?;
        range(
            deadline.floor_ms <= deadline.cap_ms,
            "deadline.floor_ms",
            deadline.floor_ms,
            "at most deadline.cap_ms",
        )?;
        range(
            (1..=1_000).contains(&deadline.k),
            "deadline.k",
            u64::from(deadline.k),
            "1 to 1000",
        )?;
        range(
            (50..=600_000).contains(&self.heartbeat_ms),
            "heartbeat_ms",
            self.heartbeat_ms,
            "50 to 600000",
        )?;
        range(
            self.lost_after_ms >= 2 * self.heartbeat_ms && self.lost_after_ms <= 3_600_000,
            "lost_after_ms",
            self.lost_after_ms,
            "at least twice heartbeat_ms, at most 3600000",
        )?;
        range(
            self.absent_rounds >= 1,
            "absent_rounds",
            u64::from(self.absent_rounds),
            "at least 1",
        )?;
        range(
            self.max_payload_bytes >= 64,
            "max_payload_bytes",
            self.max_payload_bytes,
            "at least 64",
        )?;
        range(
            self.max_state_bytes >= 64,
            "max_state_bytes",
            self.max_state_bytes,
            "at least 64",
        )?;
        match &self.topology {
            Topology::Federated => Ok(()),
            Topology::Decentralized(terms) if terms.agreement == Agreement::Quorum => self.check_quorum(terms),
            Topology::Decentralized(mixing) => self.check_mixing(mixing),
            Topology::Sharded(sharded) => self.check_shards(sharded.shards),
        }
    }

    fn check_shards(&self, shards: u32) -> Result<(), TermsError> {
        let refuse = |reason: String| Err(TermsError::Topology { reason });
        let most = self.max_members.min(limits::SHARDS as u32);
        if !(2..=most).contains(&shards) {
            return refuse(format!(
                "shards = {shards} is out of range: it must be 2 to {} and no more than max_members = {}; for one shard take the federated topology",
                limits::SHARDS,
                self.max_members
            ));
        }
        if self.verification != Verification::Recompute {
            return refuse(
                "shards are there to check a state without downloading all updates, and verification = \"digest\" checks nothing: set it to \"recompute\", or take the federated topology".into(),
            );
        }
        let (bytes, room) = (
            shard::proposal_bytes(u64::from(self.max_members), u64::from(shards)),
            limits::MESSAGE_BYTES as u64,
        );
        if bytes > room {
            return refuse(format!(
                "a proposal of {} members with {shards} shards has about {bytes} bytes, and a message {room} at most: lower shards or max_members",
                self.max_members
            ));
        }
        Ok(())
    }

    fn check_mixing(&self, mixing: &Decentralized) -> Result<(), TermsError> {
        let refuse = |reason: String| Err(TermsError::Topology { reason });
        if !(1..=64).contains(&mixing.ahead) {
            return refuse(format!("ahead = {} is out of range: it must be 1 to 64", mixing.ahead));
        }
        if !self.creator_trains {
            return refuse(
                "creator_trains = false, and who does not train has no part in mixing: set it to true".into(),
            );
        }
        if mixing.weighting == Weighting::Push {
            return refuse(
                "weighting = push is for push-sum, which sessions cannot mix by yet: use metropolis or uniform".into(),
            );
        }
        // Members come and go between these numbers; a graph that has no shape for one of them would change its kind.
        let (least, most) = (self.members_to_begin(), self.max_members as usize);
        let impossible = (least..=most).find_map(|members| mixing.graph.check(members).err());
        impossible.map_or(Ok(()), |error| {
            refuse(format!(
                "{error}; the session may have {least} to {most} members: choose a graph for all these numbers, or set begin_members = max_members"
            ))
        })
    }

    fn check_quorum(&self, terms: &Decentralized) -> Result<(), TermsError> {
        let refuse = |reason: String| Err(TermsError::Topology { reason });
        let (least, most) = (self.members_to_begin(), self.max_members as usize);
        if terms.graph != GraphConfig::Complete {
            return refuse(
                "agreement = quorum has all members exchange with all: set graph = \"complete\", or leave it out"
                    .into(),
            );
        }
        if self.verification != Verification::Recompute {
            return refuse(
                "agreement = quorum needs verification = \"recompute\": no member may be trusted with a state".into(),
            );
        }
        if liars_borne(least) == 0 {
            return refuse(
                "agreement = quorum bears one liar among four, two among seven: set begin_members to 4 or more".into(),
            );
        }
        if most > limits::QUORUM_MEMBERS {
            return refuse(format!(
                "agreement = quorum, and max_members = {most}: the proposal of a round, with all votes that prove it, has to fit a message; set max_members to {} or less",
                limits::QUORUM_MEMBERS
            ));
        }
        let honest = |members: usize| members - liars_borne(members);
        let starved = (least..=most).find(|members| self.updates_needed(*members) > honest(*members));
        starved.map_or(Ok(()), |members| {
            refuse(format!(
                "agreement = quorum bears that {} of {members} members say nothing, and a round would need {} updates: set min_members and quorum_percent so that {} are enough",
                liars_borne(members),
                self.updates_needed(members),
                honest(members)
            ))
        })
    }

    /// How many shards the vector is in, where it is in any.
    pub fn shards(&self) -> Option<u32> {
        match &self.topology {
            Topology::Sharded(sharded) => Some(sharded.shards),
            _ => None,
        }
    }

    /// Whether members keep models of their own and mix them.
    pub fn is_mixing(&self) -> bool {
        matches!(&self.topology, Topology::Decentralized(terms) if terms.agreement == Agreement::None)
    }

    /// Whether rounds are settled by more than two thirds of the voters, and nobody coordinates.
    pub fn is_by_quorum(&self) -> bool {
        matches!(&self.topology, Topology::Decentralized(terms) if terms.agreement == Agreement::Quorum)
    }

    /// Votes that settle a round among the voters of `roster`: a majority where a coordinator leads, so that two
    /// settlements share a voter; by quorum more than two thirds, so that they share an honest one.
    pub fn votes_needed(&self, roster: &Roster) -> usize {
        match self.is_by_quorum() {
            true => 2 * roster.voters().count() / 3 + 1,
            false => roster.majority(),
        }
    }

    /// Settled rounds in a row after which an absent member leaves `roster`. By quorum they are more than the voters that may
    /// lie, whose turns to propose may follow each other.
    pub fn rounds_to_go(&self, roster: &Roster) -> u32 {
        let liars = match self.is_by_quorum() {
            true => liars_borne(roster.voters().count()),
            false => 0,
        };
        self.absent_rounds.max(u32::try_from(liars + 1).unwrap_or(u32::MAX))
    }

    /// Updates that a round needs when the roster has `trainers`.
    pub fn updates_needed(&self, trainers: usize) -> usize {
        let quorum = (trainers * usize::from(self.quorum_percent)).div_ceil(100);
        quorum.max(self.min_members as usize).max(1)
    }

    /// Trainers that must be present before round 0 can be settled.
    pub fn members_to_begin(&self) -> usize {
        if self.begin_members == 0 {
            self.min_members as usize
        } else {
            self.begin_members as usize
        }
    }
}

/// Voters out of so many that agreement by quorum bears when they lie, contradict themselves or are silent.
pub(crate) fn liars_borne(voters: usize) -> usize {
    voters.saturating_sub(1) / 3
}

/// One member as the roster lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What it may do.
    pub roles: Roles,
    /// The round from which it is a member; with the id it gives the order of succession.
    pub since: u64,
    /// Settled rounds in a row without its update.
    pub absent: u32,
}

impl Member {
    /// Whether it has a say in what is settled: all but pure observers do.
    pub fn votes(&self) -> bool {
        self.roles.has(Role::Trainer) || self.roles.has(Role::Coordinator)
    }
}

/// The members of a round, agreed by the settlement before it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Roster {
    members: BTreeMap<PeerId, Member>,
}

impl Roster {
    /// A roster of these.
    pub fn new(members: impl IntoIterator<Item = (PeerId, Member)>) -> Self {
        Self {
            members: members.into_iter().collect(),
        }
    }

    /// The member behind `peer`, if it is one.
    pub fn get(&self, peer: &PeerId) -> Option<&Member> {
        self.members.get(peer)
    }

    /// Whether `peer` is a member with `role`.
    pub fn has(&self, peer: &PeerId, role: Role) -> bool {
        self.members.get(peer).is_some_and(|member| member.roles.has(role))
    }

    /// All members in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&PeerId, &Member)> {
        self.members.iter()
    }

    /// All ids in order.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.members.keys().copied()
    }

    /// The members with `role`, in order of ids.
    pub fn with(&self, role: Role) -> impl Iterator<Item = PeerId> + '_ {
        self.members
            .iter()
            .filter(move |(_, member)| member.roles.has(role))
            .map(|(peer, _)| *peer)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is a member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// More than half of the voters, so that two settlements of a round share a voter.
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// Who votes: every member but pure observers.
    pub fn voters(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.members
            .iter()
            .filter(|(_, member)| member.votes())
            .map(|(peer, _)| *peer)
    }

    /// Whether `peer` votes.
    pub fn is_voter(&self, peer: &PeerId) -> bool {
        self.members.get(peer).is_some_and(Member::votes)
    }

    /// The order in which members lead: those who may coordinate, eldest first, then by id.
    pub fn succession(&self) -> Vec<PeerId> {
        let mut line: Vec<_> = self
            .members
            .iter()
            .filter(|(_, m)| m.roles.has(Role::Coordinator))
            .collect();
        line.sort_by_key(|(peer, member)| (member.since, **peer));
        line.into_iter().map(|(peer, _)| *peer).collect()
    }

    /// Adds or replaces a member.
    pub fn insert(&mut self, peer: PeerId, member: Member) {
        self.members.insert(peer, member);
    }

    /// Removes a member.
    pub fn remove(&mut self, peer: &PeerId) {
        self.members.remove(peer);
    }
}

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Waiting for enough members to begin.
    Gathering,
    /// Rounds settle.
    Running,
    /// Too few members are heard for a round to settle; it goes on by itself when they are back.
    Paused,
    /// All rounds are settled.
    Finished,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_read_back() {
        let roles = Roles::of(&[Role::Trainer, Role::Coordinator]);
        assert_eq!("coordinator, trainer".parse(), Ok(roles));
        assert_eq!(roles.to_string(), "trainer,coordinator");
        assert!("boss".parse::<Roles>().is_err());
        assert!(!Roles(32).is_known());
    }

    #[test]
    fn two_majorities_always_share_a_voter() {
        for n in 1..=9u8 {
            let member = Member {
                roles: Roles::of(&[Role::Trainer]),
                since: 0,
                absent: 0,
            };
            let roster = Roster::new((0..n).map(|i| (PeerId([i; 32]), member)));
            assert!(2 * roster.majority() > usize::from(n));
        }
    }

    #[test]
    fn default_terms_pass_their_own_check() {
        assert_eq!(Terms::default().check(), Ok(()));
        assert!(
            Terms {
                quorum_percent: 0,
                ..Terms::default()
            }
            .check()
            .is_err()
        );
        assert!(
            Terms {
                lost_after_ms: 1_000,
                ..Terms::default()
            }
            .check()
            .is_err()
        );
    }
}
