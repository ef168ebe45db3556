//! Text from a trained decoder: tokens drawn one by one with temperature, top-k and top-p from a seeded stream.
//! Keys and values of earlier tokens are kept; when the context is full, its later half begins another.

use crate::models::decoder::Decoder;
use crate::models::fused::numeric::exp;
use crate::models::incremental::Incremental;
use crate::randomness::{StreamName, unit};
use crate::trainer::TrainError;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token. 0.8 reads better than 1 at this size.
    pub temperature: f32,
    /// Only this many likeliest tokens are drawn from; 0 means all. 40 keeps rare bytes out.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability are drawn from (Holtzman et al., 2020); 1 means all.
    pub top_p: f32,
    /// The same seed and prompt give the same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 1.0,
            seed: 1,
        }
    }
}

/// `count` bytes that follow `prompt` (an empty prompt counts as the start of a document), for a decoder of bytes. `heard`
/// gets each byte as it is drawn and may end the text by answering false.
pub fn generate(
    decoder: &Decoder,
    parameters: &[f32],
    prompt: &[u8],
    count: usize,
    sampling: Sampling,
    heard: &mut dyn FnMut(u8) -> bool,
) -> Result<Vec<u8>, TrainError> {
    assert!(decoder.shape().vocabulary.size() <= 256, "the vocabulary is bytes");
    let prompt: Vec<u32> = prompt.iter().copied().map(u32::from).collect();
    let tokens = generate_tokens(decoder, parameters, &prompt, count, sampling, &mut |token| {
        heard(token as u8)
    })?;
    Ok(tokens.into_iter().map(|token| token as u8).collect())
}

/// `count` tokens that follow `prompt` (an empty prompt counts as the start of a document). `heard` gets each token as it is
/// drawn and may end the text by answering false.
pub fn generate_tokens(
    decoder: &Decoder,
    parameters: &[f32],
    prompt: &[u32],
    count: usize,
    sampling: Sampling,
    heard: &mut dyn FnMut(u32) -> bool,
) -> Result<Vec<u32>, TrainError> {
    let context = decoder.shape().context;
    let mut rng = StreamName {
        purpose: "generate",
        seed: sampling.seed,
        ..StreamName::default()
    }
    .open();
    let mut text = match prompt {
        [] => vec![decoder.shape().vocabulary.eod()],
        _ => prompt.to_vec(),
    };
    let begin = text.len();
    let mut cache = Incremental::new(decoder, parameters)?;
    let mut unseen = text.len().saturating_sub(context);
    for _ in 0..count {
        if cache.room() < text.len() - unseen {
            cache = Incremental::new(decoder, parameters)?;
            unseen = text.len() - (context / 2).max(1);
        }
        let logits = cache.push(&text[unseen..])?; // [V]
        unseen = text.len();
        let token = draw(&logits, sampling, unit(&mut rng));
        text.push(token);
        if !heard(token) {
            break;
        }
    }
    Ok(text.split_off(begin))
}

/// The token at which the cumulated probability of the likeliest tokens passes `chance`.
fn draw(logits: &[f32], sampling: Sampling, chance: f32) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    if sampling.temperature <= 0.0 {
        return order[0] as u32;
    }
    let greatest = logits[order[0]];
    let weight = |token: &usize| exp((logits[*token] - greatest) / sampling.temperature);
    if sampling.top_p < 1.0 {
        let mut left = sampling.top_p * order.iter().map(weight).sum::<f32>();
        let nucleus = order.iter().take_while(|token| {
            let inside = left > 0.0;
            left -= weight(token);
            inside
        });
        let count = nucleus.count().max(1);
        order.truncate(count);
    }
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let mut left = chance * order.iter().map(weight).sum::<f32>();
    for token in &order {
        left -= weight(token);
        if left < 0.0 {
            return *token as u32;
        }
    }
    order[order.len() - 1] as u32
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
            top_p: 1.0,
            seed: 0,
        };
        assert_eq!(draw(&logits, sampling(0.0, 0), 0.99), 65);
        assert_eq!(draw(&logits, sampling(1.0, 1), 0.99), 65);
        assert_eq!(draw(&logits, sampling(1.0, 2), 0.99), 66);
        assert_eq!(draw(&logits, sampling(1.0, 0), 0.99), 67);
        // Probabilities are e², e, 1 over their sum 11.107: 0.665, 0.245, 0.090.
        assert_eq!(draw(&logits, sampling(1.0, 0), 0.664), 65);
        assert_eq!(draw(&logits, sampling(1.0, 0), 0.667), 66);
        let nucleus = |top_p| Sampling {
            top_p,
            ..sampling(1.0, 0)
        };
        assert_eq!(draw(&logits, nucleus(0.5), 0.999), 65);
        assert_eq!(draw(&logits, nucleus(0.7), 0.999), 66);
        assert_eq!(draw(&logits, nucleus(0.99), 0.999), 67);
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
