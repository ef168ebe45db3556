//! The command line of `testnet`: its subcommands, and how their results become lines and exit codes.
//! Exit codes: 0 all verdicts as expected, 1 a verdict failed or the input is wrong. Progress goes to standard error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::demo::Demo;
use crate::replay;
use crate::reproduce::{CLAIMS, Reproduce};
use crate::simulation::{Checker, Overrides, Report, Scenario, run};

/// Synod's test network.
#[derive(Debug, Parser)]
#[command(
    name = "testnet",
    version,
    about = "Synod's test network: simulated sessions under one seed"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Reads the process's arguments and does what they say.
pub fn main() -> ExitCode {
    Cli::parse().run()
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios in virtual time and check safety, liveness and learning
    ///
    /// Each run prints one line; the last line of standard output is one JSON object.
    ///
    /// Examples:
    ///   testnet simulate testnet/scenarios/baseline.toml
    ///   testnet simulate testnet/scenarios/*.toml --seeds 1..20
    ///   testnet simulate testnet/scenarios/thousand_peers.toml --peers 200 --rounds 5
    #[command(verbatim_doc_comment)]
    Simulate(Simulate),
    /// Train one model over four real nodes on this machine, and compare it with each institution alone
    ///
    /// The last line of standard output is one JSON object. Exit code 0: the joint model is better than every institution
    /// alone on everyone's held-out text, and all nodes hold the same model.
    ///
    /// Examples:
    ///   make demo                                # builds, fetches the texts, and runs this
    ///   testnet demo --dir target/demo
    #[command(verbatim_doc_comment)]
    Demo(DemoArgs),
    /// Regenerate the evidence for a claim about learning, on real images
    ///
    /// `byzantine-table`: the accuracy of ten workers by defence and attack, federated and on graphs, in two files of the
    /// folder: cases.jsonl (a line a run; what is there is not run again) and table.md.
    /// The last line of standard output is one JSON object.
    ///
    /// Examples:
    ///   make reproduce CLAIM=byzantine-table
    ///   testnet reproduce byzantine-table --quick --data /usr/share/datasets/fashion-mnist
    #[command(verbatim_doc_comment)]
    Reproduce(ReproduceArgs),
    /// Tell a machine again what a node has recorded, and compare its answers with those of then
    ///
    /// A node records with `log.record_max_bytes` above 0. Its key is needed, because answers are signed. The last line of
    /// standard output is one JSON object. Exit code 0: every answer is as it was.
    ///
    /// Examples:
    ///   node start --set log.record_max_bytes=67108864
    ///   testnet replay ~/.synod/recordings/SESSION.synr --key ~/.synod/identity.key
    #[command(verbatim_doc_comment)]
    Replay(Replay),
}

#[derive(Debug, Args)]
struct ReproduceArgs {
    /// Which claim
    #[arg(value_parser = CLAIMS)]
    claim: String,
    /// The folder for results
    #[arg(long, default_value = "target/byzantine-table")]
    dir: PathBuf,
    /// The folder of MNIST's four gzipped IDX files [default: $SYNOD_DATA/images/mnist]
    #[arg(long)]
    data: Option<PathBuf>,
    /// A look at it in a minute or two: fewer cases, one seed, half the rounds
    #[arg(long)]
    quick: bool,
    /// Runs side by side
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seeds of each case
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Only runs whose name holds each of these words, as federated, label_sorted, f=1, momentum=0.9, alie_1.5
    #[arg(long, num_args = 1.., value_name = "WORD")]
    only: Vec<String>,
    /// Rounds of each run, in place of the schedule's
    #[arg(long)]
    rounds: Option<u64>,
}

