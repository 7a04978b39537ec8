//! The process that serves a home: starts what is needed, for as long as somebody needs it.
//!
//! It is started by `lease`, apart from whoever started it, and says on its standard output in one line whether it
//! serves. One loop, on the main thread, decides everything. It ends some seconds after the last lease, when told to, by
//! a signal, when its home is gone, or when a part fails again and again; a part that ends by itself is started anew
//! where it was. A kill takes the broker and the S3 server along, and Postgres is asked to stop by the system; whoever
//! goes on using the stack starts it again (`keep`).

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::component::{Component, Phase, Ports};
use super::control::{self, Command, Control, End, Report};
use super::error::{StackError, told};
use super::home::{Credentials, Home, Lock, StackFile, host, secret};
use super::postgres::Search;
use super::restarts::{LIMIT, Restarts};
use super::services::{self, Services, Start, Started};

/// How long open requests of the control endpoint may go on after the stack stopped.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// How long what is left of a part that ended may take to stop before it is started anew.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether the home is still there: sooner than a new one in its place has data.
const HOME_LOOK: Duration = Duration::from_millis(250);

/// Why a stack stops whose home was removed, moved, or made anew in its place.
pub(super) const HOME_GONE: &str = "its home is not there any more";

/// What the process is started with.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// The home to serve.
    pub home: PathBuf,
    /// Where Postgres's programs must be, if that is configured.
    pub postgres_bin: Option<PathBuf>,
    /// Where programs are looked for otherwise.
    pub search_path: Vec<PathBuf>,
    /// How long to outlive the last lease.
    pub linger: Duration,
}

/// The one line on standard output.
pub(super) const LINE_SERVING: &str = "serving";
/// The same, when another process serves this home.
pub(super) const LINE_BUSY: &str = "busy";

/// Serves a home until nobody needs it. Called on the main thread of a process of its own, outside any runtime.
pub fn serve(options: &StackOptions) -> Result<(), StackError> {
    // Out of the terminal's session, so that neither its Ctrl-C nor its end reaches the stack. It fails only for a
    // process that leads a group already, as one that was started by hand, which may stay where it is.
    let _ = rustix::process::setsid();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| StackError::Serve { action: "start a runtime", source })?;
    let served = runtime.block_on(open_and_run(options));
    if let Err(error) = &served {
        match error {
            StackError::Busy { .. } => say(LINE_BUSY),
            error => {
                tracing::error!("{}", told(error));
                say(&told(error));
            }
        }
    }
    served
}

