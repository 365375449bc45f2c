//! `manifest.toml`, what the author of a library item writes, turned into the [`Package`] that travels.
//!
//! Every problem of a manifest is reported at once, each with its line. What would go wrong only when a technician
//! runs the item (a placeholder that is no parameter, a default outside its limits) is a problem here.
//!
//! ```toml
//! name = "journal"
//! version = 1
//! summary = "Last lines of a service's journal"
//! level = 1
//! platforms = ["linux"]
//! timeout = "30s"
//! stdin = "none"                      # or "signed": the request brings standard input
//! argv = ["journalctl", "--no-pager", "-n", "{LINES}", "-u", "{NAME}"]
//! # script = "check.sh"               # a file beside the manifest; argv names it as "{script}"
//!
//! [[parameters]]
//! name = "NAME"
//! summary = "The service"
//! required = true
//! type = "service-name"
//!
//! [[parameters]]
//! name = "LINES"
//! summary = "How many lines"
//! default = "50"
//! type = { integer = { min = 1, max = 1000 } }   # or { choice = ["a", "b"] }, { text = { max = 64 } }
//! ```

use std::ops::Range;
use std::path::{Path, PathBuf};

use reeve_wire::level::Level;
use reeve_wire::library::{Input, MAX_PACKAGE, MAX_VALUE, Package, Parameter, ParameterKind};
use reeve_wire::name::Name;
use reeve_wire::request::{LONGEST_RUN, Text};
use reeve_wire::strict::{MAX_INTEGER, V1};
use serde::Deserialize;
use toml::Spanned;

/// What agents can put in the place of `@NAME@`.
const ADAPTERS: [&str; 1] = ["service-manager"];
/// What agents can run items on.
const PLATFORMS: [&str; 1] = ["linux"];
/// The placeholder of the script's path.
const SCRIPT: &str = "script";
/// The longest summary, in characters: one line of a list.
const MAX_SUMMARY: usize = 100;

/// Something wrong in a manifest.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{path}:{line}: {message}", path = .path.display())]
pub struct Problem {
    /// The manifest.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Manifest {
    name: Spanned<Name>,
    version: Spanned<u64>,
    summary: Spanned<String>,
    level: Level,
    platforms: Spanned<Vec<String>>,
    timeout: Spanned<String>,
    #[serde(default = "no_input")]
    stdin: Input,
    argv: Spanned<Vec<Spanned<String>>>,
    script: Option<Spanned<String>>,
    #[serde(default)]
    parameters: Vec<Spanned<Described>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Described {
    name: Spanned<String>,
    summary: Spanned<String>,
    #[serde(default)]
    required: bool,
    default: Option<Spanned<String>>,
    #[serde(rename = "type")]
    kind: Spanned<ParameterKind>,
}

const fn no_input() -> Input {
    Input::None
}

/// Reads the manifest of the item in `folder`, with its script.
///
/// # Errors
/// Every problem, in the order of the file.
pub fn read(folder: &Path) -> Result<Package, Vec<Problem>> {
    let path = folder.join("manifest.toml");
    let at = |line, message: &dyn std::fmt::Display| Problem { path: path.clone(), line, message: message.to_string() };
    let text = std::fs::read_to_string(&path).map_err(|error| vec![at(1, &error)])?;
    let manifest: Manifest = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(&text, span.start));
        vec![at(line, &error.message())]
    })?;
    let mut review = Review { manifest: &manifest, problems: Vec::new() };
    review.facts(folder);
    review.parameters();
    review.argv();
    let script = review.script(folder);
    let mut problems = review.problems;
    if problems.is_empty() {
        let package = manifest.into_package(script);
        match serde_json::to_vec(&package) {
            Ok(bytes) if bytes.len() <= MAX_PACKAGE => return Ok(package),
            Ok(bytes) => {
                let message = format!("the item has {} bytes with its script; the most is {MAX_PACKAGE}", bytes.len());
                problems.push((0..0, message));
            }
            Err(error) => problems.push((0..0, error.to_string())),
        }
    }
    problems.sort_by_key(|(span, _)| span.start);
    Err(problems.into_iter().map(|(span, message)| at(line_of(&text, span.start), &message)).collect())
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

impl Manifest {
    fn into_package(self, script: Option<String>) -> Package {
        let timeout = humantime::parse_duration(self.timeout.get_ref()).unwrap_or_default();
        Package {
            v: V1,
            name: self.name.into_inner(),
            version: self.version.into_inner(),
            summary: self.summary.into_inner(),
            level: self.level,
            platforms: self.platforms.into_inner(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            parameters: self.parameters.into_iter().map(|described| described.into_inner().into_parameter()).collect(),
            argv: self.argv.into_inner().into_iter().map(Spanned::into_inner).collect(),
            stdin: self.stdin,
            script,
        }
    }
}

impl Described {
    fn into_parameter(self) -> Parameter {
        Parameter {
            name: self.name.into_inner(),
            summary: self.summary.into_inner(),
            required: self.required,
            default: self.default.map(Spanned::into_inner),
            kind: self.kind.into_inner(),
        }
    }
}

/// Goes through a manifest that has the right shape and collects what is wrong all the same.
struct Review<'a> {
    manifest: &'a Manifest,
    problems: Vec<(Range<usize>, String)>,
}