impl ReproduceArgs {
    fn run(self) -> ExitCode {
        let Self {
            claim: _,
            dir,
            data,
            quick,
            threads,
            seeds,
            only,
            rounds,
        } = self;
        let reproduce = Reproduce {
            dir: if quick { dir.join("quick") } else { dir },
            data,
            quick,
            threads,
            seeds,
            only,
            rounds,
        };
        match reproduce.run() {
            Ok(summary) => {
                println!("{summary}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(1)
            }
        }
    }
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// The folder for data, nodes, logs and results
    #[arg(long, default_value = "target/demo")]
    dir: PathBuf,
    /// The node binary [default: $SYNOD_NODE, else the one beside this program]
    #[arg(long)]
    node: Option<PathBuf>,
    /// A session file in place of the demo's own
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Replay {
    /// The recording
    file: PathBuf,
    /// The key of the node that recorded
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

impl Replay {
    fn run(&self) -> ExitCode {
        match replay::run(&self.file, &self.key) {
            Ok(json) => {
                println!("{json}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(1)
            }
        }
    }
}

#[derive(Debug, Args)]
struct Simulate {
    /// Scenario files
    #[arg(required = true)]
    scenarios: Vec<PathBuf>,
    /// The seed, in place of the file's
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run every seed from A to B, both included
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    seeds: Option<(u64, u64)>,
    /// The number of peers, in place of the file's
    #[arg(long)]
    peers: Option<usize>,
    /// The number of rounds, in place of the file's
    #[arg(long)]
    rounds: Option<u64>,
    /// Print each run as a JSON object, too
    #[arg(long)]
    json: bool,
    /// Run every seed twice and compare the digests of the event logs
    #[arg(long)]
    verify_determinism: bool,
    /// Print every event on standard error
    #[arg(long)]
    narrate: bool,
}

impl Cli {
    /// Does what the command line asks for.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Simulate(simulate) => simulate.run(),
            Command::Demo(demo) => demo.run(),
            Command::Reproduce(reproduce) => reproduce.run(),
            Command::Replay(replay) => replay.run(),
        }
    }
}

impl DemoArgs {
    fn run(self) -> ExitCode {
        let Self {
            dir: root,
            node,
            session,
        } = self;
        let logs = root.join("logs");
        match (Demo { root, node, session }).run() {
            Ok(findings) if findings.passed() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::from(1),
            Err(error) => {
                eprintln!("error: {error}\nThe nodes' logs are in {}", logs.display());
                ExitCode::from(1)
            }
        }
    }
}

impl Simulate {
    fn run(&self) -> ExitCode {
        let mut reports = Vec::new();
        for path in &self.scenarios {
            let (first, last) = self
                .seeds
                .map_or((None, None), |(first, last)| (Some(first), Some(last)));
            for seed in first.unwrap_or(0)..=last.unwrap_or(0) {
                let overrides = Overrides {
                    seed: first.map(|_| seed).or(self.seed),
                    peers: self.peers,
                    rounds: self.rounds,
                };
                match Scenario::load(path, overrides) {
                    Ok(scenario) => reports.push(self.run_one(path, &scenario)),
                    Err(error) => {
                        eprintln!("error: {error}");
                        return ExitCode::from(1);
                    }
                }
            }
        }
        let passed = reports.iter().all(|report| report.passed);
        println!(
            "{}",
            if reports.len() == 1 {
                reports[0].to_json()
            } else {
                summary(&reports)
            }
        );
        if passed { ExitCode::SUCCESS } else { ExitCode::from(1) }
    }

    fn run_one(&self, path: &Path, scenario: &Scenario) -> Report {
        let report = run_checked(scenario, self.verify_determinism, self.narrate);
        println!("{}", report.to_line());
        for violation in &report.violations {
            println!("    {violation}");
        }
        if !report.passed {
            println!(
                "    again: testnet simulate {} --seed {} --narrate",
                path.display(),
                scenario.seed
            );
        }
        if self.json {
            println!("{}", report.to_json());
        }
        report
    }
}

/// Runs a scenario; a panic becomes a finding, and with `twice` so does a difference between two runs.
/// A canary of the determinism checker always runs twice.
pub fn run_checked(scenario: &Scenario, twice: bool, narrate: bool) -> Report {
    let attempt = || catch_unwind(AssertUnwindSafe(|| run(scenario, narrate)));
    let caught_by = scenario.expect.caught_by.as_deref();
    let twice = twice || caught_by == Some(Checker::Determinism.name());
    let Ok(mut report) = attempt() else {
        return Report::of_panic(scenario);
    };
    if twice {
        let again = attempt().map(|report| report.event_log_digest);
        if again.as_ref().ok() != Some(&report.event_log_digest) {
            report.found_different(scenario);
        }
    }
    report
}

fn summary(reports: &[Report]) -> String {
    let failed: Vec<_> = reports
        .iter()
        .filter(|report| !report.passed)
        .map(|report| json!({ "scenario": report.scenario, "seed": report.seed, "violations": report.violations }))
        .collect();
    let mut digest = blake3::Hasher::new();
    reports
        .iter()
        .for_each(|report| _ = digest.update(report.event_log_digest.as_bytes()));
    json!({
        "runs": reports.len(),
        "passed": reports.len() - failed.len(),
        "failed": failed,
        "event_log_digest": digest.finalize().to_hex().to_string(),
        "rounds_settled": reports.iter().map(|report| report.settled).sum::<u64>(),
        "takeovers": reports.iter().map(|report| report.takeovers).sum::<u64>(),
        "crashes": reports.iter().map(|report| report.crashes).sum::<u64>(),
        "messages": reports.iter().map(|report| report.messages).sum::<u64>(),
        "bytes": reports.iter().map(|report| report.bytes).sum::<u64>(),
        "virtual_ms": reports.iter().map(|report| report.virtual_ms).sum::<u64>(),
        "wall_s": reports.iter().map(|report| report.wall_s).sum::<f64>(),
    })
    .to_string()
}

fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
    let refuse = || format!("`{text}` is no range of seeds: write it as 1..20");
    let (first, last) = text.split_once("..").ok_or_else(refuse)?;
    let (first, last) = (
        first.parse().map_err(|_| refuse())?,
        last.parse().map_err(|_| refuse())?,
    );
    if first > last {
        return Err(refuse());
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_ranges_of_seeds_read() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        assert_eq!(parse_seeds("1..20"), Ok((1, 20)));
        assert!(parse_seeds("20..1").is_err() && parse_seeds("7").is_err());
    }
}
