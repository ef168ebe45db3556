//! `node tokenizer train|show`, and what `session create --tokenizer` writes into a session file.
//! It runs in this process and asks no node; training keeps its text in memory.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use synod_config::load::session_as_written;
use synod_training::config::{ModelConfig, TokenizerId, Vocabulary};
use synod_training::data::{DataOptions, DataReport, Tokenizer, sample_documents, train_byte_pairs};

use super::Terminal;
use crate::cli::{TokenizerShowArgs, TokenizerTrainArgs};
use crate::failure::{Failure, Outcome};

/// What `train` answers.
#[derive(Serialize)]
struct Trained {
    file: PathBuf,
    #[serde(flatten)]
    tokenizer: TokenizerId,
    read: DataReport,
    /// Text that it was trained on.
    trained_on_bytes: u64,
}

/// `node tokenizer train`
pub fn train(args: &TokenizerTrainArgs, terminal: Terminal) -> Outcome {
    let refuse_occupied = || {
        Failure::user(format!(
            "--out {}: something is there already: choose another name",
            args.out.display()
        ))
    };
    if args.out.symlink_metadata().is_ok() {
        return Err(refuse_occupied());
    }
    let options = DataOptions {
        paths: args.data.clone(),
        ..DataOptions::default()
    };
    let most_bytes = args.most_mb.saturating_mul(1_000_000);
    let sample = sample_documents(&options, most_bytes).map_err(Failure::user)?;
    if sample.texts.is_empty() {
        let (place, report) = (options.named(), sample.report);
        return Err(Failure::user(format!("{} holds no text ({report})", place.display())));
    }
    let trained_on_bytes = sample.texts.iter().map(|text| text.len() as u64).sum();
    let bytes = train_byte_pairs(sample.texts.into_iter(), args.size)
        .map_err(|error| Failure::user(format!("--size {}: {error}", args.size)))?;
    let file = OpenOptions::new().write(true).create_new(true).open(&args.out);
    file.and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .map_err(|error| Failure::environment(format!("--out {}: {error}", args.out.display())))?;
    let trained = Trained {
        file: args.out.clone(),
        tokenizer: Tokenizer::identify(&args.out, None).map_err(Failure::environment)?,
        read: sample.report,
        trained_on_bytes,
    };
    match args.json {
        true => terminal.print_json(&trained),
        false => {
            terminal.tell(format!("read   {}", trained.read));
            terminal.tell(format!(
                "wrote  {}: {} tokens, trained on {trained_on_bytes} bytes of text, BLAKE3 {}",
                args.out.display(),
                trained.tokenizer.size,
                trained.tokenizer.blake3
            ));
            terminal.tell(format!(
                "next   `node session create … --tokenizer {}`",
                args.out.display()
            ));
        }
    }
    Ok(())
}

/// `node tokenizer show`
pub fn show(args: &TokenizerShowArgs, terminal: Terminal) -> Outcome {
    let tokenizer = Tokenizer::identify(&args.file, args.eod.as_deref()).map_err(Failure::user)?;
    match args.json {
        true => terminal.print_json(&tokenizer),
        false => terminal.print(format!(
            "[training.model.decoder.vocabulary.tokenizer]\nblake3 = \"{}\"\nsize = {}\neod = {}",
            tokenizer.blake3, tokenizer.size, tokenizer.eod
        )),
    }
    Ok(())
}

/// The session file whose model's vocabulary is that of the tokenizer at `path`. A file that names this tokenizer already
/// stays as it is, with its size, which may be greater; one that names another is refused.
pub fn named_in(place: &str, text: &str, path: &Path, eod: Option<&str>) -> Outcome<String> {
    let file = session_as_written(place, text).map_err(Failure::user)?;
    let flag = format!("--tokenizer {}", path.display());
    let (kind, vocabulary) = match &file.training.model {
        ModelConfig::Decoder(decoder) => ("decoder", decoder.vocabulary),
        ModelConfig::Apertus(apertus) => ("apertus", apertus.vocabulary),
        ModelConfig::Network(_) | ModelConfig::Synthetic(_) => {
            return Err(Failure::user(format!(
                "{place} trains no language model: leave {flag} out"
            )));
        }
    };
    if let Vocabulary::Tokenizer(named) = vocabulary {
        // Hash and size are checked; which token ends documents is the file's to say.
        Tokenizer::checked_bytes(&named, path).map_err(|error| Failure::user(format!("{place}, {flag}: {error}")))?;
        return Ok(text.to_owned());
    }
    let tokenizer =
        Tokenizer::identify(path, eod).map_err(|error| Failure::user(format!("{flag}: {error} (see --eod)")))?;
    let failed = |error: &dyn std::fmt::Display| Failure::user(format!("{place}, {flag}: {error}"));
    // The keys as they stand in the file, and no others: what a session takes by default depends on what its file says.
    let mut keys: toml::Table = toml::from_str(text).map_err(|error| failed(&error))?;
    let mut table = &mut keys;
    for key in ["training", "model", kind] {
        let inner = table
            .entry(key)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = inner
            .as_table_mut()
            .ok_or_else(|| failed(&format!("`{key}` is no table")))?;
    }
    let vocabulary = toml::Value::try_from(Vocabulary::Tokenizer(tokenizer)).map_err(|error| failed(&error))?;
    table.insert("vocabulary".to_owned(), vocabulary);
    toml::to_string(&keys).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_config::load::parse_session;
    use synod_config::presets::preset;

    #[test]
    fn a_session_file_names_a_tokenizer_and_keeps_all_else() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tokenizer.json");
        let texts = ["a house, a house and a horse"; 20];
        std::fs::write(&path, train_byte_pairs(texts.into_iter(), 270).unwrap()).unwrap();
        for text in [preset("tiny").unwrap(), "name = \"bare\"\n"] {
            let named = named_in("file", text, &path, None).unwrap();
            let (before, mut after) = (
                parse_session("file", text).unwrap(),
                parse_session("file", &named).unwrap(),
            );
            let ModelConfig::Decoder(decoder) = &mut after.training.model else {
                panic!("it trains a decoder")
            };
            let found = std::mem::replace(&mut decoder.vocabulary, Vocabulary::Byte);
            let expected = Tokenizer::identify(&path, None).unwrap();
            assert_eq!(found, Vocabulary::Tokenizer(expected));
            assert_eq!(toml::to_string(&before).unwrap(), toml::to_string(&after).unwrap());
            assert_eq!(named_in("file", &named, &path, None).unwrap(), named);
            let other = named.replace(&expected.blake3.to_string(), &"0".repeat(64));
            let refused = named_in("file", &other, &path, None).unwrap_err().message;
            assert!(refused.contains("get the session's file"), "{refused}");
        }
        let refused = named_in("file", preset("synthetic").unwrap(), &path, None).unwrap_err();
        assert!(refused.message.contains("no language model"), "{refused}");
        let refused = named_in("file", preset("tiny").unwrap(), &path, Some("[END]")).unwrap_err();
        assert!(refused.message.contains("[END]"), "{refused}");
    }
}
