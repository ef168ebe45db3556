//! The runs: ten workers train one perceptron, some of them faulty, with one aggregate for all or each with its neighbours.
//! It measures accuracy on held-out images and nothing else; times here would say nothing about nodes.

use std::borrow::Cow;

use synod_aggregation::attacks;
use synod_aggregation::{Aggregator, Composition, Context, Contribution, MixingConfig, Neighbour, Neighbourhood};
use synod_protocol::graph::{Weighting, Weights};

use super::case::{Attack, Case, Defence, WORKERS};
use super::images::{CLASSES, Images, normal};
use super::perceptron::{PARAMETERS, accuracy, beginning, gradient};
use crate::simulation::dice::Dice;

/// How long and how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Rounds, of one step each.
    pub rounds: u64,
    /// Images of a step.
    pub batch: usize,
    /// The step.
    pub rate: f32,
}

/// Accuracy is the mean of as many evaluations, evenly over the last fifth of the rounds.
const EVALUATIONS: u64 = 4;

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Accuracy in percent; on a graph the mean over honest workers.
    pub accuracy: f64,
    /// On a graph, that of the worst honest worker; else the same.
    pub worst: f64,
}

/// The data of one seed.
#[derive(Debug, Clone)]
pub struct Data {
    /// To train on.
    pub train: Images,
    /// To measure on.
    pub test: Images,
}

/// A worker's batches, its momentum, and whether it learns reversed labels.
struct Worker {
    own: Vec<usize>,
    dice: Dice,
    momentum: Vec<f32>,
    flipped: bool,
}

impl Worker {
    /// m ← β m + (1 − β) g at these parameters.
    fn step(&mut self, data: &Data, parameters: &[f32], batch: usize, beta: f32, scratch: &mut [f32]) {
        let chosen: Vec<usize> = (0..batch)
            .map(|_| self.own[self.dice.below(self.own.len() as u64) as usize])
            .collect();
        let flipped = self.flipped;
        let images = chosen.iter().map(|&index| {
            let (image, label) = data.train.get(index);
            (
                image,
                if flipped {
                    attacks::flipped_label(label, CLASSES)
                } else {
                    label
                },
            )
        });
        gradient(parameters, images, scratch);
        for (momentum, gradient) in self.momentum.iter_mut().zip(scratch.iter()) {
            *momentum = beta * *momentum + (1.0 - beta) * gradient;
        }
    }
}

/// Runs a case. The same seed gives the same data, beginning and batches to every defence and attack.
pub fn run(case: &Case, data: &Data, schedule: Schedule) -> Outcome {
    let dice = |purpose: &str| Dice::new(case.seed, purpose);
    let dealt = data.train.deal(case.honest(), case.split, &mut dice("deal"));
    let mut workers: Vec<Worker> = dealt
        .into_iter()
        .enumerate()
        .map(|(worker, own)| Worker {
            own,
            dice: dice(&format!("batches of {worker}")),
            momentum: vec![0.0; PARAMETERS],
            flipped: false,
        })
        .collect();
    if case.attack == Attack::LabelFlip {
        workers.extend((0..case.faulty).map(|worker| Worker {
            own: (0..data.train.len()).collect(),
            dice: dice(&format!("batches of faulty {worker}")),
            momentum: vec![0.0; PARAMETERS],
            flipped: true,
        }));
    }
    let start = beginning(&mut dice("beginning"));
    let noise = dice("noise");
    match &case.defence {
        Defence::Rule(_, rule) => federated(case, rule, data, schedule, workers, start, noise),
        Defence::Mixing(_, mixing) => on_a_graph(case, mixing, data, schedule, workers, start, noise),
    }
}

/// Whether accuracy is measured after this round.
fn is_measured(round: u64, rounds: u64) -> bool {
    let apart = (rounds / 5 / EVALUATIONS).max(1);
    let left = rounds - 1 - round;
    left.is_multiple_of(apart) && left / apart < EVALUATIONS
}

