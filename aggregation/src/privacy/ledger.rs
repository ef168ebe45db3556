//! What has been released, and nothing else: one line an event, append-only, apart from how privacy is accounted for.
//! It computes no ε itself; an [`Accountant`] does, and a better one may re-read an old ledger.
//!
//! A ledger belongs to whoever protects data: one for a node's records, one for a coordinator that noises for its
//! members. The owner appends an event and makes it durable *before* the release leaves, so that a crash can only make the
//! account too high.

use serde::{Deserialize, Serialize};

use super::accountant::{Accountant, AccountantError};

/// How the records of one release were chosen from all.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Sampling {
    /// All were used.
    All,
    /// Each was used with probability `rate`, independently of the others.
    Poisson {
        /// q, in (0, 1].
        rate: f64,
    },
    /// Exactly `sample` of `population`, uniformly, none twice.
    WithoutReplacement {
        /// All records.
        population: u32,
        /// Those used, at least one.
        sample: u32,
    },
}

/// What was done with them.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mechanism {
    /// Independent Gaussian noise in each release.
    Gaussian {
        /// Deviation of the noise over the greatest change that a neighbouring data set can cause. Neighbours differ by one
        /// record more or less under [`Sampling::All`] and [`Sampling::Poisson`] (the change is the clip norm), by one record
        /// exchanged under [`Sampling::WithoutReplacement`] (it is twice the clip norm).
        noise_multiplier: f64,
    },
    /// A binary tree of partial sums over `count` steps, each node with its own noise, each record in one step
    /// (DP-FTRL: Kairouz et al. 2021). One event is one whole tree; [`Sampling::All`] only.
    Tree {
        /// Deviation of each node's noise over the clip norm.
        noise_multiplier: f64,
    },
}

/// A number of like releases.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What was done.
    pub mechanism: Mechanism,
    /// With which records.
    pub sampling: Sampling,
    /// How often (for a tree: its steps).
    pub count: u32,
}

/// An event that cannot have been.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LedgerError {
    /// Not a deviation.
    #[error("ledger: noise_multiplier = {got} must be a number greater than 0")]
    NoiseMultiplier {
        /// What was said.
        got: f64,
    },
    /// Not a probability.
    #[error("ledger: a sampling rate of {got} must be greater than 0 and at most 1")]
    Rate {
        /// What was said.
        got: f64,
    },
    /// Not a sample.
    #[error("ledger: a sample of {sample} out of {population}")]
    Sample {
        /// Those used.
        sample: u32,
        /// All.
        population: u32,
    },
    /// Nothing happened.
    #[error("ledger: an event happens at least once")]
    Count,
    /// A tree with sampling.
    #[error("ledger: a tree's account holds without sampling only; say that all records were used")]
    TreeSampling,
    /// More lines than a session can have.
    #[error("ledger: more than {MAX_EVENTS} different events; a session changes its noise less often")]
    TooMany,
    /// Bytes that are no ledger.
    #[error("ledger: the bytes are no ledger in canonical form; restore the file, and release nothing until then")]
    NotCanonical,
}

/// The most lines of a ledger; like events in a row share one.
pub const MAX_EVENTS: usize = 4096;

/// (ε, δ): whoever sees all releases can tell whether any one record was there with a likelihood ratio of at most e^ε,
/// except with probability δ.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// ε.
    pub epsilon: f64,
    /// δ; less than one over the number of records.
    pub delta: f64,
}

impl Event {
    /// Whether it can have been.
    pub fn check(&self) -> Result<(), LedgerError> {
        let (Mechanism::Gaussian { noise_multiplier } | Mechanism::Tree { noise_multiplier }) = self.mechanism;
        if !(noise_multiplier.is_finite() && noise_multiplier > 0.0) {
            return Err(LedgerError::NoiseMultiplier { got: noise_multiplier });
        }
        match self.sampling {
            Sampling::Poisson { rate } if !(rate > 0.0 && rate <= 1.0) => return Err(LedgerError::Rate { got: rate }),
            Sampling::WithoutReplacement { population, sample } if sample == 0 || sample > population => {
                return Err(LedgerError::Sample { sample, population });
            }
            _ => {}
        }
        if matches!(self.mechanism, Mechanism::Tree { .. }) && self.sampling != Sampling::All {
            return Err(LedgerError::TreeSampling);
        }
        if self.count == 0 {
            Err(LedgerError::Count)
        } else {
            Ok(())
        }
    }
}

/// All releases so far.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    events: Vec<Event>,
}

impl Ledger {
    /// Before the first release.
    pub fn new() -> Self {
        Self::default()
    }

    /// What has been released, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Appends an event. One like the last is counted there, trees excepted.
    pub fn append(&mut self, event: Event) -> Result<(), LedgerError> {
        event.check()?;
        if let Some(last) = self.events.last_mut() {
            let like = last.sampling == event.sampling
                && last.mechanism == event.mechanism
                && matches!(event.mechanism, Mechanism::Gaussian { .. });
            if let Some(count) = last.count.checked_add(event.count).filter(|_| like) {
                last.count = count;
                return Ok(());
            }
        }
        if self.events.len() == MAX_EVENTS {
            return Err(LedgerError::TooMany);
        }
        self.events.push(event);
        Ok(())
    }

