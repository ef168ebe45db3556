//! Which encoding goes with which rule: a matrix over what encodings leave out and what rules look at.
//! It judges a pair before a session begins; it measures nothing, and it does not say which pair is best.
//!
//! What members send differs from what they found by what the encoding leaves out. A rule that compares members must not
//! mistake that for disagreement:
//!
//! | what an encoding does to an update | linear | coordinate-wise | selecting by distance | weighting by distance |
//! |---|---|---|---|---|
//! | rounds each value (f32, bf16, f16, int8, int4) | works | works | works | works |
//! | says the sign of each (sign) | works | works: a majority vote | refused | works |
//! | keeps a few of its own choice (top-k, chunked, DCT) | works | refused | works | works |
//! | projects on its own subspace (low rank) | works | works | works | works |
//! | projects on random directions (random seeds) | works | refused | refused | refused |
//!
//! "Works" is no promise of accuracy: error feedback is needed where the encoding's file says so, and a rule's own bounds
//! hold for the decoded vectors.

use crate::encoding::{EncodingConfig, Feedback};
use crate::rules::RuleConfig;

/// What an encoding does to an update, as far as rules notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Each value is rounded to one near it.
    Rounding,
    /// Each value becomes its sign times a shared magnitude.
    Sign,
    /// Few values (or coefficients) stay, of each member's own choice; the others become zero.
    OwnSupport,
    /// Matrices are projected on a subspace that fits the member's own update.
    OwnSubspace,
    /// The update is projected on random directions, other ones for each member.
    RandomSubspace,
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// Sums: the aggregate is linear in the updates.
    Linear,
    /// Order: each coordinate on its own.
    CoordinateWise,
    /// Distances or norms, by which whole updates are chosen or left out.
    Selecting,
    /// Distances, by which whole updates are weighted or clipped; none is left out for being somewhat farther.
    Weighting,
}

/// A pair that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("encoding {encoding} does not go with rule {rule}: {reason}; {instead}")]
pub struct CompatibilityError {
    /// The encoding's name.
    pub encoding: &'static str,
    /// The rule's name.
    pub rule: &'static str,
    /// Why not.
    pub reason: &'static str,
    /// What to do.
    pub instead: &'static str,
}

/// What the encoding does to an update.
pub fn loss(encoding: &EncodingConfig) -> Loss {
    match encoding {
        EncodingConfig::F32
        | EncodingConfig::Bf16
        | EncodingConfig::F16
        | EncodingConfig::Int8 { .. }
        | EncodingConfig::Int4 { .. } => Loss::Rounding,
        EncodingConfig::Sign { .. } => Loss::Sign,
        EncodingConfig::TopK { .. } | EncodingConfig::ChunkedTopK { .. } | EncodingConfig::DctTopK { .. } => {
            Loss::OwnSupport
        }
        EncodingConfig::LowRank { .. } => Loss::OwnSubspace,
        EncodingConfig::RandomSeeds { .. } => Loss::RandomSubspace,
    }
}

/// What the rule looks at. A rule that is added must say it here.
pub fn outlook(rule: &RuleConfig) -> Outlook {
    match rule {
        RuleConfig::Mean | RuleConfig::CappedMean { .. } => Outlook::Linear,
        RuleConfig::TrimmedMean { .. } | RuleConfig::Median | RuleConfig::Meamed { .. } => Outlook::CoordinateWise,
        // Bulyan does both; what forbids either forbids it, and what it chooses, it sorts.
        RuleConfig::Bulyan { .. } => Outlook::CoordinateWise,
        RuleConfig::Krum { .. }
        | RuleConfig::MultiKrum { .. }
        | RuleConfig::Mda { .. }
        | RuleConfig::Smea { .. }
        | RuleConfig::Monna { .. }
        | RuleConfig::Cge { .. } => Outlook::Selecting,
        RuleConfig::CenteredClip { .. }
        | RuleConfig::CarriedClip { .. }
        | RuleConfig::GeometricMedian { .. }
        | RuleConfig::Rfa
        | RuleConfig::Fltrust
        | RuleConfig::Caf { .. } => Outlook::Weighting,
    }
}