fn federated(
    case: &Case,
    rule: &Composition,
    data: &Data,
    schedule: Schedule,
    mut workers: Vec<Worker>,
    mut parameters: Vec<f32>,
    mut noise: Dice,
) -> Outcome {
    let beta = case.momentum_tenths as f32 / 10.0;
    let aggregate = |context: &Context<'_>, faulty: &[Vec<f32>], honest: &[&[f32]]| {
        // The faulty come first: where a rule decides ties by place, they win them.
        let rows = faulty.iter().map(Vec::as_slice).chain(honest.iter().copied());
        let rows: Vec<Contribution<'_>> = rows.map(|values| Contribution::dense(values, 1.0)).collect();
        let mut out = vec![0.0; PARAMETERS];
        rule.aggregate_with(context, &rows, &mut out);
        out
    };
    let mut scratch = vec![0.0; PARAMETERS];
    let mut measured = Vec::new();
    // The aggregate of the round before, for rules that start from it.
    let mut carried = vec![0.0; PARAMETERS];
    for round in 0..schedule.rounds {
        for worker in &mut workers {
            worker.step(data, &parameters, schedule.batch, beta, &mut scratch);
        }
        let (honest, flipped) = workers.split_at(case.honest());
        let honest: Vec<&[f32]> = honest.iter().map(|worker| worker.momentum.as_slice()).collect();
        let context = Context {
            seed: round,
            centre: Some(&carried),
            reference: None,
        };
        let faulty = match case.attack {
            Attack::LabelFlip => flipped.iter().map(|worker| worker.momentum.clone()).collect(),
            Attack::OptimisedAlie => {
                let bend = |z: f64| attacks::little_is_enough(&honest, z);
                let strongest = attacks::strongest(&honest, 8, bend, |vector| {
                    aggregate(&context, &vec![vector.to_vec(); case.faulty], &honest)
                });
                vec![strongest; case.faulty]
            }
            _ => common(case, &honest, &mut noise),
        };
        carried = aggregate(&context, &faulty, &honest);
        for (parameter, step) in parameters.iter_mut().zip(&carried) {
            *parameter -= schedule.rate * step;
        }
        if !parameters.iter().all(|parameter| parameter.abs() < DIVERGED) {
            return Outcome::lost();
        }
        if is_measured(round, schedule.rounds) {
            measured.push(accuracy(&parameters, &data.test));
        }
    }
    let accuracy = measured.iter().sum::<f64>() / measured.len() as f64;
    Outcome {
        accuracy,
        worst: accuracy,
    }
}

/// Parameters beyond it are lost: what follows is chance, or no number.
const DIVERGED: f32 = 1e6;

impl Outcome {
    /// Of a run that diverged: no better than a guess.
    fn lost() -> Self {
        let guess = 100.0 / CLASSES as f64;
        Self {
            accuracy: guess,
            worst: guess,
        }
    }
}

/// What all faulty workers send, of attacks that know only the honest vectors.
fn common(case: &Case, honest: &[&[f32]], noise: &mut Dice) -> Vec<Vec<f32>> {
    let vector = match case.attack {
        Attack::SignFlip => attacks::inner_product(honest, 1.0),
        Attack::Foe => attacks::inner_product(honest, 2.0),
        Attack::Alie => attacks::little_is_enough(honest, 1.5),
        Attack::Mimic => attacks::mimic(honest, 0),
        Attack::Gaussian => {
            let drawn: Vec<f32> = (0..PARAMETERS).map(|_| normal(noise) as f32).collect();
            let mut vector = vec![0.0; PARAMETERS];
            attacks::gaussian(&mut vector, &drawn, 1.0);
            vector
        }
        Attack::None | Attack::LabelFlip | Attack::OptimisedAlie | Attack::Dissensus => return Vec::new(),
    };
    vec![vector; case.faulty]
}

