//! The program: everything is in the library, so that tests reach it.

use std::process::ExitCode;

/// Deliveries are many small allocations on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    postrider::cli::main()
}
