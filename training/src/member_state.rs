//! What a member carries from one of its updates to the next: its inner optimizer's state, worker momentum, what its
//! encoding left unsaid, and the account of what it has released. It is the member's own and never agreed on; it neither trains nor encodes, and it is
//! stored by whoever drives the worker.
//!
//! Worker momentum (Karimireddy, He & Jaggi 2021, ICML, §5): a member sends not its pseudo-gradient u_t but
//!
//! ```text
//! m_t = β m_{t−1} + (1 − β) u_t,   m_1 = u_1
//! ```
//! which lowers the variance of honest updates and so the room that a robust rule leaves to attackers. What the encoding
//! leaves out of m_t is [`Feedback`]'s affair. A member that trains a round twice (it was killed before it had signed its claim, say) must start both times from the
//! same place: hence the state *before* a round is kept beside the one after it, until the next round begins. The account
//! of releases is the exception: it only ever grows, because whoever saw the first try has seen it.
//!
//! In sessions with local differential privacy each update is clipped and noised here, last, and never without its entry in
//! the account, which the driver makes durable before the update is announced.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use synod_aggregation::encoding::feedback::FeedbackError;
use synod_aggregation::privacy::accountant::AccountantError;
use synod_aggregation::privacy::ledger::{Event, Ledger, LedgerError};
use synod_aggregation::privacy::noise::{GaussianMechanism, NoiseError, NoiseSeed};
use synod_aggregation::privacy::{LocalDp, PrivacyConfig, SecureSumConfig, Unit};
use synod_aggregation::{Encoder, Feedback, FeedbackState};
use synod_protocol::task::Round;

use crate::optimizers::StateError;

/// What a session says of the members' own state. Both are off by default: an update is then a function of base,
/// data and seed alone.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemberStateConfig {
    /// β, the share of the last sent direction that a member keeps; 0 sends each update as it is. 0.9 is what the
    /// experiments of the robust-learning papers use.
    pub momentum: f32,
    /// How members make up for what the encoding leaves out of an update. Sparse, low-rank and sign encodings need it
    /// ([`Feedback::recommended`]); those that round to nearest lose too little to matter.
    pub feedback: Feedback,
}

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MemberStateConfigError {
    /// The momentum is not in [0, 1).
    #[error("momentum = {got} must be at least 0 and less than 1; 0.9 is usual, 0 switches it off")]
    Momentum {
        /// What was asked for.
        got: f32,
    },
    /// The feedback.
    #[error(transparent)]
    Feedback(#[from] FeedbackError),
}

impl MemberStateConfig {
    /// Whether the settings make sense. Ask when a session is created.
    pub fn check(&self) -> Result<(), MemberStateConfigError> {
        match (0.0..1.0).contains(&self.momentum) {
            true => Ok(self.feedback.check()?),
            false => Err(MemberStateConfigError::Momentum { got: self.momentum }),
        }
    }

    /// Whether members carry anything at all.
    pub fn is_stateless(&self) -> bool {
        self.momentum == 0.0 && self.feedback == Feedback::None
    }
}

/// The state after one round's update.
#[derive(Debug, Clone, PartialEq)]
struct Carried {
    /// m_t, or empty where there is no momentum.
    momentum: Vec<f32>,
    feedback: FeedbackState,
    /// The inner optimizer's state, or empty where it begins afresh.
    optimizer: Vec<u8>,
    /// Sequences of data consumed in all rounds, where the member counts them.
    consumed: Option<u64>,
}

/// What local steps leave for the member's next ones, and begin from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Before<'a> {
    /// The inner optimizer's state; empty: it begins afresh.
    pub optimizer: &'a [u8],
    /// Sequences of data consumed in all rounds, where the member counts them and knows it.
    pub consumed: Option<u64>,
}

