//! The log of a controller that is killed.

use super::*;

/// The real process, which is killed.
struct Process {
    child: Child,
    client: OperatorClient<Channel>,
}

impl Process {
    fn command(line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fieldfare-controller"));
        command
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn start(folder: &Path) -> Self {
        let dir = folder.to_str().unwrap();
        let ports = ["grpc", "artifact", "metrics"].map(|of| format!("--{of}-listen 127.0.0.1:0"));
        let run = format!("run --dir {dir} --log error {}", ports.join(" "));
        let mut child = Self::command(&run).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.as_mut().unwrap());
        tokio::time::timeout(PATIENCE, out.read_line(&mut line))
            .await
            .unwrap()
            .unwrap();
        let endpoint = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("grpc="))
            .unwrap();
        let endpoint: Endpoint = endpoint.parse().unwrap();
        let operator = Identity::load(&folder.join("operator")).unwrap().unwrap();
        let trust = ServerTrust::by(&operator, ExpectedServer::Controller);
        let time = fieldfare_controller::clock::system();
        let link = fieldfare_tls::connect(&endpoint, Some(&IdentityHandle::new(operator)), &trust, &time).await;
        Self {
            child,
            client: OperatorClient::new(link.unwrap().channel()),
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_in_the_log_of_a_killed_controller() {
    let folder = tempfile::tempdir().unwrap();
    let made = Process::command(&format!("init --dir {}", folder.path().display()))
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let (mut asked, mut acknowledged) = (0_u8, Vec::new());
    for kill_after in [1, 5, 12, 3] {
        let mut process = Process::start(folder.path()).await;
        // Several at once, so that some are under way when the process dies.
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..kill_after + 6 {
            asked += 1;
            let (mut client, name) = (process.client.clone(), format!("token-{asked}"));
            let request = CreateTokenRequest {
                name: name.clone(),
                secret_hash: vec![asked; 32],
                ..device_token()
            };
            calls.spawn(async move { client.create_token(request).await.is_ok().then_some(name) });
        }
        let mut answered = 0;
        while let Some(name) = calls.join_next().await {
            acknowledged.extend(name.unwrap());
            answered += 1;
            if answered == kill_after {
                process.child.start_kill().unwrap();
            }
        }
        process.child.wait().await.unwrap();
        let events = events(folder.path());
        let logged: BTreeMap<String, Option<Code>> = (0_u64..)
            .zip(&events)
            .filter_map(|(index, event)| match event {
                Event::Call(call) => {
                    let outcome = events.iter().find_map(|event| match event {
                        Event::Outcome(outcome) if outcome.of_record == index => Some(Code::from(outcome.code as i32)),
                        _ => None,
                    });
                    Some((CreateTokenRequest::decode(&*call.request).unwrap().name, outcome))
                }
                _ => None,
            })
            .collect();
        for name in &acknowledged {
            assert_eq!(logged.get(name), Some(&Some(Code::Ok)), "{name} was acknowledged");
        }
    }
    // Whatever the store has was in the log before.
    let mut process = Process::start(folder.path()).await;
    let tokens = process
        .client
        .list_tokens(ListTokensRequest {})
        .await
        .unwrap()
        .into_inner()
        .tokens;
    process.child.kill().await.unwrap();
    let logged = events(folder.path());
    assert!(tokens.len() >= acknowledged.len());
    for token in tokens {
        let in_log = logged.iter().any(|event| match event {
            Event::Call(call) => CreateTokenRequest::decode(&*call.request).unwrap().name == token.name,
            _ => false,
        });
        assert!(in_log, "{token:?} is not in the log");
    }
}
