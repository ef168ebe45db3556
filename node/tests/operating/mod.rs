//! A node's folder and process for tests that type commands at the real binary.
//! It knows no session and no key.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One node's folder, and its process while it runs.
pub struct Node {
    pub home: tempfile::TempDir,
    pub process: Option<Child>,
}

/// What a command said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Node {
    /// A folder without a node.
    pub fn nowhere() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            process: None,
        }
    }

    /// A folder with a node that listens on loopback, on ports that the system chooses.
    pub fn new() -> Self {
        let node = Self::nowhere();
        node.ok("init --port 0 --loopback");
        node
    }

    /// The same, running.
    pub fn running() -> Self {
        let mut node = Self::new();
        node.start();
        node
    }

    pub fn dir(&self) -> PathBuf {
        self.home.path().join("node")
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
        command.arg("--data-dir").arg(self.dir()).args(line.split_whitespace());
        command
    }

    pub fn say(&self, line: &str) -> Said {
        Said::of(self.command(line).output().unwrap())
    }

    /// The same with something on standard input.
    pub fn say_with_input(&self, line: &str, input: &str) -> Said {
        let mut command = self.command(line);
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Said::of(process.wait_with_output().unwrap())
    }

    pub fn ok(&self, line: &str) -> String {
        let said = self.say(line);
        assert_eq!(said.code, 0, "`node {line}`: {}", said.err);
        said.out
    }

    pub fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(line)).unwrap()
    }

    /// The command is refused with this exit code, with all of these words, in at most two lines and without a panic.
    pub fn refused(&self, line: &str, code: i32, words: &[&str]) {
        check_refusal(line, &self.say(line), code, words);
    }

    pub fn start(&mut self) {
        let log = std::fs::File::create(self.home.path().join("log")).unwrap();
        self.process = Some(self.command("start").stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let began = Instant::now();
        while self.say("status").code != 0 {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "the node does not start: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap()
    }

    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have stopped already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub fn check_refusal(line: &str, said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, code, "`node {line}`: {} {}", said.out, said.err);
    for word in words {
        assert!(
            said.err.contains(word),
            "`node {line}` does not say `{word}`: {}",
            said.err
        );
    }
    assert!(
        said.err.lines().count() <= 2 && !said.err.contains("panicked"),
        "`node {line}`: {}",
        said.err
    );
}

pub fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