/// What an element of `argv` is.
#[derive(Debug, Eq, PartialEq)]
enum Element<'a> {
    /// `{NAME}`
    Placeholder(&'a str),
    /// `@NAME@`
    Adapter(&'a str),
    /// Itself.
    Literal(&'a str),
}

impl<'a> Element<'a> {
    fn of(text: &'a str) -> Self {
        let inner = |open: char, close: char| text.strip_prefix(open)?.strip_suffix(close);
        match (inner('{', '}'), inner('@', '@')) {
            (Some(name), _) => Self::Placeholder(name),
            (None, Some(name)) => Self::Adapter(name),
            (None, None) => Self::Literal(text),
        }
    }
}

impl Review<'_> {
    fn problem(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.problems.push((span, message.into()));
    }

    fn facts(&mut self, folder: &Path) {
        let Manifest { name, version, summary, platforms, timeout, .. } = self.manifest;
        if folder.file_name().and_then(std::ffi::OsStr::to_str) != Some(name.get_ref().as_str()) {
            self.problem(name.span(), format!("the item {} must lie in a folder of that name", name.get_ref()));
        }
        if !(1..=MAX_INTEGER).contains(version.get_ref()) {
            self.problem(version.span(), "a version is a whole number from 1 on");
        }
        self.one_line(summary);
        for platform in platforms.get_ref().iter().filter(|platform| !PLATFORMS.contains(&platform.as_str())) {
            self.problem(platforms.span(), format!("there are no agents for {platform:?}; write [\"linux\"]"));
        }
        if platforms.get_ref().is_empty() {
            self.problem(platforms.span(), "an item for no platform runs nowhere; write [\"linux\"]");
        }
        match humantime::parse_duration(timeout.get_ref()) {
            Ok(length) if length.as_millis() > 0 && length <= LONGEST_RUN => {}
            _ => self.problem(timeout.span(), "a timeout is a duration such as \"30s\" or \"5m\", of at most 24h"),
        }
    }

    fn one_line(&mut self, summary: &Spanned<String>) {
        let text = summary.get_ref();
        if text.is_empty() || text.chars().count() > MAX_SUMMARY || text.chars().any(char::is_control) {
            self.problem(summary.span(), format!("a summary is one line of 1 to {MAX_SUMMARY} characters"));
        }
    }

    fn parameters(&mut self) {
        let mut names = std::collections::BTreeSet::new();
        for described in &self.manifest.parameters {
            let Described { name, summary, required, default, kind } = described.get_ref();
            let text = name.get_ref().as_str();
            let inner = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
            let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase());
            if !first || text.len() > 32 || !text.bytes().all(inner) {
                self.problem(name.span(), "a parameter's name is 1 to 32 of A-Z 0-9 _ and begins with a letter");
            }
            if !names.insert(text) {
                self.problem(name.span(), format!("there are two parameters {text}"));
            }
            self.one_line(summary);
            self.kind(kind);
            if let Some(default) = default {
                if *required {
                    self.problem(default.span(), format!("{text} is required, so its default is never used"));
                }
                if let Err(why) = accepts(described.get_ref(), default.get_ref()) {
                    self.problem(default.span(), format!("its own limits refuse this default: {why}"));
                }
            }
            let placeholder = format!("{{{text}}}");
            if !self.manifest.argv.get_ref().iter().any(|element| *element.get_ref() == placeholder) {
                self.problem(name.span(), format!("argv has no element \"{placeholder}\", so {text} changes nothing"));
            }
        }
    }

    fn kind(&mut self, kind: &Spanned<ParameterKind>) {
        let far = |number: i64| number.unsigned_abs() > MAX_INTEGER;
        let most = u32::try_from(MAX_VALUE).unwrap_or(u32::MAX);
        let wrong = match kind.get_ref() {
            ParameterKind::ServiceName => None,
            ParameterKind::Integer { min, max } if min > max => Some("min is above max".to_owned()),
            ParameterKind::Integer { min, max } if far(*min) || far(*max) => {
                Some("an integer's limits lie within 2^53".to_owned())
            }
            ParameterKind::Integer { .. } => None,
            ParameterKind::Choice(choices) => wrong_choice(choices),
            ParameterKind::Text { max } if !(1..=most).contains(max) => {
                Some(format!("a text has a max of 1 to {most} bytes"))
            }
            ParameterKind::Text { .. } => None,
        };
        if let Some(wrong) = wrong {
            self.problem(kind.span(), wrong);
        }
    }

    fn argv(&mut self) {
        let argv = &self.manifest.argv;
        if argv.get_ref().first().is_none_or(|program| program.get_ref().is_empty()) {
            self.problem(argv.span(), "argv needs a program");
        }
        for (index, element) in argv.get_ref().iter().enumerate() {
            let wrong = match Element::of(element.get_ref()) {
                Element::Placeholder(SCRIPT) if self.manifest.script.is_some() => None,
                Element::Placeholder(SCRIPT) => Some("{script} needs `script = \"FILE\"`".to_owned()),
                Element::Placeholder(name) if !self.is_parameter(name) => {
                    Some(format!("\"{{{name}}}\" is read as a placeholder, and there is no parameter {name:?}"))
                }
                Element::Placeholder(name) if index == 0 => {
                    Some(format!("the program is the author's choice, not the technician's: it cannot be {{{name}}}"))
                }
                Element::Placeholder(_) => None,
                Element::Adapter(name) if ADAPTERS.contains(&name) => None,
                Element::Adapter(name) => {
                    Some(format!("agents know no adapter @{name}@; there is @{}@", ADAPTERS.join("@, @")))
                }
                Element::Literal(text) => self.wrong_literal(text),
            };
            if let Some(wrong) = wrong {
                self.problem(element.span(), wrong);
            }
        }
    }

    /// A value inside a longer element would be glued into an option, a path or a shell line.
    fn wrong_literal(&self, text: &str) -> Option<String> {
        if text.contains('\0') {
            return Some("an argument cannot contain a NUL byte".to_owned());
        }
        if let Some(adapter) = ADAPTERS.iter().find(|adapter| text.contains(&format!("@{adapter}@"))) {
            return Some(format!("@{adapter}@ must be an element of its own"));
        }
        let glued = placeholders_in(text).find(|(name, of_shell)| {
            let declared = self.is_parameter(name) || *name == SCRIPT;
            declared || (!of_shell && name.bytes().all(|byte| !byte.is_ascii_lowercase()))
        });
        glued.map(|(name, _)| format!("{{{name}}} must be an element of its own, not part of a longer one"))
    }

    fn is_parameter(&self, name: &str) -> bool {
        self.manifest.parameters.iter().any(|described| described.get_ref().name.get_ref() == name)
    }

    fn script(&mut self, folder: &Path) -> Option<String> {
        let name = self.manifest.script.as_ref()?;
        let text = name.get_ref().as_str();
        if text.is_empty() || text.starts_with('.') || text.contains('/') {
            self.problem(name.span(), "a script is a file beside the manifest, named without a path");
            return None;
        }
        let unused = !self.manifest.argv.get_ref().iter().any(|element| element.get_ref() == "{script}");
        if unused {
            self.problem(name.span(), "argv has no element \"{script}\", so the script is never run");
        }
        let path = folder.join(text);
        match std::fs::symlink_metadata(&path) {
            Ok(facts) if !facts.is_file() => {
                self.problem(name.span(), format!("{text} is no plain file"));
                return None;
            }
            _ => {}
        }
        match std::fs::read_to_string(&path) {
            Ok(script) => Some(script),
            Err(error) => {
                self.problem(name.span(), format!("{text}: {error}"));
                None
            }
        }
    }
}

