//! What a service tells over HTTP: `/health/live`, that the process is there; `/health/ready` and `/health`, that it can work; and
//! `/metrics`. It changes nothing and shows no secret, and has no password: it listens on loopback unless told otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::engine::operator::chain;
use crate::engine::shutdown::Shutdown;
use crate::service::Role;
use crate::service::metrics::Metrics;
use crate::store::Store;

/// How long the database has for an answer about its health: who asks often gives up after a second or two.
const HEALTH_PATIENCE: Duration = Duration::from_secs(1);

/// The same for the metrics.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long a client has for its request's head.
const HEADER_LIMIT: Duration = Duration::from_secs(5);

/// How long a connection lasts, whatever goes on over it: who watches comes again.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);

/// So many connections at once; more wait.
const MOST_CONNECTIONS: usize = 64;

/// The wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A role that has not shown for so long that it works, does not: it shows it each second, or every five.
const SILENCE: Duration = Duration::from_secs(20);

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "could not listen on {address} for health and metrics: does another `pinsched serve` (`--listen ADDRESS:PORT` takes another address, `--listen off` none)?"
)]
pub struct DoorError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// The open port.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
}

impl Door {
    /// Listens.
    ///
    /// # Errors
    /// When the port is taken, or the address is not this machine's.
    pub async fn open(address: SocketAddr) -> Result<Self, DoorError> {
        let failed = |source| DoorError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where: with the port that the system chose, where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until it is dropped.
    pub(super) async fn answer(self, watched: Watched) {
        let router = router(watched);
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= MOST_CONNECTIONS {
                connections.join_next().await;
            }
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, router.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection for health and metrics");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router) {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_LIMIT, connection).await {
        tracing::debug!(%error, "a connection for health and metrics broke off");
    }
}

/// What is told of.
pub(super) struct Watched {
    pub(super) store: Store,
    pub(super) metrics: Arc<Metrics>,
    pub(super) roles: BTreeSet<Role>,
    pub(super) shutdown: Shutdown,
}

fn router(watched: Watched) -> Router {
    Router::new()
        .route("/health", get(ready))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(watched))
}

/// Whether the process can work.
#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
    checks: BTreeMap<&'static str, String>,
}

const FINE: &str = "ok";

async fn live() -> Json<Health> {
    Json(Health { status: "live", checks: BTreeMap::new() })
}

async fn ready(State(watched): State<Arc<Watched>>) -> Response {
    let mut checks = BTreeMap::new();
    let schema = match tokio::time::timeout(HEALTH_PATIENCE, watched.store.schema()).await {
        Ok(Ok(schema)) => Ok(schema),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", HEALTH_PATIENCE.as_secs())),
    };
    match schema {
        Ok(schema) => {
            checks.insert("database", FINE.to_owned());
            let said = match schema.is_current() {
                true => FINE.to_owned(),
                false => format!(
                    "the database is at {}, this process at {}",
                    schema.applied.map_or_else(|| "none".to_owned(), |version| version.to_string()),
                    schema.known
                ),
            };
            checks.insert("schema", said);
        }
        Err(said) => {
            checks.insert("database", said);
        }
    }
    for role in &watched.roles {
        let said = match watched.metrics.silent_for(*role) {
            Some(silence) if silence < SILENCE => FINE.to_owned(),
            Some(silence) => format!("silent for {} s", silence.as_secs()),
            None => "has not begun".to_owned(),
        };
        checks.insert(role.as_str(), said);
    }
    if watched.shutdown.is_draining() {
        checks.insert("process", "draining".to_owned());
    }
    let is_ready = checks.values().all(|said| said == FINE);
    let (code, status) =
        if is_ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    (code, Json(Health { status, checks })).into_response()
}

async fn metrics(State(watched): State<Arc<Watched>>) -> Response {
    match watched.metrics.text(&watched.store, PATIENCE).await {
        Ok(text) => {
            let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, form)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
