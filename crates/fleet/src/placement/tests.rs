use proptest::prelude::*;

use super::*;
use crate::{
    Arithmetic, ByteSize, Capacity, NatsPerToken, ProfileClass, Runtime, TokensPerSecond, TrustTier, VariantName,
    known_model, reference_profile, reference_profiles,
};

fn name(text: &str) -> VariantName {
    VariantName::new(text).unwrap()
}

/// A variant of a tenth of a GiB for each `tenths`, with this loss.
fn variant(text: &str, tenths: u64, loss: f64) -> VariantSpec {
    let weights = ByteSize::from_mib(tenths * 100);
    VariantSpec {
        name: name(text),
        runtime: Runtime::CandleGguf,
        arithmetic: Arithmetic::Int8,
        weight_bytes: weights,
        bytes_per_token: weights,
        kv_bytes_per_token: ByteSize::new(1024),
        working_memory: ByteSize::from_mib(10),
        context: 2048,
        flops_per_token: weights.get() * 2,
        params: weights.get(),
        loss: Loss::Known(NatsPerToken::new(loss).unwrap()),
        min_trust: TrustTier::Unattested,
    }
}

fn requirements(speed: f64) -> Requirements {
    Requirements {
        min_tokens_per_second: TokensPerSecond::new(speed).unwrap(),
        context: 1024,
        max_memory: None,
        max_loss: None,
    }
}

fn pi() -> Capacity {
    Capacity::of(&reference_profile("raspberry-pi-5").unwrap(), TrustTier::Unattested)
}

#[test]
fn the_lowest_loss_that_meets_everything_wins_and_the_others_are_told_why() {
    let variants = [
        variant("f16", 80, 1.00),
        variant("q8", 20, 1.01),
        variant("q4", 10, 1.05),
        variant("q2", 5, 1.50),
    ];
    let report = place(&pi(), &variants, &requirements(8.0), Correction::NONE);
    assert_eq!(report.chosen, Some(name("q8")));
    let Verdict::Refused { reasons } = &report.variants[0].verdict else {
        panic!("{report:?}")
    };
    assert!(
        matches!(reasons[..], [Reason::MemoryTooSmall { .. }, Reason::TooSlow { .. }]),
        "{reasons:?}"
    );
    assert_eq!(report.variants[2].verdict, Verdict::Eligible { worse_than: name("q8") });
    assert_eq!(report.choice().unwrap().name, name("q8"));
    let text = report.variants[0].verdict.to_string();
    assert!(
        text.contains("7.82 GiB") && text.contains("4.00 GiB") && text.contains("memory bandwidth"),
        "{text}"
    );
}

#[test]
fn each_requirement_refuses_with_its_numbers() {
    type Change = fn(&mut Capacity, &mut VariantSpec, &mut Requirements);
    let cases: [(Change, &str); 9] = [
        (
            |c, _, _| c.runtimes.clear(),
            "needs the runtime candle-gguf, the device has none",
        ),
        (
            |_, v, _| v.min_trust = TrustTier::Attested,
            "needs a device that is attested, this one is unattested",
        ),
        (
            |_, _, r| r.context = 4096,
            "context of 4096 tokens asked for, the variant has 2048",
        ),
        (
            |c, _, _| c.model_memory = ByteSize::from_mib(500),
            "device lets a model use 500 MiB",
        ),
        (
            |_, _, r| r.max_memory = Some(ByteSize::from_mib(300)),
            "the deployment allows 300 MiB",
        ),
        (
            |c, _, _| c.disk_free = ByteSize::from_mib(999),
            "needs 1000 MiB of disk, 999 MiB are free",
        ),
        (
            |_, _, r| r.min_tokens_per_second = TokensPerSecond::clamped(1000.0),
            "needed 1000 tok/s",
        ),
        (
            |_, _, r| r.max_loss = Some(NatsPerToken::clamped(0.5)),
            "held-out loss 1.0500 nats, at most 0.5000 nats",
        ),
        (|_, v, _| v.params = 0, "impossible figure: params is 0"),
    ];
    for (change, expected) in cases {
        let (mut capacity, mut spec, mut wish) = (pi(), variant("q4", 10, 1.05), requirements(1.0));
        assert_eq!(
            place(&capacity, std::slice::from_ref(&spec), &wish, Correction::NONE).chosen,
            Some(name("q4"))
        );
        change(&mut capacity, &mut spec, &mut wish);
        let report = place(&capacity, &[spec], &wish, Correction::NONE);
        assert_eq!(report.chosen, None);
        let text = report.variants[0].verdict.to_string();
        assert!(text.contains(expected), "{text:?} has no {expected:?}");
    }
}

