//! Handwritten digits (or any images in IDX files), shrunk, and dealt out to workers evenly or not.
//! It downloads nothing; the files are MNIST's four, as `$SYNOD_DATA/images/mnist` holds them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::case::Split;
use crate::simulation::dice::Dice;

/// Side of an image once 2 × 2 pixels are averaged.
const SIDE: usize = 14;
/// Values of an image.
pub const PIXELS: usize = SIDE * SIDE;
/// Classes of labels.
pub const CLASSES: usize = 10;

/// Why there are no images.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// A file that cannot be read.
    #[error("{}: {source}; name the folder of the four IDX files with --data, or set SYNOD_DATA", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A file that is none of these.
    #[error("{}: not an IDX file of 28 × 28 images or of labels from 0 to 9", path.display())]
    Format {
        /// Which.
        path: PathBuf,
    },
}

/// Images with their labels.
#[derive(Debug, Clone, Default)]
pub struct Images {
    pixels: Vec<f32>, // [count, PIXELS], 0 to 1
    labels: Vec<usize>,
}

impl Images {
    /// Reads the training set or the test set of a folder.
    pub fn read(folder: &Path, prefix: &str) -> Result<Self, ImagesError> {
        let images = folder.join(format!("{prefix}-images-idx3-ubyte.gz"));
        let labels = folder.join(format!("{prefix}-labels-idx1-ubyte.gz"));
        let bytes = unpack(&images)?;
        let pixels = parse_images(&bytes).ok_or(ImagesError::Format { path: images })?;
        let bytes = unpack(&labels)?;
        let labels_read = parse_labels(&bytes).filter(|labels| labels.len() * PIXELS == pixels.len());
        Ok(Self {
            pixels,
            labels: labels_read.ok_or(ImagesError::Format { path: labels })?,
        })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// An image and its label.
    pub fn get(&self, index: usize) -> (&[f32], usize) {
        (&self.pixels[index * PIXELS..(index + 1) * PIXELS], self.labels[index])
    }

    /// As many images, drawn without replacement.
    pub fn sample(&self, count: usize, dice: &mut Dice) -> Self {
        let mut order: Vec<usize> = (0..self.len()).collect();
        shuffle(&mut order, dice);
        let mut sample = Self::default();
        for &index in order.iter().take(count) {
            let (pixels, label) = self.get(index);
            sample.pixels.extend_from_slice(pixels);
            sample.labels.push(label);
        }
        sample
    }

    /// Deals all images out to `workers`: for each the indices that are its own, at least one.
    pub fn deal(&self, workers: usize, split: Split, dice: &mut Dice) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        shuffle(&mut order, dice);
        match split {
            Split::Iid => blocks(&order, workers),
            Split::Sorted => {
                order.sort_by_key(|&index| self.labels[index]);
                blocks(&order, workers)
            }
            Split::Dirichlet => self.deal_by_shares(&order, workers, dice),
        }
    }

    /// For each class the workers' shares are drawn from a Dirichlet distribution with concentration 0.3.
    fn deal_by_shares(&self, order: &[usize], workers: usize, dice: &mut Dice) -> Vec<Vec<usize>> {
        let mut dealt = vec![Vec::new(); workers];
        for class in 0..CLASSES {
            let of_class: Vec<usize> = order.iter().copied().filter(|&i| self.labels[i] == class).collect();
            let draws: Vec<f64> = (0..workers).map(|_| gamma(0.3, dice)).collect();
            let total: f64 = draws.iter().sum();
            let (mut share, mut from) = (0.0, 0);
            for (worker, draw) in draws.iter().enumerate() {
                share += draw / total;
                let to = if worker + 1 == workers {
                    of_class.len()
                } else {
                    (share * of_class.len() as f64) as usize
                };
                dealt[worker].extend_from_slice(&of_class[from..to.max(from)]);
                from = to.max(from);
            }
        }
        // Who got nothing takes an image from whoever has most.
        while let Some(empty) = dealt.iter().position(Vec::is_empty) {
            let richest = (0..workers).max_by_key(|&worker| dealt[worker].len()).unwrap_or(0);
            let Some(image) = dealt[richest].pop() else { break };
            dealt[empty].push(image);
        }
        dealt
    }
}

fn unpack(path: &Path) -> Result<Vec<u8>, ImagesError> {
    let refuse = |source| ImagesError::File {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    // Both sets unpacked have less than 64 MB.
    let file = File::open(path).map_err(refuse)?;
    GzDecoder::new(file)
        .take(64 << 20)
        .read_to_end(&mut bytes)
        .map_err(refuse)?;
    Ok(bytes)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(word.try_into().ok()?) as usize)
}

