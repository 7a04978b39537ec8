//! The stack's control endpoint, on loopback with a bearer token: `GET /lease/postgres,kafka` answers with events
//! until what is needed is ready, and then stays open for as long as the client wants the stack to live; a last event
//! says why it ends, which a kill does not. `?ports=kept` is for clients that know where the parts were. `POST /stop`
//! ends it; `GET /health` tells the pid.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::component::{Component, Phase, Phases, Ports};
use super::home::StackUrls;

/// What the stack is doing, as the process's main loop tells it.
#[derive(Clone, Default)]
pub(super) struct Report {
    pub(super) phases: Phases,
    pub(super) urls: StackUrls,
    /// Set before the shutdown begins.
    pub(super) end: Option<End>,
}

/// Why a stack ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Somebody wanted it.
    Stopped(String),
    /// A part of it cannot go on.
    Broken(String),
}

/// What the endpoint asks of the main loop.
pub(super) enum Command {
    /// Start these, unless they are; acknowledged when their phases say so.
    Need { components: BTreeSet<Component>, ports: Ports, noted: oneshot::Sender<()> },
    /// End.
    Stop,
}

/// A line of a lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum LeaseEvent {
    /// A part went on.
    Progress {
        component: Component,
        #[serde(flatten)]
        phase: Phase,
    },
    /// Everything needed answers; the lease holds until the connection closes.
    Granted { urls: StackUrls },
    /// The stack ends.
    Ending { end: End },
}

/// What a client adds that waits for the parts where they were.
pub(super) const PORTS_KEPT: &str = "ports=kept";

/// What the endpoint's handlers share with the main loop.
pub(super) struct Control {
    pub(super) token: String,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) report: watch::Receiver<Report>,
    /// How many clients want the stack to live.
    pub(super) leases: watch::Sender<usize>,
    /// Set before the main loop looks at `leases` for the last time, so that no lease is granted behind its back.
    pub(super) closing: AtomicBool,
    pub(super) shutdown: CancellationToken,
}

/// The endpoint.
pub(super) fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/lease/{needs}", get(lease))
        .route("/health", get(health))
        .route("/stop", post(stop))
        .with_state(control)
}

/// The request showed the token.
struct Authorized;

impl FromRequestParts<Arc<Control>> for Authorized {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, Self::Rejection> {
        let shown = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        if shown == Some(control.token.as_str()) { Ok(Self) } else { Err(StatusCode::UNAUTHORIZED) }
    }
}

async fn health(_: Authorized) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION") }))
}

async fn stop(_: Authorized, State(control): State<Arc<Control>>) -> StatusCode {
    // A main loop that no longer listens is stopping already.
    let _ = control.commands.send(Command::Stop).await;
    StatusCode::ACCEPTED
}

async fn lease(_: Authorized, State(control): State<Arc<Control>>, Path(names): Path<String>, uri: Uri) -> Response {
    let needs: Result<BTreeSet<Component>, _> =
        names.split(',').filter(|name| !name.is_empty()).map(str::parse).collect();
    let mut needs = match needs {
        Ok(needs) => needs,
        Err(unknown) => return (StatusCode::BAD_REQUEST, unknown.to_string()).into_response(),
    };
    if needs.contains(&Component::Source) {
        needs.insert(Component::Postgres);
    }
    let held = Held::take(control.leases.clone());
    if control.closing.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let ports = if uri.query() == Some(PORTS_KEPT) { Ports::Kept } else { Ports::Any };
    let (noted, acknowledged) = oneshot::channel();
    let command = Command::Need { components: needs.clone(), ports, noted };
    if control.commands.send(command).await.is_err() || acknowledged.await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let lease = Lease {
        needs,
        told: Phases::new(),
        stage: Stage::Waiting,
        report: control.report.clone(),
        shutdown: control.shutdown.clone(),
        _held: held,
    };
    Body::from_stream(futures::stream::unfold(lease, Lease::next)).into_response()
}

/// Counts as one lease for as long as it lives.
struct Held(watch::Sender<usize>);

impl Held {
    fn take(leases: watch::Sender<usize>) -> Self {
        leases.send_modify(|count| *count += 1);
        Self(leases)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// How far a lease is.
enum Stage {
    Waiting,
    Granted,
    Over,
}

/// The body of a lease's answer.
struct Lease {
    needs: BTreeSet<Component>,
    /// What the client was told.
    told: Phases,
    stage: Stage,
    report: watch::Receiver<Report>,
    shutdown: CancellationToken,
    _held: Held,
}

impl Lease {
    /// The next line; the body ends when a part failed or the stack stops.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let event = match self.stage {
            Stage::Waiting => self.progress().await?,
            Stage::Granted => self.end().await?,
            Stage::Over => return None,
        };
        let mut line = serde_json::to_vec(&event).ok()?;
        line.push(b'\n');
        Some((Ok(line.into()), self))
    }

    /// What happens until the lease is granted, or the stack ends before it is.
    async fn progress(&mut self) -> Option<LeaseEvent> {
        if self.told.values().any(|phase| matches!(phase, Phase::Failed { .. })) {
            return None;
        }
        loop {
            if let Some(event) = self.news() {
                return Some(event);
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return self.end().await,
                changed = self.report.changed() => changed.ok()?,
            }
        }
    }

    /// Why the stack ends, once it does.
    async fn end(&mut self) -> Option<LeaseEvent> {
        self.shutdown.cancelled().await;
        self.stage = Stage::Over;
        let end = self.report.borrow().end.clone();
        end.map(|end| LeaseEvent::Ending { end })
    }

    /// What the client does not know yet.
    fn news(&mut self) -> Option<LeaseEvent> {
        let report = self.report.borrow_and_update();
        let news = self.needs.iter().find_map(|component| {
            let phase = report.phases.get(component)?;
            (self.told.get(component) != Some(phase)).then(|| (*component, phase.clone()))
        });
        if let Some((component, phase)) = news {
            self.told.insert(component, phase.clone());
            return Some(LeaseEvent::Progress { component, phase });
        }
        let is_ready = |component| report.phases.get(component) == Some(&Phase::Ready);
        self.needs.iter().all(is_ready).then(|| {
            self.stage = Stage::Granted;
            LeaseEvent::Granted { urls: report.urls.clone() }
        })
    }
}
