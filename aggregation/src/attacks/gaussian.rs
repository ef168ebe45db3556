//! Gaussian noise in place of an update (Blanchard, El Mhamdi, Guerraoui & Stainer 2017, NeurIPS, §5).
//! It draws nothing itself: the caller brings standard normal values from a generator that it seeded.

/// Replaces an update by deviation · noise.
///
/// # Panics
/// When the lengths differ.
pub fn gaussian(update: &mut [f32], noise: &[f32], deviation: f32) {
    assert_eq!(update.len(), noise.len(), "one noise value a coordinate");
    for (value, noise) in update.iter_mut().zip(noise) {
        *value = deviation * noise;
    }
}
