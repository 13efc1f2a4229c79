//! Uploads that are too large, have no end, or take the turns of others.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// Short enough for a test, and twenty times the time between two messages of its slow senders.
const SHORT: Patience = Patience {
    silence: Duration::from_secs(2),
    bytes_per_second_min: 1 << 20,
};

/// Between two messages of a slow sender.
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit() {
    let stage = Stage::new().await;
    let (liar, bytes) = (stage.fleet.device(1), update(1));
    let large = chunk(&vec![0; 2 << 20]);
    let parts = vec![first(header(stage.ticket(&liar), &bytes)), large.clone()];
    stage
        .is_turned_away("a chunk", parts, Code::OutOfRange, "message length too large")
        .await;
    let reason = "message length too large";
    stage
        .is_turned_away("the first message", vec![large], Code::OutOfRange, reason)
        .await;
    stage.honest(2).await;
    stage.honest(3).await;
    stage.ends(&[2, 3], &[TurnedAway::TooLarge]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_never_ends() {
    let stage = Stage::new().await;
    let (liar, bytes) = (stage.fleet.device(1), update(1));
    for (endless, reason) in [
        (chunk(&bytes[..64]), "a contribution has 300 bytes"),
        (chunk(&[]), "without bytes"),
    ] {
        let parts = std::iter::once(first(header(stage.ticket(&liar), &bytes))).chain(std::iter::repeat(endless));
        let mut client = stage.client(&liar).await;
        let refused = client.contribute(tokio_stream::iter(parts)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(reason), "{refused}");
    }
    stage.honest(2).await;
    stage.honest(3).await;
    stage.ends(&[2, 3], &[TurnedAway::Length, TurnedAway::Malformed]);
}

/// Sends a header and then, one after another, what `next` gives, for as long as the trainer listens.
async fn slowly(
    stage: &Stage,
    device: u8,
    next: impl Fn(usize) -> Option<ContributeRequest> + Send + 'static,
) -> Status {
    let (device, bytes) = (stage.fleet.device(device), update(device));
    let (sender, sent) = mpsc::channel(1);
    let header = first(header(stage.ticket(&device), &bytes));
    let sending = tokio::spawn(async move {
        sender.send(header).await.unwrap();
        let mut pause = tokio::time::interval(PAUSE);
        for at in 0.. {
            pause.tick().await;
            let Some(message) = next(at) else { continue };
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut client = stage.client(&device).await;
    let refused = client.contribute(ReceiverStream::new(sent)).await.unwrap_err();
    sending.abort();
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_of_a_byte_now_and_then() {
    let stage = Stage::with(SHORT).await;
    let bytes = update(1);
    let refused = slowly(&stage, 1, move |at| bytes.get(at..=at).map(chunk)).await;
    assert!(
        refused.code() == Code::Unavailable && refused.message().contains("did not come within"),
        "{refused}"
    );
    stage.honest(2).await;
    stage.ends(&[2], &[TurnedAway::TooSlow]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_falls_silent() {
    let stage = Stage::with(SHORT).await;
    for first in [None, Some(chunk(&update(1)))] {
        // After the header, and after all of the contribution: its end never comes.
        let refused = slowly(&stage, 1, move |at| first.clone().filter(|_| at == 0)).await;
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    }
    assert!(stage.store().all().unwrap().is_empty());
    stage.honest(2).await;
    stage.ends(&[2], &[TurnedAway::TooSlow]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_never_read() {
    let stage = Stage::with(SHORT).await;
    let liar = stage.fleet.device(1);
    let mut client = stage.client(&liar).await;
    let ask = fieldfare_proto::v1::ConfigureRequest {
        ticket: Some(stage.ticket(&liar)),
    };
    // The state is larger than what HTTP/2 takes unread. That the trainer has had enough is told to nobody but its tally.
    let mut unread = client.configure(ask).await.unwrap().into_inner();
    let mut tally = stage.round.as_ref().unwrap().watch_turned_away();
    let turned_away = tally.wait_for(|tally| tally.reasons().next().is_some());
    let turned_away = tokio::time::timeout(30 * SHORT.silence, turned_away).await;
    turned_away.unwrap().unwrap();
    let ended = async {
        while unread.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    let ended = ended.await.expect_err("the connection is gone");
    assert_ne!(ended.code(), Code::Ok);
    stage.honest(2).await;
    stage.ends(&[2], &[TurnedAway::TooSlow]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_with_many_streams_takes_nobodys_turn() {
    let stage = Stage::new().await;
    let (liar, bytes) = (stage.fleet.device(1), update(1));
    let mut client = stage.client(&liar).await;
    let mut open = Vec::new();
    let mut told = tokio::task::JoinSet::new();
    // Twice as many as are received at once.
    for _ in 0..2 * fieldfare_trainer::limits::UPLOADS_AT_ONCE {
        let (sender, sent) = mpsc::channel(1);
        sender.send(first(header(stage.ticket(&liar), &bytes))).await.unwrap();
        open.push(sender);
        let mut client = stage.client(&liar).await;
        told.spawn(async move { client.contribute(ReceiverStream::new(sent)).await });
    }
    // All but one of them are told so while the first one still keeps the trainer waiting.
    for _ in 1..open.len() {
        let refused = told.join_next().await.unwrap().unwrap().unwrap_err();
        assert!(
            refused.code() == Code::Unavailable && refused.message().contains("under way"),
            "{refused}"
        );
    }
    stage.honest(2).await;
    drop(open);
    let ended = told.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(ended.message().contains("this one has 0"), "{ended}");
    // It may contribute after all.
    let parts = parts(header(stage.ticket(&liar), &bytes), &bytes);
    client.contribute(tokio_stream::iter(parts)).await.unwrap();
    stage.ends(&[1, 2], &[TurnedAway::Length, TurnedAway::AtOnce]);
}
