//! `node generate MODEL`: text from a session's model or an exported folder, printed as it is drawn.
//! It runs in this process, on this machine's device, and needs no running node for a folder.

use std::io::Write;

use synod_training::data::{Tokenizer, WordCache};
use synod_training::generate::{Sampling, generate_tokens};
use synod_training::models::decoder::Decoder;

use super::model_source::model;
use super::{Terminal, settings};
use crate::cli::GenerateArgs;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// The likeliest tokens that are drawn from where nothing else is asked for.
const TOP_K: usize = 40;

/// Writes the text.
pub fn run(dir: &DataDir, args: &GenerateArgs, _: Terminal) -> Outcome {
    if !args.temperature.is_finite() || args.temperature < 0.0 {
        return Err(Failure::user(format!(
            "--temperature {}: it must be 0 or more",
            args.temperature
        )));
    }
    if !(args.top_p > 0.0 && args.top_p <= 1.0) {
        return Err(Failure::user(format!(
            "--top-p {}: it must be above 0 and at most 1",
            args.top_p
        )));
    }
    let model = model(dir, &args.model)?;
    let tokenizer = model.tokenizer()?;
    let eod = model.shape()?.vocabulary.eod();
    let mut prompt = Vec::new();
    tokenizer
        .encode(&args.prompt, &mut WordCache::default(), &mut prompt)
        .map_err(Failure::environment)?;
    let device = settings(dir, &[]).map(|config| config.device()).unwrap_or_default();
    let decoder = Decoder::new(model.shape()?, device.open().map_err(Failure::environment)?);
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k.unwrap_or(if args.top_p < 1.0 { 0 } else { TOP_K }),
        top_p: args.top_p,
        seed: args.seed,
    };
    let mut out = std::io::stdout().lock();
    // Whoever reads may go away: then there is no one to write for.
    let mut hear = |bytes: &[u8]| out.write_all(bytes).and_then(|()| out.flush()).is_ok();
    hear(args.prompt.as_bytes());
    let mut speaker = Speaker::new(&tokenizer, eod);
    let mut each = |token| speaker.say(token).is_some_and(|bytes| hear(&bytes));
    generate_tokens(&decoder, &model.parameters, &prompt, args.tokens, sampling, &mut each)
        .map_err(Failure::environment)?;
    hear(b"\n");
    Ok(())
}

/// Makes text of tokens one by one.
struct Speaker<'a> {
    tokenizer: &'a Tokenizer,
    eod: u32,
    /// Tokens so far and how much of their text was said, where a token's text depends on those before it.
    tokens: Vec<u32>,
    said: usize,
}

impl<'a> Speaker<'a> {
    fn new(tokenizer: &'a Tokenizer, eod: u32) -> Self {
        Self {
            tokenizer,
            eod,
            tokens: Vec::new(),
            said: 0,
        }
    }

    /// The bytes that are sure now that this token is there; none where the text is at its end: a document of tokens ends
    /// with its last one, a document of bytes goes on behind a byte 0.
    fn say(&mut self, token: u32) -> Option<Vec<u8>> {
        match self.tokenizer {
            Tokenizer::Byte => self.tokenizer.decode(&[token]).ok(),
            _ if token == self.eod => None,
            Tokenizer::BytePair(_) => self.tokenizer.decode(&[token]).ok(),
            Tokenizer::General(_) => {
                self.tokens.push(token);
                let text = self.tokenizer.decode(&self.tokens).ok()?;
                // A character that is not whole yet is shown as U+FFFD, until its last token is there.
                if text.len() <= self.said || text.ends_with("\u{fffd}".as_bytes()) {
                    return Some(Vec::new());
                }
                let new = text[self.said..].to_vec();
                self.said = text.len();
                Some(new)
            }
        }
    }
}
