//! `testnet reproduce`: claims about learning, regenerated from scratch on real images. Today one: `byzantine-table`, the
//! accuracy that ten workers reach under each defence and attack. It starts no node and no session, and its model is a
//! small perceptron: what it shows is how rules and mixing fare, not how fast or how well Synod trains.
//!
//! Each run appends a line to `cases.jsonl`; a run that is there already is not repeated, so that an interrupted table is
//! completed by the same command. `table.md` is written anew from all lines.

mod case;
mod images;
mod perceptron;
mod table;
mod training;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use serde_json::{Value, json};

pub use case::{Attack, Case, Defence, Setting, Split};
pub use images::{Images, ImagesError};
pub use training::{Outcome, Schedule};

use crate::simulation::dice::Dice;
use training::Data;

/// The claims that can be reproduced.
pub const CLAIMS: [&str; 1] = ["byzantine-table"];

/// What to run, and where.
#[derive(Debug, Clone)]
pub struct Reproduce {
    /// The folder for results.
    pub dir: PathBuf,
    /// The folder of the four IDX files; none: `$SYNOD_DATA/images/mnist`.
    pub data: Option<PathBuf>,
    /// A look at it in a minute or two: one seed, two splits, one and two faulty workers, momentum 0.9, few rounds.
    pub quick: bool,
    /// Runs side by side.
    pub threads: usize,
    /// Seeds, from 1.
    pub seeds: u64,
    /// Only runs whose name holds each of these words.
    pub only: Vec<String>,
    /// Rounds of a run, in place of the schedule's.
    pub rounds: Option<u64>,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum ReproduceError {
    /// No images.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// A file or folder of results.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Lines of another kind of run.
    #[error("{}: line {line} is no result of this schedule; name another folder with --dir, or remove the file", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line.
        line: usize,
    },
    /// A machine without threads.
    #[error("no threads to run on: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// Nothing to run.
    #[error("no run has all of these words in its name: {}; one is named `{example}`", words.join(", "))]
    Only {
        /// The words.
        words: Vec<String>,
        /// A run's name.
        example: String,
    },
}

/// Training images that are drawn from the 60,000, so that a run takes a fraction of a second.
const TRAIN: usize = 6_000;
/// Test images that are drawn from the 10,000: 1,000 tell accuracies of 95 % apart that differ by two points.
const TEST: usize = 1_000;
/// Runs between two lines of progress and two writes.
const BATCH: usize = 24;

/// As many rounds as make the whole table half an hour's work for one core; accuracy still rises by some two points if they
/// are doubled. Step and batch as in ByzFL's experiments on digits.
const FULL: Schedule = Schedule {
    rounds: 200,
    batch: 16,
    rate: 0.5,
};

impl Reproduce {
    /// Runs what is missing, writes the table, and returns a summary for the last line of standard output.
    pub fn run(&self) -> Result<Value, ReproduceError> {
        let usual = if self.quick { 100 } else { FULL.rounds };
        let rounds = self.rounds.unwrap_or(usual).max(1);
        let schedule = Schedule { rounds, ..FULL };
        let cases = self.plan()?;
        fs::create_dir_all(&self.dir).map_err(refuse(&self.dir))?;
        let path = self.dir.join("cases.jsonl");
        let mut results = read_results(&path, schedule)?;
        let missing: Vec<&Case> = cases.iter().filter(|case| !results.contains_key(&case.key())).collect();
        eprintln!(
            "{} runs, {} of them already in {}",
            cases.len(),
            cases.len() - missing.len(),
            path.display()
        );
        if !missing.is_empty() {
            self.run_missing(&missing, schedule, &path, &mut results)?;
        }
        let table = table::markdown(&cases, &results, schedule);
        let table_path = self.dir.join("table.md");
        fs::write(&table_path, table).map_err(refuse(&table_path))?;
        eprintln!("The table is in {}", table_path.display());
        Ok(json!({
            "claim": CLAIMS[0],
            "runs": cases.len(),
            "within_three_points": table::within(&cases, &results),
            "table": table_path,
        }))
    }

    fn plan(&self) -> Result<Vec<Case>, ReproduceError> {
        let all = if self.quick {
            case::plan(&Setting::ALL, &[Split::Iid, Split::Sorted], &[1, 2], &[9], 1)
        } else {
            case::plan(&Setting::ALL, &Split::ALL, &[1, 2, 4], &[0, 9], self.seeds)
        };
        let chosen: Vec<Case> = all
            .iter()
            .filter(|case| self.only.iter().all(|word| case.key().contains(word.as_str())))
            .cloned()
            .collect();
        match (chosen.is_empty(), all.first()) {
            (true, Some(example)) => Err(ReproduceError::Only {
                words: self.only.clone(),
                example: example.key(),
            }),
            _ => Ok(chosen),
        }
    }

