//! The command line of `testnet`: its subcommands, and how their results become lines and exit codes.
//! Exit codes: 0 all verdicts as expected, 1 a verdict failed or the input is wrong. Progress goes to standard error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::containers::{ContainerError, Drill, Engine, SESSION, create_session, prepare_texts};
use crate::demo::Demo;
use crate::processes::{Exchange, Soak};
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
    match Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(error) => {
            // Help and version are answers; the rest is a mistake of whoever typed it.
            let code = u8::from(error.use_stderr());
            // A closed terminal needs no help.
            let _ = error.print();
            ExitCode::from(code)
        }
    }
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
    /// Run institutions as containers: bring them up, join them, kill, pause and part them, and see how it ended
    ///
    /// Needs a Docker engine, `docker compose` or `docker-compose`, and the image of a node (`make docker-image`).
    /// `run` does all of it once; its last line of standard output is one JSON object. Exit code 0: all are together
    /// again at the end with one model in every round, and who was cut off settled nothing meanwhile.
    ///
    /// Examples:
    ///   testnet docker run --nodes 4
    ///   testnet docker up --nodes 5
    ///   testnet docker create                        # a session, and all join; or: create FILE
    ///   testnet docker kill 2; testnet docker start 2
    ///   testnet docker pause 3; testnet docker unpause 3
    ///   testnet docker part 4 5; testnet docker heal
    ///   testnet docker status; testnet docker down
    #[command(verbatim_doc_comment)]
    Docker(DockerArgs),
    /// Kill real nodes on this machine at random, again and again, and compare their models round by round
    ///
    /// The last line of standard output is one JSON object. Exit code 0: no two nodes ever held different models of a round,
    /// and all went on after every kill.
    ///
    /// Examples:
    ///   testnet processes --nodes 4 --kills 50
    ///   testnet processes --nodes 5 --kills 1000 --seed 7 --dir /var/tmp/soak
    #[command(verbatim_doc_comment)]
    Processes(ProcessesArgs),
    /// Time the exchange of a round between real nodes on this machine
    ///
    /// The last line of standard output is one JSON object: milliseconds from one settlement to the next, the median of the
    /// rounds, the least and the greatest. The objective is synthetic, and costs little.
    ///
    /// Examples:
    ///   testnet exchange --nodes 2 --parameters 10000000
    ///   testnet exchange --nodes 8 --parameters 1000000 --encoding f32 --rounds 20
    #[command(verbatim_doc_comment)]
    Exchange(ExchangeArgs),
}

#[derive(Debug, Args)]
struct ExchangeArgs {
    /// The folder for nodes and logs, which must not exist
    #[arg(long, default_value = "target/exchange")]
    dir: PathBuf,
    /// Nodes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=64))]
    nodes: u16,
    /// Parameters of the model
    #[arg(long, default_value_t = 10_000_000)]
    parameters: u32,
    /// The encoding of updates
    #[arg(long, default_value = "bf16")]
    encoding: String,
    /// Rounds that are counted
    #[arg(long, default_value_t = 10)]
    rounds: u64,
    /// Shards that the vector is combined in, each by two nodes
    #[arg(long)]
    shards: Option<u32>,
}

