//! The `testnet` binary: reads the command line and does what it says.
//! Everything is in the library.

fn main() -> std::process::ExitCode {
    synod_testnet::cli::main()
}