/// A member's state after one round's update, as it is stored: `MAGIC`, `VERSION`, this in postcard, and then the
/// optimizer's bytes as they are, for they may be gigabytes.
#[derive(Serialize, Deserialize)]
struct Stored {
    round: Round,
    momentum: Vec<f32>,
    feedback: FeedbackState,
    released: Ledger,
    consumed: Option<u64>,
    optimizer_bytes: u64,
}

/// An update that is ready to be encoded, and what goes on from it.
#[derive(Debug)]
pub struct Ready {
    round: Round,
    carried: Carried,
}

impl Ready {
    /// The same after local steps that have left the inner optimizer so, and consumed so many sequences in all.
    pub fn after(mut self, optimizer: Vec<u8>, consumed: Option<u64>) -> Self {
        (self.carried.optimizer, self.carried.consumed) = (optimizer, consumed);
        self
    }
}

/// The states after the last rounds that this member trained in.
#[derive(Debug, Default)]
pub struct MemberState {
    config: MemberStateConfig,
    local: Option<LocalDp>,
    /// Secure sums with noise in them: masking an update is a release.
    summed: Option<PrivacyConfig>,
    after: BTreeMap<Round, Carried>,
    released: Ledger,
}

/// States that are kept: after this round, and after the one before it in case this one is trained again.
const KEPT: usize = 2;

const MAGIC: [u8; 4] = *b"SYNM";
const VERSION: u8 = 2;

/// Bytes that hold no state of this member and model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("these bytes hold no member state of {parameters} parameters: {reason}")]
pub struct MemberStateError {
    /// The model's parameters.
    pub parameters: usize,
    /// What is wrong.
    pub reason: String,
}

