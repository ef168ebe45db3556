//! Data as a member has it, good and damaged: every format, every kind of trouble, the split, the order, kept tokens.
//! Real text is only read where `SYNOD_DATA` names the folder with it.

#![allow(clippy::unwrap_used, reason = "a test's helper: a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use synod_protocol::identity::BlobId;
use synod_training::config::{TokenizerId, Vocabulary};
use synod_training::data::{
    Content, Cut, DataError, DataOptions, DataReport, Dataset, Document, Order, Prefetch, Problem, Tokenizer, Windows,
    WordCache, list_files, read_documents, read_files, train_byte_pairs,
};
use synod_training::objectives::{GoldfishConfig, LossConfig};

const ORDER: Order = Order {
    seed: 7,
    member: [1; 32],
};

const CUT: Cut = Cut {
    piece_bytes: 1 << 20,
    eod: 0,
    vocabulary: 1000,
};

fn windows(context: usize) -> Windows {
    Windows {
        context,
        heldout_fraction: 0.2,
        vocabulary: Vocabulary::Byte,
        loss: LossConfig::default(),
    }
}

/// Reads all documents under a path.
fn read(path: &Path) -> (Vec<Document>, DataReport) {
    let (mut documents, mut report) = (Vec::new(), DataReport::default());
    let options = DataOptions::from(path);
    let files = list_files(&options, &mut report).unwrap();
    read_files(&files, &options, CUT, &mut report, &mut |document| {
        documents.push(document);
        Ok(())
    })
    .unwrap();
    (documents, report)
}

fn texts(documents: &[Document]) -> Vec<&str> {
    let text = |document: &'_ Document| match &document.content {
        Content::Text(_) => true,
        Content::Tokens(_) => false,
    };
    assert!(documents.iter().all(text));
    documents
        .iter()
        .map(|document| match &document.content {
            Content::Text(text) => text.as_str(),
            Content::Tokens(_) => unreachable!("only texts"),
        })
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// `count` documents as JSON Lines, each with a text of some hundred bytes.
fn lines(count: usize) -> String {
    (0..count)
        .map(|i| {
            let text: String = (0..20 + i % 7)
                .map(|j| format!("word{} ", (i * 31 + j * j) % 997))
                .collect();
            format!(
                "{{\"text\": \"{text}\", \"id\": \"doc-{i}\", \"year\": {}}}\n",
                1990 + i % 30
            )
        })
        .collect()
}

#[test]
fn json_lines_read_the_same_plain_and_compressed_with_their_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let json = lines(500);
    let write = |name: &str, bytes: &[u8]| {
        fs::write(folder.path().join(name), bytes).unwrap();
        folder.path().join(name)
    };
    let plain = read(&write("a.jsonl", json.as_bytes()));
    assert_eq!((plain.0.len(), plain.1.is_clean()), (500, true));
    let metadata = &plain.0[3].metadata;
    assert_eq!(
        (
            metadata["id"].as_str(),
            metadata["year"].as_str(),
            metadata["source"].as_str()
        ),
        ("doc-3", "1993", "a.jsonl")
    );
    for (name, bytes) in [
        ("a.jsonl.gz", gzip(json.as_bytes())),
        ("a.JSONL.zst", zstd(json.as_bytes())),
        // Two members, two frames: what `cat a.zst b.zst` makes.
        (
            "b.jsonl.gz",
            [gzip(&json.as_bytes()[..999]), gzip(&json.as_bytes()[999..])].concat(),
        ),
        (
            "b.jsonl.zst",
            [zstd(&json.as_bytes()[..999]), zstd(&json.as_bytes()[999..])].concat(),
        ),
    ] {
        let (documents, report) = read(&write(name, &bytes));
        assert!(report.is_clean(), "{report}");
        assert_eq!(texts(&documents), texts(&plain.0), "{name}");
    }
}

