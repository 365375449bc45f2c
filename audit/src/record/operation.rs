//! The records of an operation: what was asked, and how it ended on each host.

use reeve_wire::id::{Digest, OperationId, Salt};
use reeve_wire::level::Level;
use reeve_wire::name::{HostName, Name};
use reeve_wire::receipt::Outcome;
use reeve_wire::strict::present;
use serde::{Deserialize, Serialize};

use super::{Evidence, Shelf};
use crate::content::{Content, ContentError, Pointer};
use crate::text::Text;

/// The most bytes of a command that an intent shows; the header has it whole.
const MAX_COMMAND: usize = 4096;

/// The most bytes of any other text.
const MAX_TEXT: usize = 1024;

/// The signed request of an operation, once for all its hosts.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The operation.
    pub operation: OperationId,
    /// SHA-256 over the request's signed bytes.
    pub digest: Digest,
    /// The request: two SSH strings, JSON and SSHSIG.
    pub request: Evidence,
    /// The delegation of the session key, in the same form; null when the technician's own key signed.
    #[serde(deserialize_with = "present")]
    pub delegation: Option<Evidence>,
    /// The technician's certificate, as its wire blob.
    pub certificate: Evidence,
    /// The standard input that came with the request; null for none. For a script it is what was run.
    #[serde(deserialize_with = "present")]
    pub stdin: Option<Pointer>,
}

/// A library item.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// Its version, as the library writes it.
    pub version: String,
    /// SHA-256 over its signed bytes.
    pub digest: Digest,
}

/// What a technician asked to be done, for a reader; the signed header is what was really sent.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The kind of the request: `raw`, `item`, `shell` and so on.
    pub action: String,
    /// The library item; null for a raw command.
    #[serde(deserialize_with = "present")]
    pub item: Option<Item>,
    /// The command on one line: what `--text` searches.
    pub text: Text,
    /// A raw command's words, or an item's parameters as `NAME=VALUE`; null when they are too long to show.
    #[serde(deserialize_with = "present")]
    pub args: Option<Vec<Text>>,
}

impl Command {
    /// A raw command (`action` such as `raw`), its words as they were sent.
    pub fn raw(action: &str, argv: &[impl AsRef<[u8]>]) -> Self {
        let words: Vec<Vec<u8>> = argv.iter().map(|word| quoted(word.as_ref())).collect();
        let args = argv.iter().map(|word| Text::from(word.as_ref())).collect();
        Self { action: action.to_owned(), item: None, text: words.join(b" ".as_slice()).into(), args: Some(args) }
    }

    /// A library item with its parameters; a secret one is given without a value.
    pub fn item(item: Item, parameters: &[(impl AsRef<str>, Option<impl AsRef<[u8]>>)]) -> Self {
        let assignments: Vec<Vec<u8>> = parameters
            .iter()
            .map(|(name, value)| {
                let value = value.as_ref().map_or(b"(secret)".as_slice(), AsRef::as_ref);
                [name.as_ref().as_bytes(), b"=", value].concat()
            })
            .collect();
        let mut words = vec![item.name.clone().into_bytes()];
        words.extend(assignments.iter().map(|assignment| quoted(assignment)));
        Self {
            action: "item".to_owned(),
            item: Some(item),
            text: words.join(b" ".as_slice()).into(),
            args: Some(assignments.into_iter().map(Text::from).collect()),
        }
    }

    fn bounded(mut self) -> Self {
        let length = self.args.iter().flatten().map(|arg| arg.as_bytes().len() + 4).sum::<usize>();
        if length > MAX_COMMAND {
            self.args = None;
        }
        self.text = self.text.cut(MAX_COMMAND);
        self
    }
}

/// A word as a shell would need it, so that one line shows where words begin and end.
fn quoted(word: &[u8]) -> Vec<u8> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(b) || *b >= 0x80;
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    let mut quoted = vec![b'\''];
    for byte in word {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// Who asked for what where, and by what right: the same fields whether it was allowed or refused.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The operation.
    pub operation: OperationId,
    /// The host; null when a selector matched none that the technician may know of.
    #[serde(deserialize_with = "present")]
    pub host: Option<HostName>,
    /// The selector as the technician typed it.
    #[serde(deserialize_with = "present")]
    pub selector: Option<Text>,
    /// The technician.
    pub user: Name,
    /// The technician's id in the directory (objectSid or entryUUID).
    #[serde(deserialize_with = "present")]
    pub user_id: Option<String>,
    /// The fingerprint of the key that signed, `SHA256:…`.
    #[serde(deserialize_with = "present")]
    pub key: Option<String>,
    /// The technician's network address.
    #[serde(deserialize_with = "present")]
    pub address: Option<String>,
    /// What was asked; null before the request came.
    #[serde(deserialize_with = "present")]
    pub command: Option<Command>,
    /// The level that it needs.
    #[serde(deserialize_with = "present")]
    pub level_required: Option<Level>,
    /// The level that the technician holds there.
    #[serde(deserialize_with = "present")]
    pub level_held: Option<Level>,
    /// The group through which the level is held.
    #[serde(deserialize_with = "present")]
    pub via_group: Option<String>,
    /// The rule that decided.
    #[serde(deserialize_with = "present")]
    pub rule: Option<String>,
    /// The directory server that answered.
    #[serde(deserialize_with = "present")]
    pub directory: Option<String>,
    /// How old its answer was when it was used, in ms.
    #[serde(deserialize_with = "present")]
    pub directory_age_ms: Option<u64>,
    /// The case that the technician named.
    #[serde(deserialize_with = "present")]
    pub case: Option<Text>,
    /// The reason that the technician gave.
    #[serde(deserialize_with = "present")]
    pub reason_given: Option<Text>,
    /// SHA-256 over the signed request.
    #[serde(deserialize_with = "present")]
    pub request: Option<Digest>,
    /// The salt of this host's target in the request's tree.
    #[serde(deserialize_with = "present")]
    pub target_salt: Option<Salt>,
    /// The connection of the agent that it goes to.
    #[serde(deserialize_with = "present")]
    pub agent: Option<String>,
}

