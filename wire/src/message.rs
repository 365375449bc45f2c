//! What travels on a stream between the parts: a run of parts, and the unsigned JSON in some of them.
//!
//! The message bodies of one direction of a stream form one run of bytes: `u8 kind | u32 length | bytes`, again and
//! again. A part may span frames; its length is judged before a byte is kept. Nothing unsigned in here gives a right:
//! it says what is asked, what was answered, and in which order.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::code::{Code, Refusal};
use crate::id::{Digest, OperationId, Salt};
use crate::level::Level;
use crate::name::{HostName, Name};
use crate::receipt::Outcome;
use crate::request::ItemRef;
use crate::signed::MAX_LARGE;
use crate::strict;
use crate::time::Millis;

/// The largest part, in bytes: a trust bundle or a library index with its signature.
pub const MAX_PART: usize = MAX_LARGE + 8;

macro_rules! part_kinds {
    ($($variant:ident = $number:literal, $doc:literal;)*) => {
        /// What a part holds.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u8)]
        pub enum PartKind {
            $(#[doc = $doc] $variant = $number,)*
        }

        impl TryFrom<u8> for PartKind {
            type Error = MessageError;

            fn try_from(number: u8) -> Result<Self, MessageError> {
                match number {
                    $($number => Ok(Self::$variant),)*
                    other => Err(MessageError::Kind(other)),
                }
            }
        }
    };
}

part_kinds! {
    Ask = 1, "JSON [`Ask`].";
    Answer = 2, "JSON [`Answer`].";
    Request = 3, "Signed request header.";
    Delegation = 4, "Signed delegation.";
    Certificate = 5, "A technician's certificate, wire blob.";
    Target = 6, "A target's exact JSON bytes.";
    Path = 7, "JSON `TargetPath`.";
    Package = 8, "A library item's package.";
    Grant = 9, "Signed grant.";
    MasterCertificate = 10, "The master's host certificate, wire blob.";
    Receipt = 11, "Signed receipt.";
    Salts = 12, "JSON [`Salts`].";
    Cancel = 13, "JSON `Refusal`: end what runs, for this reason.";
    Go = 14, "Nothing: all that belongs together has been sent.";
    Checkpoint = 15, "A signed checkpoint (C2SP tlog-checkpoint).";
    Consistency = 16, "JSON [`Consistency`], for the checkpoint before it.";
    Bundle = 17, "Signed trust bundle.";
    Index = 18, "Signed library index.";
    MasterHello = 19, "JSON [`MasterHello`].";
    AgentHello = 20, "JSON [`AgentHello`].";
    Ready = 21, "JSON [`Ready`].";
    Query = 22, "JSON [`Query`].";
    Found = 23, "JSON [`Found`].";
    Stdin = 24, "Standard input that the request's digest covers.";
}

/// A part that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// A kind that this version does not know.
    #[error("a message part of the unknown kind {0}")]
    Kind(u8),
    /// Larger than belongs here.
    #[error("a message part of {0} bytes, which is more than belongs here")]
    TooLarge(usize),
    /// Not the JSON that it should be.
    #[error(transparent)]
    Json(#[from] strict::NotStrict),
    /// Another part than the one that belongs here.
    #[error("a message part that does not belong here: {0:?}")]
    Unexpected(PartKind),
}

impl From<MessageError> for Refusal {
    fn from(error: MessageError) -> Self {
        Self::because(Code::Protocol, error)
    }
}

/// One part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    /// What it holds.
    pub kind: PartKind,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Part {
    /// A part of these bytes.
    pub fn new(kind: PartKind, bytes: impl Into<Vec<u8>>) -> Self {
        Self { kind, bytes: bytes.into() }
    }

    /// A part that holds `value` as JSON.
    ///
    /// # Errors
    /// When `value` has no JSON form.
    pub fn json<T: Serialize>(kind: PartKind, value: &T) -> Result<Self, MessageError> {
        let bytes = serde_json::to_vec(value).map_err(strict::NotStrict::from)?;
        Ok(Self { kind, bytes })
    }

    /// Reads the part as JSON.
    ///
    /// # Errors
    /// When it is of another kind or shape.
    pub fn read<T: DeserializeOwned + Serialize>(&self, kind: PartKind) -> Result<T, MessageError> {
        if self.kind != kind {
            return Err(MessageError::Unexpected(self.kind));
        }
        Ok(strict::exact_from_slice(&self.bytes)?)
    }

    /// Appends the part's bytes as they travel.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind as u8);
        crate::signed::put_ssh_string(out, &self.bytes);
    }
}

