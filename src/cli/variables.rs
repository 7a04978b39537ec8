//! `pinsched variables`: values that templates name. What has a secret's name is shown when asked for only.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::connections::{hidden_by_settings, imported, origin};
use crate::cli::exit::Exit;
use crate::cli::named_arguments::VariablesCommand;
use crate::cli::prompt;
use crate::cli::sealed::{Sealed, read_object, write_object};
use crate::cli::session::Session;
use crate::cli::table::Field;
use crate::domain::masking::{MASK, Masks, is_secret_name, secrets_in};
use crate::engine::lookup::LookupError;
use crate::store::Kind;

/// How much of a text a table shows.
const SHOWN: usize = 80;

/// The longest name, in Airflow's database as in this one.
const LONGEST_NAME: usize = 250;

/// A variable as it is listed.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    /// Its text, masked where its name is a secret's.
    value: Option<String>,
    /// Where it is: an environment's variable, a line of the settings, or `database`.
    origin: String,
    /// Why it cannot be read.
    error: Option<String>,
}

pub(crate) async fn variables(session: &Session, command: &VariablesCommand) -> anyhow::Result<Exit> {
    match command {
        VariablesCommand::List => list(session).await,
        VariablesCommand::Get { name, reveal } => get(session, name, *reveal).await,
        VariablesCommand::Set { name, value } => set(session, name, value.as_deref()).await,
        VariablesCommand::Delete { name } => delete(session, name).await,
        VariablesCommand::Import { file, overwrite } => import(session, file, *overwrite).await,
        VariablesCommand::Export { file } => export(session, file).await,
    }
}

/// The text as it may be seen: none of it under a secret's name, else without what has one within its JSON.
fn masked(name: &str, text: &SecretString) -> String {
    if is_secret_name(name) {
        return MASK.to_owned();
    }
    let text = text.expose_secret();
    let Ok(value) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    let masks = Masks::default();
    masks.add(&secrets_in(name, &value));
    masks.mask(text).into_owned()
}

async fn list(session: &Session) -> anyhow::Result<Exit> {
    let mut lines = Vec::new();
    for (name, text) in &session.settings.variables {
        let origin = session.settings.origin_of("variables", name).map(|origin| origin.to_string());
        let (value, origin) = (Some(masked(name, text)), origin.unwrap_or_default());
        lines.push(Line { name: name.clone(), value, origin, error: None });
    }
    if session.may_have_store() {
        for (name, text) in Sealed::open(session).await?.all(Kind::Variable).await? {
            let value = text.as_ref().ok().map(|text| masked(&name, text));
            lines.push(Line { name, value, origin: "database".to_owned(), error: text.err() });
        }
    }
    session.printer.answer(&lines, || {
        if lines.is_empty() {
            return "no variables yet; keep one by `pinsched variables set NAME`\n".to_owned();
        }
        let mut table = session.printer.table(&["NAME", "VALUE", "WHERE", ""]);
        for line in &lines {
            let value = line.value.as_deref().unwrap_or("(sealed)").replace('\n', "⏎");
            let is_long = value.chars().count() > SHOWN;
            let value = value.chars().take(SHOWN).chain(is_long.then_some('…')).collect::<String>();
            let error = Field::text(line.error.as_deref().unwrap_or_default());
            table.row(vec![Field::text(&line.name), Field::text(value), Field::text(&line.origin), error]);
        }
        table.render()
    })?;
    Ok(Exit::Done)
}

async fn get(session: &Session, name: &str, reveal: bool) -> anyhow::Result<Exit> {
    let (lookup, _stack) = Sealed::open(session).await?.lookup(session);
    let (text, place) = match lookup.locate_variable(name).await {
        Ok(found) => found,
        Err(LookupError::Absent(words)) => {
            session.printer.error(&words);
            return Ok(Exit::No);
        }
        Err(error) => return Err(error.into()),
    };
    let value = if reveal { text.expose_secret().to_owned() } else { masked(name, &text) };
    let origin = origin(session, "variables", name, &place);
    let answer = serde_json::json!({"name": name, "value": value, "origin": origin});
    session.printer.answer(&answer, || format!("{value}\n"))?;
    Ok(Exit::Done)
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let is_good = !name.is_empty() && name.chars().count() <= LONGEST_NAME && !name.contains(char::is_control);
    anyhow::ensure!(is_good, "`{}` is no variable's name: up to {LONGEST_NAME} characters", name.escape_debug());
    Ok(())
}

async fn set(session: &Session, name: &str, value: Option<&str>) -> anyhow::Result<Exit> {
    check_name(name)?;
    // Before anybody types a secret that could not be kept.
    let sealed = Sealed::open(session).await?;
    sealed.keys.seal(Kind::Variable, name, &"".into())?;
    let text = match value {
        Some(value) => value.into(),
        None => prompt::secret(session.printer, &format!("the text of variable `{name}`"))?,
    };
    sealed.put(Kind::Variable, name, &text).await?;
    session.printer.say(&format!("variable `{name}` is kept in the database, sealed"));
    hidden_by_settings(session, "variables", name, session.settings.variables.keys());
    Ok(Exit::Done)
}

async fn delete(session: &Session, name: &str) -> anyhow::Result<Exit> {
    if Sealed::open(session).await?.store.delete_variable(name).await? {
        session.printer.say(&format!("variable `{name}` is deleted"));
        return Ok(Exit::Done);
    }
    session.printer.error(&format!("the database has no variable `{name}`; `pinsched variables list` lists them"));
    Ok(Exit::No)
}

async fn import(session: &Session, file: &Path, overwrite: bool) -> anyhow::Result<Exit> {
    let mut texts = Vec::new();
    for (name, value) in read_object(file)? {
        check_name(&name)?;
        texts.push((name, SecretString::from(text_of(&value))));
    }
    let (kept, left) = Sealed::open(session).await?.import(Kind::Variable, texts, overwrite).await?;
    imported(session, "variable", kept, &left)
}

/// Text as it is; everything else as JSON. Airflow's newer exports have an object with value and description.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) if fields.len() == 2 && fields.contains_key("description") => {
            fields.get("value").map_or_else(|| value.to_string(), text_of)
        }
        other => other.to_string(),
    }
}

async fn export(session: &Session, file: &Path) -> anyhow::Result<Exit> {
    let mut object = Map::new();
    for (name, text) in Sealed::open(session).await?.all(Kind::Variable).await? {
        let text = text.map_err(anyhow::Error::msg)?;
        object.insert(name, exported(text.expose_secret()));
    }
    write_object(session, file, &object)?;
    Ok(Exit::Done)
}

/// As Airflow exports it: what is JSON as JSON, unless it would be imported as another text.
fn exported(text: &str) -> Value {
    let parsed: Option<Value> = serde_json::from_str(text).ok();
    parsed.filter(|value| text_of(value) == text).unwrap_or_else(|| Value::from(text))
}
