//! Inner-product manipulation, also called fall of empires: a multiple of the honest mean, pointed the other way (Xie,
//! Koyejo & Gupta 2019, UAI). It needs the honest vectors; large factors beat the mean, small ones beat medians.

use super::{mean, sendable};

/// −factor · mean of the honest vectors. With factor 1 this is the sign flip of colluders.
pub fn inner_product(honest: &[&[f32]], factor: f64) -> Vec<f32> {
    sendable(mean(honest).into_iter().map(|mean| -factor * mean))
}
