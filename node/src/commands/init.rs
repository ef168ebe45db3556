//! `node init`: an identity and a commented settings file in a fresh folder.
//! It overwrites nothing and talks to nobody.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use synod_config::node_config::{DEFAULT_PORT, TEMPLATE};
use synod_protocol::identity::Identity;
use synod_storage::keys;

use super::Terminal;
use crate::cli::InitArgs;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// Makes the node.
pub fn run(dir: &DataDir, args: &InitArgs, terminal: Terminal) -> Outcome {
    if args.port == u16::MAX {
        return Err(Failure::user(
            "--port 65535: models and updates use the next port, and there is none",
        ));
    }
    if dir.config().exists() {
        return Err(Failure::user(format!(
            "{} exists already: this folder has a node, and nothing is overwritten. Use it, or choose another --data-dir",
            dir.config().display()
        )));
    }
    dir.create().map_err(|error| {
        Failure::environment(format!(
            "cannot make the folder {dir}: {error}; choose another --data-dir"
        ))
    })?;
    // A key without settings is one that was restored, or whose init was cut short: it stays who it is.
    let secret = if dir.key().exists() {
        terminal.tell(format!("keeps  the identity in {}", dir.key().display()));
        keys::load(&dir.key())?
    } else {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|error| Failure::environment(format!("the system gives no random numbers: {error}")))?;
        keys::create(&dir.key(), secret)?;
        secret
    };
    write_settings(dir, &settings_text(args))?;
    terminal.tell(format!("node   {}", Identity::from_secret(secret).peer_id()));
    terminal.tell(format!(
        "folder {dir}   (keep {} secret; nobody can make it again)",
        dir.key().display()
    ));
    terminal.tell(format!(
        "next   look through {}, then `node start`",
        dir.config().display()
    ));
    Ok(())
}

/// The file is there whole or not at all: half of it would start a node with other settings than were asked for.
fn write_settings(dir: &DataDir, text: &str) -> Outcome {
    let path = dir.config();
    let beside = path.with_extension("toml.part");
    let opened = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside);
    let written = opened
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        // A link, unlike a move, does not overwrite what another process has made meanwhile.
        .and_then(|()| std::fs::hard_link(&beside, &path));
    let _ = std::fs::remove_file(&beside);
    written.map_err(|error| Failure::environment(format!("cannot write {}: {error}", path.display())))
}

/// The commented file, with the ports and addresses that were asked for.
fn settings_text(args: &InitArgs) -> String {
    let bulk_port = if args.port == 0 { 0 } else { args.port + 1 };
    let text = TEMPLATE
        .replace(&format!("/{DEFAULT_PORT}"), &format!("/{}", args.port))
        .replace(&format!(":{}", DEFAULT_PORT + 1), &format!(":{bulk_port}"));
    match args.loopback {
        true => text
            .replace("0.0.0.0", "127.0.0.1")
            .replace("mdns = true", "mdns = false"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_config::NodeConfig;

    #[test]
    fn ports_and_addresses_reach_the_file() {
        let text = settings_text(&InitArgs {
            port: 7710,
            loopback: true,
        });
        let config: NodeConfig = toml::from_str(&text).unwrap();
        assert_eq!(
            config.network.listen,
            ["/ip4/127.0.0.1/udp/7710/quic-v1", "/ip4/127.0.0.1/tcp/7710"]
        );
        assert_eq!(config.network.bulk_listen.to_string(), "127.0.0.1:7711");
        assert!(!config.network.mdns);
        let same = settings_text(&InitArgs {
            port: DEFAULT_PORT,
            loopback: false,
        });
        assert_eq!(same, TEMPLATE);
    }
}
