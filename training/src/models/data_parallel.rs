//! One institution's devices share a batch: each computes the gradient of its rows, and the gradients are added in the order
//! of the devices. It holds no parameters and moves nothing between devices but slices in main memory.

use std::thread;

use super::decoder::Decoder;
use crate::data::Batch;
use crate::objectives::LossSum;
use crate::trainer::TrainError;

/// The loss of a batch and the gradient of its mean over `gradient`, as [`Decoder::loss_and_gradient`] computes them on one
/// device; with several, each takes as many rows as the others, one more at most, and sums differ by their rounding.
///
/// # Panics
/// When there is no decoder.
pub fn loss_and_gradient(
    decoders: &[Decoder],
    parameters: &[f32],
    batch: &Batch,
    gradient: &mut [f32],
) -> Result<LossSum, TrainError> {
    let (first, others) = decoders.split_first().expect("at least one device");
    if others.is_empty() {
        return first.loss_and_gradient(parameters, batch, gradient);
    }
    let parts = shares(batch, decoders.len());
    let computed: Vec<Result<(LossSum, Vec<f32>), TrainError>> = thread::scope(|scope| {
        let compute = |(decoder, part): (&Decoder, Batch)| {
            let mut gradient = vec![0.0; parameters.len()];
            let loss = decoder.loss_and_gradient(parameters, &part, &mut gradient)?;
            Ok((loss, gradient))
        };
        let threads: Vec<_> = decoders
            .iter()
            .zip(parts)
            .map(|work| scope.spawn(move || compute(work)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let computed = computed.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut sum = LossSum::default();
    computed.iter().for_each(|(loss, _)| sum += *loss);
    gradient.fill(0.0);
    // Each part's gradient is of its own mean: together they are weighted by what their tokens count.
    for (loss, part) in computed.iter().filter(|(loss, _)| loss.weight > 0.0) {
        let share = (loss.weight / sum.weight) as f32;
        gradient
            .iter_mut()
            .zip(part)
            .for_each(|(sum, value)| *sum += share * value);
    }
    Ok(sum)
}

/// A batch's rows in as many runs, the first ones a row longer where they do not come out even; no run is empty.
fn shares(batch: &Batch, devices: usize) -> Vec<Batch> {
    let rows = batch.rows();
    let runs = devices.min(rows).max(1);
    let begin = |run: usize| run * (rows / runs) + run.min(rows % runs);
    (0..runs).map(|run| batch.slice(begin(run)..begin(run + 1))).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::config::DecoderConfig;

    #[test]
    fn devices_together_compute_what_one_does() {
        let config = DecoderConfig {
            layers: 1,
            heads: 2,
            width: 16,
            context: 20,
            ..DecoderConfig::default()
        };
        let decoders: Vec<Decoder> = (0..3).map(|_| Decoder::new(&config, Device::flex())).collect();
        let parameters = decoders[0].initial_parameters(1);
        let tokens: Vec<u32> = (0..7 * 21u32).map(|i| i * i % 251).collect();
        let mut batch = Batch::of_windows(&tokens, 20);
        batch.weights = Some((0..140).map(|i| if i < 60 { 0.0 } else { (i % 3) as f32 }).collect());
        let run = |decoders: &[Decoder]| {
            let mut gradient = vec![f32::NAN; parameters.len()];
            let loss = loss_and_gradient(decoders, &parameters, &batch, &mut gradient).unwrap();
            (loss, gradient)
        };
        let (loss, alone) = run(&decoders[..1]);
        // Two of seven rows carry no weight at all for the first of three devices.
        for count in [2, 3] {
            let (together, gradient) = run(&decoders[..count]);
            assert_eq!(together.weight, loss.weight);
            assert!((together.mean() / loss.mean() - 1.0).abs() < 1e-6);
            let norm = alone.iter().map(|g| g * g).sum::<f32>().sqrt();
            let far = alone
                .iter()
                .zip(&gradient)
                .map(|(a, b)| (a - b) * (a - b))
                .sum::<f32>()
                .sqrt();
            assert!(norm > 0.0 && far / norm < 1e-5, "{count}: {far} of {norm}");
            assert_eq!(run(&decoders[..count]).1, gradient, "the same bits again");
        }
    }

    #[test]
    fn rows_are_shared_evenly_and_none_twice() {
        let batch = Batch::of_windows(&(0..7 * 3).collect::<Vec<u32>>(), 2);
        let lengths = |devices| shares(&batch, devices).iter().map(Batch::rows).collect::<Vec<_>>();
        assert_eq!(lengths(3), [3, 2, 2]);
        assert_eq!(lengths(9), [1; 7]);
        let together: Vec<u32> = shares(&batch, 3).iter().flat_map(|part| part.tokens.clone()).collect();
        assert_eq!(together, batch.tokens);
    }
}
