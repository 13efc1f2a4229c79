//! Colours: on a terminal, and not where NO_COLOR is set.

use tokio::process::Command;

use crate::binary::Home;

const RED: &str = "\u{1b}[31m";

/// Runs a command that fails on a terminal of its own (by `script`, of every Debian), and gives what the terminal got.
async fn on_a_terminal(home: &Home, no_color: Option<&str>) -> String {
    let run = format!("'{}' plan llama-9", env!("CARGO_BIN_EXE_fieldfare"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &run, "/dev/null"]);
    script
        .env_remove("NO_COLOR")
        .env("HOME", home.path(""))
        .env("TERM", "xterm");
    if let Some(value) = no_color {
        script.env("NO_COLOR", value);
    }
    let output = script.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn no_color_is_honoured() {
    let home = Home::new();
    let coloured = on_a_terminal(&home, None).await;
    assert!(coloured.contains(RED) && coloured.contains("llama-9"), "{coloured:?}");
    // An empty value counts as none (<https://no-color.org>).
    assert_eq!(on_a_terminal(&home, Some("")).await, coloured);
    let plain = on_a_terminal(&home, Some("1")).await;
    assert!(!plain.contains('\u{1b}') && plain.contains("llama-9"), "{plain:?}");
    let piped = home.run("plan llama-9").await;
    assert!(!piped.stderr.contains('\u{1b}'), "{piped:?}");
}
