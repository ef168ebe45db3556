//! Multiple-choice questions from a local file, answered by which choice a model finds likeliest.
//! It measures and prints nothing else; `evaluate` does.
//!
//! As lm-evaluation-harness defines them (Gao et al.): `acc` is the share of questions whose right choice has the greatest
//! log-likelihood after the context, `acc_norm` the same with each log-likelihood divided by the choice's length in characters.

use std::io::{BufRead, Read};
use std::path::Path;

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use synod_training::data::{Tokenizer, WordCache};
use synod_training::evaluate::continuation_loss;
use synod_training::models::decoder::Decoder;

use super::Terminal;
use crate::failure::{Failure, Outcome};

/// No question is longer.
const LINE_BYTES_MAX: usize = 1 << 20;

/// One line of a file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    #[serde(alias = "question")]
    context: String,
    choices: Vec<String>,
    answer: usize,
}

/// How a model did on one file.
#[derive(Debug, Serialize)]
pub struct Answered {
    /// The file.
    pub tasks: String,
    /// Questions in it.
    pub questions: usize,
    /// Share answered rightly by log-likelihood.
    pub acc: f64,
    /// Share answered rightly by log-likelihood a character.
    pub acc_norm: f64,
    /// Standard error of `acc`.
    pub acc_stderr: f64,
}

/// Answers every question of a JSON Lines file.
pub fn answer(
    decoder: &Decoder,
    parameters: &[f32],
    tokenizer: &Tokenizer,
    path: &Path,
    terminal: Terminal,
) -> Outcome<Answered> {
    let questions = read(path)?;
    let bar = match terminal.is_interactive() {
        true => ProgressBar::new(questions.len() as u64),
        false => ProgressBar::hidden(),
    };
    let (mut plain, mut normal) = (0usize, 0usize);
    for question in &questions {
        let mut scores = Vec::with_capacity(question.choices.len());
        for choice in &question.choices {
            let (tokens, given) = tokens_of(question, choice, tokenizer, decoder.shape().vocabulary.eod())?;
            let loss = continuation_loss(decoder, parameters, &tokens, given).map_err(Failure::environment)?;
            scores.push(-loss.weighted_nll);
        }
        let lengths = question.choices.iter().map(|choice| choice.chars().count() as f64);
        let normalised: Vec<f64> = scores
            .iter()
            .zip(lengths)
            .map(|(score, length)| score / length)
            .collect();
        plain += usize::from(greatest(&scores) == question.answer);
        normal += usize::from(greatest(&normalised) == question.answer);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let count = questions.len() as f64;
    let acc = plain as f64 / count;
    Ok(Answered {
        tasks: path.display().to_string(),
        questions: questions.len(),
        acc,
        acc_norm: normal as f64 / count,
        acc_stderr: (acc * (1.0 - acc) / (count - 1.0).max(1.0)).sqrt(),
    })
}

/// The first of the greatest.
fn greatest(scores: &[f64]) -> usize {
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter().position(|score| *score == best).unwrap_or(0)
}

/// Context and choice in one piece, a blank between them, and how many tokens are the context's: blanks at its end count as
/// the choice's, as tokenizers join them to the word behind. An empty context is the beginning of a document.
fn tokens_of(question: &Question, choice: &str, tokenizer: &Tokenizer, eod: u32) -> Outcome<(Vec<u32>, usize)> {
    let context = question.context.trim_end();
    let between = match context.is_empty() || choice.starts_with(char::is_whitespace) {
        true => "",
        false => " ",
    };
    let encode = |text: &str| -> Outcome<Vec<u32>> {
        let mut tokens = Vec::new();
        tokenizer
            .encode(text, &mut WordCache::default(), &mut tokens)
            .map_err(Failure::environment)?;
        Ok(tokens)
    };
    let mut tokens = encode(&format!("{context}{between}{choice}"))?;
    let given = encode(context)?.len();
    if context.is_empty() {
        tokens.insert(0, eod);
    }
    Ok((tokens, given.max(1)))
}

fn read(path: &Path) -> Outcome<Vec<Question>> {
    let place = path.display();
    let refuse = |line: usize, reason: &dyn std::fmt::Display| {
        Failure::user(format!(
            "{place}, line {line}: {reason}; a line is {{\"context\": \"…\", \"choices\": [\"…\", \"…\"], \"answer\": 0}}"
        ))
    };
    let file = std::fs::File::open(path).map_err(|error| Failure::user(format!("--tasks {place}: {error}")))?;
    let mut lines = std::io::BufReader::new(file);
    let mut questions = Vec::new();
    for at in 0.. {
        let mut line = Vec::new();
        let most = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut lines).take(most).read_until(b'\n', &mut line);
        if read.map_err(|error| refuse(at + 1, &error))? == 0 {
            break;
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(refuse(at + 1, &"it is longer than a megabyte"));
        }
        let line = String::from_utf8(line).map_err(|_| refuse(at + 1, &"it is not UTF-8"))?;
        if line.trim().is_empty() {
            continue;
        }
        let question: Question = serde_json::from_str(&line).map_err(|error| refuse(at + 1, &error))?;
        let choices = question.choices.len();
        if choices < 2 || question.answer >= choices || question.choices.iter().any(|choice| choice.trim().is_empty()) {
            return Err(refuse(
                at + 1,
                &"there must be two choices at least, none of them empty, and an answer among them, counted from 0",
            ));
        }
        questions.push(question);
    }
    match questions.is_empty() {
        true => Err(Failure::user(format!("--tasks {place} holds no question"))),
        false => Ok(questions),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_questions_are_read_and_wrong_lines_named() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tasks.jsonl");
        let given = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path)
        };
        let good = "{\"question\": \"1 + 1 =\", \"choices\": [\"3\", \"2\"], \"answer\": 1}\n\n";
        assert_eq!(given(good).unwrap()[0].answer, 1);
        for (text, reason) in [
            ("", "holds no question"),
            ("{\"context\": \"a\"}", "line 1"),
            (
                "{\"context\": \"a\", \"choices\": [\"x\"], \"answer\": 0}",
                "two choices",
            ),
            (
                "{\"context\": \"a\", \"choices\": [\"x\", \"y\"], \"answer\": 2}",
                "two choices",
            ),
            (
                "{\"context\": \"a\", \"choices\": [\"x\", \" \"], \"answer\": 0}",
                "none of them empty",
            ),
        ] {
            let error = given(text).unwrap_err().message;
            assert!(error.contains(reason) && error.contains("tasks.jsonl"), "{error}");
        }
        assert_eq!(greatest(&[-3.0, -1.0, -1.0]), 1);
    }

    #[test]
    fn a_choice_begins_where_its_context_ends() {
        let tokenizer = Tokenizer::open(&synod_training::config::Vocabulary::Byte, None).unwrap();
        let question = |context: &str| Question {
            context: context.to_owned(),
            choices: Vec::new(),
            answer: 0,
        };
        let of = |context: &str, choice: &str| tokens_of(&question(context), choice, &tokenizer, 0).unwrap();
        assert_eq!(of("ab ", "c"), (b"ab c".map(u32::from).to_vec(), 2));
        assert_eq!(of("", "c"), (vec![0, u32::from(b'c')], 1));
    }
}
