//! How the decoder's arithmetic groups its parameters: tensors that are multiplied together are one view of the flat slice.
//! It holds ranges only; `decoder_layout` decides what lies where.

use std::ops::Range;

use crate::layout::{Layout, TensorPlace};

/// A tensor of the arithmetic: one place of the layout, or several that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Its elements in the flat slice.
    pub range: Range<usize>,
    /// Rows and columns; a gain is one row.
    pub shape: [usize; 2],
}

/// The leaves of one block, in flat order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockLeaves {
    pub attention_norm: Leaf,
    pub query_key_value: Leaf,
    pub attention_out: Leaf,
    pub hidden_norm: Leaf,
    pub gate_up: Leaf,
    pub down: Leaf,
}

/// All leaves of a decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecoderLeaves {
    pub embedding: Leaf,
    pub blocks: Vec<BlockLeaves>,
    pub final_norm: Leaf,
}

impl DecoderLeaves {
    /// The leaves of a layout that [`layout`] made.
    pub fn of(layout: &Layout) -> Self {
        let mut places = layout.places().iter();
        let mut next = |count: usize| join(places.by_ref().take(count));
        let embedding = next(1);
        let blocks = (0..layout.places().len() / 9).map(|_| BlockLeaves {
            attention_norm: next(1),
            query_key_value: next(3),
            attention_out: next(1),
            hidden_norm: next(1),
            gate_up: next(2),
            down: next(1),
        });
        let blocks = blocks.collect();
        Self {
            embedding,
            blocks,
            final_norm: next(1),
        }
    }
}

fn join<'a>(places: impl Iterator<Item = &'a TensorPlace>) -> Leaf {
    let mut leaf: Option<Leaf> = None;
    for place in places {
        let [rows, columns] = match place.shape[..] {
            [columns] => [1, columns],
            [rows, columns] => [rows, columns],
            _ => unreachable!("a decoder's tensors have one or two dimensions"),
        };
        match &mut leaf {
            None => {
                leaf = Some(Leaf {
                    range: place.range(),
                    shape: [rows, columns],
                })
            }
            Some(leaf) => {
                leaf.range.end = place.range().end;
                leaf.shape[0] += rows;
            }
        }
    }
    leaf.expect("every group has a tensor")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DecoderConfig;
    use crate::models::decoder_layout::layout;

    fn config() -> DecoderConfig {
        DecoderConfig {
            layers: 2,
            heads: 4,
            kv_heads: Some(2),
            width: 16,
            ..DecoderConfig::default()
        }
    }

    #[test]
    fn leaves_cover_the_flat_slice_in_order() {
        let leaves = DecoderLeaves::of(&layout(&config()));
        assert_eq!(leaves.blocks.len(), 2);
        assert_eq!(leaves.blocks[1].query_key_value.shape, [16 + 2 * 8, 16]);
        assert_eq!(leaves.blocks[1].gate_up.shape, [2 * 48, 16]);
        assert_eq!(leaves.embedding.range.end, leaves.blocks[0].attention_norm.range.start);
        assert_eq!(
            leaves.blocks[0].down.range.end,
            leaves.blocks[1].attention_norm.range.start
        );
        assert_eq!(leaves.final_norm.range.end, layout(&config()).len());
    }
}