/// Tells whoever started the process, in the one line that is read. Where nobody reads it, nobody misses it.
pub fn say(line: &str) {
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

async fn open_and_run(options: &StackOptions) -> Result<(), StackError> {
    let home = Home::open(&options.home)?;
    let Some(lock) = home.lock()? else {
        return Err(StackError::Busy { home: home.path().to_owned(), holder: home.holder() });
    };
    home.remove_stack_file()?;
    let credentials = home.credentials()?;
    let serve = |action| move |source| StackError::Serve { action, source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(serve("listen"))?;
    let address = listener.local_addr().map_err(serve("listen"))?;

    let (commands, received) = mpsc::channel(16);
    let (report, reported) = watch::channel(Report::default());
    let control = Arc::new(Control {
        token: secret(),
        commands,
        report: reported,
        leases: watch::Sender::new(0),
        closing: AtomicBool::new(false),
        shutdown: CancellationToken::new(),
    });
    let file = StackFile {
        pid: std::process::id().cast_signed(),
        host: host(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        control: format!("http://{address}"),
        token: control.token.clone(),
        urls: Default::default(),
    };
    let search = Search { configured: options.postgres_bin.clone(), path: options.search_path.clone() };
    let mut stack = Stack {
        home,
        lock: Arc::new(lock),
        credentials,
        search,
        file,
        report,
        services: Services::default(),
        restarts: Restarts::default(),
        starting: FuturesUnordered::new(),
    };

    let tracker = TaskTracker::new();
    let router = control::router(control.clone());
    let ended = control.shutdown.clone().cancelled_owned();
    tracker.spawn(async move { axum::serve(listener, router).with_graceful_shutdown(ended).await });
    tracker.close();
    stack.home.write_stack_file(&stack.file)?;
    say(LINE_SERVING);
    tracing::info!(home = %stack.home.path().display(), "serving");

    let end = stack.run(&control, received, options.linger).await;
    let end = end.unwrap_or_else(|source| End::Broken(source.to_string()));
    match &end {
        End::Stopped(reason) => tracing::info!("stopping: {reason}"),
        End::Broken(reason) => tracing::error!("stopping: {reason}"),
    }
    stack.report.send_modify(|report| report.end = Some(end));
    control.closing.store(true, Ordering::SeqCst);
    control.shutdown.cancel();
    // What lies in the place of a home that is gone is another stack's.
    let has_home = stack.lock.is_in_place();
    if has_home {
        stack.services.stop().await;
    } else {
        stack.services.abandon().await;
    }
    let _ = timeout(DRAIN_LIMIT, tracker.wait()).await;
    if has_home {
        stack.home.remove_stack_file()?;
    }
    tracing::info!("stopped");
    Ok(())
}

/// Everything that the loop decides on.
struct Stack {
    home: Home,
    lock: Arc<Lock>,
    credentials: Credentials,
    search: Search,
    file: StackFile,
    report: watch::Sender<Report>,
    services: Services,
    restarts: Restarts,
    starting: FuturesUnordered<LocalBoxFuture<'static, Started>>,
}

impl Stack {
    /// Runs until there is a reason to stop. What is still starting then is given up, and dies with its handle.
    async fn run(
        &mut self,
        control: &Control,
        mut commands: mpsc::Receiver<Command>,
        linger: Duration,
    ) -> io::Result<End> {
        let mut terminated = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut idle = pin!(unused(control, linger));
        let mut look = interval(HOME_LOOK);
        let stopped = |reason: &str| Ok(End::Stopped(reason.to_owned()));
        loop {
            let end = tokio::select! {
                biased;
                _ = terminated.recv() => return stopped("by SIGTERM"),
                _ = interrupted.recv() => return stopped("by SIGINT"),
                command = commands.recv() => match command {
                    Some(Command::Need { components, ports, noted }) => {
                        self.need(&components, ports);
                        // A client that is gone already does not wait for it.
                        let _ = noted.send(());
                        None
                    }
                    Some(Command::Stop) | None => return stopped("by `pinsched down`"),
                },
                Some(started) = self.starting.next(), if !self.starting.is_empty() => self.note(started),
                (component, how) = self.services.ended() => self.restart(component, &format!("it ended ({how})")),
                _ = look.tick() => {
                    if !self.lock.is_in_place() {
                        return stopped(HOME_GONE);
                    }
                    if let Err(error) = self.home.bound_logs() {
                        tracing::warn!("a log goes on growing: {}", told(&error));
                    }
                    None
                }
                () = &mut idle => return stopped("nobody needs it"),
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Starts what is needed and neither ready nor on its way.
    fn need(&mut self, components: &BTreeSet<Component>, ports: Ports) {
        let phases = self.report.borrow().phases.clone();
        for component in components {
            if matches!(phases.get(component), Some(Phase::Starting | Phase::Ready)) {
                continue;
            }
            self.set_phase(*component, Phase::Starting);
            if *component != Component::Source || phases.get(&Component::Postgres) == Some(&Phase::Ready) {
                self.start(*component, ports);
            }
        }
    }

    fn start(&mut self, component: Component, ports: Ports) {
        let start = services::start(component, self.start_with(ports));
        self.starting.push(Box::pin(start));
    }

    fn start_with(&self, ports: Ports) -> Start {
        let (home, credentials, search) = (self.home.clone(), self.credentials.clone(), self.search.clone());
        Start { home, credentials, search, ports }
    }

    /// Starts a part anew that failed, where its users know it to be; or gives up. In a home that is not there any more
    /// it failed for that, and would make the folder again, or end what another stack runs in it.
    fn restart(&mut self, component: Component, why: &str) -> Option<End> {
        tracing::error!(%component, "{why}");
        if !self.lock.is_in_place() {
            return Some(End::Stopped(HOME_GONE.to_owned()));
        }
        let Some(pause) = self.restarts.failed(component, Instant::now()) else {
            let log = self.home.log();
            let reason =
                format!("the embedded {component} failed {LIMIT} restarts in a row: {why} (see {})", log.display());
            return Some(End::Broken(reason));
        };
        self.set_phase(component, Phase::Starting);
        let rest = self.services.take(component);
        let start = services::start(component, self.start_with(Ports::Kept));
        let lock = self.lock.clone();
        self.starting.push(Box::pin(async move {
            // Where it hangs the start fails, which is counted.
            let _ = timeout(STOP_LIMIT, rest.stop()).await;
            sleep(pause).await;
            if lock.is_in_place() { start.await } else { Started { component, outcome: Err(HOME_GONE.to_owned()) } }
        }));
        None
    }

    /// Notes what a start came to; the source tables follow Postgres. What lies in the place of a home that is gone is
    /// not written over.
    fn note(&mut self, started: Started) -> Option<End> {
        if !self.lock.is_in_place() {
            return Some(End::Stopped(HOME_GONE.to_owned()));
        }
        let component = started.component;
        if started.note_port(&mut self.credentials)
            && let Err(error) = self.home.keep(&self.credentials)
        {
            tracing::warn!(%component, "the new port will be chosen anew at the next start: {}", told(&error));
        }
        let phase = match started.outcome {
            Ok((service, _)) => {
                tracing::info!(%component, "ready");
                self.restarts.ready(component, Instant::now());
                self.services.add(service);
                services::add_url(&mut self.file.urls, component, &self.credentials);
                if let Err(error) = self.home.write_stack_file(&self.file) {
                    tracing::warn!("{}", told(&error));
                }
                Phase::Ready
            }
            Err(message) if self.restarts.is_restart(component) => return self.restart(component, &message),
            Err(message) => {
                tracing::error!(%component, "not started: {message}");
                Phase::Failed { message }
            }
        };
        let source_waits = self.report.borrow().phases.get(&Component::Source) == Some(&Phase::Starting);
        // The cause before its consequence, so that a client is told of the former.
        self.set_phase(component, phase.clone());
        if component == Component::Postgres && source_waits {
            match phase {
                Phase::Ready => self.start(Component::Source, Ports::Any),
                failed => self.set_phase(Component::Source, failed),
            }
        }
        None
    }

    fn set_phase(&self, component: Component, phase: Phase) {
        self.report.send_modify(|report| {
            report.phases.insert(component, phase);
            report.urls = self.file.urls.clone();
        });
    }
}

/// Returns when nobody has held a lease for so long. From then on none is granted.
async fn unused(control: &Control, linger: Duration) {
    let mut leases = control.leases.subscribe();
    loop {
        // The sender lives in `control`.
        let _ = leases.wait_for(|count| *count == 0).await;
        let taken = timeout(linger, leases.wait_for(|count| *count > 0)).await.is_ok();
        if taken {
            continue;
        }
        control.closing.store(true, Ordering::SeqCst);
        if *control.leases.borrow() == 0 {
            return;
        }
        control.closing.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn stack(path: &std::path::Path) -> Stack {
        let home = Home::open(path).unwrap();
        Stack {
            lock: Arc::new(home.lock().unwrap().expect("nobody else serves it")),
            credentials: home.credentials().unwrap(),
            home,
            search: Search::default(),
            file: StackFile {
                pid: 0,
                host: host(),
                version: String::new(),
                control: String::new(),
                token: String::new(),
                urls: Default::default(),
            },
            report: watch::Sender::new(Report::default()),
            services: Services::default(),
            restarts: Restarts::default(),
            starting: FuturesUnordered::new(),
        }
    }

    fn contents(path: &std::path::Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn no_part_is_started_again_in_a_home_that_is_gone_or_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("home");
        let gone = Some(End::Stopped(HOME_GONE.to_owned()));
        for is_made_anew in [false, true] {
            let mut stack = stack(&path);
            assert_eq!(stack.restart(Component::S3, "it ended"), None);
            fs::rename(&path, folder.path().join(format!("moved-{is_made_anew}"))).unwrap();
            let new = is_made_anew.then(|| {
                let home = Home::open(&path).unwrap();
                (home.lock().unwrap().unwrap(), contents(&path))
            });
            let started = stack.starting.next().await.unwrap();
            assert_eq!(started.outcome.as_ref().err().map(String::as_str), Some(HOME_GONE), "it was on its way");
            assert_eq!(stack.note(started), gone);
            assert_eq!(stack.restart(Component::S3, "it ended"), gone, "it ends now");
            assert_eq!((path.exists(), stack.starting.is_empty()), (is_made_anew, true));
            if let Some((_lock, before)) = new {
                assert_eq!(contents(&path), before);
            }
        }
    }
}