/// Why an update must not leave.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ReleaseError {
    /// The budget is spent.
    #[error(
        "this member's privacy budget is spent: after {releases} releases, one more would bring epsilon to {spent:.3}, and the session allows {epsilon} at delta {delta}; it sends nothing more and follows as an observer would"
    )]
    Spent {
        /// What ε would be.
        spent: f64,
        /// The budget's.
        epsilon: f64,
        /// The budget's.
        delta: f64,
        /// Releases so far.
        releases: u64,
    },
    /// The operating system gives no random bytes, without which there is no noise.
    #[error("no random bytes from the operating system, hence no noise and no update: {0}")]
    Randomness(String),
    /// What is spent cannot be told.
    #[error(transparent)]
    Account(#[from] AccountantError),
    /// The account does not take the entry.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The update cannot be noised.
    #[error(transparent)]
    Noise(#[from] NoiseError),
}

impl MemberState {
    /// Nothing carried yet.
    pub fn new(config: MemberStateConfig) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// The same in a session with this privacy.
    pub fn private(mut self, privacy: &PrivacyConfig) -> Self {
        match privacy {
            PrivacyConfig::LocalDp(local) => self.local = Some(*local),
            PrivacyConfig::SecureSum(SecureSumConfig { noise: Some(_), .. }) => self.summed = Some(privacy.clone()),
            PrivacyConfig::None | PrivacyConfig::SecureSum(_) | PrivacyConfig::CentralDp(_) => {}
        }
        self
    }

    /// Whether there is nothing that has to be stored.
    pub fn is_stateless(&self) -> bool {
        let of_training = |carried: &Carried| !carried.optimizer.is_empty() || carried.consumed.is_some();
        self.config.is_stateless() && !self.must_be_kept() && !self.after.values().any(of_training)
    }

    /// Whether what is stored must not be lost: an account of releases that began anew would promise too much.
    pub fn must_be_kept(&self) -> bool {
        self.local.is_some() || self.summed.is_some()
    }

    /// Takes up what was stored after an earlier round. `check_optimizer` says whether bytes are an optimizer's state of
    /// this session.
    pub fn restore(
        &mut self,
        bytes: &[u8],
        parameters: usize,
        check_optimizer: impl FnOnce(&[u8]) -> Result<(), StateError>,
    ) -> Result<(), MemberStateError> {
        let (stored, optimizer) = from_bytes(bytes, parameters)?;
        if !optimizer.is_empty() {
            check_optimizer(optimizer).map_err(|error| refuse(parameters, error))?;
        }
        let Stored {
            round,
            momentum,
            feedback,
            released,
            consumed,
            ..
        } = stored;
        let carried = Carried {
            momentum,
            feedback,
            optimizer: optimizer.to_vec(),
            consumed,
        };
        self.after.insert(round, carried);
        if self.releases() < count(&released) {
            self.released = released;
        }
        self.forget();
        Ok(())
    }

    /// What a round's local steps begin from. What is older is let go: a round that has begun is the last one that may be
    /// trained again.
    pub fn before(&mut self, round: Round) -> Before<'_> {
        let before = self.after.range(..round).next_back().map(|(at, _)| *at);
        self.after.retain(|at, _| before.is_none_or(|before| *at >= before));
        let carried = before.and_then(|before| self.after.get(&before));
        carried.map_or_else(Before::default, |carried| Before {
            optimizer: &carried.optimizer,
            consumed: carried.consumed,
        })
    }

    /// Makes of a round's pseudo-gradient, in place, what is to be encoded: momentum first, then clipping and noise.
    /// After an error nothing may be sent.
    pub fn prepare(&mut self, round: Round, update: &mut [f32]) -> Result<Ready, ReleaseError> {
        let before = self.after.range(..round).next_back().map(|(_, carried)| carried);
        let beta = self.config.momentum;
        let mut momentum = Vec::new();
        if beta > 0.0 {
            if let Some(before) = before.filter(|before| before.momentum.len() == update.len()) {
                for (value, last) in update.iter_mut().zip(&before.momentum) {
                    *value = beta * last + (1.0 - beta) * *value;
                }
            }
            momentum = update.to_vec();
        }
        let feedback = before.map(|before| before.feedback.clone());
        let feedback = feedback.unwrap_or_else(|| self.config.feedback.start(update.len()));
        self.release(update)?;
        Ok(Ready {
            round,
            carried: Carried {
                momentum,
                feedback,
                optimizer: Vec::new(),
                consumed: None,
            },
        })
    }

    /// Clips and noises an update that is about to leave, if the session is private, and enters it into the account.
    fn release(&mut self, update: &mut [f32]) -> Result<(), ReleaseError> {
        let Some(local) = self.local else { return Ok(()) };
        let event = self.affordable(&PrivacyConfig::LocalDp(local))?;
        if local.unit == Unit::Update {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|error| ReleaseError::Randomness(error.to_string()))?;
            let mechanism = GaussianMechanism::new(local.clip_norm, local.noise_multiplier)?;
            mechanism.privatise(update, NoiseSeed::from_os_bytes(seed))?;
        }
        self.released.append(event)?;
        Ok(())
    }

    /// The event of one release, if the budget allows it.
    fn affordable(&self, privacy: &PrivacyConfig) -> Result<Event, ReleaseError> {
        let (event, (budget, accountant)) = privacy
            .round_event()
            .zip(privacy.budget())
            .expect("privacy with noise has both");
        match self.released.would_exceed(&event, &budget, accountant)? {
            None => Ok(event),
            Some(spent) => Err(ReleaseError::Spent {
                spent,
                epsilon: budget.epsilon,
                delta: budget.delta,
                releases: self.releases(),
            }),
        }
    }

    /// Whether one more noised update may enter a secure sum. Asked before training, too: nobody waits for one who cannot.
    pub fn may_be_summed(&self) -> Result<(), ReleaseError> {
        self.summed
            .as_ref()
            .map_or(Ok(()), |privacy| self.affordable(privacy).map(|_| ()))
    }

    /// Keeps what a prepared update leaves behind, which a secure sum will not encode: the bytes to store.
    pub fn keep(&mut self, ready: Ready) -> Vec<u8> {
        let Ready { round, carried } = ready;
        let bytes = to_bytes(round, &carried, &self.released);
        self.after.insert(round, carried);
        self.forget();
        bytes
    }

    /// Enters a masked update with noise into the account: the bytes to store before it is announced. Each term of a round
    /// in which it is masked again, with other noise, is another release.
    pub fn charge_sum(&mut self, round: Round) -> Result<Vec<u8>, ReleaseError> {
        if let Some(privacy) = &self.summed {
            let event = self.affordable(privacy)?;
            self.released.append(event)?;
        }
        let feedback = || self.config.feedback.start(0);
        let carried = self.after.get(&round).cloned().unwrap_or_else(|| Carried {
            momentum: Vec::new(),
            feedback: feedback(),
            optimizer: Vec::new(),
            consumed: None,
        });
        Ok(to_bytes(round, &carried, &self.released))
    }

    /// Releases that the account holds.
    pub fn releases(&self) -> u64 {
        count(&self.released)
    }

    /// Encodes a prepared update over `payload`, and returns the bytes to store before the update is announced.
    pub fn encode(
        &mut self,
        mut ready: Ready,
        encoder: &dyn Encoder,
        update: &[f32],
        payload: &mut Vec<u8>,
    ) -> Vec<u8> {
        ready.carried.feedback.encode(encoder, update, payload);
        let Ready { round, carried } = ready;
        let bytes = to_bytes(round, &carried, &self.released);
        self.after.insert(round, carried);
        self.forget();
        bytes
    }

    fn forget(&mut self) {
        while self.after.len() > KEPT {
            self.after.pop_first();
        }
    }
}