/// Takes parts out of a run of bytes.
#[derive(Debug)]
pub struct PartReader {
    held: Vec<u8>,
    most: usize,
}

impl Default for PartReader {
    fn default() -> Self {
        Self::bounded(MAX_PART)
    }
}

impl PartReader {
    /// Takes parts of at most `most` bytes, and never more than [`MAX_PART`].
    pub fn bounded(most: usize) -> Self {
        Self { held: Vec::new(), most: most.min(MAX_PART) }
    }

    /// Adds bytes as they came.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next whole part.
    ///
    /// # Errors
    /// As soon as a part's head announces what cannot be accepted.
    pub fn next_part(&mut self) -> Result<Option<Part>, MessageError> {
        let Some((&[kind, a, b, c, d], rest)) = self.held.split_first_chunk::<5>() else {
            return Ok(None);
        };
        let kind = PartKind::try_from(kind)?;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > self.most {
            return Err(MessageError::TooLarge(length));
        }
        let Some(bytes) = rest.get(..length) else {
            return Ok(None);
        };
        let part = Part { kind, bytes: bytes.to_vec() };
        self.held.drain(..5 + length);
        Ok(Some(part))
    }
}

/// What a technician's console asks of the master, first on each stream.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// Who the master takes me for.
    Whoami {},
    /// Which servers are mine. Answered by [`Answer::Hosts`].
    Hosts {
        /// Only those that it means; null for all.
        selector: Option<String>,
    },
    /// Opens an operation: which servers does a selector mean? Answered by [`Answer::Resolved`], and for an item its
    /// [`PartKind::Index`] and [`PartKind::Package`] before it.
    Resolve {
        /// Made by the console.
        operation: OperationId,
        /// As typed.
        selector: String,
        /// The item, or null for a raw command.
        item: Option<Name>,
    },
    /// What may I do there, and through which group?
    Why {
        /// The server.
        host: HostName,
        /// The item, or null for a raw command.
        item: Option<Name>,
    },
    /// Registers a session key: a [`PartKind::Delegation`] follows.
    Register {},
    /// Forgets this session key.
    Logout {},
    /// Hands in a request: [`PartKind::Request`], [`PartKind::Delegation`] unless the own key signed,
    /// [`PartKind::Certificate`], [`PartKind::Stdin`] where the request has one, [`PartKind::Go`].
    Submit {
        /// The operation.
        operation: OperationId,
    },
    /// Runs a request of this connection on one server: [`PartKind::Target`], [`PartKind::Path`], [`PartKind::Go`].
    Run {
        /// The operation.
        operation: OperationId,
        /// The server.
        host: HostName,
    },
}

/// What the master answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// Refused or failed; nothing ran.
    Refused {
        /// Code and sentence.
        refusal: Refusal,
        /// Index of the record, where there is one.
        record: Option<u64>,
    },
    /// To [`Ask::Whoami`].
    Whoami(Whoami),
    /// To [`Ask::Hosts`].
    Hosts {
        /// Sorted by name.
        hosts: Vec<HostRow>,
    },
    /// To [`Ask::Resolve`].
    Resolved {
        /// Sorted by name; never empty.
        hosts: Vec<HostName>,
        /// The item, for an item.
        item: Option<ItemRef>,
    },
    /// To [`Ask::Why`].
    Why(Why),
    /// To [`Ask::Register`].
    Registered {
        /// When the session ends.
        until: Millis,
    },
    /// To [`Ask::Logout`].
    LoggedOut {},
    /// To [`Ask::Submit`].
    Submitted {},
    /// To [`Ask::Run`]: recorded and sent to the server.
    Started {
        /// Index of the intent's record.
        record: u64,
    },
    /// To [`Ask::Run`], last: recorded.
    Ended(Ended),
}

