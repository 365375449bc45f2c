//! Where the passphrase of the CA's keys comes from: a file, a command of the CA's configuration, or a person.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reeve_wire::keyfile::{self, SecretFileError};
use serde::Deserialize;
use zeroize::Zeroizing;

/// The CA's own configuration, in its folder.
pub const CONFIG: &str = "ca.toml";

/// A source of the passphrase. It is asked only when a key is needed.
#[derive(Clone)]
pub enum Passphrase {
    /// This one.
    Given(Zeroizing<String>),
    /// The content of a file that nobody else can read, without its last newline.
    File(PathBuf),
    /// What a command prints, without its last newline.
    Command(Vec<String>),
    /// A person at the terminal.
    Prompt,
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given(..)"),
            Self::File(path) => write!(f, "File({path:?})"),
            Self::Command(argv) => write!(f, "Command({argv:?})"),
            Self::Prompt => f.write_str("Prompt"),
        }
    }
}

/// A passphrase that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// Nothing would be protected by it.
    #[error("the passphrase is empty; the CA's keys must not lie about unprotected")]
    Empty,
    /// Typed in two ways.
    #[error("the two passphrases are not the same; nothing was made")]
    Differ,
    /// The file must not be used, or the configuration.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The configuration is wrong.
    #[error("{path}: {why}", path = .path.display())]
    Config {
        /// The configuration.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The command did not give it.
    #[error("the passphrase-command {program:?} gives no passphrase: {why}")]
    Command {
        /// What was started.
        program: String,
        /// Why.
        why: String,
    },
    /// Nobody can be asked.
    #[error("nobody can be asked for the passphrase ({0}); give --passphrase-file, or passphrase-command in ca.toml")]
    NoTerminal(std::io::Error),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    passphrase_command: Option<Vec<String>>,
}

impl Passphrase {
    /// The source for the CA in `folder`: the file if one is named, else the command of `ca.toml`, else a prompt.
    ///
    /// # Errors
    /// When `ca.toml` is there and wrong.
    pub fn for_ca(folder: &Path, file: Option<&Path>) -> Result<Self, PassphraseError> {
        if let Some(file) = file {
            return Ok(Self::File(file.to_owned()));
        }
        let path = folder.join(CONFIG);
        if !path.exists() {
            return Ok(Self::Prompt);
        }
        let text = keyfile::read_secret(&path)?;
        let config: Config = toml::from_str(&text)
            .map_err(|error| PassphraseError::Config { path: path.clone(), why: error.to_string() })?;
        match config.passphrase_command {
            Some(argv) if argv.is_empty() => Err(PassphraseError::Config {
                path,
                why: "passphrase-command is empty; write [\"PROGRAM\", \"ARGUMENT\"]".to_owned(),
            }),
            Some(argv) => Ok(Self::Command(argv)),
            None => Ok(Self::Prompt),
        }
    }

    /// The passphrase of a key that there is.
    ///
    /// # Errors
    /// When it cannot be had or is empty.
    pub fn read(&self, prompt: &str) -> Result<Zeroizing<String>, PassphraseError> {
        let passphrase = match self {
            Self::Given(passphrase) => passphrase.clone(),
            Self::File(path) => without_newline(&keyfile::read_secret(path)?),
            Self::Command(argv) => printed_by(argv)?,
            Self::Prompt => asked(prompt)?,
        };
        if passphrase.is_empty() { Err(PassphraseError::Empty) } else { Ok(passphrase) }
    }

    /// A passphrase for keys that are about to be made; a person types it twice.
    ///
    /// # Errors
    /// When it cannot be had, is empty, or was typed in two ways.
    pub fn choose(&self) -> Result<Zeroizing<String>, PassphraseError> {
        let chosen = self.read("Passphrase for the CA's keys")?;
        if matches!(self, Self::Prompt) && asked("The same again")? != chosen {
            return Err(PassphraseError::Differ);
        }
        Ok(chosen)
    }
}

fn asked(prompt: &str) -> Result<Zeroizing<String>, PassphraseError> {
    rpassword::prompt_password(format!("{prompt}: ")).map(Zeroizing::new).map_err(PassphraseError::NoTerminal)
}

fn printed_by(argv: &[String]) -> Result<Zeroizing<String>, PassphraseError> {
    let program = argv.first().cloned().unwrap_or_default();
    let failed = |why: String| PassphraseError::Command { program: program.clone(), why };
    let mut command = Command::new(&program);
    command.args(argv.iter().skip(1)).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    let printed = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(failed(format!("it ended with {}", output.status)));
    }
    let text = std::str::from_utf8(&printed).map_err(|_| failed("it printed what is not UTF-8".to_owned()))?;
    Ok(without_newline(text))
}

fn without_newline(text: &str) -> Zeroizing<String> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    Zeroizing::new(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_before_the_command_and_the_command_before_the_prompt() {
        let folder = tempfile::tempdir().unwrap();
        let chosen = |file| Passphrase::for_ca(folder.path(), file).unwrap();
        assert!(matches!(chosen(None), Passphrase::Prompt));
        keyfile::write_secret(&folder.path().join(CONFIG), b"passphrase-command = ['echo', 'a b']").unwrap();
        assert_eq!(*chosen(None).read("").unwrap(), "a b");
        let file = folder.path().join("passphrase");
        keyfile::write_secret(&file, b"from a file\r\n").unwrap();
        assert_eq!(*chosen(Some(&file)).read("").unwrap(), "from a file");
    }

    #[test]
    fn an_empty_passphrase_is_refused_wherever_it_comes_from() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passphrase");
        keyfile::write_secret(&file, b"\n").unwrap();
        for source in [
            Passphrase::Given(String::new().into()),
            Passphrase::File(file),
            Passphrase::Command(vec!["true".to_owned()]),
        ] {
            assert!(matches!(source.choose(), Err(PassphraseError::Empty)), "{source:?}");
        }
    }

    #[test]
    fn a_command_that_fails_and_a_wrong_configuration_are_refused() {
        for argv in [&["false"][..], &["/no/such/program"], &["printf", "\\377"]] {
            let source = Passphrase::Command(argv.iter().map(|word| (*word).to_owned()).collect());
            assert!(matches!(source.read(""), Err(PassphraseError::Command { .. })), "{argv:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        for text in ["passphrase-command = []", "passphrase-comand = ['a']", "passphrase-command = 'a'"] {
            keyfile::write_secret(&folder.path().join(CONFIG), text.as_bytes()).unwrap();
            let refused = Passphrase::for_ca(folder.path(), None);
            assert!(matches!(refused, Err(PassphraseError::Config { .. })), "{text}");
        }
    }

    #[test]
    fn a_passphrase_is_never_printed() {
        let given = Passphrase::Given("hunter2".to_owned().into());
        assert!(!format!("{given:?}").contains("hunter2"));
    }
}
