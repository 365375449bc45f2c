//! What is written on standard output and standard error, apart from the output of servers.
//!
//! A closed pipe is a quiet end and never a panic. Text from elsewhere is made visible before it gets here.

use std::io::{self, IsTerminal as _, Write as _};

use anstream::AutoStream;
use anstyle::Style;
use reeve_wire::output::visible;

use crate::failure::Failure;

const STRONG: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();

/// Whether a person looks at standard output.
pub(crate) fn out_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether a person looks at standard error.
pub(crate) fn err_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Writes a verb's answer.
pub(crate) fn answer(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| unwritable(&error))
}

/// Writes a value as one line of JSON.
pub(crate) fn answer_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let line =
        serde_json::to_string(value).map_err(|error| Failure::because(reeve_wire::code::Code::Internal, error))?;
    answer(&format!("{line}\n"))
}

/// Standard output that takes no more.
pub(crate) fn unwritable(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::PipeClosed;
    }
    Failure::saying(reeve_wire::code::Code::Internal, format!("standard output cannot be written: {error}"))
}

/// Says something by the way, on standard error. Whether anyone listens does not matter.
pub(crate) fn note(sentence: &str) {
    let mut err = AutoStream::auto(io::stderr());
    drop(writeln!(err, "{STRONG}reeve:{STRONG:#} {}", visible(sentence.as_bytes())));
}

/// Writes prepared text to standard error. Whether anyone listens does not matter.
pub(crate) fn aside(text: &str) {
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

/// Says something by the way, if a person looks.
pub(crate) fn remark(sentence: &str) {
    if err_is_terminal() {
        let mut err = AutoStream::auto(io::stderr());
        drop(writeln!(err, "{FAINT}reeve: {}{FAINT:#}", visible(sentence.as_bytes())));
    }
}

/// Says on standard error what failed, with its code and the way out.
pub(crate) fn complain(failure: &Failure) {
    let Failure::Told { refusal, hint, .. } = failure else {
        return;
    };
    let mut err = AutoStream::auto(io::stderr());
    let sentence = visible(refusal.reason.as_bytes());
    drop(writeln!(err, "{STRONG}reeve:{STRONG:#} {sentence} {FAINT}[{}]{FAINT:#}", refusal.code));
    if let Some(hint) = hint {
        drop(writeln!(err, "{STRONG}hint:{STRONG:#} {}", visible(hint.as_bytes())));
    }
}
