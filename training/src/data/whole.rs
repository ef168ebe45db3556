//! All documents of some paths, or a sample of them, in memory: for looking at text and for tokenizers, not for training
//! models.
//! It neither splits nor shuffles.

use super::document::Content;
use super::readers::{Cut, list_files, read_files};
use super::tokenizer::{Tokenizer, WordCache};
use super::{DataError, DataOptions, DataReport};
use crate::config::Vocabulary;

/// The byte between documents where tokens are bytes. Text does not hold it; where it does, it becomes a space.
pub const DOCUMENT_SEPARATOR: u8 = 0;

/// All documents under some paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Documents {
    /// The documents' text as bytes, in the order of file names and lines, without empty ones.
    pub texts: Vec<Vec<u8>>,
    /// What was wrong.
    pub report: DataReport,
}

/// Hands out the tokens of each document under some paths, whole and in order, without the token that ends documents. Files
/// of tokens are read too: they are of this vocabulary, or left out.
pub fn tokens_of_documents(
    options: &DataOptions,
    vocabulary: &Vocabulary,
    each: &mut dyn FnMut(&[u32]),
) -> Result<DataReport, DataError> {
    let tokenizer = Tokenizer::open(vocabulary, options.tokenizer.as_deref())?;
    let mut report = DataReport::default();
    let files = list_files(options, &mut report)?;
    let cut = Cut {
        piece_bytes: 1 << 20,
        eod: vocabulary.eod(),
        vocabulary: vocabulary.size(),
    };
    let (mut cache, mut tokens) = (WordCache::default(), Vec::new());
    read_files(&files, options, cut, &mut report, &mut |document| {
        if !document.continues && !tokens.is_empty() {
            each(&tokens);
            tokens.clear();
        }
        match document.content {
            Content::Text(text) => Ok(tokenizer.encode(&text, &mut cache, &mut tokens)?),
            Content::Tokens(some) => {
                tokens.extend_from_slice(&some);
                Ok(())
            }
        }
    })?;
    if !tokens.is_empty() {
        each(&tokens);
    }
    Ok(report)
}

/// A sample of the documents under some paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// Texts, in the order of file names and lines; long plain texts in pieces.
    pub texts: Vec<String>,
    /// What was read, the documents that were not drawn among it.
    pub report: DataReport,
}

/// Reads the text of documents, `most_bytes` at most: of more, those whose hashes are smallest, so that the same files
/// give the same sample whatever their order. Documents that are tokens are left out.
pub fn sample_documents(options: &DataOptions, most_bytes: u64) -> Result<Sample, DataError> {
    let mut report = DataReport::default();
    let files = list_files(options, &mut report)?;
    let cut = Cut {
        piece_bytes: 1 << 20,
        eod: u32::MAX,
        vocabulary: 0,
    };
    let mut kept: Vec<(u32, String)> = Vec::new();
    let (mut bytes, mut below) = (0, u32::MAX);
    read_files(&files, options, cut, &mut report, &mut |document| {
        let mark = document.content.mark();
        if let Content::Text(text) = document.content
            && mark <= below
        {
            bytes += text.len() as u64;
            kept.push((mark, text));
        }
        while bytes > most_bytes && below > 0 {
            below /= 2;
            kept.retain(|(mark, _)| *mark <= below);
            bytes = kept.iter().map(|(_, text)| text.len() as u64).sum();
        }
        Ok(())
    })?;
    let texts = kept.into_iter().map(|(_, text)| text).collect();
    Ok(Sample { texts, report })
}

/// Reads the text of all documents; those that are tokens are left out. Plain texts are whole here.
pub fn read_documents(options: impl Into<DataOptions>) -> Result<Documents, DataError> {
    let options = options.into();
    let mut report = DataReport::default();
    let files = list_files(&options, &mut report)?;
    let cut = Cut {
        piece_bytes: 1 << 20,
        eod: u32::MAX,
        vocabulary: 0,
    };
    let mut texts: Vec<Vec<u8>> = Vec::new();
    read_files(&files, &options, cut, &mut report, &mut |document| {
        if let Content::Text(text) = document.content {
            let mut bytes = text.into_bytes();
            let separators = bytes.iter_mut().filter(|byte| **byte == DOCUMENT_SEPARATOR);
            separators.for_each(|byte| *byte = b' ');
            match texts.last_mut() {
                Some(last) if document.continues => last.append(&mut bytes),
                _ => texts.push(bytes),
            }
        }
        Ok(())
    })?;
    report.documents = texts.len() as u64;
    Ok(Documents { texts, report })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_all_there_is_or_the_same_part_of_it_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.jsonl");
        let lines = |order: &mut dyn Iterator<Item = u32>| -> String {
            order
                .map(|number| format!("{{\"text\": \"the text with the number {number}\"}}\n"))
                .collect()
        };
        let options = DataOptions::from(&path);
        std::fs::write(&path, lines(&mut (0..1_000))).unwrap();
        let all = sample_documents(&options, u64::MAX).unwrap();
        assert_eq!(all.texts.len(), 1_000);
        let mut some = sample_documents(&options, 10_000).unwrap().texts;
        let bytes: usize = some.iter().map(String::len).sum();
        assert!((2_000..=10_000).contains(&bytes), "{bytes}");
        std::fs::write(&path, lines(&mut (0..1_000).rev())).unwrap();
        let mut again = sample_documents(&options, 10_000).unwrap();
        assert_eq!(again.report.documents, 1_000);
        some.sort();
        again.texts.sort();
        assert_eq!(some, again.texts);
    }

    #[test]
    fn texts_and_files_of_tokens_come_as_whole_documents_of_tokens() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("a.jsonl"),
            "{\"text\": \"one\"}\nno\n{\"text\": \"two\"}\n",
        )
        .unwrap();
        let tokens: Vec<u8> = [7u16, 8, 0, 9, 0]
            .iter()
            .flat_map(|token| token.to_le_bytes())
            .collect();
        std::fs::write(folder.path().join("b.u16"), tokens).unwrap();
        std::fs::write(folder.path().join("c.txt"), "a line of text\n".repeat(200_000)).unwrap();
        let mut found = Vec::new();
        let report = tokens_of_documents(&folder.path().into(), &Vocabulary::Byte, &mut |tokens| {
            found.push(tokens.to_vec());
        })
        .unwrap();
        let text = |text: &str| text.bytes().map(u32::from).collect::<Vec<u32>>();
        assert_eq!(found[..4], [text("one"), text("two"), vec![7, 8], vec![9]]);
        assert_eq!((found.len(), found[4].len()), (5, 3_000_000));
        assert_eq!(report.left_out(), 1);
    }
}
