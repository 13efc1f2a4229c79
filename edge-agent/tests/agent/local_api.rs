//! The local API of a running agent, as its owner uses it: examples, consent, the idle policy, an evaluation, and the status.

use std::process::Command;

use fieldfare_agent::agent::Agent;
use fieldfare_agent::clock;
use fieldfare_agent::folder::Folder;
use fieldfare_agent::process::chain;
use fieldfare_fleet::Digest;
use fieldfare_tls::{ServerTrust, https_config};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::binary;
use crate::device::Device;
use crate::fleet::Fleet;
use crate::install::Stage;
use crate::releases::{ANSWER, MODEL, PROMPT, Releases};

/// The owner of a device.
pub(crate) struct Owner {
    pub(crate) client: Client,
    pub(crate) api: String,
    pub(crate) token: String,
}

impl Owner {
    pub(crate) fn of(device: &Device) -> Self {
        Self::at(&device.folder)
    }

    /// The owner of the agent that runs in a folder.
    pub(crate) fn at(folder: &Folder) -> Self {
        let endpoints: Value = serde_json::from_slice(&std::fs::read(folder.endpoints()).unwrap()).unwrap();
        // The API is plain HTTP on loopback; a client still wants to know whom it would trust.
        let nobody = ServerTrust::PinnedAuthority(Digest::from_bytes([0; 32]));
        let tls = https_config(None, &nobody, &clock::time_source()).unwrap();
        Self {
            client: Client::builder()
                .no_proxy()
                .tls_backend_preconfigured(tls)
                .build()
                .unwrap(),
            api: endpoints["api"].as_str().unwrap().to_owned(),
            token: std::fs::read_to_string(folder.api_token()).unwrap().trim().to_owned(),
        }
    }

    /// Asks what the shipped model is known to answer, and gives the release that answered.
    pub(crate) async fn is_answered(&self) -> String {
        let asked = json!({ "model": MODEL, "prompt": PROMPT, "max_tokens": 48, "temperature": 0 });
        let request = self.client.post(format!("{}/v1/completions", self.api));
        let response = request
            .bearer_auth(&self.token)
            .body(asked.to_string())
            .send()
            .await
            .unwrap();
        let answer: Value = response.json().await.unwrap();
        let text = answer["choices"][0]["text"].as_str();
        assert_eq!(text.map(str::trim), Some(ANSWER), "{answer}");
        answer["fieldfare"]["release"].as_str().unwrap().to_owned()
    }

    async fn ask(&self, method: Method, path: &str, body: impl Into<String>) -> (StatusCode, Value) {
        let request = self.client.request(method, format!("{}/fieldfare/v1/{path}", self.api));
        let response = request.bearer_auth(&self.token).body(body.into()).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// Asks for what must be granted.
    pub(crate) async fn granted(&self, method: Method, path: &str, body: impl Into<String>) -> Value {
        let (status, answer) = self.ask(method, path, body).await;
        assert!(status.is_success(), "{status}: {answer}");
        answer
    }

    /// Asks for what must be refused, and gives the sentence.
    async fn refused(&self, method: Method, path: &str, body: impl Into<String>) -> (StatusCode, String) {
        let (status, answer) = self.ask(method, path, body).await;
        assert!(!status.is_success(), "{answer}");
        (status, answer["error"]["message"].as_str().unwrap().to_owned())
    }
}

/// Runs the command line beside the agent.
fn status(device: &Device, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_fieldfare-agent"))
        .args(["status", "--dir"])
        .arg(device.folder.path())
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_keeps_examples_and_says_what_may_be_done_with_them() {
    let Stage {
        device, running, first, ..
    } = Stage::new().await;
    running.stop().await;
    let mut agent = device.run().await;
    let owner = Owner::of(&device);

    let lines = "{\"prompt\": \"zone 1\", \"completion\": \" is dry\"}\n\n{\"text\": \"zone 2 is wet\"}\n";
    let added = owner.granted(Method::POST, "examples", lines).await;
    assert_eq!(added["added"], 2);
    let first_id = added["ids"][0].as_u64().unwrap();
    let (code, sentence) = owner
        .refused(Method::POST, "examples", format!("{lines}nonsense"))
        .await;
    assert!(
        code == StatusCode::BAD_REQUEST && sentence.contains("line 4"),
        "{code}: {sentence}"
    );
    let page = owner.granted(Method::GET, "examples?limit=1", "").await;
    assert_eq!(
        (&page["total"], &page["next"]),
        (&json!(2), &json!(first_id)),
        "nothing of a bad body is kept"
    );
    let better = json!({ "prompt": "zone 1", "completion": " is very dry" });
    owner
        .granted(Method::PUT, &format!("examples/{first_id}"), better.to_string())
        .await;
    let page = owner.granted(Method::GET, "examples", "").await;
    assert_eq!(page["examples"][0]["example"], better);
    let (code, _) = owner.refused(Method::PUT, "examples/99", better.to_string()).await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    owner.granted(Method::DELETE, &format!("examples/{first_id}"), "").await;

    let settings = owner.granted(Method::GET, "settings", "").await;
    assert_eq!(settings["consent"], "given");
    let change =
        json!({ "consent": "withheld", "idle": { "when": { "max_load_per_core": 0.5, "hours_utc": [22, 6] } } });
    let changed = owner.granted(Method::PATCH, "settings", change.to_string()).await;
    assert_eq!(
        (&changed["consent"], &changed["idle"]),
        (&change["consent"], &change["idle"])
    );
    let (_, sentence) = owner
        .refused(Method::PATCH, "settings", json!({ "colour": 1 }).to_string())
        .await;
    assert!(sentence.contains("colour"), "{sentence}");

    let known = json!({ "prompt": PROMPT, "completion": ANSWER });
    let measured = owner.granted(Method::POST, "evaluate", known.to_string()).await;
    assert_eq!(
        (&measured["exact_match"], &measured["release"]),
        (&json!(1.0), &json!(first.text()))
    );
    assert!(measured["loss_nats_per_token"].as_f64().unwrap() < 0.1, "{measured}");

    let told: Value = serde_json::from_str(&status(&device, &["--output", "json"])).unwrap();
    assert_eq!(told["training"]["examples"], 1, "what is measured is not kept");
    assert_eq!(told["settings"]["consent"], "withheld");
    assert_eq!(told["controller"]["state"], "disconnected");
    assert_eq!(told["serving"]["release"], first.text());
    let text = status(&device, &[]);
    for expected in [
        "consent     withheld",
        "examples    1",
        "serving     farm-alert.r1 main",
    ] {
        assert!(text.lines().any(|line| line == expected), "no {expected:?} in\n{text}");
    }
    agent.kill().await.unwrap();

    // What the owner said holds after the end of the process, however it came.
    let mut agent = device.run().await;
    let owner = Owner::of(&device);
    assert_eq!(owner.granted(Method::GET, "settings", "").await["consent"], "withheld");
    assert_eq!(owner.granted(Method::DELETE, "examples", "").await["erased"], 1);
    let stranger = Owner {
        token: "0".repeat(64),
        ..owner
    };
    let (code, _) = stranger.refused(Method::GET, "examples", "").await;
    assert_eq!(code, StatusCode::UNAUTHORIZED);
    agent.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_listens_on_loopback_alone_whatever_the_command_line_says() {
    let fleet = Fleet::new();
    let device = Device::new(&fleet, &Releases::start(&fleet).await);
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let started = Agent::new(device.folder.clone(), Some(everywhere), binary()).await;
    let error = started.expect_err("it is refused");
    assert!(chain(error.as_ref()).contains("loopback"), "{error:#}");
}
