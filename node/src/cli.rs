//! The command line: what an operator may type, its help, and the exit codes.
//! It parses and dispatches; what a command does is in `commands`, one file each.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use synod_config::Override;
use synod_config::trust::Trust;

use crate::commands::{self, Terminal};
use crate::compute::Drill;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// Train models together without sharing data.
///
/// Each institution runs one node. A session is one named training run: one node creates it and mints invite keys, the
/// others join by key; each trains on its own text, signed updates travel, and an agreed model comes out.
#[derive(Debug, Parser)]
#[command(
    name = "node",
    version,
    max_term_width = 110,
    after_help = "\
A first session, on two machines:
  A$ node init && node start &
  A$ node session create --preset tiny --name first --data /srv/texts
  A$ node invite first                       # prints a key; give it to B
  B$ node init && node start &
  B$ node join synod1… --data /srv/other-texts
  B$ node status --watch
  B$ node export first ./model               # a Hugging Face folder

Exit codes: 0 done; 1 what was asked for cannot be; 2 the machine, the network or another node; 101 a bug."
)]
pub struct Cli {
    /// The node's folder [default: $SYNOD_HOME, else ~/.synod].
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print results only.
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print more; `node start` logs at level debug.
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make this node's identity and its commented settings file. Overwrites nothing.
    #[command(
        after_help = "Examples:\n  node init\n  node --data-dir /srv/synod init --port 7700\n  node --data-dir /tmp/a init --port 7610 --loopback   # for trying out on one machine"
    )]
    Init(InitArgs),
    /// Run the node in the foreground until Ctrl-C, SIGTERM or `node stop`. A restart goes on where it stopped.
    #[command(
        after_help = "Examples:\n  node start\n  node start --log-format json 2>> node.log\n  node start --device cuda:0\n  node start --set network.mdns=false --set compute.threads=4"
    )]
    Start(StartArgs),
    /// Create, list and show sessions.
    #[command(
        subcommand,
        after_help = "Examples:\n  node session create --preset tiny --name first --data /srv/texts\n  node session list\n  node session show first"
    )]
    Session(SessionCommand),
    /// Train a tokenizer on this institution's text, or show what a session file says of one.
    #[command(
        subcommand,
        after_help = "Examples:\n  node tokenizer train --data /srv/texts --size 8192 --out tokenizer.json\n  node tokenizer show tokenizer.json"
    )]
    Tokenizer(TokenizerCommand),
    /// Mint an invite key for a session; list, explain, narrow or revoke keys.
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "Examples:\n  node invite first\n  node invite first --role trainer --expires 12h --uses 3\n  node invite first > key.txt               # and then `node join @key.txt`\n  node invite list first                    # what was minted, and what is left of it\n  node invite explain synod1…\n  node invite narrow @key.txt --role trainer --uses 1\n  node invite revoke first 3fa9c1d2         # a name that `list` shows, or the key itself\n\nA key is like a password until it is used up or expires. Keys are made on this machine.\nWherever a key is asked for, `-` reads it from standard input and `@FILE` from a file:\nthen it stands neither in the shell's history nor in the list of processes."
    )]
    Invite(InviteArgs),
    /// Join a session by its invite key.
    #[command(
        after_help = "Examples:\n  node join synod1… --data /srv/texts --dry-run    # says what is missing; joins nothing\n  node join synod1… --data /srv/texts\n  node join @key.txt --data /srv/texts             # the key from a file\n  pass show synod/first | node join - --data /srv/texts\n  node join @key.txt --data /srv/texts --tokenizer tokenizer.json   # a session's tokenizer is fetched if not given\n\nText, disk and device are checked against the session before a use of the key is spent."
    )]
    Join(JoinArgs),
    /// Leave a session at the next border between rounds. Its records and models stay here.
    #[command(after_help = "Examples:\n  node leave first")]
    Leave(NameArgs),
    /// Show this node and its sessions.
    #[command(
        after_help = "Examples:\n  node status\n  node status --watch        # live, until all sessions are finished\n  node status --json | jq '.sessions[].lifecycle'"
    )]
    Status(StatusArgs),
    /// List connected peers.
    #[command(after_help = "Examples:\n  node peers\n  node peers --json")]
    Peers(JsonArgs),
    /// Show the settled rounds of a session as this node saw them.
    #[command(
        after_help = "Examples:\n  node log first\n  node log first --from 10 --json\n\nLosses are in nats a token on this institution's held-out text. Works also while the node is stopped."
    )]
    Log(LogArgs),
    /// Check a session's settlements: every certificate, and every model whose updates are still here.
    #[command(
        after_help = "Examples:\n  node verify first\n  node verify first --write first.chain     # for others to check, offline\n  node verify first.chain --json\n\nA settlement must follow the one before it, and carry the signatures of a majority of the roster before it. Where the\nupdates of a round and the state before it are kept (`retention` in the node's settings), the state is computed again and\ncompared. Works also while the node is stopped. Exit code 1: something is wrong, and the round is named."
    )]
    Verify(VerifyArgs),
    /// Write a session's model as a Hugging Face folder or a GGUF file. Overwrites nothing.
    #[command(
        after_help = "Examples:\n  node export first ./model\n  node export first model.gguf --precision q8_0\n  node export model.gguf ./model          # a file of llama.cpp's as a folder\n  python3 -c \"import transformers as t; print(t.AutoModelForCausalLM.from_pretrained('./model'))\"\n\nWorks also while the node is stopped."
    )]
    Export(ExportArgs),
    /// Write text with a session's model or an exported folder.
    #[command(
        after_help = "Examples:\n  node generate first --prompt 'The house '\n  node generate ./model --tokens 500 --temperature 0.7 --seed 3"
    )]
    Generate(GenerateArgs),
    /// Measure the loss of a session's model or an exported folder on text.
    #[command(
        after_help = "Examples:\n  node evaluate first --data /srv/texts --heldout   # only the part that the session never trains on\n  node evaluate ./model --data a.txt --data b.txt --json\n  node evaluate ./model --tasks questions.jsonl      # multiple choice: {\"context\": …, \"choices\": […], \"answer\": 0}"
    )]
    Evaluate(EvaluateArgs),
    /// Check this node: settings, key, disk, ports, device, the running node and its peers; each finding with a remedy.
    #[command(after_help = "Examples:\n  node doctor\n  node doctor --json")]
    Doctor(JsonArgs),
    /// Stop the running node, and wait until it has stopped.
    #[command(after_help = "Examples:\n  node stop")]
    Stop,
}

