//! A guard beside each node: a shell that ends the node when this program ends, however it ends, `kill -9` included.
//! It knows of our death because the pipe that we hold closes; it does nothing while we live.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// What the shell does: wait for a word; without one (the pipe was closed) stop the node, after six seconds by force.
const SCRIPT: &str = r#"
read -r word && exit 0
kill -TERM "$1" 2>/dev/null
for tenth in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
    kill -0 "$1" 2>/dev/null || exit 0
    sleep 0.2
done
kill -KILL "$1" 2>/dev/null
"#;

/// The guard of one process.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// Watches over process `pid`. The guard has its own process group: Ctrl-C on the terminal reaches only us.
    pub fn over(pid: u32) -> std::io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "guard", &pid.to_string()]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        command.spawn().map(Self)
    }

    /// The process has ended and was waited for: its number may soon be another's, so the guard goes without a shot.
    pub fn dismiss(mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            // A guard that is gone already needs no word.
            _ = pipe.write_all(b"ended\n");
        }
        _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").process_group(0).spawn().unwrap()
    }

    #[test]
    fn a_guard_whose_pipe_closes_ends_the_process() {
        let mut child = sleeper();
        let mut guard = Guard::over(child.id()).unwrap();
        drop(guard.0.stdin.take());
        assert!(!child.wait().unwrap().success());
        guard.0.wait().unwrap();
    }

    #[test]
    fn a_guard_that_is_dismissed_leaves_it() {
        let mut child = sleeper();
        Guard::over(child.id()).unwrap().dismiss();
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
