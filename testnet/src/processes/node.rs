//! One `node` process with its data directory and its log: made, started, asked, killed, restarted.
//! It talks to the node only as an operator does, by running the binary's commands.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::guard::Guard;
use super::{NodeBinary, NodeStatus, ProcessError, RoundRow, SessionStatus};

/// A command of ours that takes longer than this is ended: every command of `node` but `start` answers or gives up sooner.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);
/// A node that does not answer so long after its start is taken for broken, even on a machine that is busy building.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often a process is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Addresses of Unix sockets have at most 107 bytes on Linux.
const SOCKET_PATH_BYTES: usize = 107;
/// Lines of a log that an error shows.
const TAIL_LINES: usize = 15;

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    /// The exit code; none where a signal ended it (our own one, when it took too long).
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// One node.
#[derive(Debug)]
pub struct NodeProcess {
    name: String,
    binary: NodeBinary,
    data_dir: PathBuf,
    log: PathBuf,
    start_flags: Vec<String>,
    running: Option<(Child, Guard)>,
}

impl NodeProcess {
    /// A node that is not made or started yet. `start_flags` go to `node start`.
    pub fn new(name: &str, binary: NodeBinary, data_dir: PathBuf, log: PathBuf, start_flags: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            binary,
            data_dir,
            log,
            start_flags,
            running: None,
        }
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What it has logged, over all its starts.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..]
            .iter()
            .map(|line| format!("    {line}\n"))
            .collect()
    }

    /// Whether it was started and we have not stopped it.
    pub fn is_started(&self) -> bool {
        self.running.is_some()
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|(child, _)| child.id())
    }

    // ---- its life ---------------------------------------------------------------------------------------------------

    /// `node init` on loopback at this port and the next, unless the folder holds a node already.
    pub fn init(&self, port: u16) -> Result<(), ProcessError> {
        if self.data_dir.join("config.toml").exists() {
            return Ok(());
        }
        self.ask(&["init", "--loopback", "--port", &port.to_string()])?;
        self.shorten_socket()
    }

    /// A socket in a deep folder cannot be bound: then it goes to the folder for temporary files.
    fn shorten_socket(&self) -> Result<(), ProcessError> {
        if self.data_dir.join("node.sock").as_os_str().len() <= SOCKET_PATH_BYTES {
            return Ok(());
        }
        let socket = std::env::temp_dir().join(format!("synod-{}-{}.sock", std::process::id(), self.name));
        let config = self.data_dir.join("config.toml");
        let text = fs::read_to_string(&config).map_err(ProcessError::io("read", &config))?;
        let text = text.replace("\"node.sock\"", &format!("\"{}\"", socket.display()));
        fs::write(&config, text).map_err(ProcessError::io("write", &config))
    }

    /// `node start`, and waits until it answers.
    pub fn start(&mut self) -> Result<(), ProcessError> {
        assert!(self.running.is_none(), "node {} is started already", self.name);
        let mut command = self.command();
        command.arg("start").args(&self.start_flags);
        let log = self.open_log()?;
        command
            .stdout(log.try_clone().map_err(ProcessError::io("open", &self.log))?)
            .stderr(log);
        // In its own process group: Ctrl-C on the terminal reaches us alone, and the guard stops the node in order.
        command.stdin(Stdio::null()).process_group(0);
        let mut child = command.spawn().map_err(ProcessError::io("run", self.binary.path()))?;
        match Guard::over(child.id()) {
            Ok(guard) => self.running = Some((child, guard)),
            Err(error) => {
                // Without its guard it might outlive us.
                _ = child.kill().and_then(|()| child.wait());
                return Err(ProcessError::io("run", "/bin/sh")(error));
            }
        }
        self.await_answer()
    }

    fn await_answer(&mut self) -> Result<(), ProcessError> {
        let started = Instant::now();
        while self.run(&["status", "--json"])?.code() != Some(0) {
            self.check_alive("it started")?;
            if started.elapsed() > START_LIMIT {
                return Err(ProcessError::TimedOut {
                    what: format!("node {} answers after its start", self.name),
                    seconds: START_LIMIT.as_secs(),
                    state: format!("; its log {} ends with:\n{}", self.log.display(), self.log_tail()),
                });
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn open_log(&self) -> Result<File, ProcessError> {
        if let Some(folder) = self.log.parent() {
            fs::create_dir_all(folder).map_err(ProcessError::io("make", folder))?;
        }
        let opened = OpenOptions::new().create(true).append(true).open(&self.log);
        opened.map_err(ProcessError::io("open", &self.log))
    }

    /// An error if it ended though nobody asked it to; then it counts as not started.
    pub fn check_alive(&mut self, during: &str) -> Result<(), ProcessError> {
        let Some((child, _)) = &mut self.running else {
            return Ok(());
        };
        let Some(status) = child
            .try_wait()
            .map_err(ProcessError::io("wait for", self.binary.path()))?
        else {
            return Ok(());
        };
        self.forget();
        Err(ProcessError::Ended {
            node: self.name.clone(),
            status,
            during: during.to_owned(),
            log: self.log.clone(),
            tail: self.log_tail(),
        })
    }

    /// `kill -9`, and waits until it is gone. Nothing happens where it is not started.
    pub fn kill(&mut self) -> Result<(), ProcessError> {
        let Some((child, _)) = &mut self.running else {
            return Ok(());
        };
        child
            .kill()
            .and_then(|()| child.wait())
            .map_err(ProcessError::io("kill", self.binary.path()))?;
        self.forget();
        Ok(())
    }

    /// Sends a signal by its name: `INT`, `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) -> Result<(), ProcessError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // The shell's own kill: small systems have no other.
        let sent = Command::new("/bin/sh")
            .args(["-c", "kill -s \"$1\" \"$2\"", "signal", name, &pid.to_string()])
            .status();
        sent.map(|_| ()).map_err(ProcessError::io("run", "/bin/sh"))
    }

    /// `node stop`, and waits for the process; by force where that does not help within the node's own bound.
    pub fn stop(&mut self) -> Result<(), ProcessError> {
        if self.running.is_none() {
            return Ok(());
        }
        let asked = self.ask(&["stop"]);
        match self.await_exit(Duration::from_secs(15))? {
            Some(_) => Ok(()),
            None => {
                self.kill()?;
                asked.map(|_| ())
            }
        }
    }

    /// Waits until the process has ended by itself; none where it has not within `limit`.
    pub fn await_exit(&mut self, limit: Duration) -> Result<Option<ExitStatus>, ProcessError> {
        let begun = Instant::now();
        let Some((child, _)) = &mut self.running else {
            return Ok(Some(ExitStatus::from_raw(0)));
        };
        loop {
            let ended = child
                .try_wait()
                .map_err(ProcessError::io("wait for", self.binary.path()))?;
            if ended.is_some() {
                self.forget();
                return Ok(ended);
            }
            if begun.elapsed() > limit {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }

    fn forget(&mut self) {
        if let Some((_, guard)) = self.running.take() {
            guard.dismiss();
        }
    }

    // ---- what it says -----------------------------------------------------------------------------------------------

    /// `node status --json`.
    pub fn status(&self) -> Result<NodeStatus, ProcessError> {
        self.ask_json(&["status", "--json"])
    }

    /// One session at this node, by name or id.
    pub fn session(&self, session: &str) -> Result<SessionStatus, ProcessError> {
        let found = self
            .status()?
            .sessions
            .into_iter()
            .find(|one| one.name == session || one.id == session);
        found.ok_or_else(|| ProcessError::NoSession {
            node: self.name.clone(),
            session: session.to_owned(),
        })
    }

    /// `node log SESSION --json`: its settled rounds.
    pub fn rounds(&self, session: &str) -> Result<Vec<RoundRow>, ProcessError> {
        self.ask_json(&["log", session, "--json"])
    }

    /// Runs a command that must succeed; its standard output.
    pub fn ask(&self, arguments: &[&str]) -> Result<String, ProcessError> {
        let answer = self.run(arguments)?;
        match answer.code() {
            Some(0) => Ok(answer.stdout),
            _ => Err(ProcessError::Refused {
                node: self.name.clone(),
                command: arguments.join(" "),
                code: answer.status,
                message: answer.stderr.trim().to_owned(),
                log: self.log.clone(),
            }),
        }
    }

    /// Runs a command that must succeed and print JSON.
    pub fn ask_json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, ProcessError> {
        serde_json::from_str(&self.ask(arguments)?).map_err(|error| ProcessError::Unreadable {
            node: self.name.clone(),
            command: arguments.join(" "),
            reason: error.to_string(),
        })
    }

    /// Runs a command on this node's folder, whatever comes of it.
    pub fn run(&self, arguments: &[&str]) -> Result<Answer, ProcessError> {
        self.run_for(arguments, COMMAND_LIMIT)
    }

    /// The same with a limit of its own; a command that takes longer is killed.
    pub fn run_for(&self, arguments: &[&str], limit: Duration) -> Result<Answer, ProcessError> {
        let mut command = self.command();
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let binary = self.binary.path();
        let mut child = command.spawn().map_err(ProcessError::io("run", binary))?;
        // Both pipes are read while it runs: a full pipe would stop it.
        let stdout = child.stdout.take().map(|pipe| std::thread::spawn(|| read_all(pipe)));
        let stderr = child.stderr.take().map(|pipe| std::thread::spawn(|| read_all(pipe)));
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        let status = loop {
            match child.try_wait().map_err(ProcessError::io("wait for", binary))? {
                Some(status) => break status,
                None if begun.elapsed() > limit => {
                    child.kill().map_err(ProcessError::io("kill", binary))?;
                    break child.wait().map_err(ProcessError::io("wait for", binary))?;
                }
                None => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(POLL);
        };
        let text = |reader: Option<std::thread::JoinHandle<String>>| {
            reader.map_or_else(String::new, |reader| {
                reader.join().expect("reading a pipe does not panic")
            })
        };
        Ok(Answer {
            status,
            stdout: text(stdout),
            stderr: text(stderr),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.binary.path());
        command.arg("--data-dir").arg(&self.data_dir);
        command
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Its journal survives this, and there is nobody left to tell of an error.
        _ = self.kill();
    }
}

fn read_all(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    // What came before an error is still worth showing.
    _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that behaves as asked in place of a node.
    fn stand_in(folder: &Path, script: &str) -> NodeProcess {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join("node");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let binary = NodeBinary::at(&path).unwrap();
        NodeProcess::new("a", binary, folder.join("a"), folder.join("a.log"), Vec::new())
    }

    #[test]
    fn answers_and_refusals_come_back_with_their_words() {
        let folder = tempfile::tempdir().unwrap();
        let node = stand_in(folder.path(), "echo \"$3\"; echo oh >&2; [ \"$3\" = good ]");
        assert_eq!(node.ask(&["good"]).unwrap(), "good\n");
        let error = node.ask(&["bad"]).unwrap_err().to_string();
        assert!(error.contains("`node bad` at a") && error.contains("oh"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let node = stand_in(folder.path(), "exec sleep 60");
        let answer = node.run_for(&["status"], Duration::from_millis(100)).unwrap();
        assert_eq!(answer.code(), None);
    }

    #[test]
    fn a_node_that_ends_at_its_start_is_reported_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut node = stand_in(
            folder.path(),
            "[ \"$3\" = start ] && echo 'error: the port is in use'; exit 2",
        );
        let error = node.start().unwrap_err().to_string();
        assert!(
            error.contains("exit status: 2") && error.contains("the port is in use"),
            "{error}"
        );
        assert!(!node.is_started());
    }

    #[test]
    fn a_node_runs_until_it_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut node = stand_in(folder.path(), "[ \"$3\" = start ] && exec sleep 60; exit 0");
        node.start().unwrap();
        node.check_alive("nothing").unwrap();
        assert_eq!(node.await_exit(Duration::from_millis(50)).unwrap(), None);
        node.kill().unwrap();
        assert!(!node.is_started());
    }
}
