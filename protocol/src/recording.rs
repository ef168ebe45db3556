//! What a machine was told and what it answered, as bytes: a head that makes the machine again, then every input with a
//! digest of the outputs. It reads and writes no file, and it holds no secret: who replays brings the member's key.
//!
//! A machine is a pure function, so the same inputs give the same outputs on every machine and in every build that has
//! not changed a decision. A recording of a session that went wrong is a complete report of it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::contract::{Command, FetchFailure, Input, Output, Time};
use crate::identity::{Identity, PeerId, SessionId};
use crate::journal::JournalEntry;
use crate::machine::Machine;
use crate::message::Message;
use crate::pace::StepTerms;
use crate::reject::Reject;
use crate::session::{SessionInfo, Terms};
use crate::signed::{Signed, SignedError};
use crate::sum::SumTerms;
use crate::task::{JobId, TaskFailure, TaskResult};

/// First bytes of a recording: magic and version.
const MAGIC: [u8; 5] = *b"SYNR\x03";

/// What a machine is made of, less its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Head {
    me: PeerId,
    session: SessionId,
    name: String,
    creator: PeerId,
    terms: Terms,
    sums: Option<SumTerms>,
    steps: Option<StepTerms>,
    config: Vec<u8>,
    journal: Vec<JournalEntry>,
    now: Time,
}

/// An input in a form that can be written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Told {
    /// [`Input::Tick`]
    Tick,
    /// [`Input::Message`]
    Message {
        /// As it was signed.
        message: Signed<Message>,
        /// Who handed it over.
        carrier: Option<PeerId>,
    },
    /// [`Input::Refused`]
    Refused {
        /// Who handed it over.
        from: PeerId,
        /// What was wrong.
        reject: Reject,
    },
    /// [`Input::Computed`]
    Computed {
        /// To this job.
        job: JobId,
        /// Its result.
        result: Result<TaskResult, TaskFailure>,
    },
    /// [`Input::Fetched`]
    Fetched {
        /// To this job.
        job: JobId,
        /// Its result.
        result: Result<(), FetchFailure>,
    },
    /// [`Input::Command`]
    Command(Command),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Step {
    now: Time,
    told: Told,
    answered: [u8; 32],
}

/// What a replay has found: everything as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// The session.
    pub session: SessionId,
    /// Its name.
    pub name: String,
    /// Inputs that were told again.
    pub steps: u64,
    /// Rounds that were settled at the end, the founding one included.
    pub rounds: u64,
    /// BLAKE3 over all outputs' digests.
    pub digest: [u8; 32],
    /// Whether the last step is incomplete: the node was killed while it was written.
    pub cut: bool,
}

/// Why a recording was not replayed to its end.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ReplayError {
    /// Other bytes.
    #[error("this is no recording of this version: take a file of the folder `recordings` of a node")]
    NotARecording,
    /// The key is another member's.
    #[error("the recording is of node {expected}, the key of {got}: give the `identity.key` of the node that recorded")]
    OtherKey {
        /// Whose recording it is.
        expected: PeerId,
        /// Whose key was given.
        got: PeerId,
    },
    /// A step cannot be read.
    #[error("step {step} of the recording is damaged")]
    Damaged {
        /// Which, from 0.
        step: u64,
    },
    /// The machine answered otherwise than it did then.
    #[error(
        "step {step} differs: told {told} at {now_ms} ms, the machine answers otherwise than it did when this was recorded: {answers}"
    )]
    Differs {
        /// Which, from 0.
        step: u64,
        /// When.
        now_ms: u64,
        /// The input, shortened.
        told: String,
        /// The outputs of now, shortened.
        answers: String,
    },
}

/// The beginning of a recording: of a machine that is about to be made of these.
pub fn head(me: PeerId, info: &SessionInfo, journal: &[JournalEntry], now: Time) -> Vec<u8> {
    let head = Head {
        me,
        session: info.session,
        name: info.name.clone(),
        creator: info.creator,
        terms: info.terms.clone(),
        sums: info.sums,
        steps: info.steps,
        config: info.config.to_vec(),
        journal: journal.to_vec(),
        now,
    };
    [&MAGIC[..], &frame(&head)].concat()
}