fn count(ledger: &Ledger) -> u64 {
    ledger.events().iter().map(|event| u64::from(event.count)).sum()
}

fn to_bytes(round: Round, carried: &Carried, released: &Ledger) -> Vec<u8> {
    let stored = Stored {
        round,
        momentum: carried.momentum.clone(),
        feedback: carried.feedback.clone(),
        released: released.clone(),
        consumed: carried.consumed,
        optimizer_bytes: carried.optimizer.len() as u64,
    };
    let mut bytes = Vec::with_capacity(carried.optimizer.len() + 5 * carried.momentum.len() + 1024);
    bytes.extend_from_slice(&MAGIC);
    bytes.push(VERSION);
    let mut bytes = postcard::to_extend(&stored, bytes).expect("plain data always encodes");
    bytes.extend_from_slice(&carried.optimizer);
    bytes
}

fn refuse(parameters: usize, reason: impl ToString) -> MemberStateError {
    let reason = reason.to_string();
    MemberStateError { parameters, reason }
}

/// What is stored, and the optimizer's bytes behind it.
fn from_bytes(bytes: &[u8], parameters: usize) -> Result<(Stored, &[u8]), MemberStateError> {
    let refuse = |reason: String| refuse(parameters, reason);
    let body = bytes
        .strip_prefix(&MAGIC)
        .and_then(|rest| rest.strip_prefix(&[VERSION]));
    let body = body.ok_or_else(|| refuse("they do not begin as one of this version".to_owned()))?;
    let (stored, optimizer) =
        postcard::take_from_bytes::<Stored>(body).map_err(|_| refuse("they are cut or damaged".to_owned()))?;
    if optimizer.len() as u64 != stored.optimizer_bytes {
        return Err(refuse(format!(
            "{} bytes of an optimizer's state were stored, and {} are there",
            stored.optimizer_bytes,
            optimizer.len()
        )));
    }
    if !stored.momentum.is_empty() && stored.momentum.len() != parameters {
        return Err(refuse(format!("the momentum has {} values", stored.momentum.len())));
    }
    if !stored.momentum.iter().all(|value| value.is_finite()) {
        return Err(refuse("the momentum is not finite".to_owned()));
    }
    let feedback = stored.feedback.check(parameters);
    feedback.map_err(|error| refuse(error.to_string()))?;
    let events = stored.released.events().iter().try_for_each(|event| event.check());
    events.map_err(|error| refuse(error.to_string()))?;
    Ok((stored, optimizer))
}

