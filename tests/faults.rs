//! The main job under faults, with real `node` processes on loopback: kills, bad data, full disks.
//! No test here asserts how long something takes; each waits for a state, with a generous limit that only ends a hang.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use synod_testnet::processes::{Cluster, NodeBinary, NodeProcess, Plan, ProcessError, SessionStatus};

/// Ends a hang; nothing is expected to take nearly as long.
const LIMIT: Duration = Duration::from_secs(240);

type Outcome = Result<(), ProcessError>;

/// A small decoder whose rounds take a second or so: long enough to be killed in the middle.
fn language_session(rounds: u64) -> String {
    format!(
        "name = 'trial'
        [protocol]
        rounds = {rounds}
        min_members = 2
        begin_members = 4
        quorum_percent = 50
        heartbeat_ms = 250
        lost_after_ms = 2000
        deadline = {{ floor_ms = 2000, cap_ms = 20000, k = 6 }}
        [training]
        local_steps = 10
        batch_sequences = 4
        [training.model.decoder]
        layers = 1
        heads = 2
        width = 32
        context = 32
        [aggregation]
        rule = 'mean'
        "
    )
}

/// Text that differs by institution: words of a small made-up language in an order that the seed decides.
fn write_text(path: &Path, seed: u64) {
    let words = [
        "lumen", "ora", "veni", "terra", "sol", "mare", "ignis", "aqua", "nox", "dies", "via", "pax",
    ];
    let mut state = seed;
    let mut text = String::new();
    while text.len() < 120_000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text += words[(state >> 33) as usize % words.len()];
        text += if state >> 60 == 0 { ".\n" } else { " " };
    }
    fs::write(path, text).expect("the test's folder is writable");
}

struct Trial {
    cluster: Cluster,
    session: String,
    data: Vec<PathBuf>,
    _dir: tempfile::TempDir,
}

/// The same with updates that nobody sees but in sums, of which three of four members lift the masks.
fn summed_session(rounds: u64) -> String {
    let session = language_session(rounds).replace("min_members = 2", "min_members = 3");
    session + "[aggregation.privacy.secure_sum]\nrange = 1.0\n"
}

/// Four nodes in one language session.
fn trial(rounds: u64) -> Result<Trial, ProcessError> {
    trial_of(&language_session(rounds))
}

/// Four nodes in this session.
fn trial_of(session: &str) -> Result<Trial, ProcessError> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data: Vec<PathBuf> = (0..4).map(|node| dir.path().join(format!("text-{node}.txt"))).collect();
    data.iter().zip(1..).for_each(|(path, seed)| write_text(path, seed));
    let cluster = Cluster::start(Plan::new(dir.path().join("nodes"), 4))?;
    let paths: Vec<Option<&Path>> = data.iter().map(|path| Some(path.as_path())).collect();
    let session = cluster.gather(session, &paths)?;
    Ok(Trial {
        cluster,
        session,
        data,
        _dir: dir,
    })
}

