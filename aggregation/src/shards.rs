//! A model's coordinates in contiguous ranges, of which several members can each combine one, and updates that are encoded
//! range by range. It says neither who combines which range nor whether that member is believed.
//!
//! Only what works coordinate by coordinate can be cut: then the ranges' aggregates, one after the other, are the aggregate of
//! the whole, to the bit. Cuts lie at multiples of a *unit* that every block of the encoding fits into, so that a range's
//! encoded values are those that the whole update would have there.

use std::ops::Range;

use crate::composition::Composition;
use crate::encoding::{DecodeError, Encoder, EncodingConfig};
use crate::numeric::CHUNK;
use crate::pre_aggregation::PreAggregationConfig;
use crate::rules::RuleConfig;

/// Ranges that cannot be, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardsError {
    /// The rule, or a step before it, looks at whole updates.
    #[error(
        "{name} looks at whole updates, of which nobody has more than a range: use mean, capped_mean, median, trimmed_mean or meamed, with nothing or bucketing before it"
    )]
    Rule {
        /// Which.
        name: &'static str,
    },
    /// The encoding chooses among all values of an update.
    #[error(
        "encoding {name} cannot be cut into ranges: use f32, bf16, f16, int8, int4, sign, chunked_top_k or dct_top_k"
    )]
    Encoding {
        /// Which.
        name: &'static str,
    },
    /// Blocks that would lie across a cut.
    #[error(
        "encoding {name}: a block of {block} neither divides {CHUNK} nor is a multiple of it, so that cuts would go through blocks"
    )]
    Block {
        /// Which encoding.
        name: &'static str,
        /// Its block length.
        block: u32,
    },
    /// A range would be empty.
    #[error("{shards} shards of {dimension} parameters: cuts lie at multiples of {unit}, which makes at most {most}")]
    TooMany {
        /// What was asked for.
        shards: usize,
        /// Parameters of the model.
        dimension: usize,
        /// Where cuts may lie.
        unit: usize,
        /// The most shards of this model.
        most: usize,
    },
}

/// A model of `dimension` coordinates in ranges whose lengths differ by one unit at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges {
    dimension: usize,
    unit: usize,
    count: usize,
}

impl Ranges {
    /// The ranges of a model whose updates are encoded so: a pure function of the three.
    pub fn new(dimension: usize, count: usize, encoding: &EncodingConfig) -> Result<Self, ShardsError> {
        let unit = unit(encoding)?;
        let most = dimension.div_ceil(unit);
        match (1..=most).contains(&count) {
            true => Ok(Self { dimension, unit, count }),
            false => Err(ShardsError::TooMany {
                shards: count,
                dimension,
                unit,
                most,
            }),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Coordinates of the whole model.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The coordinates of range `shard`; empty beyond the last.
    pub fn of(&self, shard: usize) -> Range<usize> {
        let units = self.dimension.div_ceil(self.unit);
        let cut = |at: usize| {
            self.dimension
                .min(self.unit * (at.min(self.count) * units / self.count))
        };
        cut(shard)..cut(shard + 1)
    }

    /// All ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        (0..self.count).map(|shard| self.of(shard))
    }
}

/// Where cuts may lie: at multiples of this.
fn unit(encoding: &EncodingConfig) -> Result<usize, ShardsError> {
    let name = encoding.name();
    match *encoding {
        EncodingConfig::F32 | EncodingConfig::Bf16 | EncodingConfig::F16 => Ok(CHUNK),
        // Chunks are powers of two up to CHUNK, and cosine blocks have its length.
        EncodingConfig::ChunkedTopK { .. } | EncodingConfig::DctTopK { .. } => Ok(CHUNK),
        EncodingConfig::Int8 { block } | EncodingConfig::Int4 { block } | EncodingConfig::Sign { block } => {
            let length = block as usize;
            match CHUNK.is_multiple_of(length) || length.is_multiple_of(CHUNK) {
                true => Ok(CHUNK.max(length)),
                false => Err(ShardsError::Block { name, block }),
            }
        }
        EncodingConfig::TopK { .. } | EncodingConfig::LowRank { .. } | EncodingConfig::RandomSeeds { .. } => {
            Err(ShardsError::Encoding { name })
        }
    }
}

/// Whether what is done with the updates can be done range by range.
pub fn check_composition(composition: &Composition) -> Result<(), ShardsError> {
    let whole = |pre: &&PreAggregationConfig| !matches!(pre, PreAggregationConfig::Bucketing { .. });
    if let Some(pre) = composition.pre.iter().find(whole) {
        return Err(ShardsError::Rule { name: pre.name() });
    }
    match composition.rule {
        RuleConfig::Mean
        | RuleConfig::CappedMean { .. }
        | RuleConfig::Median
        | RuleConfig::TrimmedMean { .. }
        | RuleConfig::Meamed { .. } => Ok(()),
        _ => Err(ShardsError::Rule {
            name: composition.rule.name(),
        }),
    }
}

/// An update as its ranges, each encoded by itself, one after the other. Places in the errors of a decoder are counted within
/// a range.
pub struct RangeEncoder {
    ranges: Ranges,
    each: Box<dyn Encoder>,
}

impl RangeEncoder {
    /// Each of these ranges by this encoder.
    pub fn new(ranges: Ranges, each: Box<dyn Encoder>) -> Self {
        Self { ranges, each }
    }