impl ExchangeArgs {
    fn run(self) -> ExitCode {
        if self.dir.exists() {
            eprintln!("error: --dir {} exists: remove it, or name another", self.dir.display());
            return ExitCode::from(1);
        }
        let exchange = Exchange {
            root: self.dir,
            nodes: usize::from(self.nodes),
            parameters: self.parameters,
            encoding: self.encoding,
            rounds: self.rounds,
            shards: self.shards,
        };
        match exchange.run() {
            Ok(exchanged) => {
                println!("{}", json!(exchanged));
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
struct ProcessesArgs {
    /// The folder for nodes and logs, which must not exist
    #[arg(long, default_value = "target/soak")]
    dir: PathBuf,
    /// Nodes
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(3..=64))]
    nodes: u16,
    /// How many times one is killed and started again
    #[arg(long, default_value_t = 50)]
    kills: u64,
    /// Who dies when
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl ProcessesArgs {
    fn run(self) -> ExitCode {
        if self.dir.exists() {
            eprintln!("error: --dir {} exists: remove it, or name another", self.dir.display());
            return ExitCode::from(1);
        }
        let soak = Soak {
            root: self.dir,
            nodes: usize::from(self.nodes),
            kills: self.kills,
            seed: self.seed,
        };
        match soak.run(&mut |line| eprintln!("{line}")) {
            Ok(soaked) => {
                println!("{}", json!(soaked));
                ExitCode::from(u8::from(!soaked.passed()))
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(1)
            }
        }
    }
}

#[derive(Debug, Args)]
struct DockerArgs {
    /// The folder for texts and the session's file
    #[arg(long, default_value = "target/docker", global = true)]
    dir: PathBuf,
    /// The name that all containers and networks begin with
    #[arg(long, default_value = "synod-testnet", global = true)]
    project: String,
    #[command(subcommand)]
    verb: DockerVerb,
}

#[derive(Debug, Subcommand)]
enum DockerVerb {
    /// Run the whole drill: a session, a kill, a pause, a partition, and the comparison of all models
    Run {
        /// Institutions
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(4..=64))]
        nodes: u16,
        /// The image of a node
        #[arg(long, default_value = "synod-node")]
        image: String,
        /// Leave everything running at the end
        #[arg(long)]
        keep: bool,
    },
    /// Start so many institutions, each with a text of its own
    Up {
        /// Institutions
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
        nodes: u16,
        /// The image of a node
        #[arg(long, default_value = "synod-node")]
        image: String,
    },
    /// Create a session at institution 1, and let all others join it
    Create {
        /// A session file in place of the drill's
        file: Option<PathBuf>,
    },
    /// Kill institutions, as kill -9 does
    Kill {
        #[arg(required = true)]
        nodes: Vec<usize>,
    },
    /// Start institutions that were killed
    Start {
        #[arg(required = true)]
        nodes: Vec<usize>,
    },
    /// Stop institutions' processes where they are
    Pause {
        #[arg(required = true)]
        nodes: Vec<usize>,
    },
    /// Let them go on
    Unpause {
        #[arg(required = true)]
        nodes: Vec<usize>,
    },
    /// Move institutions to a network of their own
    Part {
        #[arg(required = true)]
        nodes: Vec<usize>,
    },
    /// Bring all back
    Heal,
    /// Show every institution's sessions
    Status,
    /// Remove everything: containers, keys, models
    Down,
}

impl DockerArgs {
    fn run(self) -> ExitCode {
        match self.done() {
            Ok(passed) if passed => ExitCode::SUCCESS,
            Ok(_) => ExitCode::from(1),
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(1)
            }
        }
    }

    fn done(&self) -> Result<bool, ContainerError> {
        let engine = Engine::find(&self.project, &self.dir)?;
        let each = |nodes: &[usize], verb: &dyn Fn(usize) -> Result<(), ContainerError>| {
            nodes.iter().try_for_each(|node| verb(*node)).map(|()| true)
        };
        match &self.verb {
            DockerVerb::Run { nodes, image, keep } => {
                let drill = Drill {
                    nodes: usize::from(*nodes),
                    image: image.clone(),
                    keep: *keep,
                };
                let outcome = drill.run(&engine, &mut |line| eprintln!("{line}"))?;
                println!("{}", json!(outcome));
                Ok(outcome.passed)
            }
            DockerVerb::Up { nodes, image } => {
                prepare_texts(&engine.texts(), usize::from(*nodes))?;
                engine.up(usize::from(*nodes), image)?;
                println!("{nodes} institutions are up");
                Ok(true)
            }
            DockerVerb::Create { file } => {
                let text = match file {
                    Some(path) => std::fs::read_to_string(path).map_err(ContainerError::io("read", path))?,
                    None => SESSION.to_owned(),
                };
                let nodes = engine.nodes()?.len();
                let session = create_session(&engine, &text, nodes)?;
                println!("session {session}: {nodes} institutions are in it");
                Ok(true)
            }
            DockerVerb::Kill { nodes } => each(nodes, &|node| engine.kill(node)),
            DockerVerb::Start { nodes } => each(nodes, &|node| engine.start(node)),
            DockerVerb::Pause { nodes } => each(nodes, &|node| engine.pause(node)),
            DockerVerb::Unpause { nodes } => each(nodes, &|node| engine.unpause(node)),
            DockerVerb::Part { nodes } => engine.part(nodes).map(|()| true),
            DockerVerb::Heal => engine.heal().map(|()| true),
            DockerVerb::Status => {
                for node in engine.nodes()? {
                    match engine.node(node, &["status"]) {
                        Ok(text) => println!("institution {node}\n{text}"),
                        Err(error) => println!("institution {node}: {error}\n"),
                    }
                }
                Ok(true)
            }
            DockerVerb::Down => engine.down().map(|()| true),
        }
    }
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
            Command::Docker(docker) => docker.run(),
            Command::Processes(processes) => processes.run(),
            Command::Exchange(exchange) => exchange.run(),
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
