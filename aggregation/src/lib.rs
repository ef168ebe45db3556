//! What updates are and how they combine: encodings, robust rules, the outer step, the agreed state.
//! It knows no peers, no rounds, no tensors and no files; it reads no clock and draws no randomness.
//!
//! Everything here is in the *agreement zone*: the same bytes in give the same bytes out on every machine and for
//! every number of threads. Hence plain loops over `f32` and `f64` slices, sums in a fixed order, no fused
//! multiply-add, no `exp`, `ln` or `powf`; of the functions beyond `+ − × ÷` only `sqrt` is used, which IEEE 754
//! rounds correctly.

pub mod aggregator;
pub mod attacks;
pub mod combine;
pub mod conformance;
pub mod encoding;
pub mod numeric;
pub mod outer_step;
pub mod privacy;
pub mod rules;
pub mod sorting_network;
pub mod state;

pub use aggregator::{Aggregator, Contribution, Verdict, VerdictOutcome};
pub use combine::{CombineError, Combined, Combiner, PayloadVerdict};
pub use encoding::{DecodeError, Encoder, EncodingConfig, EncodingError};
pub use outer_step::{OuterConfig, OuterError};
pub use rules::{Radius, RuleConfig, RuleError};
pub use state::{OuterState, StateError};