#[test]
fn the_text_may_lie_under_another_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    fs::write(&path, "{\"content\": \"here\", \"text\": \"not here\"}\n").unwrap();
    let options = DataOptions {
        text_field: "content".to_owned(),
        ..DataOptions::from(&path)
    };
    assert_eq!(read_documents(options).unwrap().texts, [b"here"]);
}

#[test]
fn a_folder_is_read_in_the_order_of_names_and_other_files_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    fs::create_dir(folder.path().join("deep")).unwrap();
    write("b.txt", b"second");
    write("a.MD", b"first\0");
    write(
        "deep/c.jsonl",
        b"{\"text\": \"third\"}\n\n{\"text\": \"fourth\", \"date\": 1}\n",
    );
    write("picture.png", b"\xff\xfe");
    write("empty.txt", b"");
    write("latin.txt", b"caf\xe9");
    let found = read_documents(folder.path()).unwrap();
    let texts: Vec<_> = found.texts.iter().map(|text| String::from_utf8_lossy(text)).collect();
    assert_eq!(texts, ["first ", "second", "third", "fourth", "caf\u{fffd}"]);
    let report = &found.report;
    assert_eq!((report.files, report.other_files, report.documents), (5, 1, 5));
    assert_eq!((report.count(Problem::NotUtf8), report.count(Problem::Empty)), (1, 1));
    assert!(report.to_string().contains("latin.txt"), "{report}");
}

#[test]
fn bad_lines_are_left_out_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.jsonl");
    let long = "m".repeat(5000);
    let mut bytes = Vec::new();
    for line in [
        b"{\"text\": \"good\"}".as_slice(),
        b"{\"text\": 3}",
        b"{\"other\": \"x\"}",
        b"{\"text\": \"\"}",
        b"[1, 2]",
        b"{\"text\": \"cut",
        b"",
        b"   ",
        b"{\"text\": \"caf\xe9\"}",
        b"{\"text\": null}",
        format!("{{\"text\": \"described\", \"about\": \"{long}\"}}").as_bytes(),
        b"\xff\xfe\x00",
        b"{\"text\": \"last, without an end of line\"}",
    ] {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    bytes.pop();
    fs::write(&path, bytes).unwrap();
    let (documents, report) = read(&path);
    assert_eq!(
        texts(&documents),
        ["good", "caf\u{fffd}", "described", "last, without an end of line"]
    );
    assert!(!documents[2].metadata.contains_key("about"));
    let count = |problem| report.count(problem);
    assert_eq!(
        [
            count(Problem::NoText),
            count(Problem::NotJson),
            count(Problem::Empty),
            count(Problem::NotUtf8)
        ],
        [3, 3, 1, 2]
    );
    assert_eq!(count(Problem::LongMetadata), 1);
    assert!(report.to_string().contains("odd.jsonl:2, "), "{report}");
}

#[test]
fn compressed_files_that_end_early_give_what_they_hold_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let json = lines(20_000);
    for (name, bytes) in [
        ("a.jsonl.gz", gzip(json.as_bytes())),
        ("a.jsonl.zst", zstd(json.as_bytes())),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
        let (documents, report) = read(&path);
        assert!((1000..19_999).contains(&documents.len()), "{name}: {}", documents.len());
        assert_eq!(report.count(Problem::Cut), 1, "{report}");
        // Damage in the middle.
        let mut damaged = bytes.clone();
        let middle = damaged.len() / 2;
        damaged[middle..middle + 50].fill(0x55);
        fs::write(&path, damaged).unwrap();
        let (_, report) = read(&path);
        assert!(
            report.count(Problem::Cut) == 1 || report.count(Problem::NotJson) > 0,
            "{report}"
        );
    }
}

