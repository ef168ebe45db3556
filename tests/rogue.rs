//! A node that lies about what it learned: each update points the other way, eight times as far. For tests alone.
//! Everything else about it is the node's own code: it signs, votes and serves as an honest one does.

use synod_training::layout::Layout;
use synod_training::optimizers::StateError;
use synod_training::trainer::{Continue, Evaluation, LocalRound, Progress, TrainError, Trained, Trainer};

/// How much of the honest step it takes.
const SCALE: f32 = -8.0;

struct Liar(Box<dyn Trainer>);

impl Trainer for Liar {
    fn layout(&self) -> &Layout {
        self.0.layout()
    }

    fn initial_parameters(&mut self) -> Vec<f32> {
        self.0.initial_parameters()
    }

    fn check_optimizer(&self, bytes: &[u8]) -> Result<(), StateError> {
        self.0.check_optimizer(bytes)
    }

    fn train(
        &mut self,
        local: LocalRound<'_>,
        progress: &mut dyn FnMut(Progress) -> Continue,
    ) -> Result<Trained, TrainError> {
        let mut trained = self.0.train(local, progress)?;
        for (parameter, base) in trained.parameters.iter_mut().zip(local.start) {
            *parameter = base + SCALE * (*parameter - base);
        }
        Ok(trained)
    }

    fn evaluate(&mut self, parameters: &[f32]) -> Result<Evaluation, TrainError> {
        self.0.evaluate(parameters)
    }
}

fn main() -> std::process::ExitCode {
    synod_node::cli::run_with(Some(|trainer| Box::new(Liar(trainer))))
}
