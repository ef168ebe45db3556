//! Four institutions as containers: one is killed, one sleeps, one is cut off, and all hold the same models at the end.
//! It makes the image from the tests' own binary. Without a Docker engine, or a base to build on, it says so and passes.

use std::path::{Path, PathBuf};
use std::process::Command;

use synod_testnet::containers::{ContainerError, Drill, Engine};
use synod_testnet::processes::NodeBinary;

const PROJECT: &str = "synod-test";
const IMAGE: &str = "synod-node-test";

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The image, if there is a base here, or one can be had.
fn build_image(folder: &Path) -> Result<(), String> {
    let has = |image: &str| succeeds(Command::new("docker").args(["image", "inspect", image]));
    let mut base = "synod-base";
    if !has(base) && succeeds(Command::new("docker").args(["pull", "debian:bookworm-slim"])) {
        base = "debian:bookworm-slim";
    }
    if !has(base) && !succeeds(Command::new(root().join("scripts/docker-base")).arg(base)) {
        return Err("no registry of images is reached, and scripts/docker-base makes no base here".to_owned());
    }
    let binary = NodeBinary::find().map_err(|error| error.to_string())?;
    std::fs::copy(binary.path(), folder.join("node")).map_err(|error| error.to_string())?;
    let built = Command::new("docker")
        .args(["build", "--target", "prebuilt", "--tag", IMAGE])
        .args(["--build-arg", &format!("BASE={base}"), "--file"])
        .arg(root().join("testnet/Dockerfile"))
        .arg(folder)
        .output()
        .map_err(|error| error.to_string())?;
    assert!(
        built.status.success(),
        "the image is built: {}",
        String::from_utf8_lossy(&built.stderr)
    );
    Ok(())
}

#[test]
fn containers_agree_though_one_is_killed_one_sleeps_and_one_is_cut_off() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let engine = match Engine::find(PROJECT, folder.path()) {
        Ok(engine) => engine,
        Err(error @ (ContainerError::NoEngine | ContainerError::NoCompose)) => {
            eprintln!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    if let Err(reason) = build_image(folder.path()) {
        eprintln!("skipped: {reason}");
        return;
    }
    // What an earlier run that was stopped has left.
    engine.down().expect("what is there can be removed");
    let drill = Drill {
        nodes: 4,
        image: IMAGE.to_owned(),
        keep: false,
    };
    let mut told = Vec::new();
    let ended = drill.run(&engine, &mut |line| told.push(line.to_owned()));
    let outcome = ended.unwrap_or_else(|error| panic!("{error}\nafter: {told:#?}"));
    assert!(outcome.passed, "{outcome:?}\nafter: {told:#?}");
    assert!(
        outcome.settled_meanwhile.values().all(|rounds| *rounds >= 2),
        "{outcome:?}"
    );
}
