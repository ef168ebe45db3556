//! `testnet demo`: four real nodes on loopback, each with its own real text, train one model together; then each trains
//! alone for as many steps, and all five models are measured on everyone's held-out text.
//! It builds no node and downloads nothing: `make demo` does both before.

mod plot;
mod progress;
mod report;
mod sources;
mod unpack;

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use plot::Figure;
pub use report::{Evaluation, Findings, TextLoss};
pub use sources::{Institution, prepare};
pub use unpack::UnpackError;

use crate::processes::{Cluster, NodeBinary, NodeProcess, Plan, ProcessError, RoundRow};

/// The session that is trained: see the file.
const SESSION_FILE: &str = include_str!("session.toml");
/// Says that a folder is a demo's, and holds the lock of the demo that runs in it.
const MARKER: &str = "demo.lock";
/// The folder in the demo's folder that the download script fills; it survives from run to run.
const DATA: &str = "data";

/// What to run, and where.
#[derive(Debug, Clone)]
pub struct Demo {
    /// The folder for data, nodes, logs and results.
    pub root: PathBuf,
    /// The node binary; none: the one beside this program.
    pub node: Option<PathBuf>,
    /// A session file in place of the demo's own.
    pub session: Option<PathBuf>,
}

/// Why the demo could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A node.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A file or folder of ours.
    #[error("cannot {what} {path}: {reason}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// Two demos at once.
    #[error("another demo is running in {root}: wait for it, or give this one another --dir")]
    Busy {
        /// The folder.
        root: PathBuf,
    },
    /// A folder with other things in it.
    #[error("{root} holds {found} and is no folder of an earlier demo: nothing in it is touched; give an empty --dir")]
    NotOurs {
        /// The folder.
        root: PathBuf,
        /// Something in it.
        found: String,
    },
    /// A text package that was fetched but cannot be read.
    #[error("{file} cannot be read: {reason}; delete it, and `make demo` fetches it again")]
    Package {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: UnpackError,
    },
    /// Neither packages nor enough text on this machine.
    #[error(
        "only {found} of {} unlike texts were found on this machine: run scripts/fetch-demo-data with a network",
        sources::COUNT
    )]
    TooLittleText {
        /// How many there are.
        found: usize,
    },
    /// A session file that is none.
    #[error("the session file is not TOML: {0}")]
    SessionFile(String),
    /// A node that has given up.
    #[error("node {node} does nothing in the session any more: {reason} (log: {log})")]
    Stopped {
        /// Its name.
        node: String,
        /// In its words.
        reason: String,
        /// Where its log is.
        log: PathBuf,
    },
    /// Training takes too long.
    #[error("training did not end within an hour")]
    TooLong,
}

impl DemoError {
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |reason| Self::Io { what, path, reason }
    }
}

impl Demo {
    /// Runs it; what was found, after the nodes were stopped. Results go to standard output, progress to standard error.
    pub fn run(&self) -> Result<Findings, DemoError> {
        let begun = Instant::now();
        let binary = self.node.as_ref().map_or_else(NodeBinary::find, NodeBinary::at)?;
        let _lock = claim(&self.root)?;
        let root = self.root.canonicalize().map_err(DemoError::io("find", &self.root))?;
        remove_earlier(&root, &binary)?;
        let institutions = prepare(&root.join(DATA), |line| eprintln!("note: {line}"))?;
        say("Four institutions, each with its own text:");
        for one in &institutions {
            println!("  {:<12} {:>5.1} MB  {}", one.name, one.bytes as f64 / 1e6, one.source);
        }
        let file = self.session_file()?;

        let mut cluster = start(&root, &institutions, binary)?;
        let (session, joint_s) = train_together(&mut cluster, &institutions, &file)?;
        let (lonely, alone_s) = train_alone(&mut cluster, &institutions, &file)?;
        let findings = measure(&cluster, institutions, session, &lonely, (joint_s, alone_s))?;
        let sample = sample(&cluster, &findings.session)?;
        cluster.stop()?;
        print_results(&findings, &sample)?;
        println!("{}", findings.to_json(begun.elapsed().as_secs_f64()));
        Ok(findings)
    }

    fn session_file(&self) -> Result<String, DemoError> {
        match &self.session {
            Some(path) => fs::read_to_string(path).map_err(DemoError::io("read", path)),
            None => Ok(SESSION_FILE.to_owned()),
        }
    }
}

// ---- before -----------------------------------------------------------------------------------------------------------

