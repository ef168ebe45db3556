//! All documents of some paths as bytes, in memory: for looking at text, not for training.
//! It neither splits nor shuffles.

use super::document::Content;
use super::readers::{Cut, list_files, read_files};
use super::{DataError, DataOptions, DataReport};

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
