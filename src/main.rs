//! The binary: hands over to the command line.

use std::process::ExitCode;

/// Gives the room of what was freed back to the system, where the C library's keeps it: what thousands of attempts hold for
/// days lies between what others held for moments.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pinsched::cli::main(std::env::args_os().collect())
}
