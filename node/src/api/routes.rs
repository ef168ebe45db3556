//! The routes of the API, one function each; those of keys are in `invites` and `joins`. They read snapshots, prepare
//! what takes long off the driver, and hand the driver finished things; none of them decides for a machine.

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Path, Query, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use synod_config::SessionConfig;
use synod_config::load::{locate, parse_session};
use synod_protocol::contract::Command;
use synod_protocol::identity::SessionId;
use synod_storage::store::{SessionRecord, Standing};
use synod_training::worker::Worker;

use super::types::{ConfigView, CreateSession, Empty, Joined, NodeView, PeerView, Problem, SessionView};
use super::{Context, invites, joins};
use crate::clock::unix_s;
use crate::compute::WorkerPlan;
use crate::driver::{NewSession, Request};
use crate::failure::{Failure, Fault, Outcome};
use crate::requirements;
use crate::rounds::{Bytes, RoundRow};
use crate::session_data;
use crate::settled_chain::settlements_of;

/// All routes.
pub fn router(context: Context) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/stop", post(stop))
        .route("/v1/peers", get(peers))
        .route("/v1/sessions", get(sessions).post(create))
        .route("/v1/sessions/{session}", get(session))
        .route("/v1/sessions/{session}/config", get(config))
        .route("/v1/sessions/{session}/state", get(state))
        .route("/v1/sessions/{session}/chain", get(chain))
        .route("/v1/sessions/{session}/rounds", get(rounds))
        .route("/v1/sessions/{session}/invites", get(invites::list).post(invites::mint))
        .route("/v1/sessions/{session}/revoke", post(invites::revoke))
        .route("/v1/sessions/{session}/leave", post(leave))
        .route("/v1/join", post(joins::join))
        .route("/v1/join/preview", post(joins::preview))
        .fallback(|| async { not_there("there is no such route; this node's API begins with /v1/status") })
        .method_not_allowed_fallback(|| async { not_there("this route does not take that method") })
        .with_state(context)
}

fn not_there(text: &str) -> Response {
    let problem = Problem {
        fault: Fault::User,
        error: text.to_owned(),
    };
    (StatusCode::NOT_FOUND, Json(problem)).into_response()
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = match self.fault {
            Fault::User => StatusCode::BAD_REQUEST,
            Fault::Environment => StatusCode::SERVICE_UNAVAILABLE,
        };
        (code, Json(Problem::from(self))).into_response()
    }
}

/// A request's JSON, whose refusal is JSON too.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: HttpRequest, state: &S) -> Result<Self, Failure> {
        let read: Result<Json<T>, JsonRejection> = Json::from_request(request, state).await;
        read.map(|Json(content)| Self(content))
            .map_err(|error| Failure::user(error.body_text()))
    }
}

// ---- looking --------------------------------------------------------------------------------------------------------

async fn status(State(context): State<Context>) -> Outcome<Json<NodeView>> {
    let sessions = context.driver.ask(Request::View).await?;
    let listen = context.network.listen_addresses().await;
    let counters = context.network.counters().await;
    let bytes = |traffic: &crate::network::Traffic| Bytes {
        received: traffic.bytes_in,
        sent: traffic.bytes_out,
    };
    Ok(Json(NodeView {
        peer: context.identity.peer_id().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        data_dir: context.data_dir.to_string(),
        pid: std::process::id(),
        uptime_s: context.clock.uptime().as_secs(),
        listen: listen.control,
        listen_bulk: listen.bulk.iter().map(ToString::to_string).collect(),
        reachability: listen.reachability,
        device: context.device.to_string(),
        peers_connected: context.network.peers().await.len(),
        control_bytes: bytes(&counters.control),
        bulk_bytes: bytes(&counters.bulk),
        sessions,
    }))
}

async fn stop(State(context): State<Context>) -> Json<Empty> {
    tracing::info!("stopping, as `node stop` asked");
    context.shutdown.cancel();
    Json(Empty {})
}

