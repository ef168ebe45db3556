//! The command line's side of the API: one request to the running node over the socket in its data directory.
//! It starts no node and reads no store.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::types::Problem;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// How long a running node may take for an answer that needs no work.
const PATIENCE: Duration = Duration::from_secs(30);

/// The API's path for a session that an operator named, and what follows it.
pub fn session_path(name: &str, rest: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let escape = |byte: u8| {
        if plain(byte) {
            (byte as char).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    // An empty name would make another path: say it so that the node finds no session of that name.
    let name: String = if name.is_empty() {
        "%20".to_owned()
    } else {
        name.bytes().map(escape).collect()
    };
    format!("/v1/sessions/{name}{rest}")
}

/// Where the running node is.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    data_dir: DataDir,
}

impl Client {
    /// A client for the node on this folder, whose socket has this name.
    pub fn new(data_dir: &DataDir, socket: &str) -> Self {
        Self {
            socket: data_dir.socket(socket),
            data_dir: data_dir.clone(),
        }
    }

    /// Whether a node answers.
    pub async fn is_running(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    /// Reads.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        let body = self.send_in_time(path).await?;
        self.read(&body)
    }

    /// Reads an answer that is no JSON.
    pub async fn get_bytes(&self, path: &str) -> Outcome<Bytes> {
        self.send_in_time(path).await
    }

    /// Asks for a change that the node makes at once.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, content: &impl Serialize) -> Outcome<T> {
        let body = self.in_time(self.send_content(path, content)).await?;
        self.read(&body)
    }

    /// Asks for what may take long: reading data, waiting for another node. That this node answers at all is seen first.
    pub async fn post_long<T: DeserializeOwned>(&self, path: &str, content: &impl Serialize) -> Outcome<T> {
        self.send_in_time("/v1/status").await?;
        let body = self.send_content(path, content).await?;
        self.read(&body)
    }

    async fn send_content(&self, path: &str, content: &impl Serialize) -> Outcome<Bytes> {
        let body = serde_json::to_vec(content).expect("requests are plain data");
        self.send(Method::POST, path, body.into()).await
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Outcome<T> {
        serde_json::from_slice(body).map_err(|error| unlike(&self.data_dir, &error))
    }

    async fn send_in_time(&self, path: &str) -> Outcome<Bytes> {
        self.in_time(self.send(Method::GET, path, Bytes::new())).await
    }

    /// A node that hangs is said to.
    async fn in_time(&self, sending: impl Future<Output = Outcome<Bytes>>) -> Outcome<Bytes> {
        let asked = tokio::time::timeout(PATIENCE, sending);
        asked.await.unwrap_or_else(|_| {
            Err(Failure::environment(format!(
                "the node on {} has not answered for {} s: see its log; if it hangs, end its process and start it again",
                self.data_dir,
                PATIENCE.as_secs()
            )))
        })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Outcome<Bytes> {
        let dir = &self.data_dir;
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::PermissionDenied => Failure::user(format!(
                    "the node on {dir} belongs to another user: {} is not for you",
                    self.socket.display()
                )),
                _ if !dir.config().exists() => {
                    Failure::user(format!("there is no node in {dir}: make one with `node init`"))
                }
                _ => Failure::environment(format!("no node is running on {dir}: start it with `node start`")),
            })?;
        let cut = |error: hyper::Error| {
            Failure::environment(format!("the node on {dir} broke the connection ({error}): see its log"))
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(cut)?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "node")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|_| Failure::user(format!("`{path}` has characters that a name cannot have")))?;
        let response = sender.send_request(request).await.map_err(cut)?;
        let good = response.status().is_success();
        let body = response.into_body().collect().await.map_err(cut)?.to_bytes();
        connection.abort();
        match good {
            true => Ok(body),
            false => Err(self.read::<Problem>(&body)?.into()),
        }
    }
}

fn unlike(dir: &DataDir, error: &serde_json::Error) -> Failure {
    Failure::environment(format!(
        "the node on {dir} is of another version than this command ({error}): restart it"
    ))
}

#[cfg(test)]
mod tests {
    use super::session_path;

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        assert_eq!(session_path("first", "/leave"), "/v1/sessions/first/leave");
        assert_eq!(session_path("a/leave?", ""), "/v1/sessions/a%2Fleave%3F");
    }
}