#[cfg(test)]
mod tests {
    use synod_aggregation::EncodingConfig;
    use synod_aggregation::privacy::accountant::Accountant;
    use synod_aggregation::privacy::ledger::Sampling;

    use super::*;

    fn state(momentum: f32, decay: Option<f32>) -> MemberState {
        let feedback = decay.map_or(Feedback::None, |decay| Feedback::Residual { decay });
        MemberState::new(MemberStateConfig { momentum, feedback })
    }

    /// One round: what is sent in four bits a value, and the bytes to store.
    fn round(state: &mut MemberState, round: Round, update: [f32; 2]) -> ([f32; 2], Vec<u8>) {
        let encoder = EncodingConfig::Int4 { block: 2 }.build();
        let (mut update, mut payload) = (update, Vec::new());
        let ready = state.prepare(round, &mut update).unwrap();
        let bytes = state.encode(ready, encoder.as_ref(), &update, &mut payload);
        let mut sent = [0.0; 2];
        encoder.decode(&payload, &mut sent).unwrap();
        (sent, bytes)
    }

    /// For sessions whose optimizer begins afresh.
    fn no_optimizer(_: &[u8]) -> Result<(), StateError> {
        panic!("nothing was stored that could be checked")
    }

    #[test]
    fn momentum_averages_and_begins_with_the_first_update() {
        let mut state = state(0.5, None);
        let mut after = |t, mut update: [f32; 2]| {
            let ready = state.prepare(t, &mut update).unwrap();
            let encoder = EncodingConfig::F32.build();
            state.encode(ready, encoder.as_ref(), &update, &mut Vec::new());
            update
        };
        assert_eq!(after(1, [4.0, 8.0]), [4.0, 8.0]);
        assert_eq!(after(2, [8.0, 0.0]), [6.0, 4.0]);
        assert_eq!(after(5, [0.0, 0.0]), [3.0, 2.0]);
    }

    #[test]
    fn nothing_that_an_encoding_loses_is_lost_for_good() {
        let total = |decay| {
            let mut state = state(0.0, decay);
            (1..=64).map(|t| round(&mut state, t, [7.0, 0.1]).0[1]).sum::<f32>()
        };
        assert_eq!(total(None), 0.0, "0.1 beside 7 is nothing in four bits");
        let with_feedback = total(Some(1.0));
        assert!((5.4..=7.0).contains(&with_feedback), "{with_feedback}");
    }

    #[test]
    fn a_round_trained_again_starts_from_the_same_place_also_after_a_restart() {
        let mut first = state(0.9, Some(1.0));
        let one = round(&mut first, 1, [1.5, -2.25]).1;
        let (sent, two) = round(&mut first, 2, [0.3, 0.4]);
        assert_eq!(round(&mut first, 2, [0.3, 0.4]).0, sent);
        let mut second = state(0.9, Some(1.0));
        second.restore(&two, 2, no_optimizer).unwrap();
        second.restore(&one, 2, no_optimizer).unwrap();
        assert_eq!(round(&mut second, 2, [0.3, 0.4]), (sent, two));
    }

    /// Local privacy that allows this many rounds.
    fn private(rounds: u32) -> MemberState {
        let (accountant, epsilon, delta) = (Accountant::Rdp, 2.0, 1e-5);
        let noise_multiplier = accountant
            .noise_multiplier(Sampling::All, rounds, epsilon, delta)
            .unwrap();
        let local = LocalDp {
            unit: Unit::Update,
            clip_norm: 1.0,
            noise_multiplier,
            epsilon,
            delta,
            accountant,
        };
        MemberState::default().private(&PrivacyConfig::LocalDp(local))
    }