#[test]
fn a_file_that_shrinks_after_it_was_listed_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.txt", "a.jsonl", "a.u16"] {
        let path = folder.path().join(name);
        fs::write(&path, lines(100)).unwrap();
        let (options, mut report) = (DataOptions::from(&path), DataReport::default());
        let files = list_files(&options, &mut report).unwrap();
        fs::write(&path, &lines(100)[..2000]).unwrap();
        read_files(&files, &options, CUT, &mut report, &mut |_| Ok(())).unwrap();
        assert_eq!(report.count(Problem::Shrunk), 1, "{name}: {report}");
        fs::remove_file(&path).unwrap();
        read_files(&files, &options, CUT, &mut report, &mut |_| Ok(())).unwrap();
        assert_eq!(report.count(Problem::Unreadable), 1, "{name}: {report}");
    }
}

/// Bytes that look random and are the same each time.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut bytes = vec![0; count];
    reader.fill(&mut bytes);
    bytes
}

#[test]
fn noise_under_any_name_is_survived_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "n.txt",
        "n.jsonl",
        "n.jsonl.gz",
        "n.txt.zst",
        "n.parquet",
        "n.u16",
        "n.u32",
        "n.idx",
    ] {
        for seed in 0..8 {
            let path = folder.path().join(name);
            fs::write(&path, noise(seed, 3001)).unwrap();
            fs::write(folder.path().join("n.bin"), noise(seed, 300)).unwrap();
            let (_, report) = read(&path);
            assert!(!report.is_clean(), "{name} {seed}: {report}");
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn what_is_not_there_or_no_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let check = |path: &Path, part: &str| {
        let error = read_documents(path).unwrap_err().to_string();
        assert!(
            error.contains(part) && error.contains(path.to_str().unwrap()),
            "{error}"
        );
    };
    check(&folder.path().join("nowhere"), "does not exist");
    check(folder.path(), "holds no .txt, .md, .jsonl");
    check(Path::new("/dev/null"), "neither a file nor a folder");
}

// ---- Parquet --------------------------------------------------------------------------------------------------------

fn write_parquet(path: &Path, documents: &[(Option<&str>, i32)]) {
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    let schema = "message documents {
        optional binary text (UTF8); required int32 year; required group nested { required int32 x; } }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let properties = Arc::new(WriterProperties::builder().set_compression(zstd).build());
    let mut writer = SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, properties).unwrap();
    for documents in documents.chunks(100) {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = documents
            .iter()
            .filter_map(|(text, _)| text.map(ByteArray::from))
            .collect();
        let levels: Vec<i16> = documents.iter().map(|(text, _)| i16::from(text.is_some())).collect();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, Some(&levels), None)
            .unwrap();
        column.close().unwrap();
        for _ in 0..2 {
            let mut column = group.next_column().unwrap().unwrap();
            let years: Vec<i32> = documents.iter().map(|(_, year)| *year).collect();
            column.typed::<Int32Type>().write_batch(&years, None, None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn parquet_rows_are_documents_and_plain_columns_their_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let texts_written: Vec<String> = (0..250).map(|i| format!("document {i} é")).collect();
    let mut rows: Vec<_> = texts_written.iter().map(|text| (Some(text.as_str()), 2001)).collect();
    (rows[7].0, rows[8].0) = (None, Some(""));
    write_parquet(&path, &rows);
    let (documents, report) = read(&path);
    assert_eq!((documents.len(), documents[0].metadata["year"].as_str()), (248, "2001"));
    assert_eq!(texts(&documents)[247], "document 249 é");
    assert_eq!((report.count(Problem::NoText), report.count(Problem::Empty)), (1, 1));

    // Cut, and damaged in many places: never a crash, never in silence where a page is hit.
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(read(&path).1.count(Problem::Malformed), 1);
    for at in (0..bytes.len()).step_by(37) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xFF;
        fs::write(&path, damaged).unwrap();
        read(&path);
    }
    let options = DataOptions {
        text_field: "body".to_owned(),
        ..DataOptions::from(&path)
    };
    fs::write(&path, bytes).unwrap();
    let report = read_documents(options).unwrap().report;
    assert!(report.to_string().contains("no column of strings `body`"), "{report}");
}

// ---- tokens ---------------------------------------------------------------------------------------------------------

