//! What updates are and how they combine: encodings, robust rules, the outer step, the agreed state.
//! It knows no peers, no rounds, no tensors and no files; it reads no clock and draws no randomness.
//!
//! Everything here is in the *agreement zone*: the same bytes in give the same bytes out on every machine and for
//! every number of threads. Hence plain loops over `f32` and `f64` slices, sums in a fixed order, no fused
//! multiply-add, no `exp`, `ln` or `powf`; of the functions beyond `+ − × ÷` only `sqrt` is used, which IEEE 754
//! rounds correctly.

pub mod aggregator;
pub mod attacks;
mod chunk_reader;
pub mod combine;
pub mod compatibility;
pub mod composition;
pub mod conformance;
pub mod coordinates;
mod eigen;
pub mod encoding;
pub mod gram;
pub mod mixing;
pub mod numeric;
pub mod outer_step;
pub mod pre_aggregation;
pub mod privacy;
pub mod rules;
pub mod shards;
mod simd;
pub mod sorting_network;
pub mod state;
pub mod weighted_sum;

pub use aggregator::{Aggregator, Context, Contribution, Values, Verdict, VerdictOutcome};
pub use combine::{CombineError, Combined, Combiner, PayloadVerdict};
pub use compatibility::CompatibilityError;
pub use composition::Composition;
pub use encoding::{DecodeError, Encoder, EncodingConfig, EncodingError, Feedback, FeedbackState, TensorShape};
pub use mixing::{MixingConfig, MixingError, Neighbour, Neighbourhood};
pub use outer_step::{OuterConfig, OuterError, StreamedState, StreamingConfig};
pub use pre_aggregation::PreAggregationConfig;
pub use rules::{Neighbours, Radius, RuleConfig, RuleError};
pub use shards::{RangeEncoder, Ranges, ShardsError};
pub use state::{OuterState, StateError};
