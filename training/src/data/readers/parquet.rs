//! Parquet files: a row is a document, one column its text, the other plain columns its metadata.
//! It uses the `parquet` crate without Arrow; nested columns are not read.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;

use super::{DataError, Document, Problem, Reading};

pub(super) fn read(mut reading: Reading<'_, '_>) -> Result<(), DataError> {
    let file = match File::open(&reading.file.path) {
        Ok(file) => file,
        Err(reason) => {
            reading.met(Problem::Unreadable, reason);
            return Ok(());
        }
    };
    let reader = match guarded(|| SerializedFileReader::new(file)) {
        Ok(reader) => reader,
        Err(what) => {
            reading.met(Problem::Malformed, what);
            return Ok(());
        }
    };
    let schema = reader.metadata().file_metadata().schema().clone();
    let Some(columns) = plain_columns(&schema, &reading.options.text_field) else {
        let what = format!("no column of strings `{}`", reading.options.text_field);
        reading.met(Problem::NoText, what);
        return Ok(());
    };
    let mut rows = match guarded(|| reader.get_row_iter(Some(columns))) {
        Ok(rows) => rows,
        Err(what) => {
            reading.met(Problem::Malformed, what);
            return Ok(());
        }
    };
    for number in 1.. {
        match guarded(|| rows.next().transpose()) {
            Ok(Some(row)) => read_row(&mut reading, &row, number)?,
            Ok(None) => break,
            Err(what) => {
                reading.met(Problem::Malformed, format_args!("row {number}: {what}"));
                break;
            }
        }
    }
    Ok(())
}

/// The crate answers most damage with an error and some with a panic, which must not end the node.
fn guarded<T>(call: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|reason| reason.to_string()),
        Err(_) => Err("the file's structure is damaged".to_owned()),
    }
}

/// The schema without nested columns; `None` where the text is not among the plain ones.
fn plain_columns(schema: &Type, text_field: &str) -> Option<Type> {
    let plain: Vec<_> = schema
        .get_fields()
        .iter()
        .filter(|field| field.is_primitive())
        .cloned()
        .collect();
    plain.iter().find(|field| field.name() == text_field)?;
    Type::group_type_builder(schema.name()).with_fields(plain).build().ok()
}

fn read_row(reading: &mut Reading<'_, '_>, row: &Row, number: u64) -> Result<(), DataError> {
    let mut metadata = reading.metadata(number);
    let mut text = None;
    for (name, field) in row.get_column_iter() {
        let is_text = *name == reading.options.text_field;
        let value = match field {
            Field::Null => continue,
            Field::Str(value) => value.clone(),
            Field::Bytes(bytes) if is_text => match String::from_utf8_lossy(bytes.data()) {
                std::borrow::Cow::Borrowed(text) => text.to_owned(),
                std::borrow::Cow::Owned(text) => {
                    reading.met_at(Problem::NotUtf8, number);
                    text
                }
            },
            _ if is_text => continue,
            other => other.to_string(),
        };
        match is_text {
            true => text = Some(value),
            false => reading.describe(&mut metadata, name.clone(), value, number),
        }
    }
    match text {
        None => reading.met_at(Problem::NoText, number),
        Some(text) if text.is_empty() => reading.met_at(Problem::Empty, number),
        Some(text) => return reading.give(Document::text(text, metadata)),
    }
    Ok(())
}
