//! One client's connection: requests are read, handled in order, and answered in order. Produce requests are answered when
//! durable while the next ones are already being appended, so that one fsync serves many. Whatever is not a request this
//! broker speaks closes the connection, and only this one.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestKind, ResponseKind};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::api::answer::{Answer, Caller};
use super::api::sasl::Admission;
use super::api::{api_versions, dispatch};
use super::state::State;
use super::wire::header::RequestHeader;
use super::wire::versions::{self, Api};
use super::wire::{frame, shape};

/// More than the five produce requests an idempotent client keeps in flight.
const MAX_WAITING_ANSWERS: usize = 8;
const READ_BUFFER_BYTES: usize = 64 << 10;
/// How long a client that is leaving, or that the broker leaves, may take to read an answer.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// Why a connection was closed by us.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("could not read or write")]
    Io(#[from] io::Error),
    #[error("the client was silent for too long")]
    Idle,
    #[error("the client sent a broken request header")]
    Header,
    #[error("the client sent api key {key} version {version}, which is not spoken here")]
    NotSpoken { key: i16, version: i16 },
    #[error("the client sent api key {key} before it showed the credentials")]
    NotAdmitted { key: i16 },
    #[error("the client sent a broken request, api key {key} version {version}")]
    Body { key: i16, version: i16 },
    #[error("handling a request, api key {key} version {version}, panicked")]
    Panicked { key: i16, version: i16 },
}

struct Reply {
    header: RequestHeader,
    /// The version to write, which for one special answer is not the header's.
    version: i16,
    answer: Answer,
    /// The request's share of the memory budget, until its answer is sent.
    _share: OwnedSemaphorePermit,
    sent: oneshot::Sender<()>,
}

/// Serves a connection until it is closed by either side or the broker shuts down.
pub(crate) async fn serve(state: Arc<State>, stream: TcpStream, peer: SocketAddr, budget: Arc<Semaphore>) {
    // Answers are written whole; waiting for more to send would only delay them.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let gone = state.shutdown.child_token();
    let (reader, writer) = stream.into_split();
    let (replies, waiting) = mpsc::channel(MAX_WAITING_ANSWERS);
    let writing = state.tracker.spawn(write_all(writer, waiting, Arc::clone(&state), gone.clone()));
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
    let outcome = read_all(&state, &mut reader, peer, &budget, &replies, &gone).await;
    drop(replies);
    // What was appended is still answered; the writer ends with its queue.
    if writing.await.is_err() {
        tracing::error!(%peer, "writing answers panicked");
    }
    gone.cancel();
    if let Err(reason) = outcome {
        tracing::debug!(%peer, error = &reason as &dyn std::error::Error, "closed a connection");
    }
}

async fn read_all(
    state: &Arc<State>,
    reader: &mut BufReader<OwnedReadHalf>,
    peer: SocketAddr,
    budget: &Arc<Semaphore>,
    replies: &mpsc::Sender<Reply>,
    gone: &CancellationToken,
) -> Result<(), Closed> {
    let admission = Arc::new(Admission::new(state.config.credentials.as_ref()));
    loop {
        let read = tokio::time::timeout(state.config.idle_timeout, read_request(state, reader, budget));
        let request = tokio::select! {
            biased;
            () = gone.cancelled() => return Ok(()),
            request = read => request.map_err(|_| Closed::Idle)??,
        };
        let Some((mut frame, share)) = request else { return Ok(()) };
        let header = RequestHeader::take(&mut frame, versions::has_flexible_header).map_err(|_| Closed::Header)?;
        let (key, version) = (header.api_key, header.api_version);
        let api = versions::find(key).ok_or(Closed::NotSpoken { key, version })?;
        if !admission.allows(api.key) {
            return Err(Closed::NotAdmitted { key });
        }
        let client_id = header.client_id.clone();
        let caller =
            Caller { version, client_id, host: peer.ip(), gone: gone.clone(), admission: Arc::clone(&admission) };
        let (answer, version) = match api.speaks(version) {
            true => (handle(state, reader, caller, api, &header, frame).await?, version),
            false if api.key == ApiKey::ApiVersions => (api_versions::unsupported().into(), 0),
            false => return Err(Closed::NotSpoken { key, version }),
        };
        let (sent, was_sent) = oneshot::channel();
        let may_overtake = matches!(answer, Answer::WhenDurable(_));
        let reply = Reply { header, version, answer, _share: share, sent };
        if replies.send(reply).await.is_err() {
            return Ok(());
        }
        // At most one answer that may be large is in memory per connection. An error means the writer has ended.
        if !may_overtake && was_sent.await.is_err() {
            return Ok(());
        }
    }
}

