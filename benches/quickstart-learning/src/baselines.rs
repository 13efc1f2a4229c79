//! Answers that need no language model: a learnt model must beat them to have learnt anything.

use std::collections::{BTreeMap, BTreeSet};

use fieldfare_trainer::farm::Example;

/// Part of `judged` that the most frequent completion of `known` answers exactly.
pub(crate) fn majority_answer(known: &[Example], judged: &[Example]) -> f64 {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for example in known {
        *counts.entry(&example.completion).or_default() += 1;
    }
    let answer = counts
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .map_or("", |(answer, _)| answer);
    share(judged, |example| example.completion == answer)
}

/// Part of `judged` that the completion of the most similar prompt of `known` answers exactly.
///
/// Similarity is the part of words that two prompts share (Jaccard's index); of equals, the first wins.
pub(crate) fn nearest_neighbour(known: &[Example], judged: &[Example]) -> f64 {
    let known: Vec<(BTreeSet<&str>, &str)> = known
        .iter()
        .map(|example| (words(&example.prompt), example.completion.as_str()))
        .collect();
    share(judged, |example| {
        let asked = words(&example.prompt);
        let mut best = (0.0, "");
        for (prompt, completion) in &known {
            let common = prompt.intersection(&asked).count() as f64;
            let similarity = common / (prompt.len() + asked.len()) as f64;
            if similarity > best.0 {
                best = (similarity, completion);
            }
        }
        example.completion == best.1
    })
}

fn words(prompt: &str) -> BTreeSet<&str> {
    prompt
        .split(|character: char| !character.is_alphanumeric() && character != '-')
        .filter(|word| !word.is_empty())
        .collect()
}

fn share(judged: &[Example], right: impl Fn(&Example) -> bool) -> f64 {
    judged.iter().filter(|example| right(example)).count() as f64 / judged.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(pairs: &[(&str, &str)]) -> Vec<Example> {
        pairs
            .iter()
            .map(|(prompt, completion)| Example {
                prompt: (*prompt).to_owned(),
                completion: (*completion).to_owned(),
            })
            .collect()
    }

    #[test]
    fn the_majority_answer_is_right_where_it_is_right() {
        let known = examples(&[("a", "x"), ("b", "y"), ("c", "x")]);
        assert_eq!(majority_answer(&known, &examples(&[("d", "x"), ("e", "y")])), 0.5);
    }

    #[test]
    fn the_nearest_prompt_answers() {
        let known = examples(&[("zone 3 is dry", "water"), ("zone 4 is wet", "drain")]);
        let judged = examples(&[
            ("zone 3 is very dry", "water"),
            ("wet is zone 5", "drain"),
            ("zone 4 is wet", "water"),
        ]);
        assert!((nearest_neighbour(&known, &judged) - 2.0 / 3.0).abs() < 1e-9);
    }
}
