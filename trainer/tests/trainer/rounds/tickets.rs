//! Lies about which round a device was invited to, and who it is.

use super::*;

impl Stage {
    /// What the liar brings with this ticket, which is good in all but what the test changed.
    fn with_ticket(&self, ticket: SignedTicket) -> Vec<ContributeRequest> {
        let bytes = update(1);
        parts(header(ticket, &bytes), &bytes)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_round() {
    let stage = Stage::new().await;
    let good = stage.draft(&stage.fleet.device(1));
    let drafts = [
        (
            "another device's",
            TicketDraft {
                device: stage.fleet.device(2).principal().clone(),
                ..good.clone()
            },
            Code::PermissionDenied,
            "not for",
        ),
        (
            "another trainer's",
            TicketDraft {
                trainer: stage.fleet.trainer("t2").principal().clone(),
                ..good.clone()
            },
            Code::PermissionDenied,
            "t2",
        ),
        (
            "another attempt's",
            TicketDraft {
                round: round_id(2),
                ..good.clone()
            },
            Code::FailedPrecondition,
            "under way is",
        ),
        (
            "another configuration's",
            TicketDraft {
                configuration: sha256(b"x"),
                ..good.clone()
            },
            Code::FailedPrecondition,
            "the ticket names",
        ),
    ];
    for (whose, draft, code, reason) in drafts {
        let parts = stage.with_ticket(draft.sign(&stage.controller));
        stage.is_turned_away(whose, parts, code, reason).await;
    }
    let bytes = update(1);
    let other = ContributionHeader {
        configuration_sha256: vec![1; 32],
        ..header(good.sign(&stage.controller), &bytes)
    };
    let reason = "the header names";
    stage
        .is_turned_away("a header's", parts(other, &bytes), Code::FailedPrecondition, reason)
        .await;
    stage.honest(2).await;
    stage.honest(3).await;
    stage.ends(
        &[2, 3],
        &[
            TurnedAway::Ticket,
            TurnedAway::OtherRound,
            TurnedAway::OtherConfiguration,
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_ticket() {
    let stage = Stage::new().await;
    let liar = stage.fleet.device(1);
    let good = stage.draft(&liar);
    let mut changed = good.sign(&stage.controller);
    changed.ticket[8] ^= 1;
    let denied = Code::PermissionDenied;
    let tickets = [
        (
            "signed by the device itself",
            good.sign(&liar),
            denied,
            "not acceptable",
        ),
        (
            "signed by another trainer",
            good.sign(&stage.fleet.trainer("t2")),
            denied,
            "expected a controller",
        ),
        (
            "signed elsewhere",
            good.sign(&Fleet::new().controller()),
            denied,
            "not genuine",
        ),
        ("changed after signing", changed, denied, "not genuine"),
        ("empty", SignedTicket::default(), denied, "not genuine"),
    ];
    for (what, ticket, code, reason) in tickets {
        stage
            .is_turned_away(what, stage.with_ticket(ticket), code, reason)
            .await;
    }
    let bytes = update(1);
    let without = ContributionHeader {
        ticket: None,
        ..header(good.sign(&stage.controller), &bytes)
    };
    stage
        .is_turned_away("none", parts(without, &bytes), Code::InvalidArgument, "ticket")
        .await;
    stage.honest(2).await;
    stage.ends(&[2], &[TurnedAway::Ticket, TurnedAway::Malformed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_not_of_the_cohort() {
    let stage = Stage::new().await;
    // A controller would not sign such a ticket; the round does not rely on that.
    let (stranger, bytes) = (stage.fleet.device(9), update(9));
    let parts = parts(header(stage.ticket(&stranger), &bytes), &bytes);
    let refused = stage.contribute(&stranger, parts).await.unwrap_err();
    assert!(
        refused.code() == Code::FailedPrecondition && refused.message().contains("not in the cohort"),
        "{refused}"
    );
    stage.honest(2).await;
    let accepted = stage.accepted();
    assert_eq!(accepted, [(device_id(2), sha256(&update(2)))].into());
    stage.is_summed(&accepted, &[update(2)]);
    let tally = stage.round.as_ref().unwrap().turned_away();
    assert_eq!(tally.to_string(), "1 turned away: not of the cohort, or no longer");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_of_this_fleet() {
    let stage = Stage::new().await;
    let stranger = Fleet::new().device(1);
    let expected = ExpectedServer::Exactly(stage.trainer.principal().clone());
    let trust = ServerTrust::by(&stage.fleet.device(1), expected);
    let handle = IdentityHandle::new(stranger);
    let link = connect(&stage.endpoint, Some(&handle), &trust, &clock::system()).await;
    let parts = stage.with_ticket(stage.ticket(&stage.fleet.device(1)));
    let refused = match link {
        Err(_) => true,
        Ok(link) => RoundsClient::new(link.channel())
            .contribute(tokio_stream::iter(parts))
            .await
            .is_err(),
    };
    assert!(refused && stage.store().all().unwrap().is_empty());
    stage.honest(2).await;
    stage.ends(&[2], &[]);
}
