//! `pinsched connections`: what tasks reach other systems by. Passwords come from stdin and are shown when asked for only.

use std::path::Path;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::exit::Exit;
use crate::cli::named_arguments::{ConnectionsCommand, SetConnection};
use crate::cli::prompt;
use crate::cli::sealed::{Sealed, read_object, write_object};
use crate::cli::session::Session;
use crate::cli::table::Field;
use crate::domain::connection::{self, Connection};
use crate::domain::masking::MASK;
use crate::engine::lookup::{LookupError, Place};
use crate::engine::operator::chain;
use crate::operators::probe::probe;
use crate::store::Kind;

/// A connection as it is listed.
#[derive(Debug, Serialize)]
struct Line {
    conn_id: String,
    conn_type: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    schema: Option<String>,
    login: Option<String>,
    description: Option<String>,
    /// Where it is: a variable, a line of the settings, or `database`.
    origin: String,
    /// Why it cannot be used.
    error: Option<String>,
}

pub(crate) async fn connections(session: &Session, command: &ConnectionsCommand) -> anyhow::Result<Exit> {
    match command {
        ConnectionsCommand::List => list(session).await,
        ConnectionsCommand::Get { id, reveal } => get(session, id, *reveal).await,
        ConnectionsCommand::Set(arguments) => set(session, arguments).await,
        ConnectionsCommand::Delete { id } => delete(session, id).await,
        ConnectionsCommand::Test { id } => test(session, id).await,
        ConnectionsCommand::Import { file, overwrite } => import(session, file, *overwrite).await,
        ConnectionsCommand::Export { file } => export(session, file).await,
    }
}

async fn list(session: &Session) -> anyhow::Result<Exit> {
    let mut lines: Vec<Line> = Vec::new();
    for (id, text) in &session.settings.connections {
        let origin = session.settings.origin_of("connections", id).map(|origin| origin.to_string());
        lines.push(Line::new(id, Ok(text), origin.unwrap_or_default()));
    }
    if session.may_have_store() {
        for (id, text) in Sealed::open(session).await?.all(Kind::Connection).await? {
            lines.push(Line::new(&id, text.as_ref().map_err(Clone::clone), "database".to_owned()));
        }
    }
    session.printer.answer(&lines, || {
        if lines.is_empty() {
            return "no connections yet; keep one by `pinsched connections set ID`\n".to_owned();
        }
        let headings = ["ID", "TYPE", "HOST", "PORT", "SCHEMA", "LOGIN", "WHERE", ""];
        let mut table = session.printer.table(&headings);
        for line in &lines {
            let text = |text: &Option<String>| Field::text(text.as_deref().unwrap_or_default());
            table.row(vec![
                Field::text(&line.conn_id),
                text(&line.conn_type),
                text(&line.host),
                Field::number(line.port.map(|port| port.to_string()).unwrap_or_default()),
                text(&line.schema),
                text(&line.login),
                Field::text(&line.origin),
                text(&line.error),
            ]);
        }
        table.render()
    })?;
    Ok(Exit::Done)
}

impl Line {
    fn new(id: &str, text: Result<&SecretString, String>, origin: String) -> Self {
        let read = text.and_then(|text| Connection::parse(id, text.expose_secret()).map_err(|error| error.to_string()));
        let (read, error) = match read {
            Ok(read) => (Some(read), None),
            Err(error) => (None, Some(error)),
        };
        let read = read.unwrap_or_default();
        Self {
            conn_id: id.to_owned(),
            conn_type: Some(read.conn_type).filter(|kind| !kind.is_empty()),
            host: read.host,
            port: read.port,
            schema: read.schema,
            login: read.login,
            description: read.description,
            origin,
            error,
        }
    }
}