fn on_a_graph(
    case: &Case,
    mixing: &MixingConfig,
    data: &Data,
    schedule: Schedule,
    mut workers: Vec<Worker>,
    start: Vec<f32>,
    mut noise: Dice,
) -> Outcome {
    let beta = case.momentum_tenths as f32 / 10.0;
    let graph = case.setting.graph().expect("mixing is for graphs");
    let seed: [u8; 32] = Dice::new(case.seed, "graph").bytes();
    let graph = graph.build(WORKERS, 0, &seed).expect("ten workers make this graph");
    let rows = Weights::of(&graph, Weighting::Metropolis);
    let honest = case.honest();
    let mut models = vec![start; workers.len()];
    let mut scratch = vec![0.0; PARAMETERS];
    let mut measured: Vec<Vec<f64>> = Vec::new();
    for round in 0..schedule.rounds {
        for (worker, model) in workers.iter_mut().zip(&mut models) {
            worker.step(data, model, schedule.batch, beta, &mut scratch);
            for (parameter, step) in model.iter_mut().zip(&worker.momentum) {
                *parameter -= schedule.rate * step;
            }
        }
        let sent: Vec<&[f32]> = models[..honest].iter().map(Vec::as_slice).collect();
        let lies = common(case, &sent, &mut noise);
        let mixed: Vec<Vec<f32>> = (0..models.len())
            .map(|member| {
                let told = told_to(member, case, &models, &lies, rows.row(member));
                mix_at(
                    member,
                    &told,
                    rows.row(member),
                    if member < honest { mixing } else { &MixingConfig::Gossip },
                )
            })
            .collect();
        models = mixed;
        let diverged = |model: &Vec<f32>| !model.iter().all(|parameter| parameter.abs() < DIVERGED);
        if models.iter().any(diverged) {
            return Outcome::lost();
        }
        if is_measured(round, schedule.rounds) {
            measured.push(
                models[..honest]
                    .iter()
                    .map(|model| accuracy(model, &data.test))
                    .collect(),
            );
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let by_worker: Vec<f64> = (0..honest)
        .map(|worker| mean(&measured.iter().map(|round| round[worker]).collect::<Vec<_>>()))
        .collect();
    Outcome {
        accuracy: mean(&by_worker),
        worst: by_worker.iter().copied().fold(f64::INFINITY, f64::min),
    }
}

/// What a member hears from each of its row: honest models, and what the faulty tell it.
fn told_to<'a>(
    member: usize,
    case: &Case,
    models: &'a [Vec<f32>],
    lies: &'a [Vec<f32>],
    row: &[(usize, f64)],
) -> Vec<Cow<'a, [f32]>> {
    let honest = case.honest();
    let faulty_weight: f64 = row.iter().filter(|(j, _)| *j >= honest).map(|(_, weight)| weight).sum();
    let against = (case.attack == Attack::Dissensus && faulty_weight > 0.0).then(|| {
        let around: Vec<(&[f32], f64)> = row
            .iter()
            .filter(|(j, _)| *j < honest && *j != member)
            .map(|&(j, weight)| (models[j].as_slice(), weight))
            .collect();
        attacks::dissensus(&models[member], &around, faulty_weight, 1.5)
    });
    row.iter()
        .map(|&(from, _)| match (models.get(from), &against) {
            (Some(model), _) => Cow::Borrowed(model.as_slice()),
            (None, Some(against)) => Cow::Owned(against.clone()),
            (None, None) => Cow::Borrowed(lies[from - honest].as_slice()),
        })
        .collect()
}

/// A member's mix of what it was told.
fn mix_at(member: usize, told: &[Cow<'_, [f32]>], row: &[(usize, f64)], mixing: &MixingConfig) -> Vec<f32> {
    let members: Vec<Neighbour<'_>> = told
        .iter()
        .zip(row)
        .map(|(values, &(_, weight))| Neighbour { values, weight })
        .collect();
    let own = row
        .iter()
        .position(|(from, _)| *from == member)
        .expect("a row holds its member");
    let mut out = vec![0.0; PARAMETERS];
    mixing.mix(&Neighbourhood { members: &members, own }, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_is_measured_as_often_as_it_says_and_at_the_end() {
        for rounds in [20, 60, 200, 333] {
            let measured: Vec<u64> = (0..rounds).filter(|&round| is_measured(round, rounds)).collect();
            assert_eq!(measured.len() as u64, EVALUATIONS);
            assert_eq!(measured.last(), Some(&(rounds - 1)));
            assert!(measured[0] >= rounds * 3 / 4);
        }
    }
}
