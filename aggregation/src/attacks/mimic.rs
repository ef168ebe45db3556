//! Mimic: all attackers copy one honest member, so that it counts for many (Karimireddy, He & Jaggi 2022, ICLR, §3.2). No
//! single vector gives them away; it does harm only where members' data differ.

/// A copy of the honest vector `whom`.
///
/// # Panics
/// When there is no such one.
pub fn mimic(honest: &[&[f32]], whom: usize) -> Vec<f32> {
    honest[whom].to_vec()
}

/// The paper's attacker, who first learns the direction in which honest members differ most and then copies whoever is
/// farthest along it.
#[derive(Clone, Debug)]
pub struct Mimic {
    direction: Vec<f64>,
}

impl Mimic {
    /// An attacker that knows nothing yet.
    pub fn new(dimension: usize) -> Self {
        Self {
            direction: vec![1.0; dimension],
        }
    }

    /// Learns from a round: one step of power iteration, z ← Σ (x_i − μ) ⟨x_i − μ, z⟩, to length 1.
    pub fn learn(&mut self, honest: &[&[f32]]) {
        let mean = super::mean(honest);
        let mut next = vec![0.0; mean.len()];
        for row in honest {
            let along = self.along(row, &mean);
            for ((next, &value), mean) in next.iter_mut().zip(*row).zip(&mean) {
                *next += along * (f64::from(value) - mean);
            }
        }
        let norm = next.iter().fold(0.0, |sum, value| sum + value * value).sqrt();
        if norm > 0.0 {
            next.iter_mut().for_each(|value| *value /= norm);
            self.direction = next;
        }
    }

    /// The place of the honest member that is farthest along the direction; the first among equals.
    pub fn whom(&self, honest: &[&[f32]]) -> usize {
        let origin = vec![0.0; self.direction.len()];
        let mut best = (0, f64::NEG_INFINITY);
        for (place, row) in honest.iter().enumerate() {
            let along = self.along(row, &origin);
            if along > best.1 {
                best = (place, along);
            }
        }
        best.0
    }

    fn along(&self, row: &[f32], origin: &[f64]) -> f64 {
        let differences = row.iter().zip(origin).map(|(&value, origin)| f64::from(value) - origin);
        differences
            .zip(&self.direction)
            .fold(0.0, |sum, (difference, z)| sum + difference * z)
    }
}
