//! The binary `node`: reads the command line and does what it says.
//! Everything is in the library, so that tests and tools can use it.

fn main() -> std::process::ExitCode {
    synod_node::cli::run()
}