#[test]
fn token_files_are_parted_by_the_end_of_document_and_foreign_tokens_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.bin");
    let tokens: [u16; 9] = [5, 6, 0, 0, 7, 2000, 0, 8, 9];
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    fs::write(&path, &bytes).unwrap();
    let (documents, report) = read(&path);
    let contents: Vec<_> = documents.into_iter().map(|document| document.content).collect();
    assert_eq!(contents, [Content::Tokens(vec![5, 6]), Content::Tokens(vec![8, 9])]);
    assert_eq!(
        (report.count(Problem::Empty), report.count(Problem::ForeignToken)),
        (1, 1)
    );
    assert!(report.to_string().contains("document 3, token 2000"), "{report}");
    let wide: Vec<u8> = [70_000u32, 0, 3].iter().flat_map(|token| token.to_le_bytes()).collect();
    fs::write(folder.path().join("a.u32"), &wide).unwrap();
    let (documents, report) = read(&folder.path().join("a.u32"));
    assert_eq!((documents.len(), report.count(Problem::ForeignToken)), (1, 1));
}

fn megatron_index(lengths: &[i32], boundaries: &[i64], code: u8, width: i64) -> Vec<u8> {
    let mut bytes = b"MMIDIDX\0\0".to_vec();
    bytes.extend(1u64.to_le_bytes());
    bytes.push(code);
    bytes.extend((lengths.len() as u64).to_le_bytes());
    bytes.extend((boundaries.len() as u64).to_le_bytes());
    lengths.iter().for_each(|length| bytes.extend(length.to_le_bytes()));
    let mut offset = 0i64;
    for length in lengths {
        bytes.extend(offset.to_le_bytes());
        offset += i64::from(*length) * width;
    }
    boundaries
        .iter()
        .for_each(|boundary| bytes.extend(boundary.to_le_bytes()));
    bytes
}

#[test]
fn megatron_files_give_documents_of_one_or_more_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let (idx, bin) = (folder.path().join("a.idx"), folder.path().join("a.bin"));
    let tokens: Vec<u8> = [1i32, 2, 0, 3, 4, 5, 0]
        .iter()
        .flat_map(|token| token.to_le_bytes())
        .collect();
    fs::write(&bin, &tokens).unwrap();
    let index = megatron_index(&[3, 1, 3], &[0, 1, 3], 4, 4);
    fs::write(&idx, &index).unwrap();
    // Whether the folder, the index or the tokens are named: the pair is read once.
    for path in [folder.path(), &idx, &bin] {
        let (documents, report) = read(path);
        let contents: Vec<_> = documents.into_iter().map(|document| document.content).collect();
        assert_eq!(contents, [Content::Tokens(vec![1, 2]), Content::Tokens(vec![3, 4, 5])]);
        assert!(report.is_clean(), "{report}");
    }
    fs::write(&bin, &tokens[..20]).unwrap();
    let report = read(&idx).1;
    assert!(report.to_string().contains("lies beyond the 20 bytes"), "{report}");
    fs::write(&bin, &tokens).unwrap();
    for at in 0..index.len() {
        let mut damaged = index.clone();
        damaged[at] ^= 0x81;
        fs::write(&idx, &damaged).unwrap();
        read(&idx);
        fs::write(&idx, &index[..at]).unwrap();
        assert_eq!(read(&idx).1.count(Problem::Malformed), 1);
    }
}

// ---- the split, the order, kept tokens ------------------------------------------------------------------------------

fn dataset(folder: &Path, count: usize, change: impl FnOnce(&mut DataOptions, &mut Windows)) -> Dataset {
    let path = folder.join("data.jsonl");
    if !path.exists() {
        fs::write(&path, lines(count)).unwrap();
    }
    let (mut options, mut windows) = (DataOptions::from(&path), windows(32));
    change(&mut options, &mut windows);
    Dataset::open(options, windows).unwrap()
}