    #[test]
    fn a_private_member_stops_before_its_budget_is_exceeded_also_after_a_restart() {
        let mut first = private(3);
        let stored: Vec<_> = (1..=2).map(|t| round(&mut first, t, [0.1, 0.2]).1).collect();
        let mut second = private(3);
        stored
            .iter()
            .for_each(|bytes| second.restore(bytes, 2, no_optimizer).unwrap());
        assert_eq!(second.releases(), 2);
        // The same round once more counts once more: both tries may have been seen.
        round(&mut second, 2, [0.1, 0.2]);
        let refused = second.prepare(3, &mut [0.1, 0.2]).unwrap_err();
        assert!(matches!(refused, ReleaseError::Spent { releases: 3, .. }), "{refused}");
    }

    #[test]
    fn noise_differs_from_release_to_release() {
        let mut state = private(50);
        let sent: Vec<[f32; 2]> = (1..=8)
            .map(|t| {
                let mut update = [3.0, 4.0];
                state.prepare(t, &mut update).unwrap();
                update
            })
            .collect();
        assert!(
            sent.iter()
                .all(|one| sent.iter().filter(|other| *other == one).count() == 1),
            "{sent:?}"
        );
    }

    #[test]
    fn an_optimizer_goes_on_from_the_round_before_also_when_a_round_is_trained_again() {
        let mut first = state(0.0, None);
        assert!(first.is_stateless());
        assert_eq!(first.before(1), Before::default());
        let mut stored = Vec::new();
        for t in [1u8, 2, 2, 5] {
            first.before(t.into());
            let ready = first.prepare(t.into(), &mut [0.0]).unwrap();
            stored.push(first.keep(ready.after(vec![t; 3], Some(t.into()))));
        }
        assert!(!first.is_stateless());
        let after = |t: u8, optimizer: &'static [u8]| Before {
            optimizer,
            consumed: Some(t.into()),
        };
        assert_eq!(first.before(5), after(2, &[2; 3]));
        let mut second = state(0.0, None);
        for bytes in &stored[2..] {
            second.restore(bytes, 1, |_| Ok(())).unwrap();
        }
        assert_eq!(second.before(5), after(2, &[2; 3]));
        assert_eq!(second.before(6), after(5, &[5; 3]));
        let foreign = second.restore(&stored[0], 1, |_| Err(StateError::Foreign)).unwrap_err();
        assert!(foreign.reason.contains("another optimizer"), "{foreign}");
    }

    #[test]
    fn only_the_last_two_rounds_are_kept() {
        let mut state = state(0.5, None);
        (1..=9).for_each(|t| _ = round(&mut state, t, [1.0, 1.0]));
        assert_eq!(state.after.keys().copied().collect::<Vec<_>>(), [8, 9]);
    }

    #[test]
    fn bytes_that_are_no_state_are_refused() {
        let mut good = state(0.5, Some(1.0));
        let (_, bytes) = round(&mut good, 3, [1.25, 2.5]);
        assert!(good.restore(&bytes, 2, no_optimizer).is_ok());
        for length in 0..bytes.len() {
            assert!(good.restore(&bytes[..length], 2, no_optimizer).is_err(), "{length}");
        }
        assert!(good.restore(&bytes, 3, no_optimizer).is_err());
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(good.restore(&longer, 2, no_optimizer).is_err());
        // Magic, version, round, the momentum's length: then its first value.
        let mut not_finite = bytes;
        not_finite[7..11].copy_from_slice(&f32::NAN.to_le_bytes());
        let error = good.restore(&not_finite, 2, no_optimizer).unwrap_err();
        assert!(error.reason.contains("not finite"), "{error}");
    }

    #[test]
    fn momentum_outside_of_its_range_is_refused() {
        for momentum in [-0.1, 1.0, f32::NAN, f32::INFINITY] {
            let config = MemberStateConfig {
                momentum,
                feedback: Feedback::None,
            };
            assert!(config.check().is_err(), "{momentum}");
        }
        assert!(MemberStateConfig::default().check().is_ok());
        assert!(MemberStateConfig::default().is_stateless());
    }
}
