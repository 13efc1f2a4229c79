//! Starts the command.

fn main() {}
