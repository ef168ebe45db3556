//! Joining by invite: dial the issuer, show the key, repeat until it answers, and believe only what can be checked.
//! It stores nothing; whoever calls it makes the member.

use std::time::Duration;

use synod_config::SessionConfig;
use synod_protocol::identity::{Identity, PeerId, SessionId};
use synod_protocol::invite::{Admission, Invite};
use synod_protocol::message::{JoinRefusal, Message, Welcome};
use synod_protocol::signed::{Signed, Verified};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::driver::{DriverHandle, JOIN_QUEUE_LENGTH, Request};
use crate::failure::{Failure, Outcome};
use crate::network::NetworkHandle;

/// How often the issuer is asked again: messages may be lost.
const ASK_EVERY: Duration = Duration::from_secs(2);

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
    /// Asks the issuer of `invite` until it answers or `patience` is over.
    pub async fn ask(&self, invite: &Invite, patience: Duration) -> Outcome<Admitted> {
        let grant = invite.grant();
        let me = self.identity.peer_id();
        let (send, mut answers) = mpsc::channel(JOIN_QUEUE_LENGTH);
        self.driver
            .tell(Request::Listen {
                session: grant.session,
                issuer: grant.issuer,
                answers: send,
            })
            .await;
        self.network.add_addresses(grant.issuer, grant.bootstrap.clone());
        let proof = invite.prove(&me, self.network.listen_addresses().await.control);
        let question = Signed::new(&self.identity, grant.session, &Message::Join(Box::new(proof))).to_bytes();

        let deadline = Instant::now() + patience;
        let mut again = interval(ASK_EVERY);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(answer) = answers.recv() => {
                    if let Some(outcome) = judge(&answer, grant.session, grant.issuer, me) {
                        return outcome;
                    }
                }
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

    /// Whether the issuer can be reached, without asking it anything. None: it can; else why not.
    pub async fn probe(&self, invite: &Invite, patience: Duration) -> Option<Failure> {
        let grant = invite.grant();
        self.network.add_addresses(grant.issuer, grant.bootstrap.clone());
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if self.is_connected(&grant.issuer).await {
                return None;
            }
            self.network.dial(grant.bootstrap.clone());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Some(self.no_answer(invite, patience).await)
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

/// What an answer of the issuer means; none if it means nothing.
fn judge(answer: &Verified<Message>, session: SessionId, issuer: PeerId, me: PeerId) -> Option<Outcome<Admitted>> {
    match answer.value() {
        Message::Admitted(welcome) => Some(admitted(welcome, session, issuer, me)),
        Message::Refused(refusal) => Some(Err(refused(refusal))),
        _ => None,
    }
}

fn refused(refusal: &JoinRefusal) -> Failure {
    Failure::user(format!("the join was refused: {refusal}"))
}

fn admitted(welcome: &Welcome, session: SessionId, issuer: PeerId, me: PeerId) -> Outcome<Admitted> {
    let broken = |what: &str| Failure::environment(format!("the issuer {issuer} answered, but {what}: do not join"));
    let admission = welcome
        .admission
        .verify()
        .map_err(|_| broken("its admission is not signed correctly"))?;
    if (admission.signer(), admission.session(), admission.value().peer) != (issuer, session, me) {
        return Err(broken("its admission is for another node or session"));
    }
    let config = SessionConfig::from_peer(&welcome.config, session)
        .map_err(|error| broken(&format!("its session cannot be used ({error})")))?;
    Ok(Admitted {
        admission: welcome.admission.clone(),
        config,
        config_bytes: welcome.config.clone(),
    })
}
