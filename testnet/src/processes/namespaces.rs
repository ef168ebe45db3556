//! Network namespaces as stand-ins for real networks: hosts with addresses of their own, cables, NATs, firewalls, narrow paths.
//! It needs root, `ip` and `nft`, and says which command failed where that is not to be had; it measures nothing.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{NodeBinary, ProcessError};

/// Sets of namespaces made in this process so far: their names must differ.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Some namespaces, deleted when dropped.
#[derive(Debug)]
pub struct Namespaces {
    prefix: String,
    names: Vec<String>,
}

/// One end of a cable.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The namespace.
    pub space: &'a str,
    /// The interface that it gets there, at most 15 characters.
    pub interface: &'a str,
    /// Its address with the bits of its network, `10.1.0.1/24`, say, of either family.
    pub address: &'a str,
}

/// Runs a program with arguments that hold no spaces; else the command and what it printed.
fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{program} {arguments}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

impl Namespaces {
    /// Makes them, each with its loopback; or says why that cannot be done here.
    pub fn make(names: &[&str]) -> Result<Self, String> {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let mut spaces = Self {
            prefix: format!("synod{}-{number}-", std::process::id()),
            names: Vec::new(),
        };
        for name in names {
            run("ip", &format!("netns add {}", spaces.space(name)))?;
            spaces.names.push((*name).to_owned());
            spaces.inside(name, "ip link set lo up")?;
        }
        Ok(spaces)
    }

    fn space(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Runs a command in a namespace; its arguments hold no spaces.
    pub fn inside(&self, name: &str, command: &str) -> Result<(), String> {
        run("ip", &format!("netns exec {} {command}", self.space(name)))
    }

    /// Gives a namespace rules of `nft`, each as the words after `nft`.
    pub fn rules(&self, name: &str, rules: &[&str]) -> Result<(), String> {
        let add = |rule: &&str| self.inside(name, &format!("nft {rule}"));
        rules.iter().try_for_each(add)
    }

    /// Lets a namespace pass on packets of others, of both families.
    pub fn route(&self, name: &str) -> Result<(), String> {
        self.inside(name, "sysctl -q -w net.ipv4.ip_forward=1")?;
        self.inside(name, "sysctl -q -w net.ipv6.conf.all.forwarding=1")
    }

    /// A cable between two namespaces.
    pub fn wire(&self, one: End<'_>, other: End<'_>) -> Result<(), String> {
        let (here, there) = (self.space(one.space), self.space(other.space));
        let (left, right) = (one.interface, other.interface);
        run(
            "ip",
            &format!("link add name {left} netns {here} type veth peer name {right} netns {there}"),
        )?;
        for end in [one, other] {
            let End {
                space,
                interface,
                address,
            } = end;
            // Without the search for doubles an IPv6 address can be used at once.
            let at_once = if address.contains(':') { " nodad" } else { "" };
            self.inside(space, &format!("ip addr add {address} dev {interface}{at_once}"))?;
            self.inside(space, &format!("ip link set {interface} up"))?;
        }
        Ok(())
    }

    /// A program that runs `node` in one of these namespaces, with more flags at its start.
    pub fn node_in(&self, name: &str, folder: &Path, flags: &str) -> Result<NodeBinary, ProcessError> {
        use std::os::unix::fs::PermissionsExt;
        let node = NodeBinary::find()?;
        let path = folder.join(name);
        let (space, node) = (self.space(name), node.path().display());
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *\" start \"*) set -- \"$@\" {flags};; esac\nexec ip netns exec {space} {node} \"$@\"\n"
        );
        fs::write(&path, script).map_err(ProcessError::io("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(ProcessError::io("change", &path))?;
        NodeBinary::at(path)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            // One that is gone already needs no deleting.
            let _gone = run("ip", &format!("netns del {}", self.space(name)));
        }
    }
}