#[test]
fn a_bound_on_the_loss_refuses_what_was_never_measured() {
    let mut spec = variant("q4", 10, 1.0);
    spec.loss = Loss::OrderedByPrecision(BitsPerWeight(4500));
    let mut wish = requirements(1.0);
    assert_eq!(
        place(&pi(), std::slice::from_ref(&spec), &wish, Correction::NONE).chosen,
        Some(name("q4"))
    );
    wish.max_loss = Some(NatsPerToken::clamped(9.0));
    let report = place(&pi(), &[spec], &wish, Correction::NONE);
    assert!(matches!(&report.variants[0].verdict, Verdict::Refused { reasons }
        if matches!(reasons[..], [Reason::LossNotMeasured { .. }])));
}

#[test]
fn ties_go_to_fewer_bytes_and_then_to_the_name() {
    let variants = [variant("c", 10, 1.0), variant("b", 9, 1.0), variant("a", 10, 1.0)];
    assert_eq!(
        place(&pi(), &variants, &requirements(1.0), Correction::NONE).chosen,
        Some(name("b"))
    );
    let variants = [variant("c", 10, 1.0), variant("a", 10, 1.0)];
    assert_eq!(
        place(&pi(), &variants, &requirements(1.0), Correction::NONE).chosen,
        Some(name("a"))
    );
}

#[test]
fn the_roofline_is_the_lower_of_bandwidth_and_compute() {
    // By hand: 17.068e9 B/s / (104857600 B + 1024 * 1024 B) = 161.2 tok/s; 153e9 op/s / (2 * 104857600) = 729.6 tok/s.
    let by_bandwidth = predict(&pi(), &variant("v", 1, 1.0), 1024, Correction::NONE);
    assert_eq!(by_bandwidth.bottleneck, Bottleneck::MemoryBandwidth);
    assert!(
        (by_bandwidth.tokens_per_second.get() - 161.16).abs() < 0.01,
        "{by_bandwidth:?}"
    );
    let mut heavy = variant("v", 1, 1.0);
    heavy.flops_per_token = 15_300_000_000;
    let by_compute = predict(&pi(), &heavy, 1024, Correction::new(0.5));
    assert_eq!(by_compute.bottleneck, Bottleneck::Compute);
    assert!(
        (by_compute.tokens_per_second.get() - 5.0).abs() < 1e-9,
        "half of 153 / 15.3 tok/s"
    );
}

#[test]
fn the_five_devices_do_not_all_run_the_same_variant_of_llama_2() {
    let variants = known_model("llama-2-7b").unwrap().architecture.variants();
    let wish = Requirements {
        min_tokens_per_second: TokensPerSecond::clamped(4.0),
        context: 512,
        ..requirements(4.0)
    };
    let chosen: Vec<Option<String>> = reference_profiles()
        .iter()
        .map(|profile| {
            let capacity = Capacity::of(profile, TrustTier::Unattested);
            place(&capacity, &variants, &wish, Correction::NONE)
                .chosen
                .map(|variant| variant.to_string())
        })
        .collect();
    let some = |text: &str| Some(text.to_owned());
    // Pi 5: 4 GiB holds Q4_0 (3.6 GiB) with a short context only without its cache; the phone and the NPU hold nothing.
    assert_eq!(
        chosen[1],
        some("q8-0"),
        "16 GiB Jetson, 8 GiB for the model: {chosen:?}"
    );
    assert_eq!(chosen[2], some("f16"), "M2 Pro, 16 GiB for the model: {chosen:?}");
    assert_eq!(
        (&chosen[3], &chosen[4]),
        (&None, &None),
        "3 GiB and 2 GiB for the model: {chosen:?}"
    );
}

