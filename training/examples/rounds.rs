//! Whole sessions in one process, without network: members train in turn on their texts, the worker aggregates.
//! For choosing hyper-parameters and measuring speed; it is no substitute for `node`, and prints plain lines.
//!
//! `cargo run --release -p synod-training --example rounds -- CONFIG.json ROUNDS OUTER_RATE OUTER_MOMENTUM TEXT…`
//! `-` for CONFIG.json means the defaults. `ALONE=1` trains each member by itself for as many local steps.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use synod_aggregation::{Combiner, EncodingConfig, OuterConfig, RuleConfig};
use synod_protocol::identity::{BlobId, PeerId};
use synod_protocol::task::{Task, TaskFailure, TaskResult, UpdateRef};
use synod_training::{Continue, DeviceChoice, TrainingConfig, Worker, build_trainer, tune_allocator};

struct World {
    workers: Vec<Worker>,
    store: BTreeMap<BlobId, Vec<u8>>,
}

impl World {
    fn run(&mut self, member: usize, task: &Task) -> anyhow::Result<TaskResult> {
        let store = &self.store;
        let mut read = |id: &BlobId| store.get(id).cloned().ok_or_else(|| "no such blob".to_owned());
        let done = self.workers[member].run(task, &mut read, &mut |_| Continue::Go);
        let done =
            done.map_err(|(TaskFailure::Environment(text) | TaskFailure::Unusable(text))| anyhow::anyhow!(text))?;
        self.store.extend(done.blobs);
        Ok(done.result)
    }

    /// Trains and aggregates `members` for some rounds; returns the last state.
    fn session(&mut self, members: &[usize], rounds: u64) -> anyhow::Result<BlobId> {
        let TaskResult::Initialised { mut state, .. } = self.run(members[0], &Task::Initialise)? else {
            bail!("no state")
        };
        for round in 1..=rounds {
            let (mut updates, mut line) = (Vec::new(), format!("round {round:3}"));
            let began = Instant::now();
            let mut tokens = 0;
            for member in members {
                let result = self.run(
                    *member,
                    &Task::Train {
                        round,
                        base: state,
                        steps: None,
                    },
                )?;
                let TaskResult::Trained { payload, bytes, report } = result else {
                    bail!("no update")
                };
                line += &format!("  {:.3} ({:.3})", report.heldout_loss, report.train_loss);
                tokens += report.tokens;
                updates.push(UpdateRef {
                    peer: PeerId([*member as u8; 32]),
                    payload,
                    bytes,
                    tokens: report.tokens,
                });
            }
            println!("{line}  {:.0} tokens/s", tokens as f32 / began.elapsed().as_secs_f32());
            let task = Task::Aggregate {
                round,
                base: state,
                updates,
            };
            let TaskResult::Aggregated { state: next, .. } = self.run(members[0], &task)? else {
                bail!("no state")
            };
            state = next;
        }
        Ok(state)
    }

    /// Held-out losses of every member, and their mean.
    fn report(&mut self, name: &str, state: BlobId) -> anyhow::Result<()> {
        let mut losses = Vec::new();
        for member in 0..self.workers.len() {
            match self.run(member, &Task::Evaluate { round: 0, state })? {
                TaskResult::Evaluated { loss, .. } => losses.push(loss),
                other => bail!("{other:?}"),
            }
        }
        println!(
            "{name}: mean {:.4} of {losses:.3?}",
            losses.iter().sum::<f32>() / losses.len() as f32
        );
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    tune_allocator();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, rounds, rate, momentum, texts @ ..] = &arguments[..] else {
        bail!("see the head of the file")
    };
    let config: TrainingConfig = match config.as_str() {
        "-" => TrainingConfig::default(),
        path => serde_json::from_str(&std::fs::read_to_string(path).context("the config")?)?,
    };
    let outer = OuterConfig {
        learning_rate: rate.parse()?,
        momentum: momentum.parse()?,
        nesterov: true,
        ..OuterConfig::default()
    };
    let workers = texts.iter().enumerate().map(|(index, text)| {
        let trainer = build_trainer(
            &config,
            PeerId([index as u8; 32]),
            Some(Path::new(text)),
            &DeviceChoice::Cpu,
        )?;
        let combiner = Combiner::new(&RuleConfig::Mean, &EncodingConfig::F32, outer);
        Ok(Worker::new(trainer, combiner))
    });
    let mut world = World {
        workers: workers.collect::<anyhow::Result<_>>()?,
        store: BTreeMap::new(),
    };
    println!("{} parameters", config.parameter_count());
    let everyone: Vec<usize> = (0..texts.len()).collect();
    let state = world.session(&everyone, rounds.parse()?)?;
    world.report("together", state)?;
    if std::env::var_os("ALONE").is_some() {
        for member in everyone {
            let state = world.session(&[member], rounds.parse()?)?;
            world.report(&format!("alone {member}"), state)?;
        }
    }
    Ok(())
}