/// Sessions.
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// Create a session from a file or a preset; this node becomes its first member.
    #[command(
        after_help = "Examples:\n  node session create --preset tiny --name first --data /srv/texts\n  node session create mine.toml --data /srv/texts --data /srv/more.parquet\n  node session create --preset small --tokenizer tokenizer.json --data /srv/texts\n  node session create --preset tiny --show > mine.toml    # a file to start from\n  node session create mine.toml --trust server=no,members=no,privacy=no --data /srv/texts\n\nPresets: tiny (a demonstration, minutes on a CPU), small (ten million parameters), synthetic (no data needed)."
    )]
    Create(CreateArgs),
    /// Draw the learning rate that a session, or a session file, asks for, step by step. Only --session asks the node.
    #[command(
        after_help = "Examples:\n  node session schedule mine.toml\n  node session schedule --preset small --svg rate.svg\n  node session schedule mine.toml --json | jq '.[-1].learning_rate'\n  node session schedule --session first --csv > rate.csv"
    )]
    Schedule(ScheduleArgs),
    /// List this node's sessions.
    #[command(after_help = "Examples:\n  node session list\n  node session list --json")]
    List(JsonArgs),
    /// Show one session: members, roles, round, and its whole configuration.
    #[command(after_help = "Examples:\n  node session show first\n  node session show first --json")]
    Show(NameArgs),
}

/// `node init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Port for messages; models and updates use the next one.
    #[arg(long, default_value_t = synod_config::node_config::DEFAULT_PORT)]
    pub port: u16,
    /// Listen on this machine only and look for nobody: for trying out.
    #[arg(long)]
    pub loopback: bool,
}

