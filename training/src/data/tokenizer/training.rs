//! Training a byte-level BPE tokenizer on a member's own text (Sennrich et al., 2016; byte level as of GPT-2).
//! The counting is the `tokenizers` crate's; the same texts and size give the same file.

use std::collections::HashSet;

use tokenizers::AddedToken;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::TokenizerError;

/// The token that ends documents in tokenizers that are trained here.
const END: &str = "<|endoftext|>";

/// The bytes of a `tokenizer.json` with `size` tokens (257 at least: every byte and the end of a document), trained on
/// `texts`. There may be fewer tokens where the texts have too few different words.
pub fn train_byte_pairs<T, I>(texts: I, size: usize) -> Result<Vec<u8>, TokenizerError>
where
    T: AsRef<str> + Send,
    I: Iterator<Item = T> + Send,
{
    if size < 257 {
        return Err(TokenizerError::Failed(format!(
            "a vocabulary of {size} tokens has no room for 256 bytes and an end of document"
        )));
    }
    let failed = |error: tokenizers::Error| TokenizerError::Failed(error.to_string());
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(size)
        // A pair that was seen once says nothing.
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(END, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<_>>())
        .build();
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
    let byte_level = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(byte_level));
    tokenizer.with_decoder(Some(byte_level));
    tokenizer
        .train(&mut TrainerWrapper::from(trainer), texts)
        .map_err(failed)?;
    tokenizer.to_string(false).map(String::into_bytes).map_err(failed)
}