/// Who the master takes a technician for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Whoami {
    /// The technician.
    pub name: Name,
    /// The directory's id.
    pub directory_id: String,
    /// Highest level of the certificate.
    pub max_level: Level,
    /// Customers of the certificate, comma list or `*`.
    pub customers: String,
    /// When the session ends; null on a login connection.
    pub until: Option<Millis>,
    /// The site.
    pub site: Name,
    /// The master that answers.
    pub master: Name,
}

/// One server of mine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HostRow {
    /// The server.
    pub host: HostName,
    /// My level there, inside my certificate's ceiling.
    pub level: Level,
    /// The group that gives it.
    pub via_group: String,
    /// Whether its agent is connected.
    pub connected: bool,
    /// Since when it is connected.
    pub since: Option<Millis>,
    /// Its platform, while connected.
    pub platform: Option<String>,
    /// Its agent's version, while connected.
    pub version: Option<String>,
}

/// Why I may or may not do something on a server of mine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Why {
    /// The server.
    pub host: HostName,
    /// The item, or null for a raw command.
    pub item: Option<Name>,
    /// The level that it needs.
    pub needs: Level,
    /// The level that the directory gives.
    pub held: Level,
    /// The group that gives it.
    pub via_group: String,
    /// The certificate's ceiling.
    pub ceiling: Level,
    /// Whether it would be allowed now.
    pub allowed: bool,
    /// The code of the refusal, if it would be refused.
    pub code: Option<Code>,
    /// One sentence: the rule that decides, and what would be needed.
    pub reason: String,
    /// The directory server that answered.
    pub directory: String,
    /// How old its answer is, in ms.
    pub directory_age_ms: u64,
}

/// How an operation on one server ended, as the record says.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// How it came out.
    pub outcome: Outcome,
    /// Exit status, where it has one.
    pub exit_status: Option<i32>,
    /// Signal, where one ended it.
    pub signal: Option<i32>,
    /// Why, where there is a why.
    pub code: Option<Code>,
    /// The same in a sentence.
    pub reason: Option<String>,
    /// Whether output was cut at the limit.
    pub truncated: bool,
    /// Index of the result's record; null when it could not be written.
    pub record: Option<u64>,
}

/// The salts of an operation's output commitments, from agent to master before the output.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Salts {
    /// For standard output.
    pub stdout: Salt,
    /// For standard error.
    pub stderr: Salt,
}

/// Proof that a checkpoint extends an older one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    /// Size of the older tree.
    pub from: u64,
    /// Size of the newer tree.
    pub to: u64,
    /// RFC 6962 consistency proof.
    pub hashes: Vec<Digest>,
}

/// An entry of a receipt chain, by its place and digest.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ChainEnd {
    /// Generation.
    pub generation: u64,
    /// Sequence number.
    pub seq: u64,
    /// SHA-256 of the signed entry.
    pub digest: Digest,
}

/// The first part on an agent's control stream, by the master.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MasterHello {
    /// The number of the master's trust bundle.
    pub bundle: u64,
    /// SHA-256 of that bundle.
    pub bundle_digest: Digest,
    /// The version of the library's index; null without a library.
    pub library: Option<u64>,
    /// The master.
    pub master: Name,
    /// The master's clock.
    pub now: Millis,
    /// The last receipt of this server that the master holds.
    pub last_receipt: Option<ChainEnd>,
}

/// The agent's answer to [`MasterHello`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AgentHello {
    /// The number of the agent's trust bundle.
    pub bundle: u64,
    /// The version of its library index; null before the first.
    pub library: Option<u64>,
    /// The server, as the agent's own certificate says.
    pub host: HostName,
    /// The agent's clock.
    pub now: Millis,
    /// When this agent process started.
    pub started: Millis,
    /// The machine's boot id.
    pub boot_id: String,
    /// Such as `linux`.
    pub platform: String,
    /// The agent's version.
    pub version: String,
    /// The newest checkpoint it has seen of this master's log: size; 0 for none.
    pub checkpoint_size: u64,
    /// The end of its receipt chain.
    pub last_receipt: Option<ChainEnd>,
}

