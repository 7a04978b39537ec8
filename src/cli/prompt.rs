//! Reads what is not to stand on a command line: from a pipe, or from a person whose terminal does not show it.

use std::io::{self, BufRead, IsTerminal, Read};

use anyhow::Context;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::SecretString;

use crate::cli::output::Printer;

/// More than this is no password and no variable.
const LONGEST: u64 = 1024 * 1024;

/// What stands on stdin: all that a pipe has, or the line that a person types after `question`.
pub(crate) fn secret(printer: Printer, question: &str) -> anyhow::Result<SecretString> {
    let mut text = String::new();
    if !io::stdin().is_terminal() {
        let read = io::stdin().lock().take(LONGEST + 1).read_to_string(&mut text);
        read.context("could not read stdin")?;
        anyhow::ensure!(text.len() as u64 <= LONGEST, "stdin has more than {LONGEST} bytes");
        // `echo` ends its line; nobody's secret does.
        let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        return Ok(line.into());
    }
    printer.say(&format!("{question} (it is not shown):"));
    let _silence = Silence::begin().context("could not keep the terminal from showing what is typed")?;
    io::stdin().lock().read_line(&mut text).context("could not read stdin")?;
    Ok(text.trim_end_matches(['\n', '\r']).into())
}

/// Whether a person sits at stdin.
pub(crate) fn is_person() -> bool {
    io::stdin().is_terminal()
}

/// Whether the person at the terminal says yes to `question`; everything else is a no.
pub(crate) fn confirm(printer: Printer, question: &str) -> anyhow::Result<bool> {
    printer.say(&format!("{question} [y/N]"));
    let mut text = String::new();
    io::stdin().lock().read_line(&mut text).context("could not read stdin")?;
    Ok(matches!(text.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Holds the terminal's echo off until it is dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
