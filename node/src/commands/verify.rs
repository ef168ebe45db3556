//! `node verify SESSION|FILE`: whether a session's settlements hold, by their signatures and by arithmetic.
//! It reads the running node, a stopped node's store, or a file; it asks nobody and changes nothing.

use std::io::Write;
use std::path::Path;

use synod_storage::blobs::BlobStore;

use super::model_source::chain_of;
use super::{Terminal, short};
use crate::cli::VerifyArgs;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};
use crate::settled_chain::{SettledChain, Verified};

/// Checks, and says what was found.
pub fn run(dir: &DataDir, args: &VerifyArgs, terminal: Terminal) -> Outcome {
    let path = Path::new(&args.session);
    let (chain, blobs) = match path.is_file() {
        true => {
            let bytes = std::fs::read(path).map_err(|error| Failure::user(format!("{}: {error}", path.display())))?;
            let chain = SettledChain::from_bytes(&bytes);
            (
                chain.map_err(|error| Failure::user(format!("{}: {error}", path.display())))?,
                None,
            )
        }
        false => (chain_of(dir, &args.session)?, Some(BlobStore::open_to_read(dir.root()))),
    };
    let verified = chain.verify(blobs.as_ref())?;
    if let Some(fault) = &verified.fault {
        if args.json {
            terminal.print_json(&verified);
        }
        return Err(Failure::user(format!(
            "session `{}`: the settlement of round {} does not hold: {}; the rounds before it do",
            chain.config.name, fault.round, fault.what
        )));
    }
    if verified.state.is_empty() {
        let name = &chain.config.name;
        return Err(Failure::user(format!(
            "session `{name}` has settled nothing yet, not even its founding: there is nothing to verify"
        )));
    }
    if let Some(path) = &args.write {
        write(path, &chain.to_bytes())?;
    }
    match args.json {
        true => terminal.print_json(&verified),
        false => terminal.print(sentence(&chain.config.name, &verified)),
    }
    Ok(())
}

/// With the whole id of the session: it is what somebody compares who has it from elsewhere.
fn sentence(name: &str, verified: &Verified) -> String {
    let mut text = format!(
        "session `{name}` ({}): the certificates of rounds 0 to {} hold; the state is {}",
        verified.session,
        verified.rounds,
        short(&verified.state)
    );
    text += &format!(
        "\n{} states were computed again, and are the same",
        verified.recomputed.len()
    );
    if let Some(why) = &verified.not_recomputed {
        text += &format!("; others were not: {why}");
    }
    text
}

fn write(path: &Path, bytes: &[u8]) -> Outcome {
    let place = path.display();
    let file = std::fs::File::create_new(path);
    let mut file = file.map_err(|error| Failure::user(format!("--write {place}: {error}")))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // The first error is the one that matters.
        std::fs::remove_file(path).ok();
        Failure::environment(format!("--write {place}: {error}"))
    })
}
