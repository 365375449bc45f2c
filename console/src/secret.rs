//! Secrets from a person or from a program, never from standard input.

use std::process::Stdio;
use std::time::Duration;

use reeve_link::tasks::Tasks;
use reeve_wire::code::Code;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use zeroize::{Zeroize as _, Zeroizing};

use crate::config::PasswordCommand;
use crate::failure::Failure;

/// The longest password, in bytes.
const LONGEST: u64 = 1024;
/// How long a password command may take: it may ask a person itself.
const COMMAND_WITHIN: Duration = Duration::from_secs(120);

/// Asks on the terminal, without an echo.
pub(crate) async fn ask(tasks: &Tasks, prompt: String) -> Result<Zeroizing<String>, Failure> {
    let asked = tasks.spawn_blocking("prompt", move || rpassword::prompt_password(prompt)).await;
    let asked = asked.map_err(|error| Failure::because(Code::Internal, error))?;
    asked.map(Zeroizing::new).map_err(|error| {
        Failure::saying(Code::PolicyConfig, format!("a secret is needed and there is no terminal to ask on: {error}"))
            .hint("set password-command in the configuration, or use a key file without passphrase")
    })
}

/// What a program prints, without the end of the line.
pub(crate) async fn from_command(command: &PasswordCommand) -> Result<Zeroizing<String>, Failure> {
    let read = tokio::time::timeout(COMMAND_WITHIN, run(command)).await;
    read.unwrap_or_else(|_| Err(wrong(command, &format_args!("it took longer than {COMMAND_WITHIN:?}"))))
}

async fn run(command: &PasswordCommand) -> Result<Zeroizing<String>, Failure> {
    let mut started = Command::new(&command.program);
    started.args(&command.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = started.spawn().map_err(|error| wrong(command, &error))?;
    let mut secret = Zeroizing::new(Vec::with_capacity(usize::try_from(LONGEST).unwrap_or_default() + 1));
    if let Some(output) = child.stdout.take() {
        output.take(LONGEST + 1).read_to_end(&mut secret).await.map_err(|error| wrong(command, &error))?;
    }
    if u64::try_from(secret.len()).unwrap_or(u64::MAX) > LONGEST {
        return Err(wrong(command, &"it printed more than a password"));
    }
    let status = child.wait().await.map_err(|error| wrong(command, &error))?;
    if !status.success() {
        return Err(wrong(command, &format_args!("it ended with {status}")));
    }
    line(&secret).ok_or_else(|| wrong(command, &"it did not print one line of text"))
}

fn line(printed: &[u8]) -> Option<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::from_utf8(printed.to_vec()).ok()?);
    let length = text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).unwrap_or(&text).len();
    text.truncate(length);
    if text.contains(['\n', '\r', '\0']) {
        text.zeroize();
        return None;
    }
    Some(text)
}

fn wrong(command: &PasswordCommand, why: &dyn std::fmt::Display) -> Failure {
    Failure::saying(Code::PolicyConfig, format!("password-command {:?}: {why}", command.program))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> PasswordCommand {
        PasswordCommand { program: "sh".into(), arguments: vec!["-c".into(), script.into()] }
    }

    #[tokio::test]
    async fn a_password_is_one_line_without_its_end() {
        for (script, password) in [
            ("printf 'correct horse\\n'", "correct horse"),
            ("printf ' spaces stay '", " spaces stay "),
            ("printf 'x\\r\\n'", "x"),
        ] {
            assert_eq!(from_command(&shell(script)).await.unwrap().as_str(), password, "{script}");
        }
    }

    #[tokio::test]
    async fn a_command_that_prints_no_password_is_a_fault_of_the_configuration() {
        for (script, why) in [
            ("exit 3", "exit status: 3"),
            ("printf 'a\\nb\\n'", "one line of text"),
            ("head -c 2000 /dev/zero | tr '\\0' x", "more than a password"),
        ] {
            let failure = from_command(&shell(script)).await.unwrap_err();
            assert_eq!(failure.exit_status(), 78, "{script}");
            assert!(failure.to_string().contains(why), "{failure}");
        }
        let missing = PasswordCommand { program: "/nowhere/at/all".into(), arguments: vec![] };
        assert_eq!(from_command(&missing).await.unwrap_err().exit_status(), 78);
    }

    #[tokio::test]
    async fn a_password_command_gets_no_input_of_ours() {
        assert_eq!(from_command(&shell("cat; echo end")).await.unwrap().as_str(), "end");
    }
}
