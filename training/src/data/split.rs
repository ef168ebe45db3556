//! Which documents are held out: those whose content hash says so, hence a document that two institutions share is held
//! out at both. Near-duplicates have other hashes and may fall on both sides: deduplicate before, where it matters.

/// Documents with a mark below the fraction are held out. Where a side has fewer than `least` tokens, documents move to it
/// in the order of their marks: the least to be held out, the greatest to be trained on. `None` where both cannot have
/// enough.
pub fn choose_heldout(marks: &[u32], lengths: &[u64], fraction: f32, least: u64) -> Option<Vec<bool>> {
    let limit = (f64::from(fraction) * f64::from(u32::MAX)) as u32;
    let mut heldout: Vec<bool> = marks.iter().map(|mark| *mark < limit).collect();
    let sum = |heldout: &[bool], wanted| -> u64 {
        let of_side = heldout.iter().zip(lengths).filter(|(is, _)| **is == wanted);
        of_side.map(|(_, length)| *length).sum()
    };
    let short = |heldout: &[bool]| [sum(heldout, true) < least, sum(heldout, false) < least];
    if short(&heldout) == [false, false] {
        return Some(heldout);
    }
    let mut order: Vec<usize> = (0..marks.len()).collect();
    order.sort_by_key(|index| marks[*index]);
    let mut held = sum(&heldout, true);
    for index in &order {
        if held < least && !heldout[*index] {
            heldout[*index] = true;
            held += lengths[*index];
        }
    }
    let mut trained = sum(&heldout, false);
    for index in order.iter().rev() {
        if trained < least && heldout[*index] {
            heldout[*index] = false;
            trained += lengths[*index];
        }
    }
    (short(&heldout) == [false, false]).then_some(heldout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(count: u32) -> Vec<u32> {
        (0..count).map(|i| i.wrapping_mul(2_654_435_761)).collect()
    }

    #[test]
    fn a_document_falls_on_the_same_side_whatever_else_is_there() {
        let marks = marks(1000);
        let all = choose_heldout(&marks, &[100; 1000], 0.1, 10).unwrap();
        let some = choose_heldout(&marks[300..700], &[100; 400], 0.1, 10).unwrap();
        assert_eq!(all[300..700], some);
        let share = all.iter().filter(|is| **is).count();
        assert!((80..120).contains(&share), "{share}");
    }

    #[test]
    fn two_documents_are_enough_for_two_sides_and_one_is_not() {
        assert_eq!(
            choose_heldout(&[u32::MAX, 1 << 31], &[50, 50], 0.1, 20),
            Some(vec![false, true])
        );
        assert_eq!(choose_heldout(&[1, 2], &[50, 50], 0.1, 20), Some(vec![true, false]));
        assert_eq!(choose_heldout(&[1 << 31], &[500], 0.1, 20), None);
        assert_eq!(choose_heldout(&[1 << 31, 7], &[500, 5], 0.1, 20), None);
        assert_eq!(choose_heldout(&[], &[], 0.1, 20), None);
    }
}
