//! `node stop`: asks the running node to stop and waits until it has.
//! It kills nothing.

use std::time::{Duration, Instant};

use synod_storage::lock;

use super::{Terminal, client, converse};
use crate::api::types::Empty;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};
use crate::shutdown;

/// Stops the node.
pub fn run(dir: &DataDir, terminal: Terminal) -> Outcome {
    let client = client(dir)?;
    let _: Empty = converse(async { client.post("/v1/stop", &Empty {}).await })?;
    let patience = shutdown::BOUND + Duration::from_secs(5);
    let asked = Instant::now();
    while let Some(pid) = lock::holder(dir.root()) {
        if asked.elapsed() > patience {
            return Err(Failure::environment(format!(
                "the node (process {pid}) has not stopped after {} s: end it with `kill -9 {pid}`; its journal is safe",
                patience.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    terminal.tell("stopped");
    Ok(())
}