    /// ε at this δ of all releases so far; 0 before the first.
    pub fn epsilon(&self, accountant: Accountant, delta: f64) -> Result<f64, AccountantError> {
        accountant.epsilon(&self.events, delta)
    }

    /// What `next` would bring the account to, if that is above the budget: a node asks before each release, and stops when
    /// there is an answer. `Ok(None)` says that it may go on. An error also means: release nothing.
    pub fn would_exceed(
        &self,
        next: &Event,
        budget: &Budget,
        accountant: Accountant,
    ) -> Result<Option<f64>, AccountantError> {
        let mut after = self.clone();
        after.append(*next)?;
        let epsilon = after.epsilon(accountant, budget.delta)?;
        // Not `>`: an ε that is no number exceeds every budget.
        Ok(if epsilon <= budget.epsilon { None } else { Some(epsilon) })
    }

    /// The canonical bytes (postcard).
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain data has a form as bytes")
    }

    /// Reads canonical bytes; each event is checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LedgerError> {
        if bytes.len() > MAX_EVENTS * MAX_EVENT_BYTES {
            return Err(LedgerError::TooMany);
        }
        let read: Self = postcard::from_bytes(bytes).map_err(|_| LedgerError::NotCanonical)?;
        let mut again = Self::new();
        for event in &read.events {
            again.append(*event)?;
        }
        if again.to_bytes() == bytes {
            Ok(again)
        } else {
            Err(LedgerError::NotCanonical)
        }
    }
}

/// The longest bytes of an event: two tags, a multiplier, two counts of a sample, a count.
const MAX_EVENT_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn event(noise_multiplier: f64, rate: f64, count: u32) -> Event {
        Event {
            mechanism: Mechanism::Gaussian { noise_multiplier },
            sampling: Sampling::Poisson { rate },
            count,
        }
    }

    #[test]
    fn like_events_share_a_line_and_bytes_come_back() {
        let mut ledger = Ledger::new();
        ledger.append(event(1.1, 0.01, 10)).unwrap();
        ledger.append(event(1.1, 0.01, 5)).unwrap();
        ledger.append(event(1.2, 0.01, 5)).unwrap();
        let tree = Event {
            mechanism: Mechanism::Tree { noise_multiplier: 4.0 },
            sampling: Sampling::All,
            count: 100,
        };
        ledger.append(tree).unwrap();
        ledger.append(tree).unwrap();
        ledger.append(event(1.2, 0.01, u32::MAX)).unwrap();
        ledger.append(event(1.2, 0.01, 1)).unwrap();
        assert_eq!(ledger.events().len(), 6);
        assert_eq!(ledger.events()[0].count, 15);
        let bytes = ledger.to_bytes();
        assert_eq!(Ledger::from_bytes(&bytes), Ok(ledger));
        assert_eq!(Ledger::from_bytes(&Ledger::new().to_bytes()), Ok(Ledger::new()));
        assert_eq!(
            Ledger::from_bytes(&bytes[..bytes.len() - 1]),
            Err(LedgerError::NotCanonical)
        );
        assert_eq!(
            Ledger::from_bytes(&[bytes, vec![0]].concat()),
            Err(LedgerError::NotCanonical)
        );
    }

    #[test]
    fn golden_bytes() {
        let mut ledger = Ledger::new();
        ledger.append(event(1.0, 0.5, 300)).unwrap();
        let expected = [
            1, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 1, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f, 0xac, 2,
        ];
        assert_eq!(ledger.to_bytes(), expected);
    }

    #[test]
    fn events_that_cannot_have_been_are_refused() {
        for bad in [
            event(0.0, 0.1, 1),
            event(f64::NAN, 0.1, 1),
            event(1.0, 0.0, 1),
            event(1.0, 1.1, 1),
            event(1.0, 0.1, 0),
        ] {
            assert!(Ledger::new().append(bad).is_err(), "{bad:?}");
            let bytes = postcard::to_stdvec(&vec![bad]).unwrap();
            assert!(Ledger::from_bytes(&bytes).is_err());
        }
        for (population, sample) in [(4, 0), (4, 5)] {
            let sampling = Sampling::WithoutReplacement { population, sample };
            assert!(
                Ledger::new()
                    .append(Event {
                        sampling,
                        ..event(1.0, 0.1, 1)
                    })
                    .is_err()
            );
        }
    }

    #[test]
    fn a_node_stops_before_its_budget_is_exceeded() {
        for accountant in [Accountant::Rdp, Accountant::Pld] {
            let budget = Budget {
                epsilon: 2.0,
                delta: 1e-5,
            };
            let mut ledger = Ledger::new();
            assert_eq!(ledger.epsilon(accountant, budget.delta), Ok(0.0));
            let round = event(1.0, 0.02, 20);
            let mut rounds = 0;
            let refused = loop {
                match ledger.would_exceed(&round, &budget, accountant).unwrap() {
                    None => ledger.append(round).unwrap(),
                    Some(epsilon) => break epsilon,
                }
                rounds += 1;
            };
            assert!(refused > budget.epsilon && rounds > 1);
            assert!(ledger.epsilon(accountant, budget.delta).unwrap() <= budget.epsilon);
        }
    }
}
