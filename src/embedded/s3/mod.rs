//! The laptop's S3: s3s over a folder, in process, for loopback.
//!
//! What it does not promise: s3s-fs writes a temporary file and renames it without fsync, so a power cut may take the
//! last objects (a crash of the process does not); and its conditional puts are a check before a write, not one step.
//! Winners are therefore decided in Postgres. Beside each object it keeps files whose names hold the object's key in
//! base64, so keys are limited by the file system: about 140 bytes, and 110 for uploads in parts.

mod reasons;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::dto::{ListObjectsInput, ListObjectsV2Input};
use s3s::path::S3Path;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Request, S3Result, s3_error};
use s3s_fs::FileSystem;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use reasons::Folder;

/// A request's header must be whole within this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection on which no byte moves for so long is closed: longer than clients keep idle ones (90 s), so that they
/// close first, and longer than the joining of a large upload's parts takes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(180);
/// How long requests under way may go on after the shutdown began.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// The wait after an accept that failed, most often for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the server is started with.
#[derive(Debug, Clone)]
pub struct S3ServerConfig {
    /// The folder that holds the buckets; made when missing.
    pub root: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The one access key's id.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: SecretString,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum S3ServerError {
    /// The folder cannot be made or opened.
    #[error("could not open {path} for the S3 server: {message}")]
    Root {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// The address cannot be had.
    #[error("could not listen on {address} for the S3 server")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A running server.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    accepting: JoinHandle<()>,
}

impl S3Server {
    /// Starts to serve; ends when `shutdown` is cancelled or by [`S3Server::stop`].
    ///
    /// # Errors
    /// [`S3ServerError`] names the folder or the address.
    pub async fn start(config: S3ServerConfig, shutdown: CancellationToken) -> Result<Self, S3ServerError> {
        let root = |message: String| S3ServerError::Root { path: config.root.clone(), message };
        tokio::fs::create_dir_all(&config.root).await.map_err(|error| root(error.to_string()))?;
        let files = FileSystem::new(&config.root).map_err(|error| root(format!("{error:?}")))?;
        let mut builder = S3ServiceBuilder::new(Folder { files, root: config.root.clone() });
        let secret = config.secret_access_key.expose_secret();
        builder.set_auth(SimpleAuth::from_single(config.access_key_id.as_str(), secret));
        builder.set_access(Limits { root: config.root.clone() });
        let service = builder.build();

        let listen_error = |source| S3ServerError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let shutdown = shutdown.child_token();
        let tracker = TaskTracker::new();
        let accepting = tracker.spawn(accept(listener, service, shutdown.clone(), tracker.clone()));
        tracker.close();
        Ok(Self { address, shutdown, tracker, accepting })
    }

    /// Where it listens, the port chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as clients want it; buckets go into the path.
    #[must_use]
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns when it has ceased to serve, which it should not by itself.
    pub async fn ended(&mut self) {
        // How, its log says: a panic, most likely.
        let _ = (&mut self.accepting).await;
    }

    /// Takes no new requests, lets those under way end (5 s at most), and returns when every connection is gone.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tracker.wait().await;
    }
}

/// What s3s-fs leaves unsaid: it makes missing buckets on the way, and fails on long keys without a word.
struct Limits {
    root: PathBuf,
}

#[async_trait]
impl S3Access for Limits {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "requests must be signed"));
        }
        let S3Path::Object { bucket, key } = context.s3_path() else { return Ok(()) };
        if !tokio::fs::try_exists(self.root.join(bucket.as_ref())).await.unwrap_or(false) {
            return Err(s3_error!(NoSuchBucket, "the bucket does not exist"));
        }
        let in_parts = context.s3_op().name() == "CreateMultipartUpload";
        if longest_name(bucket, key, in_parts) > LONGEST_FILE_NAME {
            return Err(s3_error!(KeyTooLongError, "the laptop's S3 server takes keys of about 110 bytes"));
        }
        Ok(())
    }

    // s3s-fs says that keys are URL-encoded when a client asked for that, and does not encode them: `+` became a blank.
    // Without the question it does not say so.
    async fn list_objects(&self, request: &mut S3Request<ListObjectsInput>) -> S3Result<()> {
        request.input.encoding_type = None;
        Ok(())
    }

    async fn list_objects_v2(&self, request: &mut S3Request<ListObjectsV2Input>) -> S3Result<()> {
        request.input.encoding_type = None;
        Ok(())
    }
}

/// What file systems take.
const LONGEST_FILE_NAME: usize = 255;

/// The length of the longest name of a file that s3s-fs keeps beside an object.
fn longest_name(bucket: &str, key: &str, in_parts: bool) -> usize {
    let base64 = |text: &str| (text.len() * 4).div_ceil(3);
    let fixed = ".bucket-".len() + ".object-".len() + ".metadata.json".len();
    let upload = if in_parts { ".upload-".len() + 36 } else { 0 };
    fixed + base64(bucket) + base64(key) + upload
}

async fn accept(listener: TcpListener, service: S3Service, shutdown: CancellationToken, tracker: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tracker.spawn(serve(stream, service.clone(), shutdown.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the S3 server could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, service: S3Service, shutdown: CancellationToken) {
    // Small answers must not wait for the peer's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(IdleLimit::new(stream)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_LIMIT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an S3 connection broke off");
    }
}

/// A stream that fails when nothing has moved on it for [`IDLE_TIMEOUT`]: a body that stalls, a client that is gone.
struct IdleLimit {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
}

impl IdleLimit {
    fn new(stream: TcpStream) -> Self {
        Self { stream, deadline: Box::pin(tokio::time::sleep(IDLE_TIMEOUT)) }
    }

    fn limited<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.deadline.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
            return poll;
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for IdleLimit {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(context, into);
        self.limited(context, poll)
    }
}

impl AsyncWrite for IdleLimit {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limited(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