/// The longest text of an agent about itself, in bytes.
const MAX_ABOUT: usize = 64;

impl AgentHello {
    /// Whether what the agent says of itself can be shown to others: short and printable.
    pub fn is_presentable(&self) -> bool {
        let fine = |text: &str| text.len() <= MAX_ABOUT && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        [&self.boot_id, &self.platform, &self.version].into_iter().all(|text| fine(text))
    }
}

/// The agent has taken bundle, index and checkpoint, or has not.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// The number of the agent's trust bundle.
    pub bundle: u64,
    /// Why it accepts no work, if it does not.
    pub refusal: Option<Refusal>,
}

/// Which of these operations does the agent's journal know?
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// At most 1,000.
    pub operations: Vec<OperationId>,
}

/// What the journal says of one operation; its receipts stand before this part.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// The operation.
    pub operation: OperationId,
    /// What is known.
    pub state: JournalState,
}

/// What an agent's journal says of an operation.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JournalState {
    /// It ended, was refused, or was closed as unknown after a crash.
    Ended,
    /// It is running; its receipt follows when it ends.
    Running,
    /// The journal does not know it.
    Absent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_whatever_the_split() {
        let parts =
            [Part::new(PartKind::Go, []), Part::new(PartKind::Package, vec![7; 300]), Part::new(PartKind::Go, [])];
        let mut bytes = Vec::new();
        parts.iter().for_each(|part| part.encode(&mut bytes));
        for step in 1..=bytes.len() {
            let (mut reader, mut seen) = (PartReader::default(), Vec::new());
            for piece in bytes.chunks(step) {
                reader.feed(piece);
                while let Some(part) = reader.next_part().unwrap() {
                    seen.push(part);
                }
            }
            assert_eq!(seen, parts, "in pieces of {step}");
        }
    }

    #[test]
    fn an_ask_has_no_field_that_it_does_not_know_and_none_twice() {
        let id = "ab".repeat(16);
        let read = |text: String| Part::new(PartKind::Ask, text.into_bytes()).read::<Ask>(PartKind::Ask);
        assert!(read(r#"{"ask":"whoami"}"#.into()).is_ok());
        assert!(read(format!(r#"{{"ask":"submit","operation":"{id}"}}"#)).is_ok());
        for bad in [
            r#"{"ask":"whoami","as":"bob"}"#.to_owned(),
            r#"{"ask":"logout","ask":"whoami"}"#.to_owned(),
            format!(r#"{{"ask":"submit","operation":"{id}","host":"a/b"}}"#),
            format!(r#"{{"ask":"run","operation":"{id}"}}"#),
            r#"{"ask":"become"}"#.to_owned(),
            r#"["whoami"]"#.to_owned(),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_an_agent_says_of_itself_is_short_and_printable() {
        let hello = |version: &str| AgentHello {
            bundle: 1,
            library: None,
            host: "contoso/web01".parse().unwrap(),
            now: Millis(0),
            started: Millis(0),
            boot_id: "ab".repeat(16),
            platform: "linux".into(),
            version: version.into(),
            checkpoint_size: 0,
            last_receipt: None,
        };
        assert!(hello("0.1.0").is_presentable());
        for bad in ["\x1b[2J", "1\n2", "v\u{202e}", &"1".repeat(65)] {
            assert!(!hello(bad).is_presentable(), "{bad:?}");
        }
    }

    #[test]
    fn a_part_is_judged_by_its_head() {
        let mut reader = PartReader::default();
        reader.feed(&[PartKind::Package as u8, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(reader.next_part(), Err(MessageError::TooLarge(_))));
        let mut reader = PartReader::bounded(8);
        reader.feed(&[PartKind::Package as u8, 0, 0, 0, 9]);
        assert!(matches!(reader.next_part(), Err(MessageError::TooLarge(9))));
        let mut reader = PartReader::default();
        reader.feed(&[250, 0, 0, 0, 0]);
        assert!(matches!(reader.next_part(), Err(MessageError::Kind(250))));
    }
}
