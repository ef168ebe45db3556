//! One run of the table: where, against whom, with what, and the list of all of them.
//! It runs nothing; a case is a name for a run, and the name says everything that the run depends on.

use synod_aggregation::mixing::GossipRadius;
use synod_aggregation::{Composition, MixingConfig, PreAggregationConfig, Radius, RuleConfig};
use synod_protocol::graph::GraphConfig;

/// All workers, faulty ones included.
pub const WORKERS: usize = 10;

/// How the data are dealt out to the honest workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Evenly.
    Iid,
    /// By shares of each label from a Dirichlet distribution of concentration 0.3.
    Dirichlet,
    /// Sorted by label and cut: each has one label or two.
    Sorted,
}

/// Who combines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// One aggregate for all.
    Federated,
    /// Each with all others.
    Complete,
    /// Each with six others, on a random regular graph.
    RegularSix,
}

/// What defends.
#[derive(Debug, Clone, PartialEq)]
pub enum Defence {
    /// A rule for all updates.
    Rule(&'static str, Composition),
    /// Mixing of models.
    Mixing(&'static str, MixingConfig),
}

/// What the faulty do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Nothing: all ten are honest, and the defence does not know it.
    None,
    /// −1 times the honest mean.
    SignFlip,
    /// −2 times the honest mean (fall of empires).
    Foe,
    /// The honest mean and 1.5 deviations.
    Alie,
    /// The honest mean and as many deviations as hurt this rule most, among eight tried.
    OptimisedAlie,
    /// Honest work on reversed labels.
    LabelFlip,
    /// Copies of the first honest worker.
    Mimic,
    /// Normal noise of deviation 1.
    Gaussian,
    /// Against honest neighbours' consensus, 1.5 times (graphs only).
    Dissensus,
}

/// One run.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Who combines.
    pub setting: Setting,
    /// How data are dealt.
    pub split: Split,
    /// Faulty workers, of [`WORKERS`].
    pub faulty: usize,
    /// What defends.
    pub defence: Defence,
    /// What attacks.
    pub attack: Attack,
    /// Each worker sends m ← β m + (1 − β) g: this is β, in tenths.
    pub momentum_tenths: u32,
    /// The seed of data, beginning, batches and noise.
    pub seed: u64,
}

impl Split {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Iid, Self::Dirichlet, Self::Sorted];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iid => "iid",
            Self::Dirichlet => "dirichlet_0.3",
            Self::Sorted => "label_sorted",
        }
    }
}

impl Setting {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Federated, Self::Complete, Self::RegularSix];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Federated => "federated",
            Self::Complete => "graph_complete",
            Self::RegularSix => "graph_regular_6",
        }
    }

    /// Its graph, for those that have one.
    pub fn graph(self) -> Option<GraphConfig> {
        match self {
            Self::Federated => None,
            Self::Complete => Some(GraphConfig::Complete),
            Self::RegularSix => Some(GraphConfig::RandomRegular { degree: 6 }),
        }
    }

    /// The attacks that make sense here.
    pub fn attacks(self) -> &'static [Attack] {
        match self {
            Self::Federated => &[
                Attack::None,
                Attack::SignFlip,
                Attack::Foe,
                Attack::Alie,
                Attack::OptimisedAlie,
                Attack::LabelFlip,
                Attack::Mimic,
                Attack::Gaussian,
            ],
            Self::Complete | Self::RegularSix => &[
                Attack::None,
                Attack::SignFlip,
                Attack::Alie,
                Attack::LabelFlip,
                Attack::Mimic,
                Attack::Gaussian,
                Attack::Dissensus,
            ],
        }
    }

    /// What is compared here against `faulty` members, the undefended first.
    pub fn defences(self, faulty: usize) -> Vec<Defence> {
        let neighbours = match self {
            Self::Federated => return rules(faulty),
            Self::Complete => WORKERS - 1,
            Self::RegularSix => 6,
        };
        // No more than the neighbourhood can bear: a session with more is refused.
        let b = faulty.min((neighbours - 1) / 2);
        vec![
            Defence::Mixing("gossip", MixingConfig::Gossip),
            Defence::Mixing(
                "clipped_gossip",
                MixingConfig::ClippedGossip {
                    radius: GossipRadius::Ranked { b },
                },
            ),
            Defence::Mixing("nearest_neighbours", MixingConfig::NearestNeighbours { b }),
            Defence::Mixing(
                "nnm+trimmed_mean",
                MixingConfig::Rule {
                    rule: RuleConfig::TrimmedMean { f: b },
                    pre: vec![PreAggregationConfig::Nnm { f: b }],
                },
            ),
        ]
    }
}

