//! The `testnet` binary: parse the command line, run it, exit with its code.
//! Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use synod_testnet::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
