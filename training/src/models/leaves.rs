//! How a decoder's arithmetic groups its parameters: tensors that are multiplied together are one view of the flat slice.
//! It holds ranges only; the models' layouts decide what lies where.

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

/// All leaves of a layout, in its order: key and value matrices join the query matrix before them, an up matrix joins a
/// gate matrix before it.
pub(crate) fn leaves(layout: &Layout) -> Vec<Leaf> {
    let mut leaves: Vec<Leaf> = Vec::new();
    let mut before = "";
    for place in layout.places() {
        let joins = place.name.contains("k_proj")
            || place.name.contains("v_proj")
            || (place.name.contains("up_proj") && before.contains("gate_proj"));
        match leaves.last_mut() {
            Some(leaf) if joins => {
                leaf.range.end = place.range().end;
                leaf.shape[0] += place.shape[0];
            }
            _ => leaves.push(Leaf {
                range: place.range(),
                shape: two_sizes(place),
            }),
        }
        before = &place.name;
    }
    leaves
}

fn two_sizes(place: &TensorPlace) -> [usize; 2] {
    match place.shape[..] {
        [columns] => [1, columns],
        [rows, columns] => [rows, columns],
        _ => unreachable!("a decoder's tensors have one or two dimensions"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DecoderConfig;
    use crate::models::DecoderShape;
    use crate::models::apertus::ApertusConfig;

    #[test]
    fn leaves_cover_the_flat_slice_in_order() {
        let llama = DecoderConfig {
            layers: 2,
            heads: 4,
            kv_heads: Some(2),
            width: 16,
            ..DecoderConfig::default()
        };
        for (shape, count) in [
            (DecoderShape::from(&llama), 1 + 2 * 6 + 1),
            (DecoderShape::from(&ApertusConfig::default()), 1 + 4 * 10 + 2),
        ] {
            let layout = shape.layout();
            let leaves = leaves(&layout);
            assert_eq!(leaves.len(), count);
            assert_eq!(
                leaves[2].shape[0],
                (shape.heads + 2 * shape.kv_heads) * shape.head_width
            );
            let mut end = 0;
            for leaf in leaves {
                assert_eq!(
                    (leaf.range.start, leaf.range.len()),
                    (end, leaf.shape[0] * leaf.shape[1])
                );
                end = leaf.range.end;
            }
            assert_eq!(end, layout.len());
        }
    }
}
