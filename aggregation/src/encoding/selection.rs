//! The largest values of a short slice, exactly and with ties to the lower index.
//! It does not sort, and it is for chunks that fit a cache: a whole update has a faster way (`top_k.rs`).

/// Magnitude bits of the least normal f32: whatever is below counts as zero.
pub(super) const LEAST_NORMAL: u32 = 0x0080_0000;

/// Finds the largest values of slices; keeps its buffer between calls.
#[derive(Default)]
pub(super) struct Selection {
    magnitudes: Vec<u32>,
    /// Places of the values that the last call chose, in increasing order.
    pub(super) chosen: Vec<u32>,
}

impl Selection {
    /// Chooses the `keep` values of largest magnitude, fewer where fewer have magnitude bits of at least `least` > 0.
    pub(super) fn choose(&mut self, values: &[f32], keep: usize, least: u32) {
        self.chosen.clear();
        let Some(threshold) = self.threshold(values, keep, least) else {
            return;
        };
        // The values above the threshold are fewer than `keep`; those at it fill up from the front.
        let above = values.iter().filter(|value| magnitude(**value) > threshold).count();
        let mut ties = keep - above;
        for (group, part) in values.chunks(GROUP).enumerate() {
            if part.iter().fold(0, |largest, &value| magnitude(value).max(largest)) < threshold {
                continue;
            }
            for (within, &value) in part.iter().enumerate() {
                let magnitude = magnitude(value);
                if magnitude > threshold || (magnitude == threshold && ties > 0) {
                    ties -= usize::from(magnitude == threshold);
                    self.chosen.push((group * GROUP + within) as u32);
                }
            }
        }
    }

    /// The magnitude bits of the `keep`-th largest value, or of the least that counts where fewer do.
    fn threshold(&mut self, values: &[f32], keep: usize, least: u32) -> Option<u32> {
        self.magnitudes.clear();
        self.magnitudes.extend(values.iter().map(|&value| magnitude(value)));
        if keep == 0 || values.is_empty() {
            return None;
        }
        let at = self.magnitudes.len().saturating_sub(keep);
        let (_, &mut found, _) = self.magnitudes.select_nth_unstable(at);
        Some(found.max(least))
    }
}

/// Values that are passed over together.
const GROUP: usize = 16;

fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_that_of_a_stable_sort() {
        let mut selection = Selection::default();
        for len in [0usize, 1, 7, 64, 333] {
            let values: Vec<f32> = (0..len).map(|i| ((i * 37) % 23) as f32 - 11.0).collect();
            for keep in [0, 1, 2, 5, 64, 400] {
                let mut order: Vec<usize> = (0..len).filter(|&i| values[i] != 0.0).collect();
                order.sort_by(|&a, &b| values[b].abs().total_cmp(&values[a].abs()));
                order.truncate(keep);
                order.sort_unstable();
                selection.choose(&values, keep, LEAST_NORMAL);
                let chosen: Vec<usize> = selection.chosen.iter().map(|&at| at as usize).collect();
                assert_eq!(chosen, order, "{keep} of {len}");
            }
        }
    }
}
