//! What each encoding costs in quality: four members train a small language model of characters together, as rounds of local
//! AdamW steps and an outer step, once for each encoding and kind of feedback. It is no part of a session; one JSON object a
//! case on standard output: bytes of an update, and the held-out loss in bits a character over the seeds.
//!
//! `cargo run --release -p synod-aggregation --example encoding_quality -- TEXT [rounds] [seeds]`
//!
//! The model is that of Bengio et al. (2003): embeddings of the last 8 characters, one tanh layer, softmax. The last tenth of
//! the text is held out; each member has a quarter of the rest.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;
use serde_json::json;
use synod_aggregation::{
    Aggregator, Contribution, EncodingConfig, Feedback, FeedbackState, OuterConfig, TensorShape, rules::Mean,
};

const MEMBERS: usize = 4;
const LOCAL_STEPS: usize = 15;
const BATCH: usize = 48;
const CONTEXT: usize = 8;
const EMBEDDING: usize = 16;
const INPUT: usize = CONTEXT * EMBEDDING;
const HIDDEN: usize = 192;
const LEARNING_RATE: f32 = 2e-3;

const RESIDUAL: Feedback = Feedback::Residual { decay: 1.0 };
const DECAYING: Feedback = Feedback::Residual { decay: 0.95 };

const CASES: [(EncodingConfig, Feedback); 21] = [
    (EncodingConfig::F32, Feedback::None),
    (EncodingConfig::Bf16, Feedback::None),
    (EncodingConfig::F16, Feedback::None),
    (EncodingConfig::Int8 { block: 256 }, Feedback::None),
    (EncodingConfig::Int4 { block: 128 }, Feedback::None),
    (EncodingConfig::Int4 { block: 128 }, RESIDUAL),
    (EncodingConfig::Sign { block: 256 }, Feedback::None),
    (EncodingConfig::Sign { block: 256 }, RESIDUAL),
    (EncodingConfig::TopK { one_in: 64 }, Feedback::None),
    (EncodingConfig::TopK { one_in: 64 }, RESIDUAL),
    (EncodingConfig::TopK { one_in: 64 }, DECAYING),
    (EncodingConfig::TopK { one_in: 64 }, Feedback::Difference),
    (EncodingConfig::ChunkedTopK { chunk: 4096, keep: 64 }, Feedback::None),
    (EncodingConfig::ChunkedTopK { chunk: 4096, keep: 64 }, DECAYING),
    (EncodingConfig::ChunkedTopK { chunk: 4096, keep: 256 }, DECAYING),
    (EncodingConfig::DctTopK { keep: 64 }, Feedback::None),
    (EncodingConfig::DctTopK { keep: 64 }, DECAYING),
    (EncodingConfig::LowRank { rank: 4 }, Feedback::None),
    (EncodingConfig::LowRank { rank: 4 }, RESIDUAL),
    (EncodingConfig::RandomSeeds { pairs: 64 }, Feedback::None),
    (EncodingConfig::RandomSeeds { pairs: 64 }, RESIDUAL),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().expect("the path of a text");
    let number = |at: usize, default: u64| {
        arguments
            .get(at)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let (rounds, seeds) = (number(1, 40), number(2, 3));
    let text = Text::read(path);
    for (encoding, feedback) in CASES {
        let mut losses: Vec<f64> = (1..=seeds)
            .map(|seed| run(&text, &encoding, &feedback, rounds, seed))
            .collect();
        losses.sort_by(f64::total_cmp);
        let dimension = Model::dimension(text.vocabulary);
        let bytes = encoding
            .build_for(&Model::layout(text.vocabulary))
            .encoded_len(dimension);
        println!(
            "{}",
            json!({
                "case": format!("{encoding:?}"), "feedback": format!("{feedback:?}"), "parameters": dimension,
                "bytes": bytes, "share_of_f32": (bytes as f64 / (4 * dimension + 16) as f64 * 1e4).round() / 1e4,
                "rounds": rounds, "seeds": seeds, "unit": "bits a character, held out",
                "median": losses[losses.len() / 2], "least": losses[0], "greatest": losses[losses.len() - 1],
            })
        );
    }
}

/// A text as numbers of its characters.
struct Text {
    tokens: Vec<usize>,
    vocabulary: usize,
}

impl Text {
    fn read(path: &str) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let numbers: BTreeMap<u8, usize> = bytes.iter().map(|&byte| (byte, 0)).collect();
        let numbers: BTreeMap<u8, usize> = numbers.into_keys().enumerate().map(|(at, byte)| (byte, at)).collect();
        Self {
            tokens: bytes.iter().map(|byte| numbers[byte]).collect(),
            vocabulary: numbers.len(),
        }
    }

    /// What member `member` trains on.
    fn share(&self, member: usize) -> &[usize] {
        let each = self.tokens.len() * 9 / 10 / MEMBERS;
        &self.tokens[member * each..(member + 1) * each]
    }

    fn held_out(&self) -> &[usize] {
        &self.tokens[self.tokens.len() * 9 / 10..]
    }
}