fn wrong_choice(choices: &[String]) -> Option<String> {
    let unique: std::collections::BTreeSet<_> = choices.iter().collect();
    let unfit =
        |choice: &&String| choice.is_empty() || choice.len() > MAX_VALUE || choice.chars().any(char::is_control);
    if choices.is_empty() {
        Some("a choice of nothing accepts nothing".to_owned())
    } else if unique.len() != choices.len() {
        Some("a choice stands there twice".to_owned())
    } else {
        choices.iter().find(unfit).map(|choice| format!("no technician can choose {choice:?}"))
    }
}

/// Each `{word}` in a text, and whether a `$` before it makes it the shell's own.
fn placeholders_in(text: &str) -> impl Iterator<Item = (&str, bool)> {
    text.match_indices('{').filter_map(|(at, _)| {
        let (before, rest) = text.split_at_checked(at)?;
        let (word, _) = rest.strip_prefix('{')?.split_once('}')?;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        (!word.is_empty() && word.bytes().all(is_word)).then(|| (word, before.ends_with('$')))
    })
}

/// Asks the code that will check technicians' values.
fn accepts(described: &Described, value: &str) -> Result<(), String> {
    let parameter = Parameter {
        name: described.name.get_ref().clone(),
        summary: String::new(),
        required: false,
        default: None,
        kind: described.kind.get_ref().clone(),
    };
    let args = [(parameter.name.clone(), Text::from(value))];
    let probe = Package {
        v: V1,
        name: "probe".parse().map_err(|_| "it cannot be tried".to_owned())?,
        version: 1,
        summary: String::new(),
        level: Level::One,
        platforms: Vec::new(),
        timeout_ms: 1,
        parameters: vec![parameter],
        argv: Vec::new(),
        stdin: Input::None,
        script: None,
    };
    let refused = |refusal: reeve_wire::code::Refusal| {
        refusal
            .reason
            .rsplit_once(&format!("{}: ", described.name.get_ref()))
            .map_or(refusal.reason.clone(), |(_, why)| why.to_owned())
    };
    probe.values(&args).map(|_| ()).map_err(refused)
}

#[cfg(test)]
mod tests;