impl Trial {
    fn wait(&mut self, what: &str, holds: impl Fn(&SessionStatus) -> bool, nodes: &[usize]) -> Outcome {
        let session = self.session.clone();
        self.cluster.wait_until(what, LIMIT, |cluster| {
            for node in nodes {
                if !holds(&cluster.node(*node).session(&session)?) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// For each round that all of these have settled, one state.
    fn assert_agreement(&self, nodes: &[usize]) -> Outcome {
        let chains: Result<Vec<_>, _> = nodes
            .iter()
            .map(|node| self.cluster.node(*node).rounds(&self.session))
            .collect();
        let chains = chains?;
        let mut compared = 0;
        for row in &chains[0] {
            for other in &chains[1..] {
                if let Some(same) = other.iter().find(|other| other.round == row.round) {
                    assert_eq!(row.state, same.state, "two states of round {}", row.round);
                    compared += 1;
                }
            }
        }
        assert!(compared > 0, "nothing was compared");
        Ok(())
    }

    fn round(&self, node: usize) -> Result<u64, ProcessError> {
        Ok(self.cluster.node(node).session(&self.session)?.round)
    }
}

#[test]
fn a_killed_trainer_is_left_out_and_catches_up() -> Outcome {
    let mut trial = trial(10_000)?;
    trial.wait(
        "training in round 2",
        |session| session.round >= 2 && session.phase == "training",
        &[3],
    )?;
    trial.cluster.node_mut(3).kill()?;
    let round = trial.round(0)?;
    trial.wait(
        "the others settle without it",
        |session| session.round >= round + 3,
        &[0, 1, 2],
    )?;
    trial.cluster.node_mut(3).start()?;
    let round = trial.round(0)?;
    trial.wait("it is back", |session| session.round > round + 1, &[0, 3])?;
    let back = trial.cluster.node(3).status()?.peer;
    let is_used = |session: &SessionStatus| {
        let row = session.last_round.as_ref();
        row.is_some_and(|row| row.participants.iter().any(|used| used.peer == back))
    };
    trial.wait("its updates are used again", is_used, &[0])?;
    trial.assert_agreement(&[0, 1, 2, 3])?;
    trial.cluster.stop()
}

#[test]
fn secure_sums_settle_without_a_killed_member_and_without_a_killed_coordinator() -> Outcome {
    let mut trial = trial_of(&summed_session(10_000))?;
    trial.wait("round 2", |session| session.round >= 2, &[0, 1, 2, 3])?;
    let shown = trial.cluster.node(0).ask(&["session", "show", &trial.session])?;
    assert!(shown.contains("sums of updates, never a single one"), "{shown}");
    for victim in [3, 0] {
        let others: Vec<usize> = (0..4).filter(|node| *node != victim).collect();
        trial.cluster.node_mut(victim).kill()?;
        let round = trial.round(others[0])?;
        trial.wait(
            "the sum of the others settles",
            |session| session.round >= round + 3,
            &others,
        )?;
        trial.cluster.node_mut(victim).start()?;
        let round = trial.round(others[0])?;
        trial.wait("it is back", |session| session.round > round + 1, &[0, 1, 2, 3])?;
    }
    trial.assert_agreement(&[0, 1, 2, 3])?;
    trial.cluster.stop()
}

#[test]
fn a_killed_coordinator_is_replaced_and_the_round_goes_on() -> Outcome {
    let mut trial = trial(10_000)?;
    trial.wait("round 2", |session| session.round >= 2, &[0, 1, 2, 3])?;
    trial.cluster.node_mut(0).kill()?;
    let round = trial.round(1)?;
    trial.wait(
        "the others settle without it",
        |session| session.round >= round + 2,
        &[1, 2, 3],
    )?;
    trial.cluster.node_mut(0).start()?;
    let round = trial.round(1)?;
    trial.wait("it is back", |session| session.round > round + 1, &[0, 1])?;
    trial.assert_agreement(&[0, 1, 2, 3])?;
    trial.cluster.stop()
}

#[test]
fn nodes_killed_again_and_again_contradict_nobody() -> Outcome {
    let mut trial = trial(10_000)?;
    trial.wait("round 1 is settled", |session| session.round >= 2, &[0, 1, 2, 3])?;
    for kill in 0..8_usize {
        let victim = (kill * 3 + 1) % 4;
        // At an arbitrary moment: what is under way differs from kill to kill.
        std::thread::sleep(Duration::from_millis(137 * (kill as u64 + 1) % 900));
        trial.cluster.node_mut(victim).kill()?;
        trial.cluster.node_mut(victim).start()?;
    }
    let mut newest = 0;
    for node in 0..4 {
        newest = newest.max(trial.round(node)?);
    }
    trial.wait("all go on", |session| session.round >= newest + 2, &[0, 1, 2, 3])?;
    trial.assert_agreement(&[0, 1, 2, 3])?;
    trial.cluster.stop()
}

#[test]
fn a_member_whose_data_is_gone_says_so_and_stops_nobody() -> Outcome {
    let mut trial = trial(10_000)?;
    trial.wait("round 2", |session| session.round >= 2, &[0, 1, 2, 3])?;
    trial.cluster.node_mut(3).stop()?;
    fs::remove_file(&trial.data[3]).expect("the test's own file");
    trial.cluster.node_mut(3).start()?;
    let round = trial.round(0)?;
    trial.wait("the others go on", |session| session.round >= round + 3, &[0, 1, 2])?;
    let log = fs::read_to_string(trial.cluster.node(3).log()).expect("nodes keep logs");
    let name = trial.data[3]
        .file_name()
        .expect("a file")
        .to_string_lossy()
        .into_owned();
    assert!(log.contains(&name), "the log names the missing file {name}: {log}");
    trial.cluster.stop()
}

#[test]
fn bad_data_is_refused_at_the_door() -> Outcome {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let cluster = Cluster::start(Plan::new(dir.path().join("nodes"), 2))?;
    let good = dir.path().join("good.txt");
    write_text(&good, 1);
    let session = cluster.create(0, &language_session(3), Some(&good))?;
    let key = cluster.invite(0, &session, &[])?;
    let empty = dir.path().join("empty.txt");
    fs::write(&empty, "").expect("writable");
    let missing = dir.path().join("missing.txt");
    let corrupt = dir.path().join("corrupt.jsonl");
    fs::write(&corrupt, "{\"text\": \"good\"}\n{\"text\": oops\u{0}\n".repeat(900)).expect("writable");
    for path in [&empty, &missing, &corrupt] {
        let path = path.display().to_string();
        let answer = cluster.node(1).run(&["join", &key, "--data", &path])?;
        assert_ne!(answer.code(), Some(0), "{path} was taken");
        assert!(
            answer.stderr.contains(&path),
            "the error names the file: {}",
            answer.stderr
        );
    }
    let answer = cluster
        .node(1)
        .run(&["join", &key, "--data", &good.display().to_string()])?;
    assert_eq!(
        answer.code(),
        Some(0),
        "a refused attempt spends no use: {}",
        answer.stderr
    );
    cluster.stop()
}

#[test]
fn a_second_node_on_one_folder_or_port_is_turned_away() -> Outcome {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let cluster = Cluster::start(Plan::new(dir.path().join("nodes"), 1))?;
    let first = cluster.node(0);
    let again = first.run(&["start"])?;
    assert_eq!(again.code(), Some(2), "{}", again.stderr);
    assert!(again.stderr.contains("running"), "{}", again.stderr);

    let config = fs::read_to_string(first.data_dir().join("config.toml")).expect("init wrote it");
    let other = NodeProcess::new(
        "other",
        NodeBinary::find()?,
        dir.path().join("other"),
        dir.path().join("other.log"),
        Vec::new(),
    );
    other.ask(&["init", "--loopback"])?;
    fs::write(other.data_dir().join("config.toml"), config).expect("writable");
    let taken = other.run(&["start"])?;
    assert_eq!(taken.code(), Some(2), "{}", taken.stderr);
    assert!(taken.stderr.contains("in use"), "{}", taken.stderr);

    fs::write(other.data_dir().join("config.toml"), "[network]\nmdsn = true\n").expect("writable");
    let misspelt = other.run(&["start"])?;
    assert_eq!(misspelt.code(), Some(1), "{}", misspelt.stderr);
    assert!(
        misspelt.stderr.contains("mdsn") && misspelt.stderr.contains("config.toml"),
        "{}",
        misspelt.stderr
    );
    assert!(first.status().is_ok(), "the first one was not disturbed");
    cluster.stop()
}

/// A folder on a file system of its own with so many bytes, unmounted on drop. None where this user may not mount.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, megabytes: u32) -> Option<Self> {
        fs::create_dir_all(&path).ok()?;
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path)
            .output()
            .ok()?;
        mounted.status.success().then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What cannot be unmounted is left to the machine; the test has ended.
        _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_stops_its_own_node_clearly_and_nobody_else() -> Outcome {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let nodes = dir.path().join("nodes");
    let Some(disk) = SmallDisk::mount(nodes.join("node-3"), 48) else {
        println!("skipped: mounting a small file system needs root");
        return Ok(());
    };
    let data: Vec<PathBuf> = (0..4).map(|node| dir.path().join(format!("text-{node}.txt"))).collect();
    data.iter().zip(1..).for_each(|(path, seed)| write_text(path, seed));
    let mut cluster = Cluster::start(Plan::new(&nodes, 4).set("retention.min_free_bytes=0"))?;
    let paths: Vec<Option<&Path>> = data.iter().map(|path| Some(path.as_path())).collect();
    let session = cluster.gather(&language_session(10_000), &paths)?;
    cluster.wait_until("round 2", LIMIT, |cluster| {
        Ok(cluster.node(3).session(&session)?.round >= 2)
    })?;
    // The ballast takes what is left, whatever is written meanwhile.
    let ballast = disk.0.join("ballast");
    let full = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", ballast.display()))
        .output();
    assert!(
        full.is_ok_and(|output| !output.status.success()),
        "dd fills the disk until it is refused"
    );
    let round = cluster.node(0).session(&session)?.round;
    let log = cluster.node(3).log().to_owned();
    let others_go_on = |cluster: &Cluster| -> Result<bool, ProcessError> {
        let mut all = true;
        for node in 0..3 {
            all &= cluster.node(node).session(&session)?.round >= round + 3;
        }
        Ok(all)
    };
    // The node on the full disk may end or go on; `wait_until` would call its end a fault, so it is asked for no more.
    let begun = std::time::Instant::now();
    while !others_go_on(&cluster)? {
        assert!(begun.elapsed() < LIMIT, "the others do not go on");
        std::thread::sleep(Duration::from_millis(300));
    }
    let text = fs::read_to_string(&log).expect("nodes keep logs").to_lowercase();
    assert!(
        text.contains("full") || text.contains("no space"),
        "the log names the reason: {text}"
    );
    cluster.node_mut(3).kill()?;
    drop(disk);
    cluster.stop()
}