/// Trains one federation and returns its held-out loss.
fn run(text: &Text, encoding: &EncodingConfig, feedback: &Feedback, rounds: u64, seed: u64) -> f64 {
    let dimension = Model::dimension(text.vocabulary);
    let encoder = encoding.build_for(&Model::layout(text.vocabulary));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut parameters, mut momentum) = (Model::initial(text.vocabulary, &mut random), vec![0.0f32; dimension]);
    let mut members: Vec<Member> = (0..MEMBERS)
        .map(|member| Member {
            random: ChaCha8Rng::seed_from_u64(1000 * seed + member as u64),
            moments: [vec![0.0; dimension], vec![0.0; dimension]],
            steps: 0,
            feedback: feedback.start(dimension),
        })
        .collect();
    for _ in 0..rounds {
        let decoded: Vec<Vec<f32>> = members
            .par_iter_mut()
            .enumerate()
            .map(|(at, member)| {
                let local = member.train(text.share(at), text.vocabulary, &parameters);
                let update: Vec<f32> = parameters
                    .iter()
                    .zip(&local)
                    .map(|(agreed, own)| agreed - own)
                    .collect();
                let (mut bytes, mut decoded) = (Vec::new(), vec![0.0; dimension]);
                member.feedback.encode(&*encoder, &update, &mut bytes);
                encoder.decode(&bytes, &mut decoded).expect("our own bytes decode");
                match &member.feedback {
                    FeedbackState::Difference(state) => state.estimate.clone(),
                    FeedbackState::None | FeedbackState::Residual(_) => decoded,
                }
            })
            .collect();
        let contributions: Vec<_> = decoded.iter().map(|values| Contribution::dense(values, 1.0)).collect();
        let mut aggregate = vec![0.0; dimension];
        Mean.aggregate(&contributions, &mut aggregate);
        OuterConfig::DILOCO.step(&mut parameters, &mut momentum, &aggregate);
    }
    let model = Model {
        vocabulary: text.vocabulary,
        parameters: &parameters,
    };
    let windows: Vec<&[usize]> = text.held_out().windows(CONTEXT + 1).step_by(11).collect();
    let losses: Vec<f64> = windows
        .par_chunks(256)
        .map(|windows| windows.iter().map(|window| model.loss(window, None)).sum::<f64>())
        .collect();
    losses.iter().sum::<f64>() / windows.len() as f64 / std::f64::consts::LN_2
}

/// A member's own state: its dice, AdamW's moments, and what its encoding left out.
struct Member {
    random: ChaCha8Rng,
    moments: [Vec<f32>; 2],
    steps: i32,
    feedback: FeedbackState,
}

impl Member {
    /// Local steps from `start`; returns where they lead.
    fn train(&mut self, share: &[usize], vocabulary: usize, start: &[f32]) -> Vec<f32> {
        let mut parameters = start.to_vec();
        let mut gradient = vec![0.0f32; parameters.len()];
        for _ in 0..LOCAL_STEPS {
            gradient.fill(0.0);
            let model = Model {
                vocabulary,
                parameters: &parameters,
            };
            for _ in 0..BATCH {
                let at = self.random.next_u64() as usize % (share.len() - CONTEXT);
                model.loss(&share[at..=at + CONTEXT], Some(&mut gradient));
            }
            self.adam(&mut parameters, &gradient);
        }
        parameters
    }

    fn adam(&mut self, parameters: &mut [f32], gradient: &[f32]) {
        self.steps += 1;
        let (first_left, second_left) = (1.0 - 0.9f32.powi(self.steps), 1.0 - 0.95f32.powi(self.steps));
        let [first, second] = &mut self.moments;
        for (((parameter, gradient), m), v) in parameters.iter_mut().zip(gradient).zip(first).zip(second) {
            let gradient = gradient / BATCH as f32;
            *m = 0.9 * *m + 0.1 * gradient;
            *v = 0.95 * *v + 0.05 * gradient * gradient;
            let step = (*m / first_left) / ((*v / second_left).sqrt() + 1e-8);
            *parameter -= LEARNING_RATE * (step + 0.01 * *parameter);
        }
    }
}

/// The model: embedding (V × 16), input (128 × 192), its bias, output (192 × V), its bias, one after the other.
struct Model<'a> {
    vocabulary: usize,
    parameters: &'a [f32],
}

