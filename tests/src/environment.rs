//! Numbers that whoever runs the tests may choose.

/// The number in a variable of the environment, said for whoever wants to see the same again.
///
/// # Panics
/// When it is no number.
#[allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests read their configuration here only, and say it"
)]
pub fn number(variable: &str, default: u64) -> u64 {
    let number = std::env::var(variable).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{variable}={text}"))
    });
    println!("{variable}={number}");
    number
}

/// The words in a variable of the environment, where there are any.
#[allow(clippy::disallowed_methods, reason = "tests read their configuration here only")]
pub fn words(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}
