//! Rounds of a federated job.

use super::*;

/// A third device, whose session the test holds in its hands.
async fn trainee(fleet: &Fleet) -> (String, Session) {
    let identity = fleet.join(TokenRole::Device, "west").await;
    let fieldfare_tls::Role::Device(_, id) = &identity.principal().role else {
        panic!("a device")
    };
    let session = Session::open(fleet, &identity, hello("west")).await.unwrap();
    (id.to_string(), session)
}

#[tokio::test]
async fn a_round_is_opened_to_a_cohort_and_closed_once() {
    let fleet = Fleet::start().await;
    let mut signer = Signer::new(&fleet);
    signer.install_root(&fleet).await;
    signer.publish(&fleet, &release(1)).await.unwrap();
    let mut invited = obedient(&fleet, "north", 0).await;
    obedient(&fleet, "south", 0).await;
    // Connected, willing, and without the release: it is not invited, with the reason.
    let (stranger, _session) = trainee(&fleet).await;
    let without_budget = StartJobRequest {
        spec: Some(FederatedJobSpec {
            epsilon: 0.0,
            delta: 0.0,
            ..federated(&fleet).await
        }),
    };
    let (code, text) = refusal(fleet.operator().await.start_job(without_budget).await);
    assert!(
        code == Code::InvalidArgument && text.contains("budget"),
        "{code:?} {text}"
    );
    let start = StartJobRequest {
        spec: Some(federated(&fleet).await),
    };
    let (code, _) = refusal(fleet.operator().await.start_job(start.clone()).await);
    assert_eq!(code, Code::NotFound);
    let mut spec = spec(1);
    spec.selector = "site in (north,south)".into();
    apply(&fleet, spec).await.unwrap();
    outcome(&fleet).await;
    let (code, text) = refusal(fleet.operator().await.start_job(start.clone()).await);
    assert!(
        code == Code::FailedPrecondition && text.contains("fieldfare release delegate"),
        "{code:?} {text}"
    );
    signer.delegate(&fleet).await;
    fleet.operator().await.start_job(start).await.unwrap();

    let mut trainer = trainer(&fleet, "kiln").await;
    let mut hints = trainer.watch(trainer::hello()).await.unwrap().into_inner();
    assert!(hints.message().await.unwrap().is_some());
    let claim = claimed(&mut trainer).await.unwrap();
    let Some(claim::Work::Federated(work)) = &claim.work else {
        panic!("a federated job: {claim:?}")
    };
    assert_eq!(
        (work.release_number, work.variants_in_use.as_slice()),
        (2, ["q8-0".to_owned()].as_slice())
    );

    let round = RoundRef {
        job: "night".into(),
        round: 1,
        attempt: 1,
    };
    let deadline_unix_ms = i64::try_from(fleet.time.now().unix_ms()).unwrap() + 60_000;
    let configuration = RoundConfiguration {
        round: Some(round.clone()),
        deadline_unix_ms,
        ..RoundConfiguration::default()
    };
    let open = OpenRoundRequest {
        fence: claim.fence.clone(),
        configuration: configuration.encode_to_vec(),
        training_memory_bytes: 1 << 20,
    };
    let cohort = trainer.open_round(open.clone()).await.unwrap().into_inner();
    assert_eq!(cohort.cohort_device_ids.len(), 2, "{cohort:?}");
    assert!(!cohort.cohort_device_ids.contains(&stranger));
    assert_eq!(trainer.open_round(open.clone()).await.unwrap().into_inner(), cohort);

    // The session of each invited device hands it a ticket of its own; both refuse, and the trainer hears of both.
    let invitation = tokio::time::timeout(PATIENCE, invited.recv()).await.unwrap().unwrap();
    assert_eq!(invitation.trainer_endpoint, "https://127.0.0.1:9443");
    let ticket = RoundTicket::decode(invitation.ticket.unwrap().ticket.as_slice()).unwrap();
    assert!(
        cohort
            .cohort_device_ids
            .iter()
            .any(|id| ticket.device_spiffe_id.ends_with(id)),
        "{ticket:?}"
    );
    assert!(ticket.trainer_spiffe_id.ends_with("/trainer/kiln") && ticket.round.as_ref() == Some(&round));
    let watch = WatchRoundRequest {
        fence: claim.fence.clone(),
        round: Some(round.clone()),
    };
    let mut events = trainer.watch_round(watch).await.unwrap().into_inner();
    for _ in 0..2 {
        let event = tokio::time::timeout(PATIENCE, events.message())
            .await
            .unwrap()
            .unwrap()
            .and_then(|event| event.event);
        let Some(round_event::Event::Dropped(dropped)) = event else {
            panic!("no drop: {event:?}")
        };
        assert!(
            cohort.cohort_device_ids.contains(&dropped.device_id)
                && (dropped.reason.as_str(), dropped.refusal()) == ("not idle", RefusalReason::NotIdle),
            "{dropped:?}"
        );
    }
    let mut greedy = open.clone();
    greedy.training_memory_bytes = 1 << 40;
    greedy.configuration = RoundConfiguration {
        round: Some(RoundRef {
            attempt: 2,
            ..round.clone()
        }),
        ..configuration
    }
    .encode_to_vec();
    let refused = trainer.open_round(greedy).await.unwrap().into_inner();
    assert!(
        refused.cohort_device_ids.is_empty() && refused.ineligible[0].reason.contains("memory"),
        "{refused:?}"
    );

    let accepted: Vec<_> = cohort
        .cohort_device_ids
        .iter()
        .map(|id| AcceptedContribution {
            device_id: id.clone(),
            sha256: vec![1; 32],
        })
        .collect();
    let close = |accepted: Vec<AcceptedContribution>| CloseRoundRequest {
        fence: claim.fence.clone(),
        round: Some(round.clone()),
        accepted,
        summary: Some(RoundSummary {
            round: 1,
            attempt: 1,
            accepted: 2,
            ..RoundSummary::default()
        }),
        checkpoint: Some(FederatedCheckpoint {
            committed_round: 1,
            ..FederatedCheckpoint::default()
        }),
    };
    let twice = vec![accepted[0].clone(), accepted[0].clone()];
    let outside = vec![AcceptedContribution {
        device_id: stranger,
        sha256: vec![1; 32],
    }];
    for (set, why) in [
        (twice, "twice"),
        (outside, "cohort"),
        (accepted[..1].to_vec(), "quorum"),
    ] {
        let (_, text) = refusal(trainer.close_round(close(set)).await);
        assert!(text.contains(why), "{why}: {text}");
    }
    trainer.close_round(close(accepted.clone())).await.unwrap();
    trainer.close_round(close(accepted.clone())).await.unwrap();
    let mut other = accepted;
    other[0].sha256 = vec![2; 32];
    let (code, _) = refusal(trainer.close_round(close(other)).await);
    assert_eq!(code, Code::AlreadyExists);
    let reasons = vec!["the loss did not fall".to_owned()];
    let refused = finish_request::Outcome::Refused(JobRefused {
        reasons,
        ..JobRefused::default()
    });
    trainer.finish(finish(&claim, refused)).await.unwrap();
    let job = fleet
        .operator()
        .await
        .get_job(GetJobRequest { name: "night".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((job.stage(), job.rounds.len()), (JobStage::Refused, 1));
    assert!(job.reason.contains("did not fall"));
    fleet.stop().await;
}

#[tokio::test]
async fn an_invitation_carries_a_ticket_that_the_controller_signed() {
    use fieldfare_controller::gateway::sign_ticket;
    use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    let fleet = Fleet::start().await;
    let identity = fleet.plane.identity.current();
    let ticket = RoundTicket {
        not_after_unix_ms: 5,
        ..RoundTicket::default()
    };
    let signed = sign_ticket(&identity, &ticket).unwrap();
    assert_eq!(RoundTicket::decode(signed.ticket.as_slice()).unwrap(), ticket);
    assert_eq!(
        signed.chain_der,
        identity.chain().iter().map(|der| der.to_vec()).collect::<Vec<_>>()
    );
    let key = rcgen::KeyPair::from_pem(&identity.key().to_pem()).unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, rcgen::PublicKeyData::der_bytes(&key).to_vec());
    key.verify(&signed.ticket, &signed.signature).unwrap();
    assert!(key.verify(b"another ticket", &signed.signature).is_err());
    fleet.stop().await;
}
