//! Joining by invite: dial the issuer, show the key, repeat until it answers, and believe only what can be checked.
//! First comes the question what the key would bring, which spends nothing; only then is a use asked for. It stores
//! nothing; whoever calls it makes the member.

use std::time::Duration;

use synod_config::SessionConfig;
use synod_protocol::identity::{Identity, PeerId, SessionId};
use synod_protocol::invite::{Admission, Invite, InviteProof};
use synod_protocol::message::{JoinRefusal, Message, Offer, Welcome};
use synod_protocol::signed::{Signed, Verified};
use synod_training::config::TokenizerId;
use synod_training::data::TOKENIZER_BYTES_MAX;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::driver::{DriverHandle, JOIN_QUEUE_LENGTH, Request};
use crate::failure::{Failure, Outcome};
use crate::network::{FetchFailure, FetchedFrom, NetworkHandle};

/// How often the issuer is asked again: messages may be lost.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long the issuer is asked for a tokenizer's length: a few tries of a few seconds.
const LENGTH_PATIENCE: Duration = Duration::from_secs(30);
/// How long a tokenizer may travel: 256 MiB at half a megabyte a second.
const TOKENIZER_PATIENCE: Duration = Duration::from_secs(600);

/// What an admitted node has.
#[derive(Debug)]
pub struct Admitted {
    /// The issuer's statement, for the journal.
    pub admission: Signed<Admission>,
    /// The session's configuration, checked against the session id in the key.
    pub config: SessionConfig,
    /// Its canonical bytes.
    pub config_bytes: Vec<u8>,
}

/// What a key would bring, by the issuer's word.
#[derive(Debug)]
pub struct Offered {
    /// The session's configuration, checked against the session id in the key.
    pub config: SessionConfig,
    /// The rest of what the issuer says.
    pub offer: Offer,
}

/// Who joins, and through what.
#[derive(Clone)]
pub struct Joining {
    /// This node.
    pub identity: Identity,
    /// Its network.
    pub network: NetworkHandle,
    /// Its driver, which passes the issuer's answers on.
    pub driver: DriverHandle,
}

impl Joining {
    /// Asks the issuer of `invite` what it would bring, until it answers or `patience` is over. Spends no use.
    /// A refusal of the key is the user's fault, everything else the environment's.
    pub async fn preview(&self, invite: &Invite, patience: Duration) -> Outcome<Offered> {
        let (session, issuer) = (invite.grant().session, invite.grant().issuer);
        let judge = |answer: &Message| match answer {
            Message::Offer(offer) => Some(offered(offer, session, issuer)),
            Message::Refused(refusal) => Some(Err(refused(refusal))),
            _ => None,
        };
        self.converse(invite, Message::Ask, patience, judge).await
    }

    /// Asks the issuer of `invite` to be let in, until it answers or `patience` is over. A yes has spent a use.
    pub async fn ask(&self, invite: &Invite, patience: Duration) -> Outcome<Admitted> {
        let (session, issuer, me) = (invite.grant().session, invite.grant().issuer, self.identity.peer_id());
        let judge = |answer: &Message| match answer {
            Message::Admitted(welcome) => Some(admitted(welcome, session, issuer, me)),
            Message::Refused(refusal) => Some(Err(refused(refusal))),
            _ => None,
        };
        self.converse(invite, Message::Join, patience, judge).await
    }

    /// Fetches a session's tokenizer into the store from `issuer`, who lets a node do so that was shown the session. Its
    /// digest is checked while it comes.
    pub async fn fetch_tokenizer(&self, tokenizer: &TokenizerId, issuer: PeerId) -> Outcome {
        let failed = |why: String| {
            Failure::environment(format!(
                "the session's tokenizer (BLAKE3 {}) could not be had from {issuer}: {why}; or give --tokenizer FILE",
                tokenizer.blake3
            ))
        };
        // Nobody has told its length: a fetch of no bytes is refused with it.
        let bytes = match self.fetch(tokenizer, 0, issuer, LENGTH_PATIENCE).await? {
            Err(FetchFailure::WrongLength { says, .. }) if says <= TOKENIZER_BYTES_MAX => says,
            Err(FetchFailure::WrongLength { says, .. }) => {
                return Err(failed(format!("it is {says} bytes long, which no tokenizer is")));
            }
            // It has come meanwhile.
            Err(FetchFailure::OtherLength { .. }) => return Ok(()),
            Err(FetchFailure::NotFound) => return Err(failed("that node does not have it".to_owned())),
            Err(failure) => return Err(failed(failure.to_string())),
            Ok(_) => return Err(failed("that node has an empty file in its place".to_owned())),
        };
        match self.fetch(tokenizer, bytes, issuer, TOKENIZER_PATIENCE).await? {
            Ok(_) => Ok(()),
            Err(failure) => Err(failed(failure.to_string())),
        }
    }

