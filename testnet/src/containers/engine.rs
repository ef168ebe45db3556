//! Containers through Docker's own commands: `docker`, and `docker compose` or `docker-compose`, whichever there is.
//! It knows one service, `institution`, and two networks; what runs inside is asked through the node's command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::ContainerError;
use crate::processes::{NodeStatus, RoundRow, SessionStatus};

/// What compose reads; `docker-compose.yml` of this folder's parent.
const COMPOSE: &str = include_str!("../../docker-compose.yml");

/// How long containers may take until their nodes answer.
const START_LIMIT: Duration = Duration::from_secs(90);

/// The containers of one project on this machine.
#[derive(Debug, Clone)]
pub struct Engine {
    project: String,
    dir: PathBuf,
    compose: Vec<String>,
}

impl Engine {
    /// The engine of this machine, if it answers, for a project whose files are below `dir`.
    pub fn find(project: &str, dir: &Path) -> Result<Self, ContainerError> {
        let answers = |words: &[&str]| {
            let (program, rest) = words.split_first().expect("a command has a name");
            let done = Command::new(program)
                .args(rest)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            done.is_ok_and(|status| status.success())
        };
        if !answers(&["docker", "info"]) {
            return Err(ContainerError::NoEngine);
        }
        let known: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
        let works = |words: &&[&str]| answers(&[*words, &["version"][..]].concat());
        let compose = known.into_iter().find(works).ok_or(ContainerError::NoCompose)?;
        let dir = std::path::absolute(dir).map_err(ContainerError::io("find", dir))?;
        Ok(Self {
            project: project.to_owned(),
            dir,
            compose: compose.iter().map(|word| (*word).to_owned()).collect(),
        })
    }

    /// Where texts are, a folder `1`, `2`, … for each institution.
    pub fn texts(&self) -> PathBuf {
        self.dir.join("texts")
    }

    /// Starts so many institutions and waits until each one's node answers.
    pub fn up(&self, nodes: usize, image: &str) -> Result<(), ContainerError> {
        let file = self.write_compose()?;
        let scale = format!("institution={nodes}");
        let words = ["up", "--detach", "--scale", &scale];
        self.compose(&file, &words, image)?;
        let begun = Instant::now();
        for node in 1..=nodes {
            while self.status(node).is_err() {
                if begun.elapsed() > START_LIMIT {
                    let log = docker(&["logs", "--tail", "20", &self.container(node)?]).unwrap_or_default();
                    return Err(ContainerError::Silent { node, log });
                }
                std::thread::sleep(Duration::from_millis(300));
            }
        }
        Ok(())
    }

    /// Stops and removes everything: containers, their volumes, networks.
    pub fn down(&self) -> Result<(), ContainerError> {
        let file = self.write_compose()?;
        // Whoever is apart would keep the other network alive.
        for node in self.nodes()? {
            self.disconnect(&self.apart(), node).ok();
        }
        self.compose(&file, &["down", "--volumes", "--timeout", "15"], "")?;
        if docker(&["network", "inspect", &self.apart()]).is_ok() {
            docker(&["network", "rm", &self.apart()])?;
        }
        Ok(())
    }

    fn write_compose(&self) -> Result<PathBuf, ContainerError> {
        std::fs::create_dir_all(self.texts()).map_err(ContainerError::io("make", &self.texts()))?;
        let file = self.dir.join("docker-compose.yml");
        std::fs::write(&file, COMPOSE).map_err(ContainerError::io("write", &file))?;
        Ok(file)
    }

    fn compose(&self, file: &Path, words: &[&str], image: &str) -> Result<String, ContainerError> {
        let (program, rest) = self.compose.split_first().expect("a command has a name");
        let mut command = Command::new(program);
        command
            .args(rest)
            .args(["--project-name", &self.project, "--file"])
            .arg(file)
            .args(words)
            .env("TEXTS", self.texts());
        if !image.is_empty() {
            command.env("SYNOD_IMAGE", image);
        }
        output_of(command)
    }

    /// The numbers of the institutions that there are, whether they run or not.
    pub fn nodes(&self) -> Result<Vec<usize>, ContainerError> {
        let mut nodes: Vec<usize> = self.listed()?.into_iter().map(|(node, _)| node).collect();
        nodes.sort_unstable();
        Ok(nodes)
    }

    /// (number, container id) of each institution.
    fn listed(&self) -> Result<Vec<(usize, String)>, ContainerError> {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let list = docker(&[
            "ps",
            "--all",
            "--filter",
            &project,
            "--filter",
            "label=com.docker.compose.service=institution",
            "--format",
            "{{.Label \"com.docker.compose.container-number\"}} {{.ID}}",
        ])?;
        let one = |line: &str| {
            let (number, id) = line.split_once(' ')?;
            Some((number.parse().ok()?, id.to_owned()))
        };
        Ok(list.lines().filter_map(one).collect())
    }