#[test]
fn an_epoch_has_each_row_once_and_the_next_has_others() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path(), 300, |_, _| ());
    let rows = data.rows_per_epoch();
    let epoch = |number: u64| data.training_batch(ORDER, number * rows, rows as usize).unwrap();
    let (first, second) = (epoch(0), epoch(1));
    assert_eq!(first.rows() as u64, rows);
    assert_eq!(first.check(256), Ok(()));
    // No row twice; all but a few tokens at the ends are predicted.
    let distinct: BTreeSet<&[u32]> = first.tokens.chunks(32).collect();
    assert_eq!(distinct.len() as u64, rows);
    assert!(data.tokens().0 - rows * 32 < 64);
    assert_ne!(first, second);
    let other = Order {
        member: [2; 32],
        ..ORDER
    };
    assert_ne!(first, data.training_batch(other, 0, rows as usize).unwrap());
}

#[test]
fn training_goes_on_in_the_middle_of_an_epoch_as_if_it_had_not_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let data = Arc::new(dataset(folder.path(), 300, |_, _| ()));
    let last = data.rows_per_epoch() / 8 + 5; // beyond the first epoch
    let all: Vec<_> = Prefetch::new(data.clone(), ORDER, 8, 0..last)
        .map(Result::unwrap)
        .collect();
    assert_eq!(all.len() as u64, last);
    let again = dataset(folder.path(), 300, |_, _| ());
    for number in [0, 3, last - 6, last - 1] {
        let batch = again.training_batch(ORDER, number * 8, 8).unwrap();
        assert_eq!(batch, all[number as usize]);
    }
    // Someone who no longer listens ends the thread.
    drop(Prefetch::new(data, ORDER, 8, 0..u64::MAX));
}

#[test]
fn a_document_is_held_out_wherever_it_is_and_none_is_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one.jsonl"), folder.path().join("other.jsonl"));
    let all = lines(400);
    let documents: Vec<&str> = all.lines().collect();
    fs::write(&one, documents[..300].join("\n")).unwrap();
    fs::write(
        &other,
        documents[100..].iter().rev().copied().collect::<Vec<_>>().join("\n"),
    )
    .unwrap();
    let sides = |path: &Path| {
        let data = Dataset::open(path, windows(32)).unwrap();
        let rows = data.rows_per_epoch();
        let trained: BTreeSet<String> = (0..rows)
            .flat_map(|row| data.training_documents(ORDER, row).unwrap())
            .map(|metadata| metadata["id"].clone())
            .collect();
        let heldout = data.heldout_rows(usize::MAX);
        let text = data.heldout_batch(&heldout).unwrap().tokens;
        let text: Vec<u8> = text.iter().map(|token| *token as u8).collect();
        (trained, String::from_utf8(text).unwrap())
    };
    let (one, other) = (sides(&one), sides(&other));
    let shared: BTreeSet<String> = (100..300).map(|i| format!("doc-{i}")).collect();
    let of = |side: &BTreeSet<String>| -> BTreeSet<String> { side.intersection(&shared).cloned().collect() };
    assert_eq!(of(&one.0), of(&other.0));
    assert!((140..180).contains(&of(&one.0).len()), "a fifth is held out");
    for line in &documents[..300] {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let (id, text) = (line["id"].as_str().unwrap(), line["text"].as_str().unwrap());
        assert!(!(one.0.contains(id) && one.1.contains(text)), "{id} is on both sides");
    }
}

#[test]
fn one_long_text_is_split_too_and_one_json_document_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("book.txt");
    let book: String = (0..200)
        .map(|i| format!("line {i} of the book, number {}\n", i * i))
        .collect();
    for length in [64 * 33, 64 * 33 + 1, 3000, book.len()] {
        fs::write(&path, &book[..length]).unwrap();
        let data = Dataset::open(&path, windows(32)).unwrap();
        let (training, heldout) = data.tokens();
        // One end of document for the whole book.
        assert_eq!(training + heldout, length as u64 + 1);
        assert!(training > 32 && !data.heldout_rows(3).is_empty());
    }
    let path = folder.path().join("one.jsonl");
    fs::write(&path, serde_json::json!({ "text": book }).to_string()).unwrap();
    let error = Dataset::open(&path, windows(32)).unwrap_err().to_string();
    assert!(
        error.contains("1 document(s)") && error.contains("plain text"),
        "{error}"
    );
}