fn parse_images(bytes: &[u8]) -> Option<Vec<f32>> {
    let [magic, count, rows, columns] = [
        number(bytes, 0)?,
        number(bytes, 4)?,
        number(bytes, 8)?,
        number(bytes, 12)?,
    ];
    let body = bytes.get(16..)?;
    if (magic, rows, columns) != (2051, 2 * SIDE, 2 * SIDE) || body.len() != count.checked_mul(rows * columns)? {
        return None;
    }
    let mut pixels = Vec::with_capacity(count * PIXELS);
    for image in body.chunks_exact(rows * columns) {
        for place in 0..PIXELS {
            let corner = place / SIDE * 2 * columns + place % SIDE * 2;
            let four = [corner, corner + 1, corner + columns, corner + columns + 1];
            let sum: u32 = four.iter().map(|&at| u32::from(image[at])).sum();
            pixels.push(sum as f32 / 1020.0);
        }
    }
    Some(pixels)
}

fn parse_labels(bytes: &[u8]) -> Option<Vec<usize>> {
    let body = bytes.get(8..)?;
    let right = number(bytes, 0)? == 2049 && body.len() == number(bytes, 4)?;
    (right && body.iter().all(|label| usize::from(*label) < CLASSES))
        .then(|| body.iter().map(|label| usize::from(*label)).collect())
}

fn shuffle(order: &mut [usize], dice: &mut Dice) {
    for last in (1..order.len()).rev() {
        order.swap(last, dice.below(last as u64 + 1) as usize);
    }
}

fn blocks(order: &[usize], workers: usize) -> Vec<Vec<usize>> {
    (0..workers)
        .map(|worker| order[worker * order.len() / workers..(worker + 1) * order.len() / workers].to_vec())
        .collect()
}

/// A standard normal number (Box & Muller 1958).
pub fn normal(dice: &mut Dice) -> f64 {
    let radius = (-2.0 * (1.0 - dice.unit()).ln()).sqrt();
    radius * (2.0 * std::f64::consts::PI * dice.unit()).cos()
}

/// A gamma-distributed number of shape below 1 (Marsaglia & Tsang 2000, with the boost of their §6).
fn gamma(shape: f64, dice: &mut Dice) -> f64 {
    let d = shape + 1.0 - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(dice);
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - dice.unit();
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v * (1.0 - dice.unit()).powf(1.0 / shape);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(count: usize) -> Images {
        Images {
            pixels: vec![0.5; count * PIXELS],
            labels: (0..count).map(|i| i % CLASSES).collect(),
        }
    }

    #[test]
    fn every_image_is_dealt_once_whatever_the_split() {
        for split in [Split::Iid, Split::Dirichlet, Split::Sorted] {
            for seed in 0..20 {
                let dealt = images(500).deal(9, split, &mut Dice::new(seed, "deal"));
                assert!(dealt.iter().all(|own| !own.is_empty()), "{split:?}");
                let mut all: Vec<usize> = dealt.concat();
                all.sort_unstable();
                assert_eq!(all, (0..500).collect::<Vec<_>>(), "{split:?}");
            }
        }
    }

    #[test]
    fn a_sorted_split_gives_each_worker_few_labels_and_an_even_one_all() {
        let set = images(1000);
        let labels = |own: &[usize]| {
            own.iter()
                .map(|&i| set.labels[i])
                .collect::<std::collections::BTreeSet<_>>()
                .len()
        };
        let dealt = |split| set.deal(10, split, &mut Dice::new(1, "deal"));
        assert!(dealt(Split::Sorted).iter().all(|own| labels(own) == 1));
        assert!(dealt(Split::Iid).iter().all(|own| labels(own) == CLASSES));
        let uneven: Vec<usize> = dealt(Split::Dirichlet).iter().map(Vec::len).collect();
        assert!(
            uneven.iter().max() > uneven.iter().min().map(|least| 2 * least).as_ref(),
            "{uneven:?}"
        );
    }

    #[test]
    fn damaged_files_are_refused() {
        let mut bytes = vec![0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28];
        bytes.extend([255; 784]);
        assert_eq!(parse_images(&bytes), Some(vec![1.0; PIXELS]));
        assert_eq!(parse_images(&bytes[..799]), None);
        assert_eq!(parse_images(&bytes[..10]), None);
        bytes[7] = 255;
        assert_eq!(parse_images(&bytes), None);
        assert_eq!(parse_labels(&[0, 0, 8, 1, 0, 0, 0, 2, 9, 0]), Some(vec![9, 0]));
        assert_eq!(parse_labels(&[0, 0, 8, 1, 0, 0, 0, 2, 10, 0]), None);
    }
}
