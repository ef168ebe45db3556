//! The byte vocabulary as a `tokenizer.json`: token `b` is byte `b`.
//! Hugging Face has no plain byte tokenizer, so it is a byte-level BPE without merges, over GPT-2's printable alphabet.

use serde_json::{Map, Value, json};

/// GPT-2's character for each byte (Radford et al., 2019): printable Latin-1 characters stand for themselves, the other 68
/// bytes, in order, for the characters from U+0100 on.
pub(super) fn characters() -> Vec<char> {
    let mut next_other = 0x100;
    let character = |byte: u8| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        _ => {
            next_other += 1;
            char::from_u32(next_other - 1).expect("characters from U+0100 to U+0143 exist")
        }
    };
    (0..=255).map(character).collect()
}

/// The contents of `tokenizer.json`.
pub(super) fn tokenizer() -> Value {
    let vocabulary: Map<String, Value> = characters()
        .into_iter()
        .enumerate()
        .map(|(id, character)| (character.to_string(), json!(id)))
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "vocab": vocabulary,
            "merges": [],
        },
    })
}

/// The contents of `tokenizer_config.json`.
pub(super) fn tokenizer_config(context: u32) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_that_of_gpt2() {
        let characters = characters();
        let at = |byte: u8| characters[usize::from(byte)];
        assert_eq!(
            (at(b'a'), at(b' '), at(b'\n'), at(0), at(0xAD)),
            ('a', 'Ġ', 'Ċ', 'Ā', 'Ń')
        );
        let distinct: std::collections::BTreeSet<_> = characters.iter().collect();
        assert_eq!(distinct.len(), 256);
    }
}
