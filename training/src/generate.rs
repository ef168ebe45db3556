//! Text from a trained decoder: tokens drawn one by one with temperature and top-k from a seeded stream.
//! There is no key-value cache: every token runs the whole context again, which small models can afford.

use crate::models::decoder::Decoder;
use crate::randomness::{StreamName, unit};
use crate::trainer::TrainError;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token. 0.8 reads better than 1 at this size.
    pub temperature: f32,
    /// Only this many likeliest tokens are drawn from; 0 means all. 40 keeps rare bytes out.
    pub top_k: usize,
    /// The same seed and prompt give the same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            seed: 1,
        }
    }
}

/// `count` bytes that follow `prompt` (an empty prompt counts as the start of a document). `heard` gets each byte as it is
/// drawn and may end the text by answering false.
pub fn generate(
    decoder: &Decoder,
    parameters: &[f32],
    prompt: &[u8],
    count: usize,
    sampling: Sampling,
    heard: &mut dyn FnMut(u8) -> bool,
) -> Result<Vec<u8>, TrainError> {
    TrainError::check_length(decoder.layout(), parameters)?;
    let context = decoder.config().context as usize;
    let vocabulary = decoder.config().vocabulary.size();
    let mut rng = StreamName {
        purpose: "generate",
        seed: sampling.seed,
        ..StreamName::default()
    }
    .open();
    let mut text = if prompt.is_empty() {
        vec![crate::data::DOCUMENT_SEPARATOR]
    } else {
        prompt.to_vec()
    };
    let begin = text.len();
    for _ in 0..count {
        let seen = &text[text.len().saturating_sub(context)..];
        let logits = decoder.logits(parameters, seen)?; // [T, V]
        let token = draw(&logits[logits.len() - vocabulary..], sampling, unit(&mut rng));
        text.push(token);
        if !heard(token) {
            break;
        }
    }
    Ok(text.split_off(begin))
}

/// The token at which the cumulated probability of the likeliest tokens passes `chance`.
fn draw(logits: &[f32], sampling: Sampling, chance: f32) -> u8 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    if sampling.temperature <= 0.0 {
        return order[0] as u8;
    }
    order.truncate(if sampling.top_k == 0 {
        logits.len()
    } else {
        sampling.top_k
    });
    let greatest = logits[order[0]];
    let weight = |token: usize| ((logits[token] - greatest) / sampling.temperature).exp();
    let mut left = chance * order.iter().map(|token| weight(*token)).sum::<f32>();
    for token in &order {
        left -= weight(*token);
        if left < 0.0 {
            return *token as u8;
        }
    }
    order[order.len() - 1] as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DecoderConfig;

    #[test]
    fn draws_follow_temperature_and_top_k() {
        let mut logits = vec![-20.0; 256];
        (logits[65], logits[66], logits[67]) = (2.0, 1.0, 0.0);
        let sampling = |temperature, top_k| Sampling {
            temperature,
            top_k,
            seed: 0,
        };
        assert_eq!(draw(&logits, sampling(0.0, 0), 0.99), 65);
        assert_eq!(draw(&logits, sampling(1.0, 1), 0.99), 65);
        assert_eq!(draw(&logits, sampling(1.0, 2), 0.99), 66);
        assert_eq!(draw(&logits, sampling(1.0, 0), 0.99), 67);
        // Probabilities are e², e, 1 over their sum 11.107: 0.665, 0.245, 0.090.
        assert_eq!(draw(&logits, sampling(1.0, 0), 0.664), 65);
        assert_eq!(draw(&logits, sampling(1.0, 0), 0.667), 66);
    }

    #[test]
    fn a_seed_and_a_prompt_give_the_same_text_beyond_the_context_too() {
        let config = DecoderConfig {
            layers: 1,
            heads: 2,
            width: 8,
            context: 8,
            ..DecoderConfig::default()
        };
        let decoder = Decoder::new(&config, burn::tensor::Device::flex());
        let parameters = decoder.initial_parameters(1);
        let text = |seed, prompt: &[u8]| {
            let sampling = Sampling {
                seed,
                ..Sampling::default()
            };
            generate(&decoder, &parameters, prompt, 30, sampling, &mut |_| true).unwrap()
        };
        assert_eq!(text(1, b"ab").len(), 30);
        assert_eq!(text(1, b"ab"), text(1, b"ab"));
        assert_ne!(text(1, b"ab"), text(2, b"ab"));
        assert_eq!(text(1, b"").len(), 30);
    }
}