fn observation(predicted: f64, measured: f64) -> SpeedObservation {
    SpeedObservation {
        predicted: TokensPerSecond::clamped(predicted),
        measured: TokensPerSecond::clamped(measured),
    }
}

#[test]
fn a_device_has_one_vote_however_many_models_it_runs() {
    let liar = vec![observation(100.0, 1e6); 9];
    let honest = vec![observation(100.0, 60.0)];
    let learned = Correction::learned(&[liar, honest.clone(), honest]);
    assert_eq!(learned, Some(Correction::new(0.6)));
    // Of its own models it is the median, too; what was predicted to stand still says nothing.
    let mixed = vec![
        observation(100.0, 50.0),
        observation(10.0, 6.0),
        observation(1.0, 0.7),
        observation(0.0, 9.0),
    ];
    assert_eq!(Correction::learned(&[mixed]), Some(Correction::new(0.6)));
}

#[test]
fn what_was_learned_from_one_variant_is_expected_of_the_others() {
    let variants = [variant("q8", 20, 1.01), variant("q4", 10, 1.05)];
    // 17.068e9 B/s over 1000 MiB are 16.28 tok/s with an empty cache; the device reached half of it with q4.
    let seen = SpeedObservation::of(&pi(), &variants[1], TokensPerSecond::clamped(8.14));
    assert!((seen.predicted.get() - 16.277).abs() < 0.001, "{seen:?}");
    let learned = Correction::learned(&[vec![seen]]).unwrap();
    assert!((learned.get() - 0.5).abs() < 0.001, "{learned:?}");
    let before = place(&pi(), &variants, &requirements(5.0), Correction::NONE);
    let after = place(&pi(), &variants, &requirements(5.0), learned);
    assert_eq!(
        (before.chosen, after.chosen.clone()),
        (Some(name("q8")), Some(name("q4")))
    );
    assert_eq!((before.correction, after.correction), (Correction::NONE, learned));
    let Verdict::Refused { reasons } = &after.variants[0].verdict else {
        panic!("{after:?}")
    };
    assert!(matches!(reasons[..], [Reason::TooSlow { .. }]), "{reasons:?}");
}

#[test]
fn a_lying_minority_does_not_move_the_correction() {
    let observation = |measured: f64| vec![observation(100.0, measured)];
    assert_eq!(Correction::learned(&[]), None);
    assert_eq!(Correction::learned(&[Vec::new()]), None);
    let honest = [61.0, 60.0, 62.0].map(observation);
    assert_eq!(Correction::learned(&honest), Some(Correction::new(0.61)));
    let with_liars = [61.0, 60.0, 62.0, 1e6, 1e6].map(observation);
    assert_eq!(Correction::learned(&with_liars), Some(Correction::new(0.62)));
    assert_eq!(Correction::new(f64::NAN), Correction::NONE);
}

prop_compose! {
    fn any_variant()(
        tag in 0u32..8,
        mib in 1u64..20_000,
        kv in 0u64..1_000_000,
        flops in 1u64..100_000_000_000,
        loss in 0.0f64..5.0,
        context in 1u32..8192,
    ) -> VariantSpec {
        VariantSpec {
            name: name(&format!("v{tag}")),
            weight_bytes: ByteSize::from_mib(mib),
            bytes_per_token: ByteSize::from_mib(mib),
            kv_bytes_per_token: ByteSize::new(kv),
            flops_per_token: flops,
            loss: Loss::Known(NatsPerToken::clamped(loss)),
            context,
            ..variant("v", 1, 1.0)
        }
    }
}

