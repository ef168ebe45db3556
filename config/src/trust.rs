//! Who is trusted, and what a session should therefore combine updates by: one table, applied to a session file.
//! It decides nothing for a session that does not ask, and it promises no more than the parts that it names do.
//!
//! | server | members | privacy | rule | checked by | privacy from |
//! | --- | --- | --- | --- | --- | --- |
//! | trusted | trusted | – | mean | digest | – |
//! | not | trusted | – | mean | recomputing | – |
//! | trusted | not | – | ARC → NNM → trimmed mean, worker momentum | digest | – |
//! | not | not | – | ARC → NNM → trimmed mean, worker momentum | recomputing | – |
//! | any | trusted | needed | mean | as above | secure sums with noise, from 4 to 64 members; else local noise |
//! | any | not | needed | ARC → NNM → trimmed mean | as above | local noise |
//!
//! *Server* is whichever member coordinates. Local noise trusts nobody and costs most. In a secure sum the members add
//! together what a trusted server would add alone, √n times less in the mean; but nobody sees a single update, so no
//! member's may be judged. Momentum at the workers is left out beside noise, which it would not lower within one round's
//! budget. ARC: Allouah et al. 2024; NNM: Allouah et al. 2023; momentum: Karimireddy et al. 2021.

use std::fmt;
use std::str::FromStr;

use synod_aggregation::privacy::accountant::Accountant;
use synod_aggregation::privacy::ledger::Sampling;
use synod_aggregation::privacy::{CentralDp, LocalDp, PrivacyConfig, SecureSumConfig, Unit};
use synod_aggregation::{Composition, EncodingConfig, MixingConfig, OuterConfig, RuleConfig};
use synod_protocol::session::Verification;
use synod_training::MemberStateConfig;

use crate::session_config::{AggregationConfig, SessionFile};

/// Whom a session's creator trusts, and whether single institutions' data must stay hidden in what they send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// Whether whoever coordinates computes honestly.
    pub server: bool,
    /// Whether all members send honest updates.
    pub members: bool,
    /// Whether what a member sends must tell little of its data.
    pub privacy: bool,
}

/// Words that name no trust.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}`: say server=yes|no, members=yes|no and privacy=yes|no, separated by commas, each once")]
pub struct TrustError {
    /// What was said.
    found: String,
}

impl FromStr for Trust {
    type Err = TrustError;

    fn from_str(text: &str) -> Result<Self, TrustError> {
        let refuse = || TrustError { found: text.to_owned() };
        let mut said: [Option<bool>; 3] = [None; 3];
        for part in text.split(',') {
            let (key, value) = part.trim().split_once('=').ok_or_else(refuse)?;
            let place = ["server", "members", "privacy"].iter().position(|name| *name == key);
            let place = place.ok_or_else(refuse)?;
            let value = match value {
                "yes" => true,
                "no" => false,
                _ => return Err(refuse()),
            };
            if said[place].replace(value).is_some() {
                return Err(refuse());
            }
        }
        match said {
            [Some(server), Some(members), Some(privacy)] => Ok(Self {
                server,
                members,
                privacy,
            }),
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |yes| if yes { "yes" } else { "no" };
        let Self {
            server,
            members,
            privacy,
        } = *self;
        write!(
            f,
            "server={},members={},privacy={}",
            word(server),
            word(members),
            word(privacy)
        )
    }
}

/// A session file that cannot be given what the trust asks for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AdviceError {
    /// Too few members for any robust rule.
    #[error(
        "protocol.min_members = {members}: among fewer than {LEAST_FOR_ROBUST} updates a faulty one cannot be told from an honest one; raise it, or say members=yes"
    )]
    TooFewMembers {
        /// What the file says.
        members: u32,
    },
    /// Noise and sums are of federated sessions.
    #[error(
        "privacy=yes: members of a decentralized session show their whole models to their neighbours, and no noise for these is run; choose a federated topology, or privacy=no"
    )]
    PrivacyWithoutCoordinator,
    /// No noise gives this budget.
    #[error("privacy: {0}")]
    Budget(String),
}

/// Of three, one can be outvoted.
const LEAST_FOR_ROBUST: u32 = 3;

