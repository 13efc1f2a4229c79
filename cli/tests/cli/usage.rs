//! Completions, wrong usage, and numbers that cannot be.

use crate::binary::{Home, column};

const START: &str = "job start --deployment soil --evaluation held-out.jsonl";

#[tokio::test]
async fn each_shell_gets_completions_of_every_command() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.ok(&format!("completions {shell}")).await;
        for word in ["quickstart", "withdraw", "promote", "epsilon"] {
            assert!(script.contains(word), "{shell} knows no {word:?}");
        }
        let view = home.json(&format!("completions {shell}")).await;
        assert_eq!(view["shell"], shell);
        assert_eq!(view["script"].as_str().unwrap().trim_end(), script.trim_end());
    }
    home.fails(2, "completions cmd", &["possible values", "fish"]).await;
}

#[tokio::test]
async fn what_is_no_command_is_wrong_usage() {
    let home = Home::new();
    home.fails(2, "deplyo", &["deplyo", "deploy"]).await;
    home.fails(2, "rollout stop soil", &["stop"]).await;
    home.fails(2, "context list --output yaml", &["yaml", "table, json"])
        .await;
    home.fails(2, "context list --timeout 0", &["--timeout", "more than 0"])
        .await;
}

#[tokio::test]
async fn a_job_without_a_budget_is_not_started() {
    let home = Home::new();
    home.fails(2, START, &["required", "--epsilon"]).await;
    // Quickstart's fleet is its own, and its budget is said where it runs.
    let help = home.ok("quickstart --help").await;
    assert!(
        help.contains("--epsilon <EPSILON>") && help.contains("[default: 8]"),
        "{help}"
    );
}

#[tokio::test]
async fn impossible_numbers_are_refused_with_what_was_expected() {
    let home = Home::new();
    let cases: [(&str, &[&str], &str); 11] = [
        (
            "--epsilon",
            &["0", "-1", "NaN", "inf", "lots", ""],
            "a finite number above 0",
        ),
        ("--delta", &["0", "1", "-0.1", "NaN"], "above 0 and below 1"),
        ("--sampling-rate", &["0", "2", "-1", "NaN"], "above 0 and at most 1"),
        ("--clip-norm", &["0", "-1", "inf"], "a finite number above 0"),
        ("--noise-multiplier", &["0", "-1", "NaN"], "a finite number above 0"),
        ("--learning-rate", &["-0.1", "NaN"], "0, or a finite number above it"),
        ("--alpha", &["0", "NaN"], "a finite number above 0"),
        ("--rounds", &["0", "-1", "1.5"], "a whole number from 1"),
        ("--quorum", &["0"], "a whole number from 1"),
        ("--round-deadline", &["0", "-5", "x"], "expected seconds"),
        ("--min-loss-gain", &["NaN", "inf"], "a finite number"),
    ];
    for (option, values, expected) in cases {
        for value in values {
            let budget = if option == "--epsilon" { "" } else { "--epsilon 8" };
            let line = format!("{START} {budget} '{option}={value}'");
            home.fails(2, &line, &[option, expected]).await;
        }
    }
    // A negative number is a value, not an option.
    home.fails(2, &format!("{START} --epsilon -1"), &["a finite number above 0"])
        .await;
    home.fails(2, "token create --hours 0", &["a whole number from 1"])
        .await;
    home.fails(2, "deploy soil --release farm --waves 300%", &["is no wave"])
        .await;
    home.fails(2, "deploy soil --release farm --gate speed>=1", &["is no metric"])
        .await;
}

#[tokio::test]
async fn lists_without_a_fleet_are_empty_and_say_so() {
    let home = Home::new();
    assert_eq!(home.ok("context list").await, "none\n");
    assert!(column(&home.json("context list").await, "name").is_empty());
}
