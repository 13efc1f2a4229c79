use super::*;

#[test]
fn the_tail_of_a_log_is_its_last_lines_without_colour() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("x.log");
    let text: String = (0..1000).map(|line| format!("line {line}\n")).collect();
    fs::write(&log, text + "\u{1b}[31mred\u{1b}[0m\n").unwrap();
    let tail = tail(&log);
    assert_eq!(tail.trim_start().lines().count(), LOG_TAIL_LINES);
    assert!(tail.ends_with("line 999\n    red"), "{tail}");
    assert_eq!(super::tail(&folder.path().join("none")), "");
}

/// Processes whose programs are shell scripts: the agent as given, the others as little as possible.
fn processes(folder: &Path, agent: &str) -> (Processes, mpsc::Receiver<Death>) {
    for program in Program::ALL {
        let body = if program == Program::Agent { agent } else { "exit 0" };
        let path = folder.join(program.binary());
        // A process of its own writes it: while a file is open for writing, also in a child that another test has just forked,
        // the kernel does not execute it.
        let written = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 700 \"$1\"",
                "sh",
            ])
            .arg(&path)
            .arg(body)
            .status();
        assert!(written.unwrap().success());
    }
    // With `keep` a program is started as itself, and this test is no `fieldfare` that could become it.
    Processes::new(folder.join("fieldfare"), folder.to_owned(), true).unwrap()
}

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn what_was_started_is_gone_after_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let (mut processes, _deaths) = processes(folder.path(), "touch \"$1\"\nexec sleep 600");
    let ready = folder.path().join("ready");
    processes
        .start("a", Program::Agent, &[ready.as_os_str()], &ready)
        .await
        .unwrap();
    let pid = processes.started()[0].pid;
    assert!(lives(pid));
    processes.stop(Box::pin(std::future::pending())).await;
    assert!(!lives(pid));
}

#[tokio::test]
async fn one_that_ignores_the_request_is_killed_with_its_children_when_patience_ends() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' TERM\nsleep 600 &\necho $! > \"$1.child\"\ntouch \"$1\"\nwhile true; do wait; done";
    let (mut processes, _deaths) = processes(folder.path(), script);
    let ready = folder.path().join("ready");
    processes
        .start("a", Program::Agent, &[ready.as_os_str()], &ready)
        .await
        .unwrap();
    let (pid, child) = (
        processes.started()[0].pid,
        fs::read_to_string(folder.path().join("ready.child")).unwrap(),
    );
    processes.stop(Box::pin(std::future::ready(()))).await;
    assert!(!lives(pid));
    let state = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
    assert!(
        state.is_empty() || state.contains(") Z "),
        "the child lives on: {state}"
    );
}

#[tokio::test]
async fn one_that_dies_is_reported_with_the_end_of_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let (mut processes, mut deaths) = processes(folder.path(), "touch \"$1\"\necho no memory >&2\nexit 7");
    let ready = folder.path().join("ready");
    processes
        .start("a", Program::Agent, &[ready.as_os_str()], &ready)
        .await
        .unwrap();
    let error = deaths.recv().await.unwrap().error().to_string();
    assert!(
        error.contains("a ended early") && error.contains("7") && error.contains("no memory"),
        "{error}"
    );
}

#[tokio::test]
async fn a_command_that_fails_says_what_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let (mut processes, _deaths) = processes(folder.path(), "echo \"no such token: $1\"\nexit 1");
    let error = processes
        .finish("enrol", Program::Agent, &["x".as_ref()])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no such token: x"), "{error}");
    assert!(processes.finish("farm", Program::Trainer, &[]).await.is_ok());
}

#[test]
fn a_missing_program_is_named_with_what_builds_it() {
    let folder = tempfile::tempdir().unwrap();
    let error = Processes::new(folder.path().join("fieldfare"), folder.path().to_owned(), false).unwrap_err();
    assert!(error.to_string().contains("fieldfare-agent"), "{error}");
    assert!(error.downcast_ref::<Advice>().unwrap().next.contains("cargo build"));
}

#[test]
fn a_process_whose_parent_is_another_does_not_start() {
    let error = become_child(1 << 30, &["true".into()]);
    assert!(error.to_string().contains("parent process is gone"), "{error}");
}