async fn peers(State(context): State<Context>) -> Outcome<Json<Vec<PeerView>>> {
    let sessions = context.driver.ask(Request::View).await?;
    let counters = context.network.counters().await;
    let bytes = |traffic: Option<&crate::network::Traffic>| {
        traffic.map_or(Bytes::default(), |traffic| Bytes {
            received: traffic.bytes_in,
            sent: traffic.bytes_out,
        })
    };
    let view = |info: crate::network::PeerInfo| {
        let peer = info.peer.to_string();
        let shared = sessions
            .iter()
            .filter(|session| session.members.iter().any(|member| member.peer == peer));
        PeerView {
            addresses: info.addresses,
            relayed: info.relayed,
            round_trip_ms: info.round_trip.map(|time| time.as_secs_f64() * 1e3),
            agent: info.agent,
            connected_s: info.connected_for.as_secs(),
            sessions: shared.map(|session| session.name.clone()).collect(),
            control_bytes: bytes(counters.control_by_peer.get(&info.peer)),
            bulk_bytes: bytes(counters.bulk_by_peer.get(&info.peer)),
            bytes_per_s: counters
                .bulk_by_peer
                .get(&info.peer)
                .map(|traffic| traffic.bytes_per_s)
                .filter(|speed| *speed > 0),
            clock_ahead_ms: info.clock_ahead_ms,
            peer,
        }
    };
    Ok(Json(context.network.peers().await.into_iter().map(view).collect()))
}

async fn sessions(State(context): State<Context>) -> Outcome<Json<Vec<SessionView>>> {
    Ok(Json(context.driver.ask(Request::View).await?))
}

async fn session(State(context): State<Context>, Path(name): Path<String>) -> Outcome<Json<SessionView>> {
    Ok(Json(find(&context, &name).await?))
}

async fn config(State(context): State<Context>, Path(name): Path<String>) -> Outcome<Json<ConfigView>> {
    let (record, config) = record_of(&context, &name).await?;
    let view = move || {
        Ok(ConfigView {
            canonical_hex: hex::encode(&record.config),
            config: crate::readable::readable(&config),
            privacy: crate::requirements::privacy(&config).finding,
        })
    };
    // What a budget allows is counted for a while.
    Ok(Json(blocking(view).await?))
}

/// All settlements with their votes, in postcard: what `node verify` checks.
async fn chain(State(context): State<Context>, Path(name): Path<String>) -> Outcome<Vec<u8>> {
    let (record, _) = record_of(&context, &name).await?;
    blocking(move || Ok(settlements_of(context.store.journal(&record.id)?))).await
}

/// The last settled state's bytes, verified.
async fn state(State(context): State<Context>, Path(name): Path<String>) -> Outcome<Vec<u8>> {
    let view = find(&context, &name).await?;
    let state = view.state.as_deref().and_then(|state| state.parse().ok());
    let state = state.ok_or_else(|| Failure::user(format!("session `{}` has settled nothing yet", view.name)))?;
    blocking(move || Ok(context.blobs.read(&state)?)).await
}

#[derive(Deserialize)]
struct From {
    #[serde(default)]
    from: u64,
}

async fn rounds(
    State(context): State<Context>,
    Path(name): Path<String>,
    Query(From { from }): Query<From>,
) -> Outcome<Json<Vec<RoundRow>>> {
    let (record, _) = record_of(&context, &name).await?;
    let rows = blocking(move || Ok(context.store.rounds(&record.id, from)?)).await?;
    Ok(Json(
        rows.iter()
            .filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok())
            .collect(),
    ))
}

/// A session of this node by its name, its id, or the beginning of its id.
pub(super) async fn find(context: &Context, name: &str) -> Outcome<SessionView> {
    let all = context.driver.ask(Request::View).await?;
    // A whole name or id means itself; the beginning of an id only what nothing else is called.
    let named = |session: &&SessionView| session.name == name || session.id == name;
    let begins = |session: &&SessionView| name.len() >= 4 && session.id.starts_with(name);
    let mut found: Vec<&SessionView> = all.iter().filter(named).collect();
    if found.is_empty() {
        found = all.iter().filter(begins).collect();
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(_), Some(_)) => Err(Failure::user(format!(
            "`{name}` names several sessions: give the id (`node session list`)"
        ))),
        (None, _) => Err(Failure::user(format!(
            "this node is in no session `{name}`: see `node session list`"
        ))),
    }
}

async fn record_of(context: &Context, name: &str) -> Outcome<(SessionRecord, SessionConfig)> {
    let id = id_of(&find(context, name).await?);
    let store = context.store.clone();
    let record = blocking(move || Ok(store.session(&id)?)).await?;
    let record = record.ok_or_else(|| Failure::environment(format!("session {id} is not in the store")))?;
    let config = SessionConfig::from_bytes(&record.config).map_err(Failure::environment)?;
    Ok((record, config))
}

