//! How a `pinsched` uses the stack of a home: it asks the process that serves it, or starts one, and holds a lease.
//!
//! Two that start at once are told apart by the home's lock: the process that does not get it says so and ends, and its
//! starter asks the other.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::StatusCode;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, timeout, timeout_at};

use super::component::{Component, Phase, Ports};
use super::control::{End, LeaseEvent, PORTS_KEPT};
use super::error::StackError;
use super::home::{Home, StackFile, StackUrls};
use super::stack::{LINE_BUSY, LINE_SERVING};
use crate::config::{LogFormat, LogSettings, not_for_the_stack};

/// A stack that recovers a large database after a kill may take long; beyond this something is wrong.
const LIMIT: Duration = Duration::from_secs(180);
/// The process that serves answers at once; a stranger on its old port may never.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// A stack that is asked to stop writes a checkpoint.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How often a process that starts or stops is looked at: at first, and once it takes long.
const LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// What is wanted of a stack.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// Its home; made when missing.
    pub home: PathBuf,
    /// What must be ready.
    pub components: Vec<Component>,
    /// The program to start as `<program> stack --home …` when nobody serves the home.
    pub program: PathBuf,
    /// Where Postgres's programs must be, if that is configured.
    pub postgres_bin: Option<PathBuf>,
    /// How long the stack outlives its last lease.
    pub linger: Duration,
    /// The stack's log.
    pub log: LogSettings,
}

/// What happens while one waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nobody serves the home: a process is started.
    Launching,
    /// A part went on.
    Component(Component, Phase),
}

/// The stack lives for as long as this does, unless somebody stops or kills it.
#[derive(Debug)]
pub struct StackLease {
    pub(super) request: LeaseRequest,
    home: Home,
    urls: StackUrls,
    events: Events,
}

impl StackLease {
    /// Where what was asked for can be reached.
    #[must_use]
    pub fn urls(&self) -> &StackUrls {
        &self.urls
    }

    /// The home.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Returns when the stack goes, and what it said of that: nothing, when it was killed.
    pub async fn ended(&mut self) -> Option<End> {
        loop {
            if let LeaseEvent::Ending { end } = self.events.next().await? {
                return Some(end);
            }
        }
    }
}

/// What the stack says, line by line.
#[derive(Debug)]
struct Events {
    response: reqwest::Response,
    unread: Vec<u8>,
}

impl Events {
    /// The next line; none when nothing more comes, or nothing that this version understands.
    async fn next(&mut self) -> Option<LeaseEvent> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&line).ok();
            }
            let chunk = self.response.chunk().await.ok()??;
            self.unread.extend_from_slice(&chunk);
        }
    }
}