proptest! {
    #[test]
    fn the_choice_is_eligible_and_no_eligible_variant_is_better(
        variants in prop::collection::vec(any_variant(), 0..8),
        memory in 0u64..32_000,
        speed in 0.0f64..50.0,
    ) {
        let capacity = Capacity { model_memory: ByteSize::from_mib(memory), ..pi() };
        let report = place(&capacity, &variants, &requirements(speed), Correction::NONE);
        prop_assert_eq!(report.variants.len(), variants.len());
        let chosen: Vec<usize> =
            (0..variants.len()).filter(|i| report.variants[*i].verdict == Verdict::Chosen).collect();
        prop_assert_eq!(chosen.len(), usize::from(report.chosen.is_some()));
        for (i, entry) in report.variants.iter().enumerate() {
            match &entry.verdict {
                Verdict::Refused { reasons } => prop_assert!(!reasons.is_empty()),
                _ => {
                    prop_assert!(entry.prediction.memory <= capacity.model_memory);
                    prop_assert!(entry.prediction.tokens_per_second.get() >= speed);
                    prop_assert!(Score::of(&variants[chosen[0]]) <= Score::of(&variants[i]));
                }
            }
        }
    }

    #[test]
    fn more_memory_bandwidth_or_compute_never_gives_a_worse_variant(
        variants in prop::collection::vec(any_variant(), 1..8),
        memory in 0u64..32_000,
        more in 0u64..32_000,
        faster in 1u64..10,
        speed in 0.0f64..50.0,
    ) {
        let small = Capacity { model_memory: ByteSize::from_mib(memory), ..pi() };
        let mut large = small.clone();
        large.model_memory = ByteSize::from_mib(memory + more);
        large.memory_bandwidth = crate::BytesPerSecond::new(small.memory_bandwidth.get() * faster);
        large.compute.int8 = crate::OpsPerSecond::new(small.compute.int8.get() * faster);
        let loss = |capacity: &Capacity| {
            let report = place(capacity, &variants, &requirements(speed), Correction::NONE);
            report.choice().map(|choice| match choice.loss { Loss::Known(loss) => loss.get(), _ => f64::MAX })
        };
        if let Some(before) = loss(&small) {
            prop_assert!(loss(&large).is_some_and(|after| after <= before));
        }
    }

    #[test]
    fn a_correction_lies_within_its_bounds_and_between_what_was_seen(
        seen in prop::collection::vec((0.001f64..1e6, 0.0f64..1e6), 1..9),
    ) {
        let devices: Vec<_> = seen.iter().map(|(predicted, measured)| vec![observation(*predicted, *measured)]).collect();
        let learned = Correction::learned(&devices).unwrap().get();
        let (least, most) = crate::limits::CORRECTION_RANGE;
        prop_assert!((least..=most).contains(&learned));
        let bounded = |(predicted, measured): &(f64, f64)| (measured / predicted).clamp(least, most);
        prop_assert!(seen.iter().any(|pair| bounded(pair) <= learned) && seen.iter().any(|pair| bounded(pair) >= learned));
    }

    #[test]
    fn a_class_promises_no_more_than_a_member_has_and_reads_back(
        memory: u32, disk: u32, bandwidth in 1u64..1 << 43, f32_rate in 1u64..1 << 50, int8 in 1u64..1 << 50,
    ) {
        let mut capacity = pi();
        capacity.model_memory = ByteSize::new(u64::from(memory));
        capacity.disk_free = ByteSize::new(u64::from(disk));
        capacity.memory_bandwidth = crate::BytesPerSecond::new(bandwidth);
        capacity.compute.f32 = crate::OpsPerSecond::new(f32_rate);
        capacity.compute.int8 = crate::OpsPerSecond::new(int8);
        let class = capacity.class();
        let promised = class.capacity();
        prop_assert_eq!(class.as_str().parse::<ProfileClass>(), Ok(class.clone()));
        prop_assert_eq!(&promised, &capacity.rounded());
        prop_assert_eq!(promised.class(), class);
        prop_assert!(promised.model_memory <= capacity.model_memory && promised.disk_free <= capacity.disk_free);
        prop_assert!(promised.memory_bandwidth <= capacity.memory_bandwidth);
        prop_assert!(promised.compute.f32 <= capacity.compute.f32 && promised.compute.int8 <= capacity.compute.int8);
        prop_assert!(promised.memory_bandwidth.get() as f64 > 0.9 * bandwidth as f64);
    }
}
