//! What the technician typed, checked as far as it can be without a master.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::Duration;

use reeve_wire::code::Code;
use reeve_wire::name::Name;
use reeve_wire::request::{self, LONGEST_RUN, MAX_STDIN, Text};
use reeve_wire::selector::Selector;

use crate::failure::Failure;

/// Work to be done on the servers that a selector means.
#[derive(Clone, Debug)]
pub struct Order {
    /// Which servers.
    pub selector: Selector,
    /// What to do there.
    pub work: Work,
    /// Standard input for it.
    pub stdin: Option<Vec<u8>>,
    /// The longest run; the default of its kind where nothing is said.
    pub timeout: Option<Duration>,
    /// The case that it belongs to.
    pub case: Option<String>,
    /// Why it is done.
    pub reason: Option<String>,
}

/// What to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Work {
    /// A command line as typed.
    Raw(Vec<Text>),
    /// A library item.
    Item {
        /// Its name.
        name: Name,
        /// Its arguments as `[name, value]`.
        args: Vec<(String, Text)>,
    },
}

impl Work {
    /// A command line.
    ///
    /// # Errors
    /// [`Code::ArgumentsInvalid`] when it cannot be started at all.
    pub fn raw(argv: Vec<OsString>) -> Result<Self, Failure> {
        let argv: Vec<_> = argv.into_iter().map(|word| Text(word.into_vec())).collect();
        request::runnable(&argv)?;
        Ok(Self::Raw(argv))
    }

    /// A library item with arguments `NAME=VALUE`.
    ///
    /// # Errors
    /// [`Code::ItemUnknown`] for what is no name, [`Code::ParameterInvalid`] for what is no argument.
    pub fn item(name: &str, arguments: Vec<OsString>) -> Result<Self, Failure> {
        let name = name.parse().map_err(|error| Failure::because(Code::ItemUnknown, error))?;
        let args = arguments.into_iter().map(argument).collect::<Result<_, _>>()?;
        Ok(Self::Item { name, args })
    }

    /// The item's name; `None` for a raw command.
    pub const fn item_name(&self) -> Option<&Name> {
        match self {
            Self::Raw(_) => None,
            Self::Item { name, .. } => Some(name),
        }
    }
}

fn argument(word: OsString) -> Result<(String, Text), Failure> {
    let bytes = word.into_vec();
    let at = bytes.iter().position(|byte| *byte == b'=');
    let split = at.and_then(|at| Some((bytes.get(..at)?, bytes.get(at + 1..)?)));
    let named = split.and_then(|(name, value)| Some((std::str::from_utf8(name).ok()?, value)));
    match named {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), Text(value.to_vec()))),
        Some(_) | None => {
            let word = Text(bytes).visible();
            Err(Failure::because(Code::ParameterInvalid, format_args!("{word:?} is not NAME=VALUE")))
        }
    }
}

/// Parses a selector.
///
/// # Errors
/// [`Code::SelectorInvalid`].
pub fn selector(text: &str) -> Result<Selector, Failure> {
    text.parse()
        .map_err(|error: reeve_wire::selector::SelectorError| Failure::saying(Code::SelectorInvalid, error.to_string()))
}

/// Checks a time limit.
///
/// # Errors
/// [`Code::ArgumentsInvalid`] for none at all or more than a day.
pub fn timeout(asked: Duration) -> Result<Duration, Failure> {
    if asked.as_millis() == 0 || asked > LONGEST_RUN {
        return Err(Failure::saying(Code::ArgumentsInvalid, "--timeout must be above 0 and at most 24h"));
    }
    Ok(asked)
}

/// Reads the standard input that is to be signed and sent: a file, or `-` for our own.
///
/// # Errors
/// [`Code::StdinMismatch`] when it is larger than 1 MiB, [`Code::ArgumentsInvalid`] when it cannot be read.
pub fn stdin(path: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable =
        |error: std::io::Error| Failure::saying(Code::ArgumentsInvalid, format!("--stdin {}: {error}", path.display()));
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(unreadable)?)
    };
    let mut input = Vec::new();
    let most = u64::try_from(MAX_STDIN).unwrap_or(u64::MAX);
    source.take(most.saturating_add(1)).read_to_end(&mut input).map_err(unreadable)?;
    if input.len() > MAX_STDIN {
        return Err(Failure::saying(Code::StdinMismatch, format!("--stdin {}: larger than 1 MiB", path.display()))
            .hint("copy the file to the server first"));
    }
    Ok(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_names_and_values_byte_for_byte() {
        let words = ["NAME=nginx", "EMPTY=", "QUERY=a=b"].map(OsString::from).to_vec();
        let odd = OsString::from_vec(b"RAW=\xff".to_vec());
        let Work::Item { args, .. } = Work::item("disk", [words, vec![odd]].concat()).unwrap() else {
            panic!("an item is an item");
        };
        let args: Vec<_> = args.into_iter().map(|(name, value)| (name, value.0)).collect();
        let expected: [(&str, &[u8]); 4] = [("NAME", b"nginx"), ("EMPTY", b""), ("QUERY", b"a=b"), ("RAW", b"\xff")];
        assert_eq!(args, expected.map(|(name, value)| (name.to_owned(), value.to_vec())));
    }

    #[test]
    fn what_is_no_argument_is_bad_data() {
        for word in ["nginx", "=nginx", ""] {
            assert_eq!(Work::item("disk", vec![word.into()]).unwrap_err().exit_status(), 65, "{word:?}");
        }
        assert_eq!(Work::item("No Such", vec![]).unwrap_err().exit_status(), 65);
    }

    #[test]
    fn a_command_line_that_cannot_start_is_bad_data() {
        for argv in [vec![], vec![""], vec!["a\0b"]] {
            let argv = argv.into_iter().map(OsString::from).collect();
            assert_eq!(Work::raw(argv).unwrap_err().exit_status(), 65);
        }
    }

    #[test]
    fn a_time_limit_is_within_a_day() {
        assert!(timeout(Duration::from_secs(1)).is_ok());
        assert!(timeout(LONGEST_RUN).is_ok());
        for bad in [Duration::ZERO, LONGEST_RUN + Duration::from_secs(1)] {
            assert!(timeout(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn input_is_read_up_to_a_mebibyte_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input");
        std::fs::write(&path, vec![7; MAX_STDIN]).unwrap();
        assert_eq!(stdin(&path).unwrap().len(), MAX_STDIN);
        std::fs::write(&path, vec![7; MAX_STDIN + 1]).unwrap();
        assert_eq!(stdin(&path).unwrap_err().exit_status(), 77);
        assert_eq!(stdin(&folder.path().join("missing")).unwrap_err().exit_status(), 65);
    }
}
