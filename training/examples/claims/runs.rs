//! Runs: a configuration trained to its end on one thread and measured on all held-out text, kept in a file, done once.
//! It judges nothing.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use synod_aggregation::privacy::PrivacyConfig;
use synod_protocol::identity::PeerId;
use synod_training::data::DataOptions;
use synod_training::factory::build_trainer_from;
use synod_training::layout::Role;
use synod_training::{Continue, DeviceChoice, LocalRound, TrainingConfig};

/// What came out of one configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Mean over all held-out text, nats a byte; none where training diverged.
    pub loss: Option<f64>,
    /// Processor time of one step, in milliseconds.
    pub cpu_ms_a_step: f64,
    /// Wall time of one step, in milliseconds.
    pub wall_ms_a_step: f64,
    /// Steps whose loss lay half a nat above the mean of the sixteen before.
    pub spikes: u32,
    /// Root mean square of all hidden matrices at the end.
    pub matrix_rms: f64,
}

impl Outcome {
    /// The loss, or infinity: what diverged is worse than anything.
    pub fn or_infinite(&self) -> f64 {
        self.loss.unwrap_or(f64::INFINITY)
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    name: String,
    config: serde_json::Value,
    outcome: Outcome,
}

/// Where runs are made and kept.
pub struct Bench {
    pub dir: PathBuf,
    data: Vec<PathBuf>,
    text: blake3::Hash,
    jobs: usize,
    kept: Mutex<(File, BTreeMap<String, Outcome>)>,
}

impl Bench {
    /// Opens the folder and reads what was run before.
    pub fn open(dir: PathBuf, data: Vec<PathBuf>, jobs: usize) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        let mut hasher = blake3::Hasher::new();
        for path in &data {
            let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
            hasher.update(&bytes);
        }
        let path = dir.join("runs.jsonl");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        // A line that an interrupted run left half-written is no run.
        let lines = before
            .lines()
            .filter_map(|line| serde_json::from_str::<Kept>(line).ok());
        let kept: BTreeMap<String, Outcome> = lines.map(|kept| (kept.key, kept.outcome)).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        if !before.is_empty() && !before.ends_with('\n') {
            writeln!(file)?;
        }
        Ok(Self {
            dir,
            data,
            text: hasher.finalize(),
            jobs,
            kept: Mutex::new((file, kept)),
        })
    }

    /// The outcomes of named configurations, in their order. What was run before is not run again.
    pub fn run(&self, what: &str, wanted: &[(String, TrainingConfig)]) -> anyhow::Result<Vec<Outcome>> {
        let done = AtomicUsize::new(0);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.jobs).build()?;
        pool.install(|| {
            let one = |(name, config): &(String, TrainingConfig)| {
                let outcome = self.one(name, config)?;
                let number = done.fetch_add(1, Ordering::Relaxed) + 1;
                eprintln!(
                    "[{what} {number}/{}] {name}: {:.4}, {:.1} ms a step",
                    wanted.len(),
                    outcome.or_infinite(),
                    outcome.cpu_ms_a_step
                );
                Ok(outcome)
            };
            wanted.par_iter().with_max_len(1).map(one).collect()
        })
    }

    fn one(&self, name: &str, config: &TrainingConfig) -> anyhow::Result<Outcome> {
        let json = serde_json::to_string(config)?;
        let key = blake3::hash(format!("{}{json}", self.text).as_bytes()).to_hex()[..24].to_owned();
        if let Some(outcome) = self.kept.lock().expect("no run panics with it").1.get(&key) {
            return Ok(outcome.clone());
        }
        config.check().with_context(|| name.to_owned())?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        let outcome = pool.install(|| self.train(config)).with_context(|| name.to_owned())?;
        let line = serde_json::to_string(&Kept {
            key: key.clone(),
            name: name.to_owned(),
            config: serde_json::from_str(&json)?,
            outcome: outcome.clone(),
        })?;
        let mut kept = self.kept.lock().expect("no run panics with it");
        writeln!(kept.0, "{line}")?;
        kept.1.insert(key, outcome.clone());
        Ok(outcome)
    }

    fn train(&self, config: &TrainingConfig) -> anyhow::Result<Outcome> {
        let data = DataOptions {
            paths: self.data.clone(),
            ..DataOptions::default()
        };
        let mut trainer = build_trainer_from(
            config,
            &PrivacyConfig::None,
            PeerId([0; 32]),
            Some(&data),
            &DeviceChoice::Cpu,
        )?;
        let start = trainer.initial_parameters();
        let (mut spikes, mut recent) = (0, std::collections::VecDeque::new());
        let began = cpu_seconds();
        let trained = trainer.train(LocalRound::of(1, &start), &mut |now| {
            let mean = recent.iter().sum::<f32>() / recent.len().max(1) as f32;
            spikes += u32::from(recent.len() == 16 && now.loss > mean + 0.5);
            recent.push_back(now.loss);
            if recent.len() > 16 {
                recent.pop_front();
            }
            Continue::Go
        });
        let cpu = cpu_seconds() - began;
        let Ok(trained) = trained else {
            return Ok(Outcome {
                loss: None,
                cpu_ms_a_step: 0.0,
                wall_ms_a_step: 0.0,
                spikes,
                matrix_rms: f64::INFINITY,
            });
        };
        let loss = f64::from(trainer.evaluate(&trained.parameters)?.loss);
        let places = trainer.layout().places();
        let matrices = places.iter().filter(|place| place.role == Role::HiddenMatrix);
        let values: Vec<f32> = matrices
            .flat_map(|place| trained.parameters[place.range()].to_vec())
            .collect();
        let squares: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        let steps = f64::from(trained.steps);
        Ok(Outcome {
            loss: loss.is_finite().then_some(loss),
            cpu_ms_a_step: 1e3 * cpu / steps,
            wall_ms_a_step: trained.wall_ms as f64 / steps,
            spikes,
            matrix_rms: (squares / values.len().max(1) as f64).sqrt(),
        })
    }
}

/// Processor time of this thread, in seconds; the system counts it in hundredths. 0 where it does not tell.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizes::Size;

    #[test]
    fn a_run_is_made_once_repeats_its_bits_and_outlives_an_interrupted_line() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text.txt");
        let documents = (0..400).map(|i| format!("{} green bottles hanging on the wall\n\n", i * i % 97));
        std::fs::write(&text, documents.collect::<String>()).unwrap();
        let mut config = Size::TINY.config();
        (config.local_steps, config.heldout_fraction) = (3, 0.2);
        let wanted = [("three steps".to_owned(), config)];
        let open = |name: &str| Bench::open(folder.path().join(name), vec![text.clone()], 2).unwrap();
        let first = open("a").run("test", &wanted).unwrap();
        let again = open("b").run("test", &wanted).unwrap();
        assert_eq!(first[0].loss, again[0].loss);
        assert!(first[0].loss.unwrap() > 1.0);
        let kept = folder.path().join("a/runs.jsonl");
        let lines = std::fs::read_to_string(&kept).unwrap();
        std::fs::write(&kept, format!("{lines}{{\"key\": \"cut")).unwrap();
        let resumed = open("a").run("test", &wanted).unwrap();
        assert_eq!(resumed[0].cpu_ms_a_step, first[0].cpu_ms_a_step, "read, not run");
        let after = std::fs::read_to_string(&kept).unwrap();
        assert_eq!(after.lines().filter(|line| line.contains("three steps")).count(), 1);
    }
}
