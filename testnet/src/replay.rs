//! `testnet replay`: a node's recording, told to a machine again in this build.
//! The comparison is `synod_protocol::recording`'s; this reads the two files and prints.

use std::path::Path;

use serde_json::{Value, json};
use synod_protocol::identity::Identity;
use synod_protocol::recording;
use synod_storage::keys;

/// Replays `file` with the key in `key`; the answer is for people and programs alike.
pub fn run(file: &Path, key: &Path) -> Result<Value, String> {
    let secret = keys::load(key).map_err(|error| error.to_string())?;
    let bytes =
        std::fs::read(file).map_err(|error| format!("cannot read the recording {}: {error}", file.display()))?;
    let replayed = recording::replay(&bytes, Identity::from_secret(secret))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(json!({
        "session": replayed.session.to_string(),
        "name": replayed.name,
        "steps": replayed.steps,
        "rounds_settled": replayed.rounds,
        "outputs_digest": hex::encode(replayed.digest),
        "last_step_cut": replayed.cut,
        "equal": true,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_no_recording_is_named_with_its_file() {
        let home = tempfile::tempdir().unwrap();
        let (file, key) = (home.path().join("a.synr"), home.path().join("identity.key"));
        assert!(run(&file, &key).unwrap_err().contains("identity.key"));
        keys::create(&key, [7; 32]).unwrap();
        assert!(run(&file, &key).unwrap_err().contains("a.synr"));
        std::fs::write(&file, "hello").unwrap();
        let refused = run(&file, &key).unwrap_err();
        assert!(
            refused.contains("a.synr") && refused.contains("no recording"),
            "{refused}"
        );
    }
}