fn rules(f: usize) -> Vec<Defence> {
    let arc = PreAggregationConfig::Arc { f };
    let nnm = PreAggregationConfig::Nnm { f };
    let buckets = PreAggregationConfig::Bucketing { size: 2 };
    let trimmed = RuleConfig::TrimmedMean { f };
    let composed = |name, pre: &[PreAggregationConfig], rule: RuleConfig| {
        let pre = pre.to_vec();
        Defence::Rule(name, Composition { pre, rule })
    };
    let centered = RuleConfig::CenteredClip {
        iterations: 3,
        radius: Radius::MedianDistance,
    };
    let carried = RuleConfig::CarriedClip {
        iterations: 3,
        radius: Radius::Fixed(0.5),
    };
    let mut rules = vec![
        composed("mean", &[], RuleConfig::Mean),
        composed("median", &[], RuleConfig::Median),
        composed("trimmed_mean", &[], trimmed.clone()),
        composed("rfa", &[], RuleConfig::Rfa),
        composed("centered_clip", &[], centered),
        composed("bucketing+carried_clip", &[buckets], carried),
        composed("nnm+trimmed_mean", &[nnm], trimmed.clone()),
        composed("arc+nnm+trimmed_mean", &[arc, nnm], trimmed),
        composed("arc+mean", &[arc], RuleConfig::Mean),
    ];
    let multi_krum = RuleConfig::MultiKrum {
        f,
        keep: None,
        neighbours: Default::default(),
    };
    // Ten members are too few for Krum against four, and for SMEA there are 210 subsets to try in each round.
    if multi_krum.check(WORKERS).is_ok() {
        rules.push(composed("multi_krum", &[], multi_krum));
        rules.push(composed("arc+smea", &[arc], RuleConfig::Smea { f }));
    }
    rules
}

impl Defence {
    /// Its name in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rule(name, _) | Self::Mixing(name, _) => name,
        }
    }
}

impl Attack {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SignFlip => "sign_flip",
            Self::Foe => "foe_2",
            Self::Alie => "alie_1.5",
            Self::OptimisedAlie => "alie_optimised",
            Self::LabelFlip => "label_flip",
            Self::Mimic => "mimic",
            Self::Gaussian => "gaussian",
            Self::Dissensus => "dissensus",
        }
    }
}

impl Case {
    /// What the run depends on, as its results are filed.
    pub fn key(&self) -> String {
        format!(
            "{} {} f={} momentum=0.{} {} {} seed={}",
            self.setting.name(),
            self.split.name(),
            self.faulty,
            self.momentum_tenths,
            self.defence.name(),
            self.attack.name(),
            self.seed
        )
    }

    /// The honest workers: all of them when nobody attacks.
    pub fn honest(&self) -> usize {
        match self.attack {
            Attack::None => WORKERS,
            _ => WORKERS - self.faulty,
        }
    }
}

/// All runs of these settings, splits, momenta and seeds, in the order in which they run: a seed of everything first.
pub fn plan(settings: &[Setting], splits: &[Split], faulty: &[usize], momenta: &[u32], seeds: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for seed in 1..=seeds {
        for &setting in settings {
            for &split in splits {
                for &momentum_tenths in momenta {
                    for &faulty in faulty {
                        for defence in setting.defences(faulty) {
                            cases.extend(setting.attacks().iter().map(|&attack| Case {
                                setting,
                                split,
                                faulty,
                                defence: defence.clone(),
                                attack,
                                momentum_tenths,
                                seed,
                            }));
                        }
                    }
                }
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_has_its_own_name_and_a_defence_that_a_session_could_have() {
        let cases = plan(&Setting::ALL, &Split::ALL, &[1, 2, 4], &[0, 9], 2);
        let keys: BTreeSet<String> = cases.iter().map(Case::key).collect();
        assert_eq!(keys.len(), cases.len());
        for case in &cases {
            match &case.defence {
                Defence::Rule(_, rule) => assert_eq!(rule.check(WORKERS), Ok(())),
                Defence::Mixing(_, mixing) => {
                    let graph = case.setting.graph().expect("mixing is for graphs");
                    let neighbours = graph.least_in_degree(WORKERS, &[0; 32]).expect("a graph that can be");
                    assert_eq!(mixing.check(neighbours), Ok(()));
                }
            }
        }
    }
}