    /// Bytes of each range, in order: a function of the ranges, never of the values.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.ranges.iter().map(|range| self.each.encoded_len(range.len()))
    }

    /// The ranges with their bytes.
    fn parts<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = (Range<usize>, &'a [u8])> {
        let mut rest = bytes;
        self.ranges.iter().zip(self.lengths()).map(move |(range, length)| {
            let (part, after) = rest.split_at(length);
            rest = after;
            (range, part)
        })
    }
}

impl Encoder for RangeEncoder {
    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        assert_eq!(values.len(), self.ranges.dimension(), "the ranges are of this model");
        out.clear();
        let mut part = Vec::new();
        for range in self.ranges.iter() {
            self.each.encode(&values[range], &mut part);
            out.extend_from_slice(&part);
        }
    }

    fn validate(&self, bytes: &[u8], dimension: usize) -> Result<(), DecodeError> {
        if dimension != self.ranges.dimension() {
            let announced = self.ranges.dimension() as u64;
            return Err(DecodeError::Dimension {
                announced,
                expected: dimension,
            });
        }
        let (expected, found) = (self.encoded_len(dimension), bytes.len());
        if expected != found {
            return Err(DecodeError::Length { expected, found });
        }
        self.parts(bytes)
            .try_for_each(|(range, part)| self.each.validate(part, range.len()))
    }

    fn decode_range(&self, bytes: &[u8], first: usize, out: &mut [f32]) {
        let end = first + out.len();
        for (range, part) in self.parts(bytes) {
            let (from, to) = (first.max(range.start), end.min(range.end));
            if from < to {
                self.each
                    .decode_range(part, from - range.start, &mut out[from - first..to - first]);
            }
        }
    }

    fn encoded_len(&self, _dimension: usize) -> usize {
        self.lengths().fold(0, usize::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_the_model_once_and_are_cut_between_blocks() {
        let int8 = |block| EncodingConfig::Int8 { block };
        for (dimension, count, encoding) in [
            (10_000, 3, EncodingConfig::F32),
            (CHUNK * 16, 16, int8(256)),
            (CHUNK * 16 + 1, 5, int8(8192)),
            (7, 1, EncodingConfig::Bf16),
        ] {
            let ranges = Ranges::new(dimension, count, &encoding).unwrap();
            let mut covered = 0;
            for range in ranges.iter() {
                assert_eq!(range.start, covered);
                assert!(range.start.is_multiple_of(unit(&encoding).unwrap()) && !range.is_empty());
                covered = range.end;
            }
            assert_eq!((covered, ranges.of(count)), (dimension, dimension..dimension));
        }
    }

    #[test]
    fn what_cannot_be_cut_is_refused_with_the_reason() {
        let refused = |encoding| Ranges::new(CHUNK * 4, 2, &encoding).unwrap_err().to_string();
        assert!(refused(EncodingConfig::TopK { one_in: 64 }).contains("cannot be cut"));
        assert!(refused(EncodingConfig::Int8 { block: 300 }).contains("a block of 300"));
        let many = Ranges::new(CHUNK * 4, 5, &EncodingConfig::F32).unwrap_err();
        assert!(many.to_string().contains("at most 4"), "{many}");
        let rule = |rule| check_composition(&Composition::of(rule));
        assert_eq!(rule(RuleConfig::TrimmedMean { f: 1 }), Ok(()));
        assert_eq!(rule(RuleConfig::Rfa), Err(ShardsError::Rule { name: "rfa" }));
        assert_eq!(
            check_composition(&Composition::robust(1)),
            Err(ShardsError::Rule { name: "arc" })
        );
    }
}