/// Takes the folder for this demo alone, making it where it is not there.
fn claim(root: &Path) -> Result<File, DemoError> {
    fs::create_dir_all(root).map_err(DemoError::io("make", root))?;
    let marker = root.join(MARKER);
    if !marker.exists() {
        let entries = fs::read_dir(root).map_err(DemoError::io("read", root))?;
        let mut names = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        if let Some(found) = names.find(|name| name != DATA) {
            return Err(DemoError::NotOurs {
                root: root.to_owned(),
                found,
            });
        }
    }
    let opened = File::options().create(true).truncate(false).write(true).open(&marker);
    let file = opened.map_err(DemoError::io("open", &marker))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DemoError::Busy { root: root.to_owned() }),
        Err(TryLockError::Error(reason)) => Err(DemoError::io("lock", &marker)(reason)),
    }
}

/// Stops nodes that an earlier demo left running, and removes all it made, but not the data.
fn remove_earlier(root: &Path, binary: &NodeBinary) -> Result<(), DemoError> {
    let entries = fs::read_dir(root).map_err(DemoError::io("read", root))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.ends_with(DATA) || path.ends_with(MARKER) {
            continue;
        }
        if synod_storage::lock::holder(&path).is_some() {
            eprintln!(
                "note: stopping the node that an earlier demo left on {}",
                path.display()
            );
            let log = root.join("logs").join("earlier.log");
            NodeProcess::new("earlier", binary.clone(), path.clone(), log, Vec::new()).ask(&["stop"])?;
        }
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(DemoError::io("remove", &path))?;
    }
    Ok(())
}

fn start(root: &Path, institutions: &[Institution], binary: NodeBinary) -> Result<Cluster, DemoError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = (cores / institutions.len()).max(1);
    let plan = Plan {
        root: root.to_owned(),
        names: institutions.iter().map(|one| one.name.clone()).collect(),
        start_flags: vec!["--threads".to_owned(), threads.to_string()],
        binary: Some(binary),
        others: std::collections::BTreeMap::new(),
    };
    say(&format!(
        "Starting four nodes on loopback; their logs are in {}",
        root.join("logs").display()
    ));
    let cluster = Cluster::start(plan)?;
    for node in cluster.nodes() {
        let status = node.status()?;
        println!(
            "  {:<12} process {}, {}",
            node.name(),
            status.pid,
            status.listen.first().map_or("–", String::as_str)
        );
    }
    Ok(cluster)
}

// ---- training ---------------------------------------------------------------------------------------------------------

fn train_together(cluster: &mut Cluster, institutions: &[Institution], file: &str) -> Result<(String, f64), DemoError> {
    say(&format!(
        "{} creates a session; each other node joins by a key of its own",
        institutions[0].name
    ));
    let session = cluster.create(0, file, Some(&institutions[0].folder))?;
    println!(
        "  {0}$ node session create session.toml --data {0}-texts",
        institutions[0].name
    );
    for (index, one) in institutions.iter().enumerate().skip(1) {
        let key = cluster.invite(0, &session, &[])?;
        let short: String = key.chars().take(24).collect();
        println!("  {}$ node join {short}… --data {}-texts", one.name, one.name);
        cluster.join(index, &key, Some(&one.folder))?;
    }
    say("Training together");
    let sessions = vec![session.clone(); institutions.len()];
    let seconds = progress::watch(cluster, &sessions)?;
    Ok((session, seconds))
}

/// Each institution in a session of its own, with the same model, seed, rounds and local steps; all at once.
fn train_alone(
    cluster: &mut Cluster,
    institutions: &[Institution],
    file: &str,
) -> Result<(Vec<String>, f64), DemoError> {
    say("For comparison, each institution alone with the same number of local steps");
    let mut sessions = Vec::new();
    for (index, one) in institutions.iter().enumerate() {
        sessions.push(cluster.create(index, &lonely(file, &one.name)?, Some(&one.folder))?);
    }
    let seconds = progress::watch(cluster, &sessions)?;
    Ok((sessions, seconds))
}

/// The session file for one institution alone.
fn lonely(file: &str, name: &str) -> Result<String, DemoError> {
    let wrong = |error: &dyn std::fmt::Display| DemoError::SessionFile(error.to_string());
    let mut table: toml::Table = file.parse().map_err(|error: toml::de::Error| wrong(&error))?;
    table.insert("name".to_owned(), format!("{name}-alone").into());
    let protocol = table.entry("protocol").or_insert_with(|| toml::Table::new().into());
    let protocol = protocol
        .as_table_mut()
        .ok_or_else(|| wrong(&"`protocol` is no table"))?;
    protocol.insert("min_members".to_owned(), 1.into());
    protocol.remove("begin_members");
    Ok(table.to_string())
}

// ---- after ------------------------------------------------------------------------------------------------------------

