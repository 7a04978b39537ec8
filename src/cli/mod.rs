//! The command line: one file per command. `output.rs` alone prints, `exit.rs` alone knows the exit codes.

mod arguments;
mod backfill;
mod cancel;
mod clean;
mod colour;
pub mod config;
mod connections;
mod control;
mod dag_file;
mod dags;
mod database;
mod dates;
pub mod down;
mod drive;
mod exit;
mod graph;
mod logs;
mod named_arguments;
mod output;
mod params;
mod pause;
mod pools;
mod progress;
mod prompt;
mod report;
mod resume;
mod run;
mod runs;
mod schedule;
mod schema;
mod sealed;
mod secrets;
mod serve;
mod service_arguments;
mod session;
mod show;
pub mod stack;
mod table;
mod task_word;
mod times;
mod trigger;
pub mod up;
mod upkeep_arguments;
mod validate;
mod variables;
mod why;
mod words;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};

use crate::cli::arguments::{Arguments, Command, OutputFormat};
use crate::cli::exit::Exit;
use crate::cli::output::Printer;
use crate::cli::session::Session;
use crate::config::Environment;
use crate::embedded::{StackNews, lacking};
use crate::operators;

/// Runs the command that the arguments name (the program's own name first) and says how it ended: 0 done, 1 the answer
/// is no, 2 it could not be tried.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    // The stack's process needs the main thread, so it is told apart before any runtime starts.
    if arguments.get(1).is_some_and(|command| command == "stack") {
        return stack::run(arguments.into_iter().skip(1).collect());
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let printer = Printer::new(OutputFormat::Table, Environment::capture().no_color());
            let exit = if error.use_stderr() { Exit::NotTried } else { Exit::Done };
            return printer.usage(&error).map_or_else(|error| refuse(printer, &error), |()| exit.into());
        }
    };
    if let Command::Completions { shell } = &arguments.command {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Arguments::command(), "pinsched", &mut script);
        let printer = Printer::new(OutputFormat::Table, true);
        let printed = printer.text(&String::from_utf8_lossy(&script));
        return printed.map_or_else(|error| refuse(printer, &error), |_| Exit::Done.into());
    }
    let session = match Session::open(&arguments.everywhere, arguments.command.talks_by_logs()) {
        Ok(session) => session,
        Err(error) => return refuse(Printer::new(arguments.everywhere.output, true), &error),
    };
    let printer = session.printer;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.context("could not start a runtime").and_then(|runtime| {
        let ended = runtime.block_on(execute(&session, &arguments.command));
        // A blocked thread of a client library must not hold up the exit: all that counts is durable by now.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            let error: &(dyn std::error::Error + 'static) = error.as_ref();
            printer.error(&session.masks.mask(&crate::engine::operator::chain(error)));
            Exit::NotTried.into()
        }
    }
}

fn refuse(printer: Printer, error: &anyhow::Error) -> ExitCode {
    let error: &(dyn std::error::Error + 'static) = error.as_ref();
    printer.error(&crate::engine::operator::chain(error));
    Exit::NotTried.into()
}

async fn execute(session: &Session, command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(arguments) => run::run(session, arguments).await,
        Command::Serve(arguments) => serve::serve(session, arguments).await,
        Command::Dags => dags::dags(session).await,
        Command::Trigger(arguments) => trigger::trigger(session, arguments).await,
        Command::Pause { dag } => pause::pause(session, dag).await,
        Command::Unpause { dag, dry_run } => pause::unpause(session, dag, *dry_run).await,
        Command::Runs { dag, limit } => runs::runs(session, dag.as_ref(), *limit).await,
        Command::Show { run, task } => show::show(session, run, task.as_ref()).await,
        Command::Logs(arguments) => logs::logs(session, arguments).await,
        Command::Backfill(arguments) => backfill::backfill(session, arguments).await,
        Command::Backfills { command } => backfill::backfills(session, command.as_ref()).await,
        Command::Clear(arguments) => control::clear(session, arguments).await,
        Command::Mark(arguments) => control::mark(session, arguments).await,
        Command::Restart { run, all, dry_run } => control::restart(session, run, *all, *dry_run).await,
        Command::Priority { run, task, priority } => control::priority(session, run, task, *priority).await,
        Command::Pools { command } => pools::pools(session, command.as_ref()).await,
        Command::Why { run, task } => why::why(session, run, task).await,
        Command::Note { run, text } => control::note(session, run, text).await,
        Command::Cancel { run, task: None } => cancel::cancel(session, run).await,
        Command::Cancel { run, task: Some(task) } => control::cancel_task(session, run, task).await,
        Command::Resume { run } => resume::resume(session, run).await,
        Command::Up => keep_up(session).await,
        Command::Down => {
            let report = down::down(&session.settings).await?;
            session.printer.answer(&report, || report.to_string())?;
            Ok(Exit::Done)
        }
        Command::Config => {
            let report = config::config(&session.settings);
            session.printer.answer(&report, || report.to_string())?;
            Ok(Exit::Done)
        }
        Command::Connections { command } => connections::connections(session, command).await,
        Command::Variables { command } => variables::variables(session, command).await,
        Command::Secrets { command } => secrets::secrets(session, command).await,
        Command::Db { command } => database::database(session, command).await,
        Command::Clean(arguments) => clean::clean(session, arguments).await,
        Command::Validate { paths } => {
            let report = validate::validate(paths, &operators::catalog());
            session.printer.answer(&report.to_json(), || report.render(session.printer.answer_colours()))?;
            Ok(report.exit())
        }
        Command::Graph(arguments) => graph::graph(arguments, session.printer),
        Command::Schedule(arguments) => schedule::schedule(arguments, session.printer),
        Command::Schema => {
            let schema = schema::schema(&operators::catalog());
            session.printer.text(&format!("{schema:#}\n"))?;
            Ok(Exit::Done)
        }
        Command::Completions { .. } => Ok(Exit::Done), // printed before there is a session
    }
}

async fn keep_up(session: &Session) -> anyhow::Result<Exit> {
    let printer = session.printer;
    let (report, up) = up::up(&session.settings, &mut session.starting(&lacking(&session.settings))).await?;
    printer.answer(&report, || report.to_string())?;
    let Some(up) = up else { return Ok(Exit::Done) };
    printer.say("the stack stays up until Ctrl-C");
    let mut tell = |news: StackNews| printer.say(&news.to_string());
    Ok(match up.wait(&mut tell).await.context("could not listen for Ctrl-C")? {
        up::Ended::Interrupted => Exit::Done,
        up::Ended::StackGone(error) => {
            printer.error(&crate::engine::operator::chain(&error));
            Exit::No
        }
    })
}