    fn container(&self, node: usize) -> Result<String, ContainerError> {
        let listed = self.listed()?;
        let nodes = listed.len();
        let found = listed.into_iter().find(|(number, _)| *number == node);
        found
            .map(|(_, id)| id)
            .ok_or(ContainerError::NoSuchNode { node, nodes })
    }

    /// Runs `node …` in an institution's container; what it printed.
    pub fn node(&self, node: usize, arguments: &[&str]) -> Result<String, ContainerError> {
        let container = self.container(node)?;
        docker(&[&["exec", &container, "node"], arguments].concat())
    }

    fn node_json<T: DeserializeOwned>(&self, node: usize, arguments: &[&str]) -> Result<T, ContainerError> {
        serde_json::from_str(&self.node(node, arguments)?).map_err(|error| ContainerError::Unreadable {
            node,
            command: arguments.join(" "),
            reason: error.to_string(),
        })
    }

    /// What an institution's node says of itself.
    pub fn status(&self, node: usize) -> Result<NodeStatus, ContainerError> {
        self.node_json(node, &["status", "--json"])
    }

    /// A session as an institution sees it.
    pub fn session(&self, node: usize, session: &str) -> Result<SessionStatus, ContainerError> {
        let status = self.status(node)?;
        let named = |one: &SessionStatus| one.name == session || one.id == session;
        status
            .sessions
            .into_iter()
            .find(named)
            .ok_or_else(|| ContainerError::NoSession {
                node,
                session: session.to_owned(),
            })
    }

    /// The rounds that an institution has settled.
    pub fn rounds(&self, node: usize, session: &str) -> Result<Vec<RoundRow>, ContainerError> {
        self.node_json(node, &["log", session, "--json"])
    }

    /// Puts a file into an institution's container.
    pub fn put(&self, node: usize, from: &Path, to: &str) -> Result<(), ContainerError> {
        let target = format!("{}:{to}", self.container(node)?);
        docker(&["cp", &from.display().to_string(), &target]).map(drop)
    }

    /// `kill -9`: the container stays, and can be started again.
    pub fn kill(&self, node: usize) -> Result<(), ContainerError> {
        docker(&["kill", &self.container(node)?]).map(drop)
    }

    /// Starts what was killed.
    pub fn start(&self, node: usize) -> Result<(), ContainerError> {
        docker(&["start", &self.container(node)?]).map(drop)
    }

    /// Stops all processes of an institution where they are, as a laptop's lid does.
    pub fn pause(&self, node: usize) -> Result<(), ContainerError> {
        docker(&["pause", &self.container(node)?]).map(drop)
    }

    /// Lets them go on.
    pub fn unpause(&self, node: usize) -> Result<(), ContainerError> {
        docker(&["unpause", &self.container(node)?]).map(drop)
    }

    /// Moves institutions to the other network: they reach one another, and none of those that stay.
    pub fn part(&self, nodes: &[usize]) -> Result<(), ContainerError> {
        if docker(&["network", "inspect", &self.apart()]).is_err() {
            docker(&["network", "create", "--internal", &self.apart()])?;
        }
        for &node in nodes {
            docker(&["network", "connect", &self.apart(), &self.container(node)?])?;
            self.disconnect(&self.together(), node)?;
        }
        Ok(())
    }

    /// Brings all back who were parted. Their addresses may be others than before.
    pub fn heal(&self) -> Result<(), ContainerError> {
        for node in self.nodes()? {
            let container = self.container(node)?;
            let networks = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}";
            let networks = docker(&["inspect", "--format", networks, &container])?;
            if networks.split_whitespace().any(|name| name == self.apart()) {
                docker(&["network", "connect", &self.together(), &container])?;
                self.disconnect(&self.apart(), node)?;
            }
        }
        Ok(())
    }

    fn disconnect(&self, network: &str, node: usize) -> Result<(), ContainerError> {
        docker(&["network", "disconnect", network, &self.container(node)?]).map(drop)
    }

    fn together(&self) -> String {
        format!("{}_institutions", self.project)
    }

    fn apart(&self) -> String {
        format!("{}_apart", self.project)
    }
}

fn docker(words: &[&str]) -> Result<String, ContainerError> {
    let mut command = Command::new("docker");
    command.args(words);
    output_of(command)
}

fn output_of(mut command: Command) -> Result<String, ContainerError> {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let refused = |message: String| ContainerError::Refused {
        command: words.join(" "),
        message,
    };
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| refused(error.to_string()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