impl Order {
    /// An operation of a technician; the other fields are set by struct update.
    pub const fn new(operation: OperationId, user: Name) -> Self {
        Self {
            operation,
            host: None,
            selector: None,
            user,
            user_id: None,
            key: None,
            address: None,
            command: None,
            level_required: None,
            level_held: None,
            via_group: None,
            rule: None,
            directory: None,
            directory_age_ms: None,
            case: None,
            reason_given: None,
            request: None,
            target_salt: None,
            agent: None,
        }
    }

    /// With every text short enough for a record: the signed header has what is cut here.
    pub(super) fn bounded(self) -> Self {
        let cut = |text: Option<Text>| text.map(|text| text.cut(MAX_TEXT));
        let short = |text: Option<String>| text.map(|text| sentence(&text));
        Self {
            selector: cut(self.selector),
            user_id: short(self.user_id),
            key: short(self.key),
            address: short(self.address),
            command: self.command.map(Command::bounded),
            via_group: short(self.via_group),
            rule: short(self.rule),
            directory: short(self.directory),
            case: cut(self.case),
            reason_given: cut(self.reason_given),
            agent: short(self.agent),
            ..self
        }
    }
}

/// A sentence of ours or of a peer, short enough for a record.
pub(super) fn sentence(text: &str) -> String {
    Text::from(text).cut(MAX_TEXT).to_lossy()
}

/// One host is about to be sent one operation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Who asked for what where, and by what right.
    pub order: Order,
    /// When its result is due, in µs since 1970 UTC: past it an operation without a result is overdue.
    pub deadline: u64,
}

/// An operation, or its part for one host, was refused.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// Who asked for what where.
    pub order: Order,
    /// The stable code.
    pub code: String,
    /// Its sentence.
    pub reason: String,
}

/// How an intent ended, as the master knows it; becomes a [`Verdict`].
#[derive(Clone, Debug)]
pub struct Ended {
    /// The operation.
    pub operation: OperationId,
    /// The host.
    pub host: HostName,
    /// The index of the intent's record.
    pub intent: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// The exit status, where the process had one.
    pub exit_status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The stable code of a failure.
    pub code: Option<String>,
    /// Its sentence.
    pub reason: Option<String>,
    /// What it wrote to standard output.
    pub stdout: Option<Content>,
    /// What it wrote to standard error.
    pub stderr: Option<Content>,
    /// The master's grant: two SSH strings, JSON and SSHSIG.
    pub grant: Option<Vec<u8>>,
    /// The agent's receipts in their order, in the same form.
    pub receipts: Vec<Vec<u8>>,
}

impl Ended {
    /// An end without output, grant or receipts; the other fields are set by struct update.
    pub const fn new(operation: OperationId, host: HostName, intent: u64, outcome: Outcome) -> Self {
        Self {
            operation,
            host,
            intent,
            outcome,
            exit_status: None,
            signal: None,
            code: None,
            reason: None,
            stdout: None,
            stderr: None,
            grant: None,
            receipts: Vec::new(),
        }
    }

    pub(super) fn into_verdict(self, resolves: Option<u64>) -> Result<(Verdict, Vec<Content>), ContentError> {
        let signed = self.grant.iter().chain(&self.receipts).map(Vec::len).sum();
        let mut shelf = Shelf::for_bytes(signed);
        let verdict = Verdict {
            operation: self.operation,
            host: self.host,
            intent: self.intent,
            resolves,
            outcome: self.outcome,
            exit_status: self.exit_status,
            signal: self.signal,
            code: self.code,
            reason: self.reason.as_deref().map(sentence),
            stdout: self.stdout.as_ref().map(|content| *content.pointer()),
            stderr: self.stderr.as_ref().map(|content| *content.pointer()),
            grant: self.grant.map(|grant| shelf.put(&grant)).transpose()?,
            receipts: self.receipts.iter().map(|receipt| shelf.put(receipt)).collect::<Result<_, _>>()?,
        };
        shelf.contents.extend(self.stdout.into_iter().chain(self.stderr));
        Ok((verdict, shelf.contents))
    }
}

/// How an intent ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The operation.
    pub operation: OperationId,
    /// The host.
    pub host: HostName,
    /// The index of the intent's record.
    pub intent: u64,
    /// The index of the `unknown` result that this one resolves; null in a result.
    #[serde(deserialize_with = "present")]
    pub resolves: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
    /// The exit status, where the process had one.
    #[serde(deserialize_with = "present")]
    pub exit_status: Option<i32>,
    /// The signal that ended it.
    #[serde(deserialize_with = "present")]
    pub signal: Option<i32>,
    /// The stable code of a failure.
    #[serde(deserialize_with = "present")]
    pub code: Option<String>,
    /// Its sentence.
    #[serde(deserialize_with = "present")]
    pub reason: Option<String>,
    /// What it wrote to standard output.
    #[serde(deserialize_with = "present")]
    pub stdout: Option<Pointer>,
    /// What it wrote to standard error.
    #[serde(deserialize_with = "present")]
    pub stderr: Option<Pointer>,
    /// The master's grant.
    #[serde(deserialize_with = "present")]
    pub grant: Option<Evidence>,
    /// The agent's receipts, in their order.
    pub receipts: Vec<Evidence>,
}

/// Entries of a host's receipt chain that belong to no result.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Receipts {
    /// The host.
    pub host: HostName,
    /// The entries, in their order.
    pub receipts: Vec<Evidence>,
}