/// The privacy budget that is filled in: (ε, δ) of the whole session towards whoever sees everything. ε = 8 is what
/// published federated deployments mostly promise at the level of users; δ is well below one over any number of institutions.
const EPSILON: f64 = 8.0;
const DELTA: f64 = 1e-5;

/// Members from which on a secure sum bears that one of them drops out (two thirds and one lift its masks), and to which.
const SUM_MEMBERS: std::ops::RangeInclusive<u32> = 4..=64;

/// Where updates are clipped before noise: the order of a small model's pseudo-gradient after tens of local steps. A
/// session's creator should measure its own and set it.
const CLIP_NORM: f32 = 1.0;

/// What members keep of their last direction beside a robust rule (Karimireddy et al. 2021 take 0.9 throughout).
const WORKER_MOMENTUM: f32 = 0.9;

impl Trust {
    /// How many faulty members the advised rule reckons with among this many: as many as leave it within a few points of a
    /// run without faults (f < n/4), and one at least.
    pub fn faults(members: u32) -> usize {
        (members.saturating_sub(1) / 4).max(1) as usize
    }

    /// Fills what follows from this trust into a session file, and says in one line a key what and why.
    pub fn apply(self, file: &mut SessionFile) -> Result<Vec<String>, AdviceError> {
        let mut reasons = Vec::new();
        let by_quorum = file.protocol.is_by_quorum();
        let trusted = self.server && !by_quorum && file.protocol.shards().is_none();
        file.protocol.verification = match trusted {
            true => Verification::Digest,
            false => Verification::Recompute,
        };
        reasons.push(match trusted {
            true => "protocol.verification = digest: the coordinator's arithmetic is trusted, so nobody repeats it"
                .to_owned(),
            false => {
                "protocol.verification = recompute: every voter combines the updates again before it votes".to_owned()
            }
        });
        self.apply_rule(file, &mut reasons)?;
        self.apply_privacy(file, &mut reasons)?;
        Ok(reasons)
    }

