//! Samples with features and labels: what the small models train on, read from LIBSVM text or from MNIST's IDX files.
//! They are kept in memory, dense; there is no augmentation and no normalisation beyond bytes to `0..=1`.

mod read;
mod trainer;

pub use read::read_samples;
pub use trainer::SampleTrainer;

use std::path::PathBuf;

/// Rows of features, each with a label: a class (counted from 0) or a number to predict.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    features: Vec<f32>,
    labels: Vec<f32>,
    width: usize,
}

/// Why samples cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The file or folder cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// The contents are no samples.
    #[error("{path} holds no samples that can be used: {reason}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// Rows and labels do not fit each other.
    #[error("{features} features are not {labels} samples of {width}")]
    Ragged {
        /// Numbers in all.
        features: usize,
        /// Labels.
        labels: usize,
        /// Features of a sample.
        width: usize,
    },
}

impl Samples {
    /// Samples out of their features, row by row, and labels.
    pub fn new(features: Vec<f32>, labels: Vec<f32>, width: usize) -> Result<Self, SampleError> {
        match labels.len().checked_mul(width) == Some(features.len()) && width > 0 {
            true => Ok(Self {
                features,
                labels,
                width,
            }),
            false => Err(SampleError::Ragged {
                features: features.len(),
                labels: labels.len(),
                width,
            }),
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Features of a sample.
    pub fn width(&self) -> usize {
        self.width
    }

    /// One sample's features.
    pub fn features(&self, index: usize) -> &[f32] {
        &self.features[index * self.width..(index + 1) * self.width]
    }

    /// One sample's label.
    pub fn label(&self, index: usize) -> f32 {
        self.labels[index]
    }

    /// These samples of them, in this order.
    pub fn select(&self, indices: &[usize]) -> Self {
        let mut some = Self {
            width: self.width,
            ..Self::default()
        };
        for index in indices {
            some.features.extend_from_slice(self.features(*index));
            some.labels.push(self.label(*index));
        }
        some
    }
}