/// Whether what is left out and what is looked at go together: `Err((why not, what instead))`.
pub fn judge(loss: Loss, outlook: Outlook) -> Result<(), (&'static str, &'static str)> {
    match (loss, outlook) {
        (_, Outlook::Linear)
        | (Loss::Rounding | Loss::OwnSubspace, _)
        | (Loss::Sign, Outlook::CoordinateWise | Outlook::Weighting)
        | (Loss::OwnSupport, Outlook::Selecting | Outlook::Weighting) => Ok(()),
        (Loss::Sign, Outlook::Selecting) => Err((
            "signs differ from an update by more than honest updates differ from each other, so that distances say little about who is honest",
            "use int8 or int4, or a coordinate-wise rule, which makes a majority vote of signs",
        )),
        (Loss::OwnSupport, Outlook::CoordinateWise) => Err((
            "each member keeps other places, so that at most of them nearly all values are zeros that nobody found: the rule would keep the zeros and drop what was found",
            "use a rule on distances, or int8 or int4, or send differences (feedback = \"difference\")",
        )),
        (Loss::RandomSubspace, Outlook::CoordinateWise | Outlook::Selecting | Outlook::Weighting) => Err((
            "each member goes along other random directions, so that honest updates are as far from each other as from an attacker's, in every coordinate",
            "use the mean among members that trust each other, or another encoding",
        )),
    }
}

/// Whether the two go together. Ask when a session is created.
pub fn check(encoding: &EncodingConfig, rule: &RuleConfig) -> Result<(), CompatibilityError> {
    judge(loss(encoding), outlook(rule)).map_err(|(reason, instead)| CompatibilityError {
        encoding: encoding.name(),
        rule: rule.name(),
        reason,
        instead,
    })
}

