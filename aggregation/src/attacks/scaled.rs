//! The scaled update: more of it than was earned, or, with a negative factor, a sign flip with force (the simplest
//! form of inner-product manipulation: Xie, Koyejo & Gupta 2019, UAI). It adapts to no rule.

/// Replaces an honest update x by factor · x, kept within the finite range so that it still encodes.
pub fn scaled(update: &mut [f32], factor: f32) {
    for value in update {
        *value = (*value * factor).clamp(f32::MIN, f32::MAX);
    }
}