/// Takes a lease on the home's stack, which is started where it does not run.
pub async fn attach(
    request: &LeaseRequest,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<StackLease, StackError> {
    attach_at(request, Ports::Any, progress).await
}

/// The same, for one who may know where the parts are.
pub(super) async fn attach_at(
    request: &LeaseRequest,
    ports: Ports,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<StackLease, StackError> {
    let home = Home::open(&request.home)?;
    let deadline = Instant::now() + LIMIT;
    let late = || StackError::Late { home: home.path().to_owned(), seconds: LIMIT.as_secs(), log: home.log() };
    let mut pause = LOOK;
    let mut is_announced = false;
    loop {
        // Without a holder of the lock the stack's file is a dead one's, or came along with a copy of the home.
        if !home.is_served()? {
            if !is_announced {
                progress(Progress::Launching);
                is_announced = true;
            }
            if launch(&home, request, deadline).await? == Launched::Serving {
                continue;
            }
        } else {
            let answer = match home.stack_file()? {
                Some(file) => ask(&file, &request.components, ports).await,
                None => Answer::Nobody,
            };
            match answer {
                Answer::Lease(response) => {
                    let granted = timeout_at(deadline, granted(&home, response, ports, progress)).await;
                    if let Some((urls, events)) = granted.map_err(|_| late())?? {
                        return Ok(StackLease { request: request.clone(), home, urls, events });
                    }
                }
                Answer::Refused(said) => {
                    return Err(StackError::Refused { home: home.path().to_owned(), holder: home.holder(), said });
                }
                Answer::Nobody if Instant::now() > deadline => return Err(busy(&home)),
                // It is about to say where it listens, or to end.
                Answer::Nobody => {}
            }
        }
        if Instant::now() > deadline {
            return Err(late());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_LOOK);
    }
}

fn busy(home: &Home) -> StackError {
    StackError::Busy { home: home.path().to_owned(), holder: home.holder() }
}

/// The stack that serves this home now, without taking a lease; none when there is none.
pub async fn running(home: &std::path::Path) -> Result<Option<StackUrls>, StackError> {
    if !home.is_dir() {
        return Ok(None);
    }
    let home = Home::open(home)?;
    if !home.is_served()? {
        return Ok(None);
    }
    let Some(file) = home.stack_file()? else { return Ok(None) };
    let request = client()?.get(format!("{}/health", file.control)).bearer_auth(&file.token).send();
    let healthy = matches!(timeout(ANSWER_LIMIT, request).await, Ok(Ok(answer)) if answer.status().is_success());
    Ok(healthy.then_some(file.urls))
}

/// Stops the stack of this home, whoever holds leases, and returns when it is gone; false when there was none.
pub async fn stop(home: &std::path::Path) -> Result<bool, StackError> {
    if !home.is_dir() {
        return Ok(false);
    }
    let home = Home::open(home)?;
    // One that is just starting has not written down yet where it listens.
    let asked = async {
        while home.is_served()? {
            if let Some(file) = home.stack_file()? {
                let request = client()?.post(format!("{}/stop", file.control)).bearer_auth(&file.token);
                if request.send().await.is_ok_and(|answer| answer.status().is_success()) {
                    return Ok(true);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok::<_, StackError>(false)
    };
    if !timeout(ANSWER_LIMIT, asked).await.map_err(|_| busy(&home))?? {
        return Ok(false);
    }
    let gone = async {
        while home.is_served()? {
            tokio::time::sleep(LOOK).await;
        }
        Ok::<_, StackError>(())
    };
    let late = |_| StackError::Late { home: home.path().to_owned(), seconds: STOP_LIMIT.as_secs(), log: home.log() };
    timeout(STOP_LIMIT, gone).await.map_err(late)??;
    Ok(true)
}

/// Never through a proxy: the endpoint is on loopback.
fn client() -> Result<reqwest::Client, StackError> {
    let built = reqwest::Client::builder().no_proxy().connect_timeout(ANSWER_LIMIT).build();
    built.map_err(|source| StackError::Control { home: PathBuf::new(), source })
}

/// What came of asking for a lease.
enum Answer {
    /// Its events follow.
    Lease(reqwest::Response),
    /// No stack answers there: it is just going, or it hangs.
    Nobody,
    /// Whoever answers will not give one, with these words.
    Refused(String),
}

async fn ask(file: &StackFile, components: &[Component], ports: Ports) -> Answer {
    let needs: Vec<String> = components.iter().map(Component::to_string).collect();
    let kept = match ports {
        Ports::Kept => format!("?{PORTS_KEPT}"),
        Ports::Any => String::new(),
    };
    let url = format!("{}/lease/{}{kept}", file.control, needs.join(","));
    let answer = async { client().ok()?.get(url).bearer_auth(&file.token).send().await.ok() };
    let Ok(Some(answer)) = timeout(ANSWER_LIMIT, answer).await else { return Answer::Nobody };
    match answer.status() {
        StatusCode::OK => Answer::Lease(answer),
        StatusCode::SERVICE_UNAVAILABLE => Answer::Nobody,
        // The file was an earlier stack's, and its port is another's by now.
        StatusCode::UNAUTHORIZED => Answer::Nobody,
        status => {
            let said = timeout(ANSWER_LIMIT, answer.text()).await.ok().and_then(Result::ok);
            Answer::Refused(said.filter(|said| !said.is_empty()).unwrap_or_else(|| status.to_string()))
        }
    }
}

/// Reads a lease's events until it is granted. None means that the stack went before it was, and that another may be
/// started: who knew the one that was stopped on purpose wants no other in its place.
async fn granted(
    home: &Home,
    response: reqwest::Response,
    ports: Ports,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Option<(StackUrls, Events)>, StackError> {
    let mut events = Events { response, unread: Vec::new() };
    while let Some(event) = events.next().await {
        match event {
            LeaseEvent::Granted { urls } => return Ok(Some((urls, events))),
            LeaseEvent::Progress { component, phase: Phase::Failed { message } } => {
                return Err(StackError::Component { component, home: home.path().to_owned(), message });
            }
            LeaseEvent::Progress { component, phase } => progress(Progress::Component(component, phase)),
            LeaseEvent::Ending { end: End::Stopped(reason) } if ports == Ports::Kept => {
                return Err(StackError::Stopped { home: home.path().to_owned(), reason });
            }
            LeaseEvent::Ending { .. } => break,
        }
    }
    Ok(None)
}

#[derive(Debug, PartialEq, Eq)]
enum Launched {
    Serving,
    Busy,
}

/// Starts the process that serves the home, and waits until it says that it does.
async fn launch(home: &Home, request: &LeaseRequest, deadline: Instant) -> Result<Launched, StackError> {
    let spawn = |source: io::Error| StackError::Spawn { home: home.path().to_owned(), source };
    let mut command = Command::new(&request.program);
    command.arg0("pinsched").arg("stack").arg("--home").arg(home.path());
    command.arg("--linger").arg(format!("{}ms", request.linger.as_millis()));
    if let Some(bin) = &request.postgres_bin {
        command.arg("--postgres-bin").arg(bin);
    }
    if let Some(filter) = &request.log.filter {
        command.arg("--log-filter").arg(filter);
    }
    if request.log.format != LogFormat::default() {
        command.arg("--log-format").arg(request.log.format.as_str());
    }
    for variable in not_for_the_stack() {
        command.env_remove(variable);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(home.open_log(&home.log())?);
    let mut child = tokio::process::Command::from(command).spawn().map_err(spawn)?;
    let stdout = child.stdout.take().ok_or_else(|| spawn(io::ErrorKind::BrokenPipe.into()))?;
    let line = timeout_at(deadline, BufReader::new(stdout).lines().next_line()).await;
    let line = line.ok().and_then(Result::ok).flatten();
    match line.as_deref() {
        Some(LINE_SERVING) => Ok(Launched::Serving),
        Some(LINE_BUSY) => Ok(Launched::Busy),
        said => Err(StackError::Died {
            home: home.path().to_owned(),
            message: said.unwrap_or("it ended without a word").to_owned(),
            log: home.log(),
        }),
    }
}
