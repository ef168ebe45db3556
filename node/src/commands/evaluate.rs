//! `node evaluate MODEL --data PATH`: the loss of a session's model or an exported folder on text.
//! With `--heldout` it measures the very windows that the session keeps out of training; it trains nothing.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use synod_training::data::{DataReport, Dataset, Windows, tokens_of_documents};
use synod_training::evaluate::{DocumentLoss, heldout_loss};
use synod_training::models::decoder::Decoder;

use super::model_source::{Model, model};
use super::table::Table;
use super::tasks::{self, Answered};
use super::{Terminal, settings};
use crate::cli::EvaluateArgs;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// A loss on one text.
#[derive(Serialize)]
struct Measured {
    data: String,
    loss: f64,
    perplexity: f64,
    tokens: u64,
    /// What was read, and what was wrong with it.
    read: DataReport,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    origin: String,
    state: Option<String>,
    heldout: bool,
    /// With `heldout`: whether text was split as the model's session splits it, and not by defaults.
    session_windows: bool,
    texts: Vec<Measured>,
    /// Mean over all tokens of all texts, and e to that power; none without texts.
    loss: Option<f64>,
    perplexity: Option<f64>,
    tokens: u64,
    tasks: Vec<Answered>,
}

/// Measures.
pub fn run(dir: &DataDir, args: &EvaluateArgs, terminal: Terminal) -> Outcome {
    let model = model(dir, &args.model)?;
    let own = settings(dir, &[]).unwrap_or_default();
    let device = own.device();
    let text_field = args.text_field.as_deref().unwrap_or(&own.text.field);
    let decoder = Decoder::new(model.shape()?, device.open().map_err(Failure::environment)?);
    let measure = |path: &std::path::PathBuf| match args.heldout {
        true => heldout(&decoder, &model, path, text_field),
        false => whole(&decoder, &model, path, text_field, terminal),
    };
    let texts = args.data.iter().map(measure).collect::<Outcome<Vec<_>>>()?;
    let tokens: u64 = texts.iter().map(|text| text.tokens).sum();
    let nll: f64 = texts.iter().map(|text| text.loss * text.tokens as f64).sum();
    let loss = (tokens > 0).then(|| nll / tokens as f64);
    let tokenizer = model.tokenizer()?;
    let answer = |path: &std::path::PathBuf| tasks::answer(&decoder, &model.parameters, &tokenizer, path, terminal);
    let tasks = args.tasks.iter().map(answer).collect::<Outcome<Vec<_>>>()?;
    let report = Report {
        origin: model.origin,
        state: model.state,
        heldout: args.heldout,
        session_windows: model.settings_known,
        texts,
        loss,
        perplexity: loss.map(f64::exp),
        tokens,
        tasks,
    };
    match args.json {
        true => terminal.print_json(&report),
        false => terminal.print(table(&report)),
    }
    Ok(())
}

fn table(report: &Report) -> String {
    let mut table = Table::new(&["text", "loss (nats a token)", "perplexity", "tokens"]);
    let row = |name: &str, loss: f64, tokens: u64| {
        [
            name.to_owned(),
            format!("{loss:.4}"),
            format!("{:.3}", loss.exp()),
            tokens.to_string(),
        ]
    };
    for text in &report.texts {
        table.row(row(&text.data, text.loss, text.tokens));
    }
    let mut tables = match report.loss {
        Some(loss) => {
            table.row(row("together", loss, report.tokens));
            table.to_string()
        }
        None => String::new(),
    };
    if !report.tasks.is_empty() {
        let mut table = Table::new(&["tasks", "questions", "acc", "acc_norm"]);
        for task in &report.tasks {
            table.row([
                task.tasks.clone(),
                task.questions.to_string(),
                format!("{:.3} ± {:.3}", task.acc, task.acc_stderr),
                format!("{:.3}", task.acc_norm),
            ]);
        }
        if !tables.is_empty() {
            tables.push('\n');
        }
        tables.push_str(&table.to_string());
    }
    let doubt = match report.heldout && !report.session_windows {
        true => "\nThe folder does not say how its session splits text (it has no synod.json): defaults were used.",
        false => "",
    };
    let damaged = report.texts.iter().filter(|text| !text.read.is_clean());
    let damage: String = damaged.map(|text| format!("\n{}: {}", text.data, text.read)).collect();
    format!("{}\n{tables}{damage}{doubt}", report.origin)
}

/// The windows that the session keeps out of training.
fn heldout(decoder: &Decoder, model: &Model, path: &Path, text_field: &str) -> Outcome<Measured> {
    let windows = Windows::of(&model.training, decoder.shape().context);
    let data = Dataset::open(model.data(path, text_field), windows).map_err(Failure::user)?;
    let most = model.training.evaluation_sequences as usize;
    let found = heldout_loss(decoder, &data, most, &model.parameters).map_err(Failure::environment)?;
    Ok(Measured {
        data: path.display().to_string(),
        loss: f64::from(found.loss),
        perplexity: f64::from(found.loss).exp(),
        tokens: found.tokens,
        read: data.report().clone(),
    })
}

/// What a terminal shows while a text is measured.
fn progress_style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{spinner} {msg}: {pos} tokens, {per_sec}");
    style.expect("the template is sound")
}

/// All of the text, every token of a document but its first.
fn whole(decoder: &Decoder, model: &Model, path: &Path, text_field: &str, terminal: Terminal) -> Outcome<Measured> {
    let shape = decoder.shape();
    let mut loss = DocumentLoss::new(decoder, &model.parameters).map_err(Failure::environment)?;
    let mut failed = None;
    let bar = match terminal.is_interactive() {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    bar.set_message(path.display().to_string());
    bar.set_style(progress_style());
    let read = tokens_of_documents(&model.data(path, text_field), &shape.vocabulary, &mut |tokens| {
        if failed.is_none() {
            failed = loss.add(tokens).err();
            bar.set_position(loss.tokens());
        }
    });
    bar.finish_and_clear();
    let read = read.map_err(Failure::user)?;
    let sum = match failed {
        Some(error) => Err(error),
        None => loss.finish(),
    };
    let sum = sum.map_err(Failure::environment)?;
    if sum.weight == 0.0 {
        return Err(Failure::user(format!(
            "{} holds no document of two tokens or more ({read})",
            path.display()
        )));
    }
    Ok(Measured {
        data: path.display().to_string(),
        loss: sum.mean(),
        perplexity: sum.mean().exp(),
        tokens: sum.weight as u64,
        read,
    })
}
