//! Checks histories of lock operations that were written down as JSON lines: `check-history FILE...`, see [`history`].
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

#[path = "history.rs"]
pub mod history;
#[path = "linear.rs"]
pub mod linear;

use std::process::ExitCode;

/// Choices of the search for each key before it is given up, which is no success.
const BUDGET: u64 = 5_000_000;

fn main() -> ExitCode {
    let mut failed = false;
    for file in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&file).map_err(|e| e.to_string());
        match text.and_then(|text| history::read(&text)).and_then(|lines| history::judge(&lines, BUDGET)) {
            Ok(count) => println!("{file}: linearizable, {count} operations"),
            Err(why) => {
                eprintln!("{file}: {why}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
