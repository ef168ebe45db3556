//! The second gradient that some optimizers ask for beside a batch's own: at the parameters before the last step (exact
//! MARS), or for labels drawn from the model (Sophia-G). It decides nothing; the optimizer says when.

use crate::data::Batch;
use crate::models::decoder::Decoder;
use crate::optimizers::{Extra, Optimizer, clip_global_norm};
use crate::randomness::StreamName;
use crate::trainer::TrainError;

/// Memory for second gradients; takes none until one is asked for.
#[derive(Debug, Default)]
pub(crate) struct SecondGradient {
    gradient: Vec<f32>,
    before: Vec<f32>,
}

/// What a second gradient is taken on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground<'a> {
    pub decoder: &'a Decoder,
    pub parameters: &'a [f32],
    pub batch: &'a Batch,
    pub clip: f32,
    pub name: StreamName<'a>,
}

impl SecondGradient {
    /// Computes the gradient that the next step wants, if it wants one.
    pub fn compute(&mut self, wanted: Extra, ground: Ground<'_>) -> Result<(), TrainError> {
        let Ground {
            decoder,
            parameters,
            batch,
            clip,
            name,
        } = ground;
        if wanted != Extra::Nothing {
            self.gradient.resize(parameters.len(), 0.0);
        }
        match wanted {
            Extra::Nothing => {}
            Extra::ParametersBefore => {
                decoder.loss_and_gradient(&self.before, batch, &mut self.gradient)?;
                clip_global_norm(&mut self.gradient, clip);
            }
            Extra::SampledLabels => {
                let purpose = "labels drawn from the model";
                let mut rng = StreamName { purpose, ..name }.open();
                decoder.sampled_label_gradient(parameters, batch, &mut rng, &mut self.gradient)?;
            }
        }
        Ok(())
    }

    /// The gradient that was computed for a step that wants one.
    pub fn of(&self, wanted: Extra) -> Option<&[f32]> {
        (wanted != Extra::Nothing).then_some(&self.gradient[..])
    }

    /// Keeps the parameters before a step, where a later step will want a gradient there.
    pub fn remember(&mut self, optimizer: &Optimizer, parameters: &[f32]) {
        if optimizer.will_want() == Extra::ParametersBefore {
            self.before.clear();
            self.before.extend_from_slice(parameters);
        }
    }
}
