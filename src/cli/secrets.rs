//! `pinsched secrets`: the keys that seal what the database keeps of connections and variables.

use secrecy::ExposeSecret;

use crate::cli::exit::Exit;
use crate::cli::named_arguments::SecretsCommand;
use crate::cli::sealed::Sealed;
use crate::cli::session::Session;
use crate::store::{Kind, SealError, SecretKeys};

pub(crate) async fn secrets(session: &Session, command: &SecretsCommand) -> anyhow::Result<Exit> {
    match command {
        SecretsCommand::Key => {
            let key = SecretKeys::generate()?;
            let answer = serde_json::json!({"key": key.expose_secret()});
            session.printer.answer(&answer, || format!("{}\n", key.expose_secret()))?;
            Ok(Exit::Done)
        }
        SecretsCommand::Rotate => rotate(session).await,
    }
}

/// Seals anew what the first key does not open. What is changed meanwhile by somebody else is left to them: it is sealed
/// by the first key already. May be repeated; what was done stays done.
async fn rotate(session: &Session) -> anyhow::Result<Exit> {
    let sealed = Sealed::open(session).await?;
    let (mut resealed, mut unopened) = (0, Vec::new());
    for kind in [Kind::Connection, Kind::Variable] {
        let rows = match kind {
            Kind::Connection => sealed.store.connections().await?,
            Kind::Variable => sealed.store.variables().await?,
        };
        for (name, from) in rows {
            if sealed.keys.is_current(kind, &name, &from) {
                continue;
            }
            let text = match sealed.keys.open(kind, &name, &from) {
                Ok(text) => text,
                Err(SealError::Unopened { .. }) => {
                    unopened.push(format!("{} `{name}`", kind.as_str()));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let to = sealed.keys.seal(kind, &name, &text)?;
            let done = match kind {
                Kind::Connection => sealed.store.reseal_connection_if(&name, &from, &to).await?,
                Kind::Variable => sealed.store.reseal_variable_if(&name, &from, &to).await?,
            };
            resealed += usize::from(done);
        }
    }
    let answer = serde_json::json!({"resealed": resealed, "unopened": unopened});
    session.printer.answer(&answer, || format!("sealed {resealed} anew with the first key\n"))?;
    if unopened.is_empty() {
        return Ok(Exit::Done);
    }
    session.printer.error(&format!("none of the keys in PINSCHED_SECRET_KEY opens {}", unopened.join(", ")));
    Ok(Exit::No)
}
