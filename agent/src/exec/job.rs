//! What is to be run: an argument list that is known to be well formed, and everything that surrounds it.
//!
//! Whoever makes a [`Job`] has verified the signed request; nothing in here comes from the agent's own process.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use reeve_wire::id::Salt;

use super::environment::Environment;

/// The most bytes that all arguments of one program may have together, each counted with its closing NUL.
pub const MAX_ARGV: usize = 1024 * 1024;

/// The most bytes of one output stream that are kept unless the operation says otherwise: 256 MiB.
pub const DEFAULT_MAX_OUTPUT: u64 = 256 * 1024 * 1024;

/// One program to run, and its surroundings.
#[derive(Clone, Debug)]
pub struct Job {
    /// The program and its arguments.
    pub argv: Argv,
    /// What the program reads.
    pub stdin: Stdin,
    /// How long it may run, its background children's output included.
    pub timeout: Duration,
    /// The most bytes of each output stream that are handed on.
    pub max_output: u64,
    /// Every variable that the program sees.
    pub environment: Environment,
    /// Where the program starts.
    pub directory: PathBuf,
    /// What the commitments to the two streams are salted with.
    pub salts: Salts,
}

/// One salt for each output stream.
#[derive(Clone, Copy, Debug)]
pub struct Salts {
    /// For stdout.
    pub stdout: Salt,
    /// For stderr.
    pub stderr: Salt,
}

impl Salts {
    /// Two fresh random salts.
    pub fn random() -> Self {
        Self { stdout: Salt::random(), stderr: Salt::random() }
    }
}

/// What a program reads from its standard input.
#[derive(Clone, Debug)]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// These bytes and then the end. The program gets them as a sealed file in memory: one that reads nothing holds
    /// up nobody, and nobody can swap them.
    Bytes(Bytes),
    /// These bytes are a script for the program, an interpreter: it opens them as
    /// [`SCRIPT_PATH`](super::memfd::SCRIPT_PATH), which belongs among its arguments. What the script's own commands
    /// read ends at once, as with [`Null`](Self::Null).
    Script(Bytes),
}

/// A program and its arguments, as they will be handed to the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Argv {
    program: OsString,
    arguments: Vec<OsString>,
}

/// Why a list of arguments cannot be run.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ArgvError {
    /// No program.
    #[error("there is no program to run; give at least its name")]
    Empty,
    /// A NUL byte, which would end an argument early.
    #[error("argument {0} contains a NUL byte; the kernel would cut it there, so it is refused")]
    Nul(usize),
    /// More than [`MAX_ARGV`].
    #[error("the arguments have {0} bytes and may have {MAX_ARGV}; send what is large as stdin")]
    TooLong(usize),
}

impl Argv {
    /// Checks `argv`, whose first element names the program.
    ///
    /// # Errors
    ///
    /// An empty list or program name, a NUL byte, more than [`MAX_ARGV`] bytes.
    pub fn new(argv: Vec<Vec<u8>>) -> Result<Self, ArgvError> {
        let total = argv.iter().fold(0_usize, |total, argument| total.saturating_add(argument.len()).saturating_add(1));
        if total > MAX_ARGV {
            return Err(ArgvError::TooLong(total));
        }
        if let Some(position) = argv.iter().position(|argument| argument.contains(&0)) {
            return Err(ArgvError::Nul(position));
        }
        let mut rest = argv.into_iter().map(OsString::from_vec);
        let program = rest.next().filter(|program| !program.is_empty()).ok_or(ArgvError::Empty)?;
        Ok(Self { program, arguments: rest.collect() })
    }

    /// The program as it was named, a path or a bare name.
    pub fn program(&self) -> &OsString {
        &self.program
    }

    /// What follows the program.
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// Whether the program is a bare name, to be looked for on the fixed path.
    pub(super) fn is_bare_name(&self) -> bool {
        !self.program.as_bytes().contains(&b'/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(elements: &[&[u8]]) -> Result<Argv, ArgvError> {
        Argv::new(elements.iter().map(|element| element.to_vec()).collect())
    }

    #[test]
    fn an_argument_list_that_the_kernel_would_read_otherwise_is_refused() {
        assert_eq!(argv(&[]), Err(ArgvError::Empty));
        assert_eq!(argv(&[b"", b"x"]), Err(ArgvError::Empty));
        assert_eq!(argv(&[b"tr\0ue"]), Err(ArgvError::Nul(0)));
        assert_eq!(argv(&[b"true", b"", b"a\0"]), Err(ArgvError::Nul(2)));
    }

    #[test]
    fn the_arguments_together_have_at_most_one_mebibyte() {
        let exactly = vec![b"true".to_vec(), vec![b'x'; MAX_ARGV - 6]];
        assert!(Argv::new(exactly).is_ok());

        let one_more = vec![b"true".to_vec(), vec![b'x'; MAX_ARGV - 5]];
        assert_eq!(Argv::new(one_more), Err(ArgvError::TooLong(MAX_ARGV + 1)));
    }

    #[test]
    fn arguments_that_look_like_options_or_text_for_a_shell_are_left_alone() {
        let odd: &[&[u8]] = &[b"prog", b"--", b"-f", b"$(reboot)", b"; rm", b"@file", b"", b"\xff\xfe"];
        let argv = argv(odd).unwrap();

        let kept: Vec<&[u8]> = argv.arguments().iter().map(|argument| argument.as_bytes()).collect();
        assert_eq!(kept, odd[1..]);
    }
}