/// `node start`
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Where to compute: `auto`, `cpu`, `cuda:N` or `cuda:N-M`; `,bf16` after the numbers: products in bf16.
    #[arg(long)]
    pub device: Option<String>,
    /// Threads for arithmetic; 0: one a core.
    #[arg(long)]
    pub threads: Option<usize>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    #[arg(long)]
    pub log_level: Option<String>,
    /// `pretty` or `json`.
    #[arg(long)]
    pub log_format: Option<String>,
    /// Any setting of the file, for this run: `--set network.mdns=false`.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl StartArgs {
    /// The flags as the uppermost layer of the configuration.
    pub fn overrides(&self, verbose: bool) -> Outcome<Vec<Override>> {
        let one = |place: &str, key: &str, value: String| Override {
            place: place.into(),
            key: key.into(),
            value,
        };
        let mut all = Vec::new();
        if verbose {
            all.push(one("--verbose", "log.level", "debug".to_owned()));
        }
        let flags = [
            ("--device", "compute.device", self.device.clone()),
            (
                "--threads",
                "compute.threads",
                self.threads.map(|threads| threads.to_string()),
            ),
            ("--log-level", "log.level", self.log_level.clone()),
            ("--log-format", "log.format", self.log_format.clone()),
        ];
        all.extend(
            flags
                .into_iter()
                .filter_map(|(place, key, value)| value.map(|value| one(place, key, value))),
        );
        for text in &self.set {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| Failure::user(format!("--set {text}: write KEY=VALUE, as in network.mdns=false")))?;
            if key.trim() == "api.socket" {
                let text = "--set api.socket: the other commands look for it in config.toml: set it there";
                return Err(Failure::user(text));
            }
            all.push(one("--set", key.trim(), value.trim().to_owned()));
        }
        Ok(all)
    }
}

/// Tokenizers.
#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Train a byte-level BPE tokenizer on text, and write it as a tokenizer.json. Overwrites nothing; needs no running node.
    #[command(
        after_help = "Examples:\n  node tokenizer train --data /srv/texts --size 8192 --out tokenizer.json\n  node tokenizer train --data a.jsonl.zst --data b.parquet --size 32000 --out tokenizer.json\n  node session create --preset small --name first --tokenizer tokenizer.json --data /srv/texts\n\nThe same text and size give the same file. Whoever sees the file can tell words and names that are frequent in the\ntext it was trained on: train it on text that may be known, if the session's text may not."
    )]
    Train(TokenizerTrainArgs),
    /// Print what a session file says of a tokenizer: its hash, its size, and the token that ends documents.
    #[command(
        after_help = "Examples:\n  node tokenizer show tokenizer.json\n  node tokenizer show ./gpt2 --json            # a folder with encoder.json and vocab.bpe\n  node tokenizer show tokenizer.json --eod '</s>' >> session.toml"
    )]
    Show(TokenizerShowArgs),
}