    fn run_missing(
        &self,
        missing: &[&Case],
        schedule: Schedule,
        path: &Path,
        results: &mut BTreeMap<String, Outcome>,
    ) -> Result<(), ReproduceError> {
        let folder = self.data.clone().unwrap_or_else(|| {
            let root = std::env::var_os("SYNOD_DATA").map(PathBuf::from).unwrap_or_default();
            root.join("images/mnist")
        });
        let (train, test) = (Images::read(&folder, "train")?, Images::read(&folder, "t10k")?);
        let data = |seed: u64| Data {
            train: train.sample(TRAIN, &mut Dice::new(seed, "training images")),
            test: test.sample(TEST, &mut Dice::new(seed, "test images")),
        };
        let mut of_seed = (0, data(0));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build()?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(refuse(path))?;
        let started = Instant::now();
        let mut done = 0;
        for batch in missing
            .chunk_by(|a, b| a.seed == b.seed)
            .flat_map(|seed| seed.chunks(BATCH))
        {
            if of_seed.0 != batch[0].seed {
                of_seed = (batch[0].seed, data(batch[0].seed));
            }
            let outcomes: Vec<Outcome> = pool.install(|| {
                batch
                    .par_iter()
                    .map(|case| training::run(case, &of_seed.1, schedule))
                    .collect()
            });
            for (case, outcome) in batch.iter().zip(outcomes) {
                writeln!(file, "{}", line(case, outcome, schedule)).map_err(refuse(path))?;
                results.insert(case.key(), outcome);
            }
            done += batch.len();
            let left = started.elapsed().as_secs_f64() / done as f64 * (missing.len() - done) as f64;
            eprintln!(
                "{done} of {} runs, {:.0} s left: {}",
                missing.len(),
                left,
                batch[0].key()
            );
        }
        Ok(())
    }
}

fn refuse(path: &Path) -> impl Fn(io::Error) -> ReproduceError {
    let path = path.to_owned();
    move |source| ReproduceError::File {
        path: path.clone(),
        source,
    }
}

/// One run as a line; accuracies in hundredths of a percent are exact enough.
fn line(case: &Case, outcome: Outcome, schedule: Schedule) -> Value {
    let hundredths = |percent: f64| (percent * 100.0).round() / 100.0;
    json!({
        "case": case.key(),
        "setting": case.setting.name(),
        "split": case.split.name(),
        "faulty": case.faulty,
        "momentum": f64::from(case.momentum_tenths) / 10.0,
        "defence": case.defence.name(),
        "attack": case.attack.name(),
        "seed": case.seed,
        "rounds": schedule.rounds,
        "accuracy": hundredths(outcome.accuracy),
        "worst": hundredths(outcome.worst),
        "unit": "percent",
    })
}

/// The results of earlier runs, by case.
fn read_results(path: &Path, schedule: Schedule) -> Result<BTreeMap<String, Outcome>, ReproduceError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(refuse(path)(error)),
    };
    let mut results = BTreeMap::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(refuse(path))?;
        let value: Value = serde_json::from_str(&line).unwrap_or_default();
        let outcome = || {
            let outcome = Outcome {
                accuracy: value["accuracy"].as_f64()?,
                worst: value["worst"].as_f64()?,
            };
            let same = value["rounds"].as_u64() == Some(schedule.rounds);
            same.then_some((value["case"].as_str()?.to_owned(), outcome))
        };
        let (case, outcome) = outcome().ok_or(ReproduceError::Line {
            path: path.to_owned(),
            line: index + 1,
        })?;
        results.insert(case, outcome);
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_back_and_those_of_another_schedule_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cases.jsonl");
        assert_eq!(read_results(&path, FULL).expect("nothing yet"), BTreeMap::new());
        let cases = case::plan(&[Setting::Federated], &[Split::Iid], &[1], &[9], 1);
        let outcome = Outcome {
            accuracy: 93.25,
            worst: 90.5,
        };
        fs::write(&path, format!("{}\n", line(&cases[0], outcome, FULL))).expect("written");
        let read = read_results(&path, FULL).expect("a line");
        assert_eq!(read, BTreeMap::from([(cases[0].key(), outcome)]));
        let other = Schedule { rounds: 7, ..FULL };
        assert!(matches!(
            read_results(&path, other),
            Err(ReproduceError::Line { line: 1, .. })
        ));
    }
}