/// The connection as tasks would find it; says so where it is nowhere.
async fn find(session: &Session, id: &str) -> anyhow::Result<Option<(Connection, Place)>> {
    let (lookup, _stack) = Sealed::open(session).await?.lookup(session);
    match lookup.locate_connection(id).await {
        Ok(found) => Ok(Some(found)),
        Err(LookupError::Absent(words)) => {
            session.printer.error(&words);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

async fn get(session: &Session, id: &str, reveal: bool) -> anyhow::Result<Exit> {
    let Some((found, place)) = find(session, id).await? else { return Ok(Exit::No) };
    let mut shown = Map::from_iter([("conn_id".to_owned(), Value::from(id))]);
    if let Value::Object(fields) = found.to_json() {
        shown.extend(fields);
    }
    if reveal {
        shown.insert("uri".to_owned(), Value::from(found.uri().expose_secret()));
    } else {
        for key in ["password", "extra"] {
            if shown.get(key).is_some_and(|value| !value.is_null()) {
                shown.insert(key.to_owned(), Value::from(MASK));
            }
        }
    }
    shown.insert("origin".to_owned(), Value::from(origin(session, "connections", id, &place)));
    session.printer.answer(&shown, || {
        let mut table = session.printer.table(&["", ""]);
        for (key, value) in shown.iter().filter(|(_, value)| !value.is_null()) {
            let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            table.row(vec![Field::text(key), Field::text(text)]);
        }
        table.render().trim_start_matches('\n').to_owned()
    })?;
    Ok(Exit::Done)
}

/// Where something was found, for people.
pub(crate) fn origin(session: &Session, table: &str, name: &str, place: &Place) -> String {
    match place {
        Place::SecretsManager(name) => format!("AWS Secrets Manager `{name}`"),
        Place::Settings => {
            let exact = session.settings.origin_of(table, name);
            let origin = exact.or_else(|| session.settings.origin_of(table, &name.to_lowercase()));
            origin.map(|origin| origin.to_string()).unwrap_or_default()
        }
        Place::Database => "database".to_owned(),
    }
}

async fn set(session: &Session, arguments: &SetConnection) -> anyhow::Result<Exit> {
    let id = &arguments.id;
    connection::check_id(id)?;
    // Before anybody types a password that could not be kept.
    let sealed = Sealed::open(session).await?;
    sealed.keys.seal(Kind::Connection, id, &"".into())?;
    let read = match &arguments.conn_type {
        Some(conn_type) => from_flags(session, arguments, conn_type)?,
        None => {
            let text = prompt::secret(session.printer, &format!("the URI or JSON of connection `{id}`"))?;
            Connection::parse(id, text.expose_secret()).context("what stdin has is no connection")?
        }
    };
    sealed.put(Kind::Connection, id, &read.to_json().to_string().into()).await?;
    session.printer.say(&format!("connection `{id}` is kept in the database, sealed"));
    hidden_by_settings(session, "connections", id, session.settings.connections.keys());
    Ok(Exit::Done)
}

/// What tasks find first is not what was just kept: says so.
pub(crate) fn hidden_by_settings<'a>(
    session: &Session,
    table: &str,
    name: &str,
    mut set: impl Iterator<Item = &'a String>,
) {
    let hides = set.find(|known| **known == name || **known == name.to_lowercase());
    if let Some(origin) = hides.and_then(|known| session.settings.origin_of(table, known)) {
        session.printer.say(&format!("{origin} has one of that name too, and that one is found first"));
    }
}

fn from_flags(session: &Session, arguments: &SetConnection, conn_type: &str) -> anyhow::Result<Connection> {
    let mut fields = Map::from_iter([("conn_type".to_owned(), Value::from(conn_type))]);
    let texts = [
        ("host", &arguments.host),
        ("schema", &arguments.schema),
        ("login", &arguments.login),
        ("description", &arguments.description),
    ];
    for (key, text) in texts {
        fields.extend(text.as_ref().map(|text| (key.to_owned(), Value::from(text.as_str()))));
    }
    fields.extend(arguments.port.map(|port| ("port".to_owned(), Value::from(port))));
    if let Some(extra) = &arguments.extra {
        let is_object = serde_json::from_str::<Map<String, Value>>(extra).is_ok();
        anyhow::ensure!(is_object, "--extra is not a JSON object");
        fields.insert("extra".to_owned(), Value::from(extra.as_str()));
    }
    if arguments.password_stdin || (arguments.login.is_some() && prompt::is_person()) {
        let password = prompt::secret(session.printer, &format!("the password of `{}`", arguments.id))?;
        fields.insert("password".to_owned(), Value::from(password.expose_secret()));
    }
    Ok(Connection::from_json(&arguments.id, &fields)?)
}

async fn delete(session: &Session, id: &str) -> anyhow::Result<Exit> {
    if Sealed::open(session).await?.store.delete_connection(id).await? {
        session.printer.say(&format!("connection `{id}` is deleted"));
        return Ok(Exit::Done);
    }
    session.printer.error(&format!("the database has no connection `{id}`; `pinsched connections list` lists them"));
    Ok(Exit::No)
}

async fn test(session: &Session, id: &str) -> anyhow::Result<Exit> {
    let Some((found, _)) = find(session, id).await? else { return Ok(Exit::No) };
    let (works, words) = match probe(&found).await {
        Ok(words) => (true, words),
        Err(error) => (false, session.masks.mask(&chain(&error)).into_owned()),
    };
    let answer = serde_json::json!({"conn_id": id, "status": works, "message": words});
    session.printer.answer(&answer, || if works { format!("{words}\n") } else { String::new() })?;
    if works {
        return Ok(Exit::Done);
    }
    if !session.printer.is_json() {
        session.printer.error(&words);
    }
    Ok(Exit::No)
}

async fn import(session: &Session, file: &Path, overwrite: bool) -> anyhow::Result<Exit> {
    let mut texts = Vec::new();
    // All of them are read before any is kept.
    for (id, value) in read_object(file)? {
        connection::check_id(&id)?;
        let read = match &value {
            Value::String(uri) => Connection::parse(&id, uri),
            Value::Object(fields) => Connection::from_json(&id, fields),
            _ => anyhow::bail!("connection `{id}` is neither a URI nor an object"),
        };
        let read = read.with_context(|| format!("connection `{id}` cannot be kept"))?;
        texts.push((id, SecretString::from(read.to_json().to_string())));
    }
    let (kept, left) = Sealed::open(session).await?.import(Kind::Connection, texts, overwrite).await?;
    imported(session, "connection", kept, &left)
}

/// Tells how an import went; one that left something out is a no.
pub(crate) fn imported(session: &Session, what: &str, kept: usize, left: &[String]) -> anyhow::Result<Exit> {
    let answer = serde_json::json!({"imported": kept, "left_out": left});
    session.printer.answer(&answer, || format!("imported {kept} {what}{}\n", if kept == 1 { "" } else { "s" }))?;
    if left.is_empty() {
        return Ok(Exit::Done);
    }
    session.printer.error(&format!("these are there already, and --overwrite replaces them: {}", left.join(", ")));
    Ok(Exit::No)
}

async fn export(session: &Session, file: &Path) -> anyhow::Result<Exit> {
    let mut object = Map::new();
    for (id, text) in Sealed::open(session).await?.all(Kind::Connection).await? {
        let text = text.map_err(anyhow::Error::msg)?;
        let read = Connection::parse(&id, text.expose_secret())?;
        object.insert(id, read.to_json());
    }
    write_object(session, file, &object)?;
    Ok(Exit::Done)
}