    async fn fetch(
        &self,
        tokenizer: &TokenizerId,
        bytes: u64,
        from: PeerId,
        within: Duration,
    ) -> Outcome<Result<FetchedFrom, FetchFailure>> {
        let (done, outcome) = oneshot::channel();
        self.driver
            .tell(Request::Fetch {
                blob: (tokenizer.blake3, bytes),
                from,
                within,
                done,
            })
            .await;
        outcome
            .await
            .map_err(|_| Failure::environment("the node is shutting down"))
    }

    /// Shows the key in a `question` again and again, until `judge` has made something of an answer.
    async fn converse<T>(
        &self,
        invite: &Invite,
        question: fn(Box<InviteProof>) -> Message,
        patience: Duration,
        judge: impl Fn(&Message) -> Option<Outcome<T>>,
    ) -> Outcome<T> {
        let grant = invite.grant();
        let mut answers = self.listen(grant.session, grant.issuer).await;
        self.network.add_addresses(grant.issuer, grant.bootstrap.clone());
        let proof = invite.prove(&self.identity.peer_id(), self.network.listen_addresses().await.control);
        let question = Signed::new(&self.identity, grant.session, &question(Box::new(proof))).to_bytes();

        let deadline = Instant::now() + patience;
        let mut again = interval(ASK_EVERY);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                answer = answers.recv() => match answer.map(|answer| judge(answer.value())) {
                    Some(Some(outcome)) => return outcome,
                    Some(None) => {}
                    None => return Err(Failure::user(format!(
                        "another command of this node has begun to join `{}` meanwhile: wait for that one",
                        grant.session_name
                    ))),
                },
                _ = again.tick() => {
                    if !self.is_connected(&grant.issuer).await {
                        self.network.dial(grant.bootstrap.clone());
                    }
                    self.network.send(grant.issuer, question.clone());
                }
                () = sleep_until(deadline) => return Err(self.no_answer(invite, patience).await),
            }
        }
    }

    async fn listen(&self, session: SessionId, issuer: PeerId) -> mpsc::Receiver<Verified<Message>> {
        let (send, answers) = mpsc::channel(JOIN_QUEUE_LENGTH);
        self.driver
            .tell(Request::Listen {
                session,
                issuer,
                answers: send,
            })
            .await;
        answers
    }

    async fn is_connected(&self, peer: &PeerId) -> bool {
        self.network.peers().await.iter().any(|known| known.peer == *peer)
    }

    async fn no_answer(&self, invite: &Invite, patience: Duration) -> Failure {
        let grant = invite.grant();
        let tried = match grant.bootstrap.as_slice() {
            [] => "the key names no address".to_owned(),
            list => format!("tried {}", list.join(", ")),
        };
        let (what, remedy) = match self.is_connected(&grant.issuer).await {
            true => (
                "is connected but does not answer",
                "is the session still on that node? Ask its operator",
            ),
            false => (
                "cannot be reached",
                "is that node running, and its port open? Ask its operator, or run `node doctor`",
            ),
        };
        let seconds = patience.as_secs();
        Failure::environment(format!(
            "the issuer {} {what} ({seconds} s; {tried}): {remedy}",
            grant.issuer
        ))
    }
}

fn refused(refusal: &JoinRefusal) -> Failure {
    Failure::user(format!("the join was refused: {refusal}"))
}

fn broken(issuer: PeerId, what: &str) -> Failure {
    Failure::environment(format!("the issuer {issuer} answered, but {what}: do not join"))
}

fn config_of(bytes: &[u8], session: SessionId, issuer: PeerId) -> Outcome<SessionConfig> {
    SessionConfig::from_peer(bytes, session)
        .map_err(|error| broken(issuer, &format!("its session cannot be used ({error})")))
}

fn offered(offer: &Offer, session: SessionId, issuer: PeerId) -> Outcome<Offered> {
    Ok(Offered {
        config: config_of(&offer.config, session, issuer)?,
        offer: offer.clone(),
    })
}

fn admitted(welcome: &Welcome, session: SessionId, issuer: PeerId, me: PeerId) -> Outcome<Admitted> {
    let admission = welcome
        .admission
        .verify()
        .map_err(|_| broken(issuer, "its admission is not signed correctly"))?;
    if (admission.signer(), admission.session(), admission.value().peer) != (issuer, session, me) {
        return Err(broken(issuer, "its admission is for another node or session"));
    }
    Ok(Admitted {
        admission: welcome.admission.clone(),
        config: config_of(&welcome.config, session, issuer)?,
        config_bytes: welcome.config.clone(),
    })
}
