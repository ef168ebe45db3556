//! Documents inside a packed row: where each token's document begins, its position in it, and the loss behind an end.
//! It finds documents by the end-of-document token alone and does not know what they are.

/// Writes, for each token of one row, the place in the row at which its document begins. An end-of-document token belongs
/// to the document that it ends (as with Megatron's `reset_position_ids` and `reset_attention_mask`), and the row's first
/// token begins a document whatever came before the row.
///
/// Token `i` may attend to `starts[i]..=i`, and its position is `i - starts[i]`.
pub fn document_starts(tokens: &[u32], eod: u32, starts: &mut Vec<u32>) {
    starts.reserve(tokens.len());
    let mut start = 0;
    for (at, token) in tokens.iter().enumerate() {
        starts.push(start);
        if *token == eod {
            start = at as u32 + 1;
        }
    }
}

/// The positions that follow from [`document_starts`] of one row.
pub fn positions(starts: &[u32]) -> impl Iterator<Item = u32> + '_ {
    starts.iter().enumerate().map(|(at, start)| at as u32 - start)
}

/// Takes the loss away where the *input* is an end of document: what follows it is another document's first token, which
/// nothing foretells. (Apertus, arXiv:2509.14233, describes this as masking the loss on end-of-document tokens; its code
/// masks these places, and so the model still learns when a document ends.)
pub fn mask_after_eod(tokens: &[u32], eod: u32, weights: &mut [f32]) {
    assert_eq!(tokens.len(), weights.len(), "one weight a token");
    for (token, weight) in tokens.iter().zip(weights) {
        if *token == eod {
            *weight = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_begin_anew_behind_each_end_of_document() {
        let tokens = [5, 6, 0, 7, 0, 0, 8, 9];
        let mut starts = Vec::new();
        document_starts(&tokens, 0, &mut starts);
        assert_eq!(starts, [0, 0, 0, 3, 3, 5, 6, 6]);
        assert_eq!(positions(&starts).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 0, 0, 1]);
    }

    #[test]
    fn the_loss_goes_where_the_input_ends_a_document_and_not_where_the_target_does() {
        let mut weights = [1.0, 0.5, 1.0, 1.0];
        mask_after_eod(&[4, 0, 5, 6], 0, &mut weights);
        assert_eq!(weights, [1.0, 0.0, 1.0, 1.0]);
    }
}
