//! The serving process: the real binary with a real model.

use fieldfare_agent::serving::protocol::{Blame, Finish, Load, Options, Prompt};
use fieldfare_agent::serving::{Engine, Piece, RequestError, StartError};
use fieldfare_lm::example::Example;

use crate::{binary, script, stories};

fn load(weights: std::path::PathBuf) -> Load {
    Load {
        weights,
        adapter: None,
        address_space: 8 << 30,
        context: u32::MAX,
    }
}

/// Greedy continuation of "Once upon a time", from llama2.c's run.c on stories260K.bin (karpathy/llama2.c at 350e04f).
const CONTINUATION: &str = ", there was a little girl named Lily. She loved to play outside in the park.";

#[tokio::test(flavor = "multi_thread")]
async fn a_model_answers_several_requests_in_turn_and_the_same_each_time() {
    let Some(weights) = stories() else { return };
    let engine = Engine::start(&binary(), load(weights)).await.unwrap();
    let ask = |tokens| {
        engine
            .generate(Prompt::Text("Once upon a time".into()), Options::greedy(tokens))
            .unwrap()
    };
    let (first, second) = tokio::join!(ask(40).whole(), ask(40).whole());
    let ((text, summary), (again, _)) = (first.unwrap(), second.unwrap());
    assert!(text.starts_with(CONTINUATION), "{text}");
    assert_eq!(text, again);
    assert_eq!((summary.prompt_tokens, summary.completion_tokens), (5, 40));
    assert!(summary.confidence > 0.0 && summary.confidence <= 1.0 && summary.tokens_per_second > 0.0);
    engine.stop().await;
    assert!(engine.ended().await.contains("told to stop"));
    assert!(matches!(ask_after_the_end(&engine), Err(RequestError::Gone)));
}

fn ask_after_the_end(engine: &Engine) -> Result<(), RequestError> {
    engine.generate(Prompt::Text("x".into()), Options::greedy(1)).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_measures_loss_and_exact_answers() {
    let Some(weights) = stories() else { return };
    let engine = Engine::start(&binary(), load(weights)).await.unwrap();
    let example = |prompt: &str, completion: &str| Example::Completion {
        prompt: prompt.into(),
        completion: completion.into(),
    };
    let examples = vec![
        example("Once upon a time", " nonsense"),
        Example::Text {
            text: "Once upon a time, there was a little girl named Lily.".into(),
        },
    ];
    let measured = engine.evaluate(examples).await.unwrap();
    assert_eq!((measured.examples, measured.completions, measured.exact), (2, 1, 0));
    assert!(measured.loss().unwrap() > 0.0 && measured.tokens > 10);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_end_where_the_granted_memory_does() {
    let Some(weights) = stories() else { return };
    let load = Load {
        context: 20,
        ..load(weights)
    };
    let engine = Engine::start(&binary(), load).await.unwrap();
    assert_eq!(engine.context(), 20);
    let asked = engine.generate(Prompt::Text("Once upon a time".into()), Options::greedy(100));
    let (text, summary) = asked.unwrap().whole().await.unwrap();
    assert!(CONTINUATION.starts_with(&text) && !text.is_empty(), "{text}");
    assert_eq!(summary.finish, Finish::Length);
    assert!(summary.prompt_tokens + summary.completion_tokens <= 21, "{summary:?}");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_is_refused_and_the_others_go_on() {
    let Some(weights) = stories() else { return };
    let engine = Engine::start(&binary(), load(weights)).await.unwrap();
    let long = engine
        .generate(Prompt::Text("word ".repeat(engine.context() * 2)), Options::greedy(4))
        .unwrap();
    assert!(matches!(
        long.whole().await,
        Err(RequestError::Failed {
            blame: Blame::ContextLength,
            ..
        })
    ));
    // A request that is dropped is cancelled: the process takes the next one.
    let mut dropped = engine
        .generate(Prompt::Text("Once".into()), Options::greedy(200))
        .unwrap();
    assert!(matches!(dropped.next().await, Ok(Some(Piece::Text(_)))));
    drop(dropped);
    let next = engine
        .generate(Prompt::Text("Once".into()), Options::greedy(4))
        .unwrap();
    assert_eq!(next.whole().await.unwrap().1.completion_tokens, 4);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_fails_its_requests_and_says_how_it_ended() {
    let Some(weights) = stories() else { return };
    let engine = Engine::start(&binary(), load(weights)).await.unwrap();
    let mut request = engine
        .generate(Prompt::Text("Once".into()), Options::greedy(400))
        .unwrap();
    assert!(matches!(request.next().await, Ok(Some(Piece::Text(_)))));
    let pid = rustix::process::Pid::from_raw(i32::try_from(engine.pid().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(engine.ended().await.contains("signal: 9"));
    let end = loop {
        match request.next().await {
            Ok(Some(Piece::Text(_))) => {}
            other => break other,
        }
    };
    assert!(matches!(end, Err(RequestError::Gone)));
}

/// The process sees what it is told after a request: it ends with 7 where that is to give the request up.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_its_request() {
    let folder = tempfile::tempdir().unwrap();
    let child = script(
        folder.path(),
        "echo '{\"is\":\"hello\",\"protocol\":1}'\nread -r load\necho '{\"is\":\"loaded\",\"context\":64}'\nread -r asked\n\
         read -r next\ncase $next in *cancel*) exit 7;; *) exit 1;; esac",
    );
    let engine = Engine::start(&child, load(folder.path().join("none.gguf")))
        .await
        .unwrap();
    let request = engine
        .generate(Prompt::Text("Once".into()), Options::greedy(400))
        .unwrap();
    drop(request);
    let ended = engine.ended().await;
    assert!(ended.contains("exit status: 7"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serving_process_gets_no_more_address_space_than_it_is_granted() {
    let Some(weights) = stories() else { return };
    let load = Load {
        address_space: 1 << 20,
        ..load(weights)
    };
    let started = Engine::start(&binary(), load).await;
    assert!(started.is_err(), "{started:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_model_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    std::fs::write(&path, b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff").unwrap();
    let refused = Engine::start(&binary(), load(path)).await;
    assert!(matches!(refused, Err(StartError::Load { .. })), "{refused:?}");
    let missing = Engine::start(&binary(), load(folder.path().join("none.gguf")))
        .await
        .unwrap_err();
    assert!(missing.to_string().contains("none.gguf"), "{missing}");
}