/// One step of a recording: what the machine was told at `now`, and what it answered.
pub fn step(now: Time, told: Told, outputs: &[Output]) -> Vec<u8> {
    let answered = digest(outputs);
    frame(&Step { now, told, answered })
}

/// Tells a machine everything again and compares its answers.
pub fn replay(mut bytes: &[u8], identity: Identity) -> Result<Replayed, ReplayError> {
    bytes = bytes.strip_prefix(&MAGIC).ok_or(ReplayError::NotARecording)?;
    let head: Head = match next(&mut bytes) {
        Next::Value(head) => head,
        _ => return Err(ReplayError::NotARecording),
    };
    let got = identity.peer_id();
    if got != head.me {
        let expected = head.me;
        return Err(ReplayError::OtherKey { expected, got });
    }
    let info = SessionInfo {
        session: head.session,
        name: head.name.clone(),
        creator: head.creator,
        terms: head.terms,
        sums: head.sums,
        steps: head.steps,
        config: head.config.into(),
    };
    let mut machine = Machine::new(identity, info, head.journal, head.now);
    let (mut steps, mut all) = (0, blake3::Hasher::new());
    let cut = loop {
        let Step { now, told, answered } = match next(&mut bytes) {
            Next::Value(step) => step,
            Next::Damaged => return Err(ReplayError::Damaged { step: steps }),
            Next::Cut => break true,
            Next::End => break false,
        };
        let said = shortened(&told);
        let input = told.into_input().map_err(|_| ReplayError::Damaged { step: steps })?;
        let outputs = machine.handle(now, input);
        if digest(&outputs) != answered {
            return Err(ReplayError::Differs {
                step: steps,
                now_ms: now.0,
                told: said,
                answers: shortened(&outputs),
            });
        }
        all.update(&answered);
        steps += 1;
    };
    Ok(Replayed {
        session: head.session,
        name: head.name,
        steps,
        rounds: machine.round(),
        digest: *all.finalize().as_bytes(),
        cut,
    })
}

impl Told {
    /// The written form of an input.
    pub fn of(input: &Input) -> Self {
        match input.clone() {
            Input::Tick => Told::Tick,
            Input::Message { message, carrier } => Told::Message {
                message: message.signed().clone(),
                carrier,
            },
            Input::Refused { from, reject } => Told::Refused { from, reject },
            Input::Computed { job, result } => Told::Computed { job, result },
            Input::Fetched { job, result } => Told::Fetched { job, result },
            Input::Command(command) => Told::Command(command),
        }
    }

    /// The input; a message is verified again.
    fn into_input(self) -> Result<Input, SignedError> {
        Ok(match self {
            Told::Tick => Input::Tick,
            Told::Message { message, carrier } => Input::Message {
                message: message.verify()?,
                carrier,
            },
            Told::Refused { from, reject } => Input::Refused { from, reject },
            Told::Computed { job, result } => Input::Computed { job, result },
            Told::Fetched { job, result } => Input::Fetched { job, result },
            Told::Command(command) => Input::Command(command),
        })
    }
}

fn digest(outputs: &[Output]) -> [u8; 32] {
    *blake3::hash(&postcard::to_stdvec(outputs).expect("outputs are plain data")).as_bytes()
}

fn frame(value: &impl Serialize) -> Vec<u8> {
    let content = postcard::to_stdvec(value).expect("a recording is plain data");
    let length = u32::try_from(content.len()).expect("a journal of 4 GiB is not recorded");
    [&length.to_le_bytes()[..], &content].concat()
}

enum Next<T> {
    Value(T),
    /// It does not decode.
    Damaged,
    /// It ends early.
    Cut,
    End,
}

fn next<T: DeserializeOwned>(bytes: &mut &[u8]) -> Next<T> {
    if bytes.is_empty() {
        return Next::End;
    }
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Next::Cut;
    };
    let Some((content, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
        return Next::Cut;
    };
    *bytes = rest;
    postcard::from_bytes(content).map_or(Next::Damaged, Next::Value)
}

