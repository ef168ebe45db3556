//! How fast text becomes packed tokens and tokens become batches, on one core. One JSON object a case on standard output.
//! Text and GPT-2's tokenizer come from the folder that `SYNOD_DATA` names; without it the text is made up.

use std::path::{Path, PathBuf};
use std::time::Instant;

use synod_training::config::Vocabulary;
use synod_training::data::{
    DataOptions, Dataset, Order, Tokenizer, Windows, WordCache, read_documents, train_byte_pairs,
};
use synod_training::objectives::LossConfig;

/// Each case is run this often; the best counts, because other programs only ever take time away.
const RUNS: usize = 3;

fn best(mut run: impl FnMut()) -> f64 {
    let times = (0..RUNS).map(|_| {
        let began = Instant::now();
        run();
        began.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

fn print(case: &str, amount: f64, unit: &str, seconds: f64) {
    println!(
        r#"{{"case": "{case}", "per_second": {:.1}, "unit": "{unit}", "seconds": {seconds:.4}}}"#,
        amount / seconds
    );
}

fn made_up(folder: &Path) -> PathBuf {
    let words = [
        "the",
        "of",
        "protocol",
        "naïve",
        "12",
        "state,",
        "and",
        "it's",
        "machine.\n",
        "federated",
    ];
    let lines = (0..20_000usize).map(|i| {
        let text: Vec<_> = (0..120)
            .map(|j| words[(i * 7 + j * j * 13 + j) % words.len()])
            .collect();
        format!("{}\n", serde_json::json!({ "text": text.join(" ") }))
    });
    let path = folder.join("made_up.jsonl");
    std::fs::write(&path, lines.collect::<String>()).expect("the folder can be written");
    path
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder for the time being");
    let real = std::env::var_os("SYNOD_DATA").map(PathBuf::from);
    let text = match &real {
        Some(data) => data.join("text/peps.jsonl.zst"),
        None => made_up(folder.path()),
    };
    let documents = read_documents(text.as_path()).expect("the text can be read");
    let texts: Vec<String> = documents
        .texts
        .iter()
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect();
    let megabytes = texts.iter().map(String::len).sum::<usize>() as f64 / 1e6;
    let tokenizer = match &real {
        Some(data) => data.join("tokenizers/gpt2"),
        None => {
            let path = folder.path().join("tokenizer.json");
            let json = train_byte_pairs(texts.iter(), 2000).expect("training works");
            std::fs::write(&path, json).expect("the folder can be written");
            path
        }
    };
    let id = Tokenizer::identify(&tokenizer, None).expect("the tokenizer can be read");
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("one thread");
    pool.install(|| {
        cases(
            &texts,
            megabytes,
            &text,
            &tokenizer,
            Vocabulary::Tokenizer(id),
            folder.path(),
        )
    });
}

fn cases(texts: &[String], megabytes: f64, text: &Path, tokenizer: &Path, vocabulary: Vocabulary, folder: &Path) {
    let own = Tokenizer::open(&vocabulary, Some(tokenizer)).expect("the tokenizer can be read");
    let json = Tokenizer::file_bytes(tokenizer).expect("the tokenizer can be read");
    let general = tokenizers::Tokenizer::from_bytes(json).expect("the tokenizer can be read");
    let mut tokens = Vec::new();
    let seconds = best(|| {
        let mut cache = WordCache::default();
        tokens.clear();
        for text in texts {
            own.encode(text, &mut cache, &mut tokens)
                .expect("byte pairs cannot fail");
        }
    });
    print("byte pairs, tokenize", megabytes, "MB of text", seconds);
    let seconds = best(|| {
        for text in texts {
            general
                .encode_fast(text.as_str(), false)
                .expect("byte pairs cannot fail");
        }
    });
    print("byte pairs by the tokenizers crate", megabytes, "MB of text", seconds);

    for (name, vocabulary, kept) in [
        ("bytes, read and pack", Vocabulary::Byte, false),
        ("bytes, read, pack and keep", Vocabulary::Byte, true),
        ("byte pairs, read and pack", vocabulary, false),
    ] {
        let windows = Windows {
            context: 512,
            heldout_fraction: 0.1,
            vocabulary,
            loss: LossConfig::default(),
        };
        let options = DataOptions {
            tokenizer: Some(tokenizer.to_owned()),
            ..DataOptions::from(text)
        };
        let (mut dataset, mut run) = (None, 0);
        let seconds = best(|| {
            run += 1;
            let shards = kept.then(|| folder.join(format!("kept-{run}")));
            let options = DataOptions {
                shards,
                ..options.clone()
            };
            dataset = Some(Dataset::open(options, windows).expect("the data can be read"));
        });
        print(name, megabytes, "MB of text", seconds);
        let Some(dataset) = dataset else { continue };
        let order = Order {
            seed: 1,
            member: [0; 32],
        };
        let (batches, rows) = (200, 16);
        let seconds = best(|| {
            for batch in 0..batches {
                let batch = dataset.training_batch(order, batch * rows, rows as usize);
                assert_eq!(batch.expect("the tokens can be read").rows(), rows as usize);
            }
        });
        let drawn = (batches * rows * 512) as f64 / 1e6;
        print(&format!("{name}: draw batches of 16 x 512"), drawn, "M tokens", seconds);
    }
}