/// As [`check`], where the session makes up for what its encoding leaves out. With [`Feedback::Difference`] a rule sees
/// estimates that come nearer to the updates with every round, as rounded values are.
pub fn check_with_feedback(
    encoding: &EncodingConfig,
    feedback: &Feedback,
    rule: &RuleConfig,
) -> Result<(), CompatibilityError> {
    match (feedback, loss(encoding)) {
        (Feedback::Difference, Loss::OwnSupport | Loss::Sign) => Ok(()),
        _ => check(encoding, rule),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregator::Contribution;
    use crate::rules::Radius;

    const ENCODINGS: [(EncodingConfig, Loss); 11] = [
        (EncodingConfig::F32, Loss::Rounding),
        (EncodingConfig::Bf16, Loss::Rounding),
        (EncodingConfig::F16, Loss::Rounding),
        (EncodingConfig::Int8 { block: 64 }, Loss::Rounding),
        (EncodingConfig::Int4 { block: 64 }, Loss::Rounding),
        (EncodingConfig::Sign { block: 64 }, Loss::Sign),
        (EncodingConfig::TopK { one_in: 32 }, Loss::OwnSupport),
        (EncodingConfig::ChunkedTopK { chunk: 256, keep: 8 }, Loss::OwnSupport),
        (EncodingConfig::DctTopK { keep: 64 }, Loss::OwnSupport),
        (EncodingConfig::LowRank { rank: 2 }, Loss::OwnSubspace),
        (EncodingConfig::RandomSeeds { pairs: 8 }, Loss::RandomSubspace),
    ];

    fn rules() -> [(RuleConfig, Outlook); 4] {
        [
            (RuleConfig::Mean, Outlook::Linear),
            (RuleConfig::TrimmedMean { f: 2 }, Outlook::CoordinateWise),
            (RuleConfig::Median, Outlook::CoordinateWise),
            (
                RuleConfig::CenteredClip {
                    iterations: 3,
                    radius: Radius::MedianDistance,
                },
                Outlook::Weighting,
            ),
        ]
    }

    /// The table above, cell by cell: rows as in `Loss`, columns as in `Outlook`.
    #[test]
    fn every_cell_is_what_the_table_says() {
        use Loss::*;
        let columns = [
            Outlook::Linear,
            Outlook::CoordinateWise,
            Outlook::Selecting,
            Outlook::Weighting,
        ];
        for (loss, works) in [
            (Rounding, [true, true, true, true]),
            (Sign, [true, true, false, true]),
            (OwnSupport, [true, false, true, true]),
            (OwnSubspace, [true, true, true, true]),
            (RandomSubspace, [true, false, false, false]),
        ] {
            for (outlook, works) in columns.into_iter().zip(works) {
                assert_eq!(judge(loss, outlook).is_ok(), works, "{loss:?} × {outlook:?}");
            }
        }
    }

    #[test]
    fn every_encoding_and_rule_is_classified_and_refusals_say_why() {
        for (encoding, expected_loss) in ENCODINGS {
            assert_eq!(loss(&encoding), expected_loss);
            for (rule, expected_outlook) in rules() {
                assert_eq!(outlook(&rule), expected_outlook);
                let verdict = check(&encoding, &rule);
                assert_eq!(verdict.is_ok(), judge(expected_loss, expected_outlook).is_ok());
                if let Err(error) = verdict {
                    let text = error.to_string();
                    assert!(text.contains(encoding.name()) && text.contains(rule.name()), "{text}");
                }
            }
        }
    }

    #[test]
    fn differences_let_sparse_messages_meet_every_rule() {
        let sparse = EncodingConfig::TopK { one_in: 32 };
        assert!(check_with_feedback(&sparse, &Feedback::Residual { decay: 0.95 }, &RuleConfig::Median).is_err());
        assert!(check_with_feedback(&sparse, &Feedback::Difference, &RuleConfig::Median).is_ok());
        let seeds = EncodingConfig::RandomSeeds { pairs: 8 };
        assert!(check_with_feedback(&seeds, &Feedback::Difference, &RuleConfig::Median).is_err());
    }

    /// Honest updates that agree but for a little noise, aggregated as decoded: the direction that they share must survive
    /// where a pair works, and it is lost where one is refused for that reason.
    #[test]
    fn pairs_that_work_keep_the_shared_direction_and_refused_ones_lose_it() {
        let cosine = |encoding: &EncodingConfig, rule: &RuleConfig| {
            let encoder = encoding.build();
            let shared: Vec<f32> = (0..4096).map(|i| noise(0, i)).collect();
            let decoded: Vec<Vec<f32>> = (1..=7)
                .map(|member| {
                    let update: Vec<f32> = (0..4096).map(|i| shared[i] + noise(member, i)).collect();
                    let (mut bytes, mut decoded) = (Vec::new(), vec![0.0; 4096]);
                    encoder.encode(&update, &mut bytes);
                    encoder.decode(&bytes, &mut decoded).unwrap();
                    decoded
                })
                .collect();
            let contributions: Vec<_> = decoded.iter().map(|values| Contribution::dense(values, 1.0)).collect();
            let mut out = vec![0.0f32; 4096];
            rule.build().aggregate(&contributions, &mut out);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let norms = (dot(&out, &out) * dot(&shared, &shared)).sqrt();
            if norms == 0.0 { 0.0 } else { dot(&out, &shared) / norms }
        };
        for (encoding, loss) in ENCODINGS {
            for (rule, outlook) in rules() {
                let kept = cosine(&encoding, &rule);
                let name = format!("{encoding:?} × {rule:?}: {kept}");
                match (loss, judge(loss, outlook)) {
                    (Loss::Rounding | Loss::OwnSubspace, _) => assert!(kept > 0.8, "{name}"),
                    (Loss::Sign, Ok(())) => assert!(kept > 0.6, "{name}"),
                    (Loss::OwnSupport, Ok(())) => assert!(kept > 0.2, "{name}"),
                    (Loss::OwnSupport, Err(_)) if encoding != (EncodingConfig::DctTopK { keep: 64 }) => {
                        assert!(kept < 0.2, "{name}")
                    }
                    _ => {} // random directions keep next to nothing of an update that was not made along them
                }
            }
        }
    }

    /// Noise of variance 1/3 between −1 and 1.
    fn noise(member: usize, i: usize) -> f32 {
        let mixed = (member * 4096 + i + 1) as u64;
        let mixed = (mixed ^ mixed >> 7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 40) as f32 / 8_388_608.0 - 1.0
    }
}