    fn apply_rule(self, file: &mut SessionFile, reasons: &mut Vec<String>) -> Result<(), AdviceError> {
        if file.protocol.is_mixing() {
            let (default, mixing) = (AggregationConfig::default(), MixingConfig::Gossip);
            (file.aggregation.pre, file.aggregation.rule) = (default.pre, default.rule);
            (file.aggregation.worker, file.aggregation.mixing) = (default.worker, mixing);
            file.aggregation.encoding = EncodingConfig::F32;
            let robust = !self.members && mix_robustly(file);
            reasons.push(match (self.members, robust) {
                (true, _) => "aggregation.mixing = gossip: honest neighbours lose nothing to robustness".to_owned(),
                (false, true) => {
                    "aggregation.mixing = nearest_neighbours with b = 1: one faulty neighbour of each member is borne"
                        .to_owned()
                }
                (false, false) => {
                    "note: this graph gives members too few neighbours to outvote a faulty one: choose a denser graph"
                        .to_owned()
                }
            });
            return Ok(());
        }
        let robust = robust_rule(file, Self::faults(file.protocol.min_members));
        let aggregation = &mut file.aggregation;
        if self.members {
            let AggregationConfig { pre, rule, .. } = AggregationConfig::default();
            (aggregation.pre, aggregation.rule) = (pre, rule);
            aggregation.worker = MemberStateConfig::default();
            reasons.push("aggregation.rule = mean: honest members lose nothing to robustness".to_owned());
            return Ok(());
        }
        let members = file.protocol.min_members;
        if members < LEAST_FOR_ROBUST {
            return Err(AdviceError::TooFewMembers { members });
        }
        let f = Self::faults(members);
        let name = robust.name();
        (aggregation.pre, aggregation.rule) = (robust.pre, robust.rule);
        reasons.push(format!(
            "aggregation: {name} with f = {f} of {members}: no {f} of them can drag the model away"
        ));
        if f as u32 * 4 >= members {
            reasons.push(format!(
                "note: f = {f} is a quarter of {members} members or more; such an attacker is borne, at a price in quality: gather more members"
            ));
        }
        if !self.privacy {
            aggregation.worker.momentum = WORKER_MOMENTUM;
            aggregation.outer = OuterConfig::AVERAGING;
            reasons.push(
                "aggregation.worker.momentum = 0.9 in place of the outer step's: updates vary less, and liars find less room"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn apply_privacy(self, file: &mut SessionFile, reasons: &mut Vec<String>) -> Result<(), AdviceError> {
        if !self.privacy {
            file.aggregation.privacy = PrivacyConfig::None;
            return Ok(());
        }
        if file.protocol.is_mixing() {
            return Err(AdviceError::PrivacyWithoutCoordinator);
        }
        let accountant = Accountant::default();
        let rounds = u32::try_from(file.protocol.rounds).unwrap_or(u32::MAX);
        let summed = self.members
            && !file.protocol.is_by_quorum()
            && SUM_MEMBERS.contains(&file.protocol.min_members)
            && file.protocol.max_members <= *SUM_MEMBERS.end();
        // A sum whose coordinator is lost is begun anew with other noise: a tenth more releases than rounds.
        let releases = if summed {
            rounds.saturating_add(rounds.div_ceil(10))
        } else {
            rounds
        };
        let noise_multiplier = accountant
            .noise_multiplier(Sampling::All, releases, EPSILON, DELTA)
            .map_err(|error| AdviceError::Budget(error.to_string()))?;
        file.aggregation.worker = MemberStateConfig::default();
        file.aggregation.outer = OuterConfig::AVERAGING;
        reasons.push("aggregation.outer = averaging: momentum would add up the noise of ten rounds".to_owned());
        if summed {
            file.aggregation.privacy = PrivacyConfig::SecureSum(SecureSumConfig {
                threshold: None,
                range: CLIP_NORM,
                max_weight: 1,
                group_size: None,
                noise: Some(CentralDp {
                    clip_norm: CLIP_NORM,
                    noise_multiplier,
                    epsilon: EPSILON,
                    delta: DELTA,
                    accountant,
                }),
            });
            reasons.push(format!(
                "aggregation.privacy = secure_sum with noise: nobody sees a single update, and the other members of the smallest sum that is opened together add noise of {noise_multiplier:.2} times the clip norm {CLIP_NORM} to their sum, ({EPSILON}, {DELTA}) over {rounds} rounds; set clip_norm and range to the median norm of your updates"
            ));
            return Ok(());
        }
        file.aggregation.privacy = PrivacyConfig::LocalDp(LocalDp {
            unit: Unit::Update,
            clip_norm: CLIP_NORM,
            noise_multiplier,
            epsilon: EPSILON,
            delta: DELTA,
            accountant,
        });
        reasons.push(format!(
            "aggregation.privacy = local_dp: each update is clipped to norm {CLIP_NORM} and gets noise of {noise_multiplier:.2} times that, ({EPSILON}, {DELTA}) over {rounds} rounds, and trusts nobody; set clip_norm to the median norm of your updates"
        ));
        if self.members && !file.protocol.is_by_quorum() {
            reasons.push(
                "note: with 4 to 64 members (protocol.min_members, protocol.max_members), secure sums with noise would cost less"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// Which keys of `aggregation` a session file says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said {
    /// `rule` or `pre`.
    pub(crate) rule: bool,
    /// `worker`.
    pub(crate) worker: bool,
    /// `outer`.
    pub(crate) outer: bool,
    /// `mixing`.
    pub(crate) mixing: bool,
    /// `encoding`.
    pub(crate) encoding: bool,
}

/// Gives a session file that names no rule the one for members that do not trust each other: as many faulty ones as
/// [`Trust::faults`] says are borne. With fewer than three members there is none, and the mean stays. Momentum moves from
/// the outer step to the workers where the file says nothing of either, and no noise would pass through it. Under secure sums
/// the mean stays, too, or the rule is one across their groups.
pub(crate) fn fill_rule(file: &mut SessionFile, said: Said) {
    let members = file.protocol.min_members;
    if file.protocol.is_mixing() {
        if !said.encoding {
            file.aggregation.encoding = EncodingConfig::F32;
        }
        if !said.mixing {
            mix_robustly(file);
        }
        return;
    }
    if said.rule || members < LEAST_FOR_ROBUST {
        return;
    }
    let faults = match &file.aggregation.privacy {
        // Of masked updates nothing is seen but their sum.
        PrivacyConfig::SecureSum(sums) if sums.group_size.is_none() => return,
        // Each faulty member spoils one group at the most.
        PrivacyConfig::SecureSum(sums) => match sums.tolerated_faults(members as usize) {
            Some(faults @ 1..) => faults,
            _ => return,
        },
        _ => Trust::faults(members),
    };
    let Composition { pre, rule } = robust_rule(file, faults);
    (file.aggregation.pre, file.aggregation.rule) = (pre, rule);
    if !said.worker && !said.outer && file.aggregation.privacy == PrivacyConfig::None {
        file.aggregation.worker.momentum = WORKER_MOMENTUM;
        file.aggregation.outer = OuterConfig::AVERAGING;
    }
}

/// What is advised against so many faulty members; where the vector is in shards, the best of what needs no whole updates.
fn robust_rule(file: &SessionFile, faults: usize) -> Composition {
    match file.protocol.shards() {
        Some(_) => Composition::of(RuleConfig::TrimmedMean { f: faults }),
        None => Composition::robust(faults),
    }
}

/// Nearest-neighbour averaging that bears one faulty neighbour (Farhadkhani et al. 2023), where the graph gives each member
/// enough of them; else plain gossip.
fn mix_robustly(file: &mut SessionFile) -> bool {
    file.aggregation.mixing = MixingConfig::NearestNeighbours { b: 1 };
    let sound = file.mixes();
    if !sound {
        file.aggregation.mixing = MixingConfig::Gossip;
    }
    sound
}

#[cfg(test)]
mod tests {
    use synod_protocol::identity::PeerId;

    use super::*;

    fn every_cell() -> impl Iterator<Item = Trust> {
        (0..8u8).map(|bits| Trust {
            server: bits & 1 != 0,
            members: bits & 2 != 0,
            privacy: bits & 4 != 0,
        })
    }

    #[test]
    fn every_cell_survives_its_words_and_founds_a_session() {
        for trust in every_cell() {
            assert_eq!(trust.to_string().parse(), Ok(trust));
            let mut file = SessionFile {
                name: "cell".to_owned(),
                ..SessionFile::default()
            };
            file.protocol.min_members = 5;
            let reasons = trust.apply(&mut file).unwrap();
            assert!(reasons.len() >= 2, "{reasons:?}");
            let recompute = file.protocol.verification == Verification::Recompute;
            assert_eq!(recompute, !trust.server);
            assert_eq!(file.aggregation.pre.is_empty(), trust.members);
            let expected = match (trust.privacy, trust.members) {
                (false, _) => "none",
                (true, true) => "secure_sum",
                (true, false) => "local_dp",
            };
            assert_eq!(file.aggregation.privacy.name(), expected);
            let founded = file.found(PeerId([1; 32]), 0);
            assert!(founded.is_ok(), "{trust}: {founded:?}");
        }
    }

    #[test]
    fn two_members_cannot_outvote_one_of_them() {
        let trust: Trust = "server=no, members=no, privacy=no".parse().unwrap();
        let error = trust.apply(&mut SessionFile::default()).unwrap_err();
        assert_eq!(error, AdviceError::TooFewMembers { members: 2 });
    }

    #[test]
    fn faults_stay_below_a_quarter_where_there_are_enough_members() {
        let faults: Vec<_> = [3, 4, 5, 8, 9, 13, 64].map(Trust::faults).to_vec();
        assert_eq!(faults, [1, 1, 1, 1, 2, 3, 15]);
    }

    #[test]
    fn other_words_are_refused_with_the_right_ones() {
        for words in [
            "",
            "server",
            "server=maybe",
            "server=yes",
            "server=yes,server=no,members=no,privacy=no",
            "server=yes,members=no,privacy=no,topology=ring",
        ] {
            let error = words.parse::<Trust>().unwrap_err().to_string();
            assert!(error.contains("server=yes|no"), "{error}");
        }
    }
}