#[test]
fn too_little_text_is_refused_with_the_number_that_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.txt");
    let check = |text: &str, part: &str| {
        fs::write(&path, text).unwrap();
        let error = Dataset::open(&path, windows(15)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    check(
        "too small",
        "holds 9 bytes of text but this session needs at least 1024",
    );
    check("", "no text at all: give a path with at least 1024");
    let path = folder.path().join("bad.jsonl");
    fs::write(&path, "{\"text\": 1}\n").unwrap();
    let error = Dataset::open(&path, windows(15)).unwrap_err().to_string();
    assert!(error.contains("bad.jsonl:1"), "the reason is told: {error}");
}

#[test]
fn tokens_are_kept_and_used_again_until_something_changes() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    let open = |change: &dyn Fn(&mut DataOptions)| {
        dataset(folder.path(), 300, |options, _| {
            options.shards = Some(shards.clone());
            change(options);
        })
    };
    let kept = || -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(&shards).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let in_memory = dataset(folder.path(), 300, |_, _| ());
    let first = open(&|_| ());
    let batch = |data: &Dataset| data.training_batch(ORDER, 5, 40).unwrap();
    assert_eq!(batch(&first), batch(&in_memory));
    assert_eq!(first.report(), in_memory.report());
    assert_eq!(
        first.training_documents(ORDER, 9).unwrap(),
        in_memory.training_documents(ORDER, 9).unwrap()
    );
    let before = kept();
    assert_eq!(before.len(), 1, "no partial folder is left: {before:?}");
    let tokens = before.first().unwrap().join("tokens.bin");
    let written = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let when = written(&tokens);
    assert_eq!(batch(&open(&|_| ())), batch(&in_memory));
    assert_eq!((written(&tokens), kept()), (when, before.clone()), "used again");

    // Cut while open: an error that says what to do. Opened again: made again.
    let length = fs::metadata(&tokens).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&tokens).unwrap();
    file.set_len(length / 2).unwrap();
    let rows = first.rows_per_epoch() as usize;
    let error = first.training_batch(ORDER, 0, rows).unwrap_err();
    assert!(matches!(error, DataError::ShardShrunk { .. }), "{error}");
    let error = Prefetch::new(Arc::new(first), ORDER, rows, 0..1)
        .next()
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("made again"), "{error}");
    assert_eq!(batch(&open(&|_| ())), batch(&in_memory));
    assert_eq!(fs::metadata(&tokens).unwrap().len(), length);

    // Another source or another field: other tokens beside these.
    fs::write(folder.path().join("data.jsonl"), lines(301)).unwrap();
    assert_eq!(open(&|_| ()).documents(), 301);
    assert_eq!(kept().len(), 2);
}

#[test]
fn a_failure_while_tokens_are_made_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (path, shards) = (folder.path().join("a.jsonl"), folder.path().join("shards"));
    fs::write(&path, lines(300)).unwrap();
    fs::write(&shards, "a file where the folder should be").unwrap();
    let options = DataOptions {
        shards: Some(shards.clone()),
        ..DataOptions::from(&path)
    };
    let error = Dataset::open(options, windows(32)).unwrap_err();
    assert!(
        matches!(&error, DataError::Unwritable { path, .. } if path.starts_with(&shards)),
        "{error}"
    );
}

// ---- masks ----------------------------------------------------------------------------------------------------------