async fn read_request(
    state: &State,
    reader: &mut BufReader<OwnedReadHalf>,
    budget: &Arc<Semaphore>,
) -> io::Result<Option<(Bytes, OwnedSemaphorePermit)>> {
    let Some(length) = frame::read_length(reader, state.config.max_request_bytes).await? else { return Ok(None) };
    Ok(Some(frame::read_body(reader, length, budget, state.config.request_timeout).await?))
}

/// Decodes and handles one request. A panic in either ends this connection and nothing else.
async fn handle(
    state: &Arc<State>,
    reader: &mut BufReader<OwnedReadHalf>,
    caller: Caller,
    api: &'static Api,
    header: &RequestHeader,
    mut body: Bytes,
) -> Result<Answer, Closed> {
    let (key, version) = (header.api_key, header.api_version);
    shape::check(&body, api.fields, version, api.is_flexible(version)).map_err(|_| Closed::Body { key, version })?;
    let decoded = catch_unwind(AssertUnwindSafe(|| RequestKind::decode(api.key, &mut body, version)));
    let request = decoded.map_err(|_| Closed::Panicked { key, version })?;
    let request = request.map_err(|_| Closed::Body { key, version })?;
    drop(body);
    let gone = caller.gone.clone();
    let mut handling = state.tracker.spawn(dispatch::dispatch(Arc::clone(state), caller, request));
    let handled = tokio::select! {
        handled = &mut handling => handled,
        () = hung_up(reader) => {
            // Whatever waits for this client stops waiting; whatever changes something is carried through.
            gone.cancel();
            handling.await
        }
    };
    let answer = handled.map_err(|_| Closed::Panicked { key, version })?;
    answer.ok_or(Closed::NotSpoken { key, version })
}

/// Returns when the client has closed its side and sent nothing more before.
async fn hung_up(reader: &mut BufReader<OwnedReadHalf>) {
    match reader.fill_buf().await {
        Ok([]) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

async fn write_all(
    mut writer: OwnedWriteHalf,
    mut waiting: mpsc::Receiver<Reply>,
    state: Arc<State>,
    gone: CancellationToken,
) {
    while let Some(reply) = waiting.recv().await {
        // The share of a fetch answer's records is held until they are sent.
        let (response, _records) = match reply.answer {
            Answer::Now(response) => (Some(*response), None),
            Answer::Records(response, share) => (Some(ResponseKind::from(*response)), Some(share)),
            Answer::WhenDurable(pending) => (pending.finish().await.map(ResponseKind::from), None),
        };
        if let Some(response) = response {
            let written = match encode(&reply.header, reply.version, &response) {
                Ok(bytes) => write(&mut writer, &bytes, state.config.idle_timeout, &gone).await,
                Err(error) => {
                    tracing::error!(key = reply.header.api_key, version = reply.version, %error, "could not encode an answer");
                    break;
                }
            };
            if written.is_err() {
                break;
            }
        }
        // The reader that waits for this may be gone itself.
        let _ = reply.sent.send(());
    }
    gone.cancel();
}

/// Writes an answer. A client may take its time to read it, but not when it or the broker is about to be gone.
async fn write(
    writer: &mut OwnedWriteHalf,
    bytes: &[u8],
    patience: Duration,
    gone: &CancellationToken,
) -> io::Result<()> {
    let mut writing = std::pin::pin!(writer.write_all(bytes));
    tokio::select! {
        written = &mut writing => return written,
        () = tokio::time::sleep(patience) => return Err(io::ErrorKind::TimedOut.into()),
        () = gone.cancelled() => {}
    }
    tokio::time::timeout(LAST_ANSWER, writing).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Room for an answer's small fields, so that the buffer grows once at most.
const SMALL_FIELDS_BYTES: usize = 4 << 10;

pub(super) fn encode(header: &RequestHeader, version: i16, response: &ResponseKind) -> Result<Bytes, String> {
    let key = ApiKey::try_from(header.api_key).map_err(|()| "no such api".to_owned())?;
    let mut out = BytesMut::with_capacity(SMALL_FIELDS_BYTES + record_bytes(response));
    out.put_i32(0);
    out.put_i32(header.correlation_id);
    if key.response_header_version(version) >= 1 {
        out.put_u8(0);
    }
    response.encode(&mut out, version).map_err(|error| error.to_string())?;
    let length = i32::try_from(out.len() - 4).map_err(|error| error.to_string())?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out.freeze())
}

fn record_bytes(response: &ResponseKind) -> usize {
    let ResponseKind::Fetch(fetch) = response else { return 0 };
    let partitions = fetch.responses.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|p| p.records.as_ref().map_or(0, Bytes::len) + 128).sum()
}
