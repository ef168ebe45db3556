//! What keeps data private in a session: clipping, noise, the account of what is spent, and sums that hide their summands.
//! It decides nothing by itself: a session's [`PrivacyConfig`] says what is used, and docs/PRIVACY.md what it buys.
//!
//! Randomness comes in as bytes of the operating system's generator, in types made for one use ([`noise::NoiseSeed`],
//! [`secure_sum::SumSeed`]). Nothing in [`accountant`] is on the agreement path: what a budget allows is each node's own
//! question, and only there are `exp` and `ln` used (decision 0010).

pub mod accountant;
pub mod clip;
mod config;
pub mod ledger;
pub mod noise;
pub mod secure_sum;
mod stream;

pub use config::{
    CentralDp, LocalDp, PrivacyConfig, PrivacyError, RuleClass, SecureSumConfig, Statement, Unit, masking_conflict,
};