pub(super) fn id_of(view: &SessionView) -> SessionId {
    view.id.parse().expect("a view's id was printed by this program")
}

// ---- sessions -------------------------------------------------------------------------------------------------------

async fn create(State(context): State<Context>, Body(wanted): Body<CreateSession>) -> Outcome<Json<Joined>> {
    let CreateSession {
        file: text,
        place,
        name,
        data,
        tokenizer,
    } = wanted;
    let mut file = parse_session(&place, &text)?;
    file.name = name.unwrap_or(file.name);
    let me = context.identity.peer_id();
    let config = file.found(me, unix_s()).map_err(|error| locate(&place, &text, error))?;
    let same = context
        .driver
        .ask(Request::View)
        .await?
        .into_iter()
        .find(|session| session.name == config.name);
    if let Some(same) = same {
        let text = format!(
            "this node is in a session `{}` already ({}): choose another --name",
            same.name, same.id
        );
        return Err(Failure::user(text));
    }
    keep_tokenizer(&context, &config, tokenizer).await?;
    let trains = config.protocol.creator_trains;
    let (worker, mut notes) = build_worker(&context, &config, &data, trains).await?;
    notes.push(config.aggregation.promise(config.protocol.min_members));
    let record = record(&config, config.to_bytes(), data, Standing::Created, Vec::new());
    let answer = Joined {
        session: record.id.to_string(),
        name: record.name.clone(),
        roles: if trains { "trainer,coordinator" } else { "coordinator" }.into(),
        notes,
    };
    adopt(
        &context,
        NewSession {
            record,
            config,
            entries: Vec::new(),
            worker,
        },
    )
    .await?;
    Ok(Json(answer))
}

async fn leave(State(context): State<Context>, Path(name): Path<String>) -> Outcome<Json<Empty>> {
    command(&context, &name, Command::Leave).await
}

pub(super) async fn command(context: &Context, name: &str, command: Command) -> Outcome<Json<Empty>> {
    let session = id_of(&find(context, name).await?);
    context
        .driver
        .ask(|reply| Request::Command(session, command, reply))
        .await??;
    Ok(Json(Empty {}))
}

// ---- what they share ------------------------------------------------------------------------------------------------

pub(super) async fn adopt(context: &Context, new: NewSession) -> Outcome {
    context.driver.ask(|reply| Request::Adopt(Box::new(new), reply)).await?
}

/// Takes the session's tokenizer into the store, off the async threads.
pub(super) async fn keep_tokenizer(context: &Context, config: &SessionConfig, path: Option<String>) -> Outcome {
    let (blobs, config) = (context.blobs.clone(), config.clone());
    blocking(move || session_data::keep_tokenizer(&blobs, &config, path.as_deref().map(std::path::Path::new))).await
}

/// Reads the data and sets up the device, so that what will not do is refused now and not in the first round. With the
/// worker come notes for the operator.
pub(super) async fn build_worker(
    context: &Context,
    config: &SessionConfig,
    data: &[String],
    trains: bool,
) -> Outcome<(Worker, Vec<String>)> {
    let needs = synod_training::factory::required_data(&config.training);
    if trains && needs.text && data.is_empty() {
        return Err(Failure::user(format!(
            "session `{}` needs --data PATH: {}",
            config.name, needs.sentence
        )));
    }
    let plan = WorkerPlan {
        config: config.clone(),
        member: context.identity.peer_id(),
        data: session_data::options(&context.data_dir, &context.blobs, config, data, &context.text_field),
        device: context.device,
        drill: context.drill,
        member_states: Vec::new(),
    };
    blocking(move || {
        let (worker, data) = plan.build()?;
        Ok((worker, data.iter().flat_map(requirements::notes).collect()))
    })
    .await
}

pub(super) fn record(
    config: &SessionConfig,
    bytes: Vec<u8>,
    data: Vec<String>,
    standing: Standing,
    bootstrap: Vec<String>,
) -> SessionRecord {
    let (id, name) = (config.id(), config.name.clone());
    SessionRecord {
        id,
        name,
        config: bytes,
        data,
        standing,
        created_unix_s: unix_s(),
        bootstrap,
    }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Outcome<T> + Send + 'static) -> Outcome<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| {
        Err(Failure::environment(format!(
            "that crashed ({error}): please report it"
        )))
    })
}