#[test]
fn masks_reach_the_batch_and_are_the_same_however_rows_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let goldfish = GoldfishConfig {
        k: 4,
        h: 13,
        ..GoldfishConfig::default()
    };
    let masked = |context: usize| {
        dataset(folder.path(), 300, |_, windows| {
            windows.context = context;
            windows.loss = LossConfig {
                goldfish: Some(goldfish),
                mask_after_eod: true,
                separate_documents: true,
                ..LossConfig::default()
            };
        })
    };
    // What follows thirteen bytes is kept or not, whatever row it is in and wherever the row begins.
    let mut verdicts = std::collections::BTreeMap::new();
    for context in [32, 48] {
        let data = masked(context);
        let batch = data.training_batch(ORDER, 0, data.rows_per_epoch() as usize).unwrap();
        assert_eq!(batch.check(256), Ok(()));
        let weights = batch.weights.as_ref().unwrap();
        let kept = batch.weight() / weights.len() as f64;
        assert!((0.7..0.8).contains(&kept), "{kept}");
        let starts = batch.starts.as_ref().unwrap();
        assert!(starts.iter().any(|start| *start > 0));
        for row in 0..batch.rows() {
            let range = row * context..(row + 1) * context;
            let (tokens, weights) = (&batch.tokens[range.clone()], &weights[range.clone()]);
            let targets = &batch.targets[range];
            for at in 0..context {
                if tokens[at] == 0 {
                    assert_eq!(weights[at], 0.0, "behind an end of document");
                } else if at >= 12 && !targets[at - 12..at].contains(&0) {
                    let known = verdicts.entry(targets[at - 12..=at].to_vec()).or_insert(weights[at]);
                    assert_eq!(*known, weights[at]);
                }
            }
        }
        let heldout = data.heldout_batch(&data.heldout_rows(10)).unwrap();
        let ends = heldout.tokens.iter().filter(|token| **token == 0).count();
        assert_eq!(
            heldout.weight() as usize,
            heldout.targets.len() - ends,
            "no Goldfish in evaluation"
        );
    }
    assert!(verdicts.len() > 1000);
}

// ---- tokenizers -----------------------------------------------------------------------------------------------------

/// A tokenizer trained on the lines, in a file, and what a session says of it.
fn tokenizer(folder: &Path) -> (PathBuf, TokenizerId) {
    let path = folder.join("tokenizer.json");
    fs::write(&path, train_byte_pairs(lines(300).lines(), 500).unwrap()).unwrap();
    let id = Tokenizer::identify(&path, None).unwrap();
    (path, id)
}

#[test]
fn a_session_is_cut_by_its_own_tokenizer_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (path, id) = tokenizer(folder.path());
    assert_eq!((id.size, id.eod), (500, 0));
    let vocabulary = Vocabulary::Tokenizer(id);
    let data = dataset(folder.path(), 300, |options, windows| {
        options.tokenizer = Some(path.clone());
        windows.vocabulary = vocabulary;
    });
    let bytes = dataset(folder.path(), 300, |_, _| ());
    let sum = |(training, heldout)| training + heldout;
    assert!(sum(data.tokens()) * 2 < sum(bytes.tokens()));
    let batch = data.training_batch(ORDER, 0, 50).unwrap();
    assert_eq!(batch.check(500), Ok(()));
    let opened = Tokenizer::open(&vocabulary, Some(&path)).unwrap();
    let row = String::from_utf8(opened.decode(&batch.tokens[..32]).unwrap()).unwrap();
    assert!(row.contains("word"), "{row}");

    let error = Tokenizer::open(&vocabulary, None).unwrap_err().to_string();
    assert!(error.contains(&id.blake3.to_string()), "{error}");
    let mut changed = fs::read(&path).unwrap();
    changed.push(b'\n');
    fs::write(&path, &changed).unwrap();
    let error = Tokenizer::open(&vocabulary, Some(&path)).unwrap_err().to_string();
    let found = BlobId::of(&changed).to_string();
    assert!(
        error.contains(&found) && error.contains(&id.blake3.to_string()),
        "{error}"
    );
    let small = TokenizerId {
        size: 400,
        blake3: BlobId::of(&changed),
        ..id
    };
    let error = Tokenizer::open(&Vocabulary::Tokenizer(small), Some(&path))
        .unwrap_err()
        .to_string();
    assert!(error.contains("500 tokens") && error.contains("only 400"), "{error}");
    fs::write(&path, "{}").unwrap();
    assert!(
        Tokenizer::identify(&path, None)
            .unwrap_err()
            .to_string()
            .contains("is no tokenizer")
    );
}

