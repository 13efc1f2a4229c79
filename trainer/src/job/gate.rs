//! Whether a result may be published: on every variant in use, the loss must have fallen, and exact answers must have become
//! more, measured on the consented evaluation set.

use fieldfare_proto::v1::{EvaluationGate, VariantEvaluation};

use crate::evaluation::Measured;

/// Judges every variant. Without a reason the result may be published.
pub(super) fn judge(
    gate: &EvaluationGate,
    before: &[VariantEvaluation],
    after: &[(String, Measured)],
) -> (Vec<VariantEvaluation>, Vec<String>) {
    let judge_one = |(variant, measured): &(String, Measured)| {
        let Some(known) = before.iter().find(|known| known.variant == *variant) else {
            let reason = format!("{variant}: there is no measurement from before the job");
            return VariantEvaluation {
                variant: variant.clone(),
                reason,
                ..VariantEvaluation::default()
            };
        };
        let evaluation = VariantEvaluation {
            loss_after: measured.loss_per_token(),
            exact_match_after: measured.exact_rate(),
            ..known.clone()
        };
        let problems = problems(gate, &evaluation, measured.questions > 0);
        VariantEvaluation {
            passed: problems.is_empty(),
            reason: problems.join("; "),
            ..evaluation
        }
    };
    let evaluations: Vec<_> = after.iter().map(judge_one).collect();
    let mut reasons: Vec<String> = evaluations
        .iter()
        .filter(|evaluation| !evaluation.passed)
        .map(|evaluation| format!("{}: {}", evaluation.variant, evaluation.reason))
        .collect();
    if evaluations.is_empty() {
        reasons.push("no variant was evaluated".to_owned());
    }
    (evaluations, reasons)
}

