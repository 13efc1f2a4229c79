//! Lies in what a device contributes.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn garbage_instead_of_a_contribution() {
    let stage = Stage::new().await;
    let (liar, bytes) = (stage.fleet.device(1), update(1));
    let honest = || header(stage.ticket(&liar), &bytes);
    // No header; a header that is none; a second one; and bytes that are not those that were announced.
    let noise: Vec<u8> = (0..bytes.len()).map(|at| (at * 97 % 251) as u8).collect();
    let short = ContributionHeader {
        sha256: vec![1; 31],
        ..honest()
    };
    let nameless = ContributionHeader {
        configuration_sha256: Vec::new(),
        ..honest()
    };
    let cases = [
        ("no header", vec![chunk(&noise)], "no header"),
        ("nothing at all", Vec::new(), "no header"),
        ("half a digest", parts(short, &bytes), "sha256"),
        ("no configuration", parts(nameless, &bytes), "configuration_sha256"),
        ("two headers", vec![first(honest()), first(honest())], "a second header"),
        ("a chunk of nothing", vec![first(honest()), chunk(&[])], "without bytes"),
        ("noise", parts(honest(), &noise), "announced was"),
    ];
    for (what, parts, reason) in cases {
        stage.is_turned_away(what, parts, Code::InvalidArgument, reason).await;
    }
    stage.honest(2).await;
    stage.honest(3).await;
    stage.ends(&[2, 3], &[TurnedAway::Malformed, TurnedAway::OtherDigest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contribution_of_the_wrong_length() {
    let stage = Stage::new().await;
    let (liar, bytes) = (stage.fleet.device(1), update(1));
    let longer = [bytes.clone(), vec![0; 3]].concat();
    let honest = || header(stage.ticket(&liar), &bytes);
    let announced = |bytes: &[u8]| parts(header(stage.ticket(&liar), bytes), bytes);
    let cases = [
        ("announced too long", announced(&longer), "this one has 303"),
        ("announced too short", announced(&bytes[..297]), "this one has 297"),
        ("announced empty", announced(&[]), "this one has 0"),
        ("longer on the way", parts(honest(), &longer), "this one has 303"),
        ("ends early", parts(honest(), &bytes[..64]), "this one has 64"),
        ("without bytes", parts(honest(), &[]), "this one has 0"),
    ];
    for (what, parts, reason) in cases {
        stage.is_turned_away(what, parts, Code::InvalidArgument, reason).await;
    }
    stage.honest(2).await;
    stage.honest(3).await;
    stage.ends(&[2, 3], &[TurnedAway::Length]);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_out_of_range() {
    let stage = Stage::new().await;
    let liar = stage.fleet.device(1);
    // The one value of three bytes that lies outside of the levels, -2^23: everywhere, and in the last entry alone.
    let everywhere = [0, 0, 0x80].repeat(ENTRIES);
    let mut once = update(1);
    once[3 * (ENTRIES - 1)..].copy_from_slice(&[0, 0, 0x80]);
    for bytes in [everywhere, once] {
        let parts = parts(header(stage.ticket(&liar), &bytes), &bytes);
        stage
            .is_turned_away("out of range", parts, Code::InvalidArgument, "no contribution")
            .await;
    }
    stage.honest(2).await;
    stage.honest(3).await;
    stage.ends(&[2, 3], &[TurnedAway::OutOfRange]);
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_within_the_range_counts_once_and_moves_no_entry_beyond_it() {
    let stage = Stage::new().await;
    let liar = stage.fleet.device(1);
    // The most that a lie can do to an entry: it is what an honest device could have brought, and the evaluation judges it.
    let extreme: Vec<u8> = (0..ENTRIES)
        .flat_map(|at| if at % 2 == 0 { [0xff, 0xff, 0x7f] } else { [1, 0, 0x80] })
        .collect();
    let answer = stage
        .contribute(&liar, parts(header(stage.ticket(&liar), &extreme), &extreme))
        .await
        .unwrap();
    assert!(!answer.repeated);
    stage.honest(2).await;
    let accepted = stage.accepted();
    assert_eq!(
        accepted,
        [(device_id(1), sha256(&extreme)), (device_id(2), sha256(&update(2)))].into()
    );
    stage.is_summed(&accepted, &[extreme, update(2)]);
    stage.says(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_contribution_twice() {
    let stage = Stage::new().await;
    assert!(!stage.honest(1).await.repeated);
    assert!(
        stage.honest(1).await.repeated,
        "it is acknowledged again, and counts once"
    );
    // At once, over two connections: one may be told that the other is under way.
    let (one, other) = tokio::join!(both(&stage), both(&stage));
    for answer in [one, other] {
        match answer {
            Ok(answer) => assert!(answer.repeated || answer.sha256 == sha256(&update(2)).as_bytes()),
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    }
    assert!(stage.honest(2).await.repeated);
    let accepted = stage.accepted();
    assert_eq!(accepted.len(), 2);
    stage.is_summed(&accepted, &[update(1), update(2)]);
}

async fn both(stage: &Stage) -> Result<ContributeResponse, Status> {
    let device = stage.fleet.device(2);
    let bytes = update(2);
    stage
        .contribute(&device, parts(header(stage.ticket(&device), &bytes), &bytes))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_for_the_same_round() {
    let stage = Stage::new().await;
    stage.honest(1).await;
    let (liar, other) = (stage.fleet.device(1), update(9));
    let parts = parts(header(stage.ticket(&liar), &other), &other);
    let refused = stage.contribute(&liar, parts).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    assert_eq!(
        stage.store().read(&device_id(1), sha256(&update(1))).unwrap(),
        update(1),
        "the first stays"
    );
    stage.honest(2).await;
    stage.ends(&[1, 2], &[TurnedAway::OtherBytes]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contribution_after_the_deadline() {
    let mut stage = Stage::new().await;
    stage.honest(2).await;
    stage.honest(3).await;
    // The ticket is over, while the round still collects.
    let (liar, bytes) = (stage.fleet.device(1), update(1));
    let old = TicketDraft {
        not_after: fieldfare_fleet::Timestamp::from_unix_ms(1),
        ..stage.draft(&liar)
    };
    let late = parts(header(old.sign(&stage.controller), &bytes), &bytes);
    let refused = stage.contribute(&liar, late).await.unwrap_err();
    assert!(
        refused.code() == Code::FailedPrecondition && refused.message().contains("ended at"),
        "{refused}"
    );
    // The ticket is good, and the round is being summed.
    let accepted = stage.accepted();
    let late = || parts(header(stage.ticket(&liar), &bytes), &bytes);
    let refused = stage.contribute(&liar, late()).await.unwrap_err();
    assert!(
        refused.code() == Code::FailedPrecondition && refused.message().contains("too late"),
        "{refused}"
    );
    stage.is_summed(&accepted, &[update(2), update(3)]);
    stage.says(&[TurnedAway::TicketOver, TurnedAway::Late]);
    // The round is closed: the next one may be there in a moment.
    let later = late();
    stage.round = None;
    let refused = stage.contribute(&liar, later).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}