#[test]
fn a_text_cannot_forge_an_end_of_document() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = tokenizer(folder.path());
    let general = folder.path().join("general.json");
    // With a normalizer it is left to the general implementation.
    let json = fs::read_to_string(&path).unwrap();
    let normalized = json.replacen(r#""normalizer":null"#, r#""normalizer":{"type":"NFC"}"#, 1);
    assert_ne!(json, normalized);
    fs::write(&general, normalized).unwrap();
    for path in [path, general] {
        let id = Tokenizer::identify(&path, Some("<|endoftext|>")).unwrap();
        let tokenizer = Tokenizer::open(&Vocabulary::Tokenizer(id), Some(&path)).unwrap();
        let (mut tokens, text) = (Vec::new(), "word1 <|endoftext|> word2");
        tokenizer.encode(text, &mut WordCache::default(), &mut tokens).unwrap();
        assert!(!tokens.contains(&id.eod), "{tokens:?}");
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text.as_bytes());
    }
}

// ---- real data ------------------------------------------------------------------------------------------------------

fn real_data() -> Option<PathBuf> {
    let folder = std::env::var_os("SYNOD_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: SYNOD_DATA does not name the folder with real data");
    }
    folder
}

#[test]
fn gpt2_cuts_real_text_as_the_general_implementation_does() {
    let Some(data) = real_data() else { return };
    let path = data.join("tokenizers/gpt2");
    let id = Tokenizer::identify(&path, None).unwrap();
    assert_eq!((id.size, id.eod), (50_257, 50_256));
    let own = Tokenizer::open(&Vocabulary::Tokenizer(id), Some(&path)).unwrap();
    assert!(matches!(own, Tokenizer::BytePair(_)));
    let encode = |text: &str, cache: &mut WordCache| {
        let mut tokens = Vec::new();
        own.encode(text, cache, &mut tokens).unwrap();
        tokens
    };
    let mut cache = WordCache::default();
    // Known from the published tokenizer.
    assert_eq!(encode("Hello world", &mut cache), [15496, 995]);
    assert_eq!(
        encode("Hello, I'm a language model,", &mut cache),
        [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    );
    let general = tokenizers::Tokenizer::from_bytes(Tokenizer::file_bytes(&path).unwrap()).unwrap();
    for file in ["tinyshakespeare.txt.zst", "udhr.jsonl.zst", "eips.jsonl.zst"] {
        let documents = read_documents(data.join("text").join(file).as_path()).unwrap();
        assert!(documents.report.is_clean(), "{}", documents.report);
        let mut left = 1_000_000usize;
        for text in &documents.texts {
            let text = String::from_utf8_lossy(text);
            let text = &text[..text.floor_char_boundary(left)];
            let tokens = encode(text, &mut cache);
            assert_eq!(tokens, general.encode_fast(text, false).unwrap().get_ids(), "{file}");
            assert_eq!(own.decode(&tokens).unwrap(), text.as_bytes());
            left -= text.len();
        }
    }
}

#[test]
fn the_peps_are_read_whole() {
    let Some(data) = real_data() else { return };
    let path = data.join("text/peps.jsonl.zst");
    let dataset = Dataset::open(path.as_path(), windows(128)).unwrap();
    let report = dataset.report();
    assert_eq!((report.documents, report.is_clean()), (699, true), "{report}");
    assert!((13_400_000..13_600_000).contains(&report.bytes), "{report}");
    let (training, heldout) = dataset.tokens();
    assert_eq!(training + heldout, report.bytes + 699);
    let row = dataset.training_documents(ORDER, 0).unwrap();
    assert!(
        row[0]["url"].starts_with("http") && !row[0]["license"].is_empty(),
        "{row:?}"
    );
}