/// Enough to see what it is.
fn shortened(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(400) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::BlobId;
    use crate::task::Task;

    fn identity() -> Identity {
        Identity::from_secret([1; 32])
    }

    /// A session of one member that settles rounds by itself, recorded.
    fn recording() -> Vec<u8> {
        let terms = Terms {
            rounds: 3,
            min_members: 1,
            ..Terms::default()
        };
        let info = SessionInfo {
            session: SessionId([2; 32]),
            name: "alone".into(),
            creator: identity().peer_id(),
            terms,
            sums: None,
            steps: None,
            config: b"config"[..].into(),
        };
        let now = Time(1_000);
        let mut bytes = head(identity().peer_id(), &info, &[], now);
        let mut machine = Machine::new(identity(), info, Vec::new(), now);
        let mut inputs = std::collections::VecDeque::from([Input::Tick]);
        for at in 0..200 {
            let input = inputs.pop_front().unwrap_or(Input::Tick);
            let (now, told) = (now.after_ms(100 * at), Told::of(&input));
            let outputs = machine.handle(now, input);
            bytes.extend(step(now, told, &outputs));
            for output in outputs {
                if let Output::Compute { job, task } = output {
                    inputs.push_back(Input::Computed {
                        job,
                        result: worked(&task),
                    });
                }
            }
        }
        assert_eq!(machine.round(), 4);
        bytes
    }

    fn worked(task: &Task) -> Result<TaskResult, TaskFailure> {
        Ok(match task {
            Task::Initialise => TaskResult::Initialised {
                state: BlobId([1; 32]),
                bytes: 10,
            },
            Task::Train { .. } => TaskResult::Trained {
                payload: BlobId([2; 32]),
                bytes: 10,
                report: crate::task::TrainReport::default(),
            },
            Task::Aggregate { updates, .. } => TaskResult::Aggregated {
                state: BlobId([3; 32]),
                bytes: 10,
                verdicts: updates
                    .iter()
                    .map(|update| crate::task::MemberVerdict {
                        peer: update.peer,
                        weight: 1.0,
                        outcome: crate::task::Outcome::Used,
                    })
                    .collect(),
            },
            Task::Evaluate { .. } => TaskResult::Evaluated { loss: 1.0, tokens: 1 },
            Task::Mix { .. } => unreachable!("the test's session is federated"),
            Task::Sum(task) => panic!("{task:?} in a session without secure sums"),
            Task::Shard(task) => panic!("{task:?} in a session without shards"),
        })
    }

    #[test]
    fn a_recording_replays_to_the_same_answers() {
        let bytes = recording();
        let first = replay(&bytes, identity()).unwrap();
        assert_eq!((first.steps, first.rounds, first.cut), (200, 4, false));
        assert_eq!(replay(&bytes, identity()), Ok(first));
    }

    #[test]
    fn another_answer_and_another_key_are_noticed() {
        let bytes = recording();
        let other = Identity::from_secret([9; 32]);
        assert!(matches!(replay(&bytes, other), Err(ReplayError::OtherKey { .. })));
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        let differs = replay(&changed, identity()).unwrap_err();
        assert!(matches!(differs, ReplayError::Differs { step: 199, .. }), "{differs}");
    }

    #[test]
    fn what_is_cut_what_is_damaged_and_what_is_no_recording_are_told_apart() {
        let bytes = recording();
        let cut = replay(&bytes[..bytes.len() - 3], identity()).unwrap();
        assert_eq!((cut.steps, cut.cut), (199, true));
        assert_eq!(replay(b"hello", identity()), Err(ReplayError::NotARecording));
        let damaged = [&bytes[..], &[1, 0, 0, 0, 0xff]].concat();
        assert_eq!(replay(&damaged, identity()), Err(ReplayError::Damaged { step: 200 }));
        let endless = [&bytes[..], &[0xff; 4], b"short"].concat();
        assert!(replay(&endless, identity()).unwrap().cut);
    }
}
