//! `node start`: runs the node in the foreground.
//! The order of things is in `crate::node`; this only reads the settings and greets.

use std::io::Write;

use super::{Terminal, settings};
use crate::cli::StartArgs;
use crate::compute::Drill;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};
use crate::node::{self, Started};

/// Runs until it is asked to stop.
pub fn run(dir: DataDir, args: &StartArgs, drill: Option<Drill>, terminal: Terminal) -> Outcome {
    let config = settings(&dir, &args.overrides(terminal.verbose)?)?;
    synod_training::tune_allocator();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("async")
        .build();
    let runtime = runtime.map_err(|error| Failure::environment(format!("the system gives no threads: {error}")))?;
    let outcome = runtime.block_on(node::run(dir, config, drill, |started| greet(started, terminal)));
    // What still runs (a blocking read, say) must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}

fn greet(started: &Started, terminal: Terminal) {
    if terminal.quiet {
        return;
    }
    let mut text = format!("node   {}\nfolder {}\n", started.peer, started.data_dir);
    for address in &started.listen {
        text += &format!("listen {address}\n");
    }
    text += "ready; stop with Ctrl-C or `node stop`\n";
    // A node whose greeting nobody reads runs all the same.
    let mut out = std::io::stdout().lock();
    _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