/// `node tokenizer train`
#[derive(Debug, Args)]
pub struct TokenizerTrainArgs {
    /// Text to train on (may be repeated): files, or folders of files, as for `session create`.
    #[arg(long, value_name = "PATH", required = true)]
    pub data: Vec<PathBuf>,
    /// Tokens of the vocabulary, 257 at least; fewer come out where the text has too few different words.
    #[arg(long, value_name = "N")]
    pub size: usize,
    /// Where to write it; nothing may be there.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Megabytes of text at most, which are kept in memory; of more text, whole documents are drawn by their hashes.
    #[arg(long, value_name = "MB", default_value_t = 1_000)]
    pub most_mb: u64,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `node tokenizer show`
#[derive(Debug, Args)]
pub struct TokenizerShowArgs {
    /// A tokenizer.json, or a folder with one or with GPT-2's files.
    pub file: PathBuf,
    /// The token that ends documents, where it is not one of the usual, such as <|endoftext|> or </s>.
    #[arg(long, value_name = "TOKEN")]
    pub eod: Option<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `node session create`
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The session file.
    #[arg(required_unless_present = "preset", conflicts_with = "preset")]
    pub file: Option<PathBuf>,
    /// A file that comes with the program: tiny, small or synthetic.
    #[arg(long)]
    pub preset: Option<String>,
    /// The session's name, in place of the file's.
    #[arg(long)]
    pub name: Option<String>,
    /// Fill in rule, checking and privacy from whom you trust: server=yes|no,members=yes|no,privacy=yes|no. Replaces what
    /// the file says of them; with --show, prints the file that comes out.
    #[arg(long, value_name = "WHOM")]
    pub trust: Option<Trust>,
    /// This institution's text (may be repeated): a file, or a folder of files; .txt, .md, .jsonl and .parquet with a `text`
    /// field, or tokens (.u16, .u32, .bin); text also compressed (.gz, .zst).
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// Cut text into the tokens of this tokenizer: a tokenizer.json, or a folder with GPT-2's files. The session file that
    /// is founded names it by its hash; who joins gets it from this node.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// The token that ends documents, where it is not one of the usual, such as <|endoftext|> or </s>.
    #[arg(long, value_name = "TOKEN", requires = "tokenizer")]
    pub eod: Option<String>,
    /// Print the session file and create nothing.
    #[arg(long)]
    pub show: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `node session schedule`
#[derive(Debug, Args)]
pub struct ScheduleArgs {
    /// The session file.
    #[arg(required_unless_present_any = ["preset", "session"], conflicts_with_all = ["preset", "session"])]
    pub file: Option<PathBuf>,
    /// A file that comes with the program: tiny, small or synthetic.
    #[arg(long)]
    pub preset: Option<String>,
    /// A session that this node is in, by name or id.
    #[arg(long, conflicts_with = "preset")]
    pub session: Option<String>,
    /// Write the drawing as an SVG file. Overwrites nothing.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Print the steps as JSON.
    #[arg(long)]
    pub json: bool,
    /// Print the steps as comma-separated values.
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
}

/// `node invite`
#[derive(Debug, Args)]
pub struct InviteArgs {
    /// Something else than minting.
    #[command(subcommand)]
    pub action: Option<InviteAction>,
    /// The session, by name or id.
    #[arg(required = true)]
    pub session: Option<String>,
    /// What the joiner may be: trainer, coordinator, observer, separated by commas. A coordinator leads rounds when the
    /// others are lost, and may mint invites.
    #[arg(long, default_value = "trainer,coordinator")]
    pub role: String,
    /// When the key ends: 90s, 30m, 12h, 7d.
    #[arg(long, default_value = "7d")]
    pub expires: String,
    /// How many members may join with it.
    #[arg(long, default_value_t = 1)]
    pub uses: u32,
    /// Where this node can be reached, in place of the addresses that it knows (may be repeated).
    #[arg(long, value_name = "MULTIADDR")]
    pub address: Vec<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What else can be done with a key.
#[derive(Debug, Subcommand)]
pub enum InviteAction {
    /// List the keys that this node has minted to a session: uses, expiry, whether they were revoked. Shows no secret.
    #[command(after_help = "Examples:\n  node invite list first\n  node invite list first --json")]
    List {
        /// The session, by name or id.
        session: String,
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what a key permits and whether it is genuine. Asks nobody.
    #[command(after_help = "Examples:\n  node invite explain synod1…\n  node invite explain @key.txt --json")]
    Explain {
        /// The key; `-` reads it from standard input, `@FILE` from a file.
        key: String,
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a key that permits less out of a key, for handing on. Asks nobody; uses count against both.
    #[command(
        after_help = "Examples:\n  node invite narrow synod1… --uses 1\n  node invite narrow @key.txt --role trainer --expires 2h > lesser.txt"
    )]
    Narrow {
        /// The key; `-` reads it from standard input, `@FILE` from a file.
        key: String,
        /// Roles, separated by commas [default: as the key].
        #[arg(long)]
        role: Option<String>,
        /// When it ends: 90s, 30m, 12h, 7d [default: as the key].
        #[arg(long)]
        expires: Option<String>,
        /// How many members may join with it [default: as the key].
        #[arg(long)]
        uses: Option<u32>,
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Void a key that this node minted, and all that were narrowed from it. Who has joined stays.
    #[command(
        after_help = "Examples:\n  node invite revoke first 3fa9c1d2     # a name from `node invite list first`, or its beginning\n  node invite revoke first @key.txt"
    )]
    Revoke {
        /// The session, by name or id.
        session: String,
        /// The name of the key that `list` and `explain` show, or the key; `-` reads it from standard input, `@FILE` from a
        /// file.
        key: String,
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// `node join`
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The invite key; `-` reads it from standard input, `@FILE` from a file.
    pub key: String,
    /// This institution's text (may be repeated): a file, or a folder of files; .txt, .md, .jsonl and .parquet with a `text`
    /// field, or tokens (.u16, .u32, .bin); text also compressed (.gz, .zst).
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// The session's tokenizer, where it has one; left out: it is fetched from the key's issuer, and checked.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Join nothing and spend nothing; ask the issuer, and say exactly what is missing. With --verbose also the session's
    /// configuration.
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the issuer, in seconds [default: 60; for --dry-run 10].
    #[arg(long)]
    pub timeout: Option<u64>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A session's name.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The session, by name or id.
    pub session: String,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `node status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print the answer as JSON.
    #[arg(long, conflicts_with = "watch")]
    pub json: bool,
    /// Go on showing it until all sessions are finished.
    #[arg(long)]
    pub watch: bool,
}

/// A list.
#[derive(Debug, Args)]
pub struct JsonArgs {
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `node log`
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The session, by name or id.
    pub session: String,
    /// The first round to show.
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// Print the rows as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `node verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The session, by name or id; or a file that `--write` has made.
    #[arg(value_name = "SESSION")]
    pub session: String,
    /// Write the session's configuration and settlements to this file, which must not exist.
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `node export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A session, by name or id; or a model's folder or GGUF file, to write it in another form.
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// The folder to make, which must not exist, or be empty; or the file whose name ends in .gguf.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// How numbers are written; f16 and q8_0 in GGUF files only. [default: f32]
    #[arg(long, value_name = "FORM")]
    pub precision: Option<ExportPrecision>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// How an export's numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportPrecision {
    /// 32 bits: what is trained.
    F32,
    /// The upper 16 bits of these.
    Bf16,
    /// 16 bits of IEEE.
    F16,
    /// 8 bits, in blocks of 32 with a common scale.
    #[value(name = "q8_0")]
    Q8_0,
}

/// `node generate`
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// A session, by name or id; or a model's folder, as `node export` writes it, or a GGUF file.
    pub model: String,
    /// What the text begins with.
    #[arg(long, default_value = "")]
    pub prompt: String,
    /// How many tokens to write; a token is a byte, or what the session's tokenizer says.
    #[arg(long, alias = "bytes", default_value_t = 300)]
    pub tokens: usize,
    /// How bold to be; 0 takes the likeliest token each time.
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f32,
    /// Draw from so many likeliest tokens; 0: from all. [default: 40, and 0 with --top-p]
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability; 1: from all.
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// The same seed gives the same text.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// `node evaluate`
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// A session, by name or id; or a model's folder, as `node export` writes it, or a GGUF file.
    pub model: String,
    /// Text to measure on (may be repeated).
    #[arg(long, value_name = "PATH", required_unless_present = "tasks")]
    pub data: Vec<PathBuf>,
    /// The key of JSON Lines, or the column of Parquet files, that holds the text [default: `text.field` of the node's settings].
    #[arg(long, value_name = "NAME")]
    pub text_field: Option<String>,
    /// Multiple-choice questions to answer, as JSON Lines with `context`, `choices` and `answer` (may be repeated).
    #[arg(long, value_name = "FILE")]
    pub tasks: Vec<PathBuf>,
    /// Measure only on the part of each that the session keeps out of training.
    #[arg(long)]
    pub heldout: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Reads the process's arguments and does what they say.
pub fn run() -> ExitCode {
    run_with(None)
}

/// The same for a test's binary whose trainers misbehave.
pub fn run_with(drill: Option<Drill>) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; the rest is a mistake of whoever typed it.
            let code = u8::from(error.use_stderr());
            // A closed terminal needs no help.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match dispatch(cli, drill) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Some of it may be a peer's words. A terminal that is gone hears nothing, and the code still tells.
            let _ = writeln!(std::io::stderr(), "error: {}", plain(&failure.message));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// The same text without what a terminal would take for commands; lines stay lines.
fn plain(text: &str) -> String {
    let shown = |c: char| match c.is_control() && c != '\n' {
        true => c.escape_default().collect::<String>(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

fn dispatch(cli: Cli, drill: Option<Drill>) -> Outcome {
    let terminal = Terminal {
        quiet: cli.quiet,
        verbose: cli.verbose,
    };
    let dir = DataDir::new(data_dir(cli.data_dir)?);
    match cli.command {
        Command::Init(args) => commands::init::run(&dir, &args, terminal),
        Command::Start(args) => commands::start::run(dir, &args, drill, terminal),
        Command::Session(SessionCommand::Create(args)) => commands::session::create(&dir, &args, terminal),
        Command::Session(SessionCommand::Schedule(args)) => commands::session::schedule(&dir, &args, terminal),
        Command::Session(SessionCommand::List(args)) => commands::session::list(&dir, &args, terminal),
        Command::Session(SessionCommand::Show(args)) => commands::session::show(&dir, &args, terminal),
        Command::Tokenizer(TokenizerCommand::Train(args)) => commands::tokenizer::train(&args, terminal),
        Command::Tokenizer(TokenizerCommand::Show(args)) => commands::tokenizer::show(&args, terminal),
        Command::Invite(args) => commands::invite::run(&dir, &args, terminal),
        Command::Join(args) => commands::join::run(&dir, &args, terminal),
        Command::Leave(args) => commands::leave::run(&dir, &args, terminal),
        Command::Status(args) => commands::status::run(&dir, &args, terminal),
        Command::Peers(args) => commands::peers::run(&dir, &args, terminal),
        Command::Log(args) => commands::log::run(&dir, &args, terminal),
        Command::Verify(args) => commands::verify::run(&dir, &args, terminal),
        Command::Export(args) => commands::export::run(&dir, &args, terminal),
        Command::Generate(args) => commands::generate::run(&dir, &args, terminal),
        Command::Evaluate(args) => commands::evaluate::run(&dir, &args, terminal),
        Command::Doctor(args) => commands::doctor::run(&dir, &args, terminal),
        Command::Stop => commands::stop::run(&dir, terminal),
    }
}

fn data_dir(flag: Option<PathBuf>) -> Outcome<PathBuf> {
    let from = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let chosen = flag
        .or_else(|| from("SYNOD_HOME"))
        .or_else(|| from("HOME").map(|home| home.join(".synod")));
    let chosen = chosen.ok_or_else(|| Failure::user("there is no HOME: say where the node lives by --data-dir DIR"))?;
    std::path::absolute(&chosen).map_err(|error| Failure::user(format!("--data-dir {}: {error}", chosen.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed_and_every_command_has_examples() {
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        cli.build();
        for command in cli
            .get_subcommands()
            .filter(|command| !["help", "session"].contains(&command.get_name()))
        {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.contains("Examples:"),
                "`node {}` has no examples",
                command.get_name()
            );
        }
    }

    #[test]
    fn flags_become_the_uppermost_layer() {
        let cli =
            Cli::try_parse_from(["node", "start", "--device", "cuda:1", "--set", "network.mdns = false"]).unwrap();
        let Command::Start(args) = cli.command else {
            panic!("start was asked for")
        };
        let overrides = args.overrides(true).unwrap();
        let keys: Vec<_> = overrides
            .iter()
            .map(|one| (one.key.as_str(), one.value.as_str()))
            .collect();
        assert_eq!(
            keys,
            [
                ("log.level", "debug"),
                ("compute.device", "cuda:1"),
                ("network.mdns", "false")
            ]
        );
        let bad = StartArgs {
            device: None,
            threads: None,
            log_level: None,
            log_format: None,
            set: vec!["x".into()],
        };
        assert!(bad.overrides(false).unwrap_err().message.contains("KEY=VALUE"));
    }
}