impl Model<'_> {
    fn layout(vocabulary: usize) -> Vec<TensorShape> {
        [
            (vocabulary, EMBEDDING),
            (INPUT, HIDDEN),
            (1, HIDDEN),
            (HIDDEN, vocabulary),
            (1, vocabulary),
        ]
        .map(|(rows, columns)| TensorShape {
            rows: rows as u32,
            columns: columns as u32,
        })
        .to_vec()
    }

    fn dimension(vocabulary: usize) -> usize {
        Self::layout(vocabulary)
            .iter()
            .map(|shape| (shape.rows * shape.columns) as usize)
            .sum()
    }

    fn initial(vocabulary: usize, random: &mut ChaCha8Rng) -> Vec<f32> {
        Self::layout(vocabulary)
            .iter()
            .flat_map(|shape| {
                let scale = if shape.rows == 1 {
                    0.0
                } else {
                    (1.0 / shape.rows as f32).sqrt()
                };
                let values = shape.rows * shape.columns;
                (0..values)
                    .map(|_| scale * 3f32.sqrt() * signed_unit(random))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// The loss of the last character after the others, in nats; adds the gradient of it where asked.
    fn loss(&self, window: &[usize], gradient: Option<&mut [f32]>) -> f64 {
        let (context, target) = (&window[..CONTEXT], window[CONTEXT]);
        let (embedding, rest) = self.parameters.split_at(self.vocabulary * EMBEDDING);
        let (input, rest) = rest.split_at(INPUT * HIDDEN);
        let (input_bias, rest) = rest.split_at(HIDDEN);
        let (output, output_bias) = rest.split_at(HIDDEN * self.vocabulary);

        let x: Vec<f32> = context
            .iter()
            .flat_map(|&token| &embedding[token * EMBEDDING..(token + 1) * EMBEDDING])
            .copied()
            .collect();
        let mut hidden = input_bias.to_vec();
        add_product(&x, input, &mut hidden);
        hidden.iter_mut().for_each(|value| *value = value.tanh());
        let mut logits = output_bias.to_vec();
        add_product(&hidden, output, &mut logits);
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        let total: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
        let loss = f64::from(total.ln() + largest - logits[target]);

        if let Some(gradient) = gradient {
            let (to_embedding, rest) = gradient.split_at_mut(self.vocabulary * EMBEDDING);
            let (to_input, rest) = rest.split_at_mut(INPUT * HIDDEN);
            let (to_input_bias, rest) = rest.split_at_mut(HIDDEN);
            let (to_output, to_output_bias) = rest.split_at_mut(HIDDEN * self.vocabulary);
            let mut at_logits: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp() / total).collect();
            at_logits[target] -= 1.0;
            add(&at_logits, to_output_bias);
            let at_hidden = back_product(&hidden, output, &at_logits, to_output);
            let at_sums: Vec<f32> = at_hidden.iter().zip(&hidden).map(|(g, h)| g * (1.0 - h * h)).collect();
            add(&at_sums, to_input_bias);
            let at_x = back_product(&x, input, &at_sums, to_input);
            for (&token, at_x) in context.iter().zip(at_x.chunks(EMBEDDING)) {
                add(at_x, &mut to_embedding[token * EMBEDDING..(token + 1) * EMBEDDING]);
            }
        }
        loss
    }
}

/// out += x W, W row after row.
fn add_product(x: &[f32], weights: &[f32], out: &mut [f32]) {
    for (x, row) in x.iter().zip(weights.chunks(out.len())) {
        out.iter_mut().zip(row).for_each(|(out, weight)| *out += x * weight);
    }
}

/// Adds x ⊗ g to the weights' gradient and returns that of x, W g.
fn back_product(x: &[f32], weights: &[f32], at_out: &[f32], to_weights: &mut [f32]) -> Vec<f32> {
    let rows = weights.chunks(at_out.len()).zip(to_weights.chunks_mut(at_out.len()));
    x.iter()
        .zip(rows)
        .map(|(x, (row, to_row))| {
            to_row.iter_mut().zip(at_out).for_each(|(to, g)| *to += x * g);
            let mut lanes = [0.0f32; 8];
            for (row, g) in row.chunks(8).zip(at_out.chunks(8)) {
                lanes
                    .iter_mut()
                    .zip(row)
                    .zip(g)
                    .for_each(|((lane, weight), g)| *lane += weight * g);
            }
            lanes.iter().sum()
        })
        .collect()
}

fn add(values: &[f32], to: &mut [f32]) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to += value);
}

fn signed_unit(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0
}