fn measure(
    cluster: &Cluster,
    institutions: Vec<Institution>,
    session: String,
    lonely: &[String],
    (joint_s, alone_s): (f64, f64),
) -> Result<Findings, DemoError> {
    say("Measuring all five models on everyone's held-out text");
    let evaluate = |index: usize, session: &str| -> Result<Evaluation, ProcessError> {
        let folders: Vec<String> = institutions
            .iter()
            .map(|one| one.folder.display().to_string())
            .collect();
        let mut arguments = vec!["evaluate", session, "--heldout", "--json"];
        arguments.extend(folders.iter().flat_map(|folder| ["--data", folder]));
        cluster.node(index).ask_json(&arguments)
    };
    let rows = |sessions: &[String]| -> Result<Vec<Vec<RoundRow>>, ProcessError> {
        cluster
            .nodes()
            .iter()
            .zip(sessions)
            .map(|(node, session)| node.rounds(session))
            .collect()
    };
    let export = cluster.root().join("export");
    cluster
        .node(0)
        .ask(&["export", &session, &export.display().to_string()])?;
    Ok(Findings {
        joint: rows(&vec![session.clone(); institutions.len()])?,
        alone: rows(lonely)?,
        joint_union: evaluate(0, &session)?,
        alone_union: lonely
            .iter()
            .enumerate()
            .map(|(index, session)| evaluate(index, session))
            .collect::<Result<_, _>>()?,
        svg: cluster.root().join("loss.svg"),
        institutions,
        session,
        joint_s,
        alone_s,
        export,
    })
}

fn sample(cluster: &Cluster, session: &str) -> Result<String, ProcessError> {
    let flags = [
        "--prompt",
        "The ",
        "--bytes",
        "300",
        "--temperature",
        "0.7",
        "--seed",
        "1",
    ];
    cluster.node(0).ask(&[&["generate", session], &flags[..]].concat())
}

fn print_results(findings: &Findings, sample: &str) -> Result<(), DemoError> {
    let figure = findings.figure();
    fs::write(&findings.svg, figure.to_svg()).map_err(DemoError::io("write", &findings.svg))?;
    say("Each node's rounds (loss in nats a byte on its own held-out text)");
    print!("{}", findings.rounds_table());
    println!("\n{}", figure.to_text());
    say("What each model knows of whose held-out text (nats a byte, lower is better)");
    print!("{}", findings.comparison_table());
    say("A sample of the joint model");
    println!(
        "{}",
        sample
            .trim_end()
            .lines()
            .map(|line| format!("  │ {line}\n"))
            .collect::<String>()
    );
    println!("model   {}   (a Hugging Face folder)", findings.export.display());
    println!("figure  {}", findings.svg.display());
    let (joint, best) = (findings.joint_union.loss, findings.best_alone());
    match findings.digests_equal() {
        true => println!("digests equal at all nodes in all rounds"),
        false => println!("DIGESTS DIFFER between nodes: see the table"),
    }
    match joint < best {
        true => println!("together {joint:.3} is better than the best alone, {best:.3}"),
        false => println!("TOGETHER {joint:.3} IS NOT BETTER than the best alone, {best:.3}"),
    }
    Ok(())
}

fn say(line: &str) {
    println!("\n{line}");
    // Progress goes to the other stream: keep the order.
    _ = std::io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lonely_session_differs_in_name_and_members_alone() {
        let joint: toml::Table = SESSION_FILE.parse().unwrap();
        let mut alone: toml::Table = lonely(SESSION_FILE, "novels").unwrap().parse().unwrap();
        assert_eq!(alone["name"].as_str(), Some("novels-alone"));
        assert_eq!(alone["protocol"]["min_members"].as_integer(), Some(1));
        alone.insert("name".to_owned(), joint["name"].clone());
        alone["protocol"]
            .as_table_mut()
            .unwrap()
            .insert("min_members".to_owned(), 4.into());
        assert_eq!(alone, joint);
    }

    #[test]
    fn the_session_can_be_founded() {
        for text in [SESSION_FILE.to_owned(), lonely(SESSION_FILE, "a").unwrap()] {
            let file = synod_config::load::parse_session("session.toml", &text).unwrap();
            file.found(synod_protocol::identity::PeerId([7; 32]), 1_700_000_000)
                .unwrap();
        }
    }

    #[test]
    fn only_our_own_folders_are_taken_and_only_once_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("demo");
        fs::create_dir_all(root.join(DATA)).unwrap();
        let lock = claim(&root).unwrap();
        assert!(matches!(claim(&root), Err(DemoError::Busy { .. })));
        drop(lock);
        fs::write(root.join("loss.svg"), "old").unwrap();
        drop(claim(&root).unwrap());
        fs::write(folder.path().join("thesis.tex"), "dear").unwrap();
        assert!(matches!(claim(folder.path()), Err(DemoError::NotOurs { .. })));
    }
}