/// What keeps a variant from being published. A comparison with something that is no number holds nothing.
fn problems(gate: &EvaluationGate, evaluation: &VariantEvaluation, asks: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let VariantEvaluation {
        loss_before,
        loss_after,
        ..
    } = evaluation;
    let gain = loss_before - loss_after;
    // A job that changed nothing has not gained, whatever its gate asks for.
    if !(gain > 0.0 && gain >= gate.min_loss_gain) {
        problems.push(format!(
            "the loss went from {loss_before:.4} to {loss_after:.4} nats per token, a gain of {gain:.4}; needed is {:.4} and more than nothing",
            gate.min_loss_gain
        ));
    }
    if !asks {
        return problems;
    }
    let VariantEvaluation {
        exact_match_before,
        exact_match_after,
        majority_exact_match,
        ..
    } = evaluation;
    for (whose, rate) in [
        ("the base release", exact_match_before),
        ("the most frequent answer", majority_exact_match),
    ] {
        let gain = exact_match_after - rate;
        // Rates are counts over a few hundred: a millionth is rounding.
        let enough = gain >= gate.min_exact_match_gain - 1e-6;
        if !enough {
            problems.push(format!(
                "exact answers: {:.1} %, {whose} has {:.1} %, a gain of {:.1} points; needed are {:.1}",
                100.0 * exact_match_after,
                100.0 * rate,
                100.0 * gain,
                100.0 * gate.min_exact_match_gain
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use fieldfare_lm::engine::Loss;

    const GATE: EvaluationGate = EvaluationGate {
        min_loss_gain: 0.05,
        min_exact_match_gain: 0.1,
    };

    struct Case {
        what: &'static str,
        before: (f64, f64),
        after: (f64, u32),
        questions: u32,
        majority: f64,
        gate: EvaluationGate,
        refused_for: &'static [&'static str],
    }

    fn measured(loss: f64, exact: u32, questions: u32) -> Measured {
        Measured {
            loss: Loss {
                nats: loss * 10.0,
                tokens: 10,
            },
            questions,
            exact,
        }
    }

    fn before(variant: &str, (loss, exact): (f64, f64), majority: f64) -> VariantEvaluation {
        VariantEvaluation {
            variant: variant.to_owned(),
            loss_before: loss,
            exact_match_before: exact,
            majority_exact_match: majority,
            examples: 100,
            ..VariantEvaluation::default()
        }
    }

    #[test]
    fn only_a_real_gain_on_loss_base_and_majority_is_published() {
        let open = EvaluationGate::default();
        let cases = [
            Case {
                what: "a real gain",
                before: (1.0, 0.1),
                after: (0.5, 60),
                questions: 100,
                majority: 0.2,
                gate: GATE,
                refused_for: &[],
            },
            Case {
                what: "text without answers",
                before: (1.0, 0.0),
                after: (0.9, 0),
                questions: 0,
                majority: 0.0,
                gate: GATE,
                refused_for: &[],
            },
            Case {
                what: "learning rate 0",
                before: (1.0, 0.1),
                after: (1.0, 10),
                questions: 100,
                majority: 0.2,
                gate: GATE,
                refused_for: &["a gain of 0.0000", "the base release", "most frequent"],
            },
            Case {
                what: "learning rate 0 at an open gate",
                before: (1.0, 0.3),
                after: (1.0, 30),
                questions: 100,
                majority: 0.2,
                gate: open,
                refused_for: &["a gain of 0.0000"],
            },
            Case {
                what: "too much noise",
                before: (1.0, 0.1),
                after: (3.0, 0),
                questions: 100,
                majority: 0.2,
                gate: GATE,
                refused_for: &["a gain of -2.0000", "the base release"],
            },
            Case {
                what: "permuted completions: the loss falls, answers are the most frequent one",
                before: (1.0, 0.0),
                after: (0.6, 20),
                questions: 100,
                majority: 0.2,
                gate: GATE,
                refused_for: &["most frequent answer has 20.0 %"],
            },
            Case {
                what: "worse than the base",
                before: (1.0, 0.5),
                after: (0.6, 40),
                questions: 100,
                majority: 0.2,
                gate: open,
                refused_for: &["the base release has 50.0 %"],
            },
            Case {
                what: "just enough",
                before: (1.0, 0.1),
                after: (0.95, 20),
                questions: 100,
                majority: 0.1,
                gate: GATE,
                refused_for: &[],
            },
            Case {
                what: "no number",
                before: (1.0, 0.1),
                after: (f64::NAN, 60),
                questions: 100,
                majority: 0.1,
                gate: open,
                refused_for: &["NaN"],
            },
        ];
        for case in cases {
            let after = [("q8-0".to_owned(), measured(case.after.0, case.after.1, case.questions))];
            let (evaluations, reasons) = judge(&case.gate, &[before("q8-0", case.before, case.majority)], &after);
            assert_eq!(
                evaluations[0].passed,
                case.refused_for.is_empty(),
                "{}: {reasons:?}",
                case.what
            );
            assert_eq!(reasons.is_empty(), case.refused_for.is_empty(), "{}", case.what);
            for reason in case.refused_for {
                assert!(
                    reasons.iter().any(|text| text.contains(reason)),
                    "{}: {reasons:?}",
                    case.what
                );
            }
        }
    }

    #[test]
    fn one_variant_that_did_not_gain_keeps_all_from_being_published() {
        let known = [before("f16", (1.0, 0.1), 0.2), before("q4-0", (1.1, 0.1), 0.2)];
        let after = [
            ("f16".to_owned(), measured(0.5, 60, 100)),
            ("q4-0".to_owned(), measured(1.2, 60, 100)),
        ];
        let (evaluations, reasons) = judge(&GATE, &known, &after);
        assert!(evaluations[0].passed && !evaluations[1].passed);
        assert!(
            reasons.len() == 1 && reasons[0].starts_with("q4-0: the loss went from 1.1000 to 1.2000"),
            "{reasons:?}"
        );
        let (_, reasons) = judge(&GATE, &known[..1], &after);
        assert!(
            reasons
                .iter()
                .any(|reason| reason.contains("no measurement from before")),
            "{reasons:?}"
        );
        assert!(!judge(&GATE, &known, &[]).1.is_empty());
    }
}
