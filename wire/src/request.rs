//! The request: what a technician signs, for which servers, and how each side checks it.
//!
//! The signed [`Header`] says what is to be done; its `targets_root` is the RFC 6962 root over the [`Target`]s, sorted
//! by host. A server gets the header, its own target and its path, and learns nothing of the other servers.
//! [`Authored`] is a request whose author is proved: only [`Papers::verify`] makes one.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bundle::Trust;
use crate::certificate::{self, Technician};
use crate::code::{Code, Refusal};
use crate::delegation::{self, Delegation, SKEW};
use crate::id::{Digest, OperationId, Salt};
use crate::level::Level;
use crate::merkle;
use crate::name::{HostName, Name};
use crate::signed::{Document, Signed, Verified};
use crate::sshsig::{self, Namespace};
use crate::strict::{self, Unused, V1, present};
use crate::time::Millis;

/// The longest span in which an agent may accept a request.
pub const ACCEPT_WITHIN: Duration = Duration::from_secs(5 * 60);
/// The longest run that a request may ask for.
pub const LONGEST_RUN: Duration = Duration::from_secs(24 * 3600);
/// The most bytes that may come with a request as standard input.
pub const MAX_STDIN: usize = 1024 * 1024;
/// The most servers of one request.
pub const MAX_TARGETS: usize = 10_000;
/// The most bytes of a command line, all arguments together.
pub const MAX_ARGV: usize = 32 * 1024;

/// Bytes that are mostly text: a JSON string where they are UTF-8, `{"b64": …}` where they are not.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Text(pub Vec<u8>);

impl Text {
    /// The bytes as text for a reader, with everything hostile made visible.
    pub fn visible(&self) -> String {
        crate::output::visible_line(&String::from_utf8_lossy(&self.0))
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Text({} bytes)", self.0.len())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Base64Text {
    b64: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AnyText {
    Plain(String),
    Bytes(Base64Text),
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Base64Text { b64: BASE64.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match AnyText::deserialize(deserializer)? {
            AnyText::Plain(text) => Ok(Self(text.into_bytes())),
            AnyText::Bytes(bytes) => {
                BASE64.decode(bytes.b64).map(Self).map_err(|_| serde::de::Error::custom("not base64"))
            }
        }
    }
}

/// What kind of work a request asks for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A command line as typed: level 3.
    Raw,
    /// A library item, at its own level.
    Item,
}

/// One version of a library item.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ItemRef {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: u64,
    /// SHA-256 of its package.
    pub digest: Digest,
}

/// What a technician signs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Format version.
    pub v: V1,
    /// The site that it is for.
    pub site: Name,
    /// Identifies the operation.
    pub operation: OperationId,
    /// SHA-256 of the technician's certificate.
    pub technician_cert: Digest,
    /// SHA-256 of the session key's delegation; null when the technician's own key signs.
    #[serde(deserialize_with = "present")]
    pub delegation: Option<Digest>,
    /// What kind of work.
    pub kind: Kind,
    /// The item, for [`Kind::Item`].
    #[serde(deserialize_with = "present")]
    pub item: Option<ItemRef>,
    /// The command line, for [`Kind::Raw`].
    #[serde(deserialize_with = "present")]
    pub argv: Option<Vec<Text>>,
    /// The item's arguments as `[name, value]`.
    pub args: Vec<(String, Text)>,
    /// SHA-256 of the standard input that comes with the request; null for none.
    #[serde(deserialize_with = "present")]
    pub stdin: Option<Digest>,
    /// The level that the work needs: stated for the reader, never taken on its word.
    pub level: Level,
    /// The case that it belongs to.
    #[serde(deserialize_with = "present")]
    pub case: Option<String>,
    /// Why it is done.
    #[serde(deserialize_with = "present")]
    pub reason: Option<String>,
    /// The longest run, in ms.
    pub timeout_ms: u64,
    /// Not accepted before.
    pub not_before: Millis,
    /// Not accepted after.
    pub not_after: Millis,
    /// What the console has seen of the ledger: not built.
    pub checkpoint: Unused,
    /// Key for end-to-end frames: not built.
    pub ephemeral: Unused,
    /// RFC 6962 root over the targets.
    pub targets_root: Digest,
}

impl Document for Header {
    const NAMESPACE: Namespace = Namespace::Request;
}

/// One server of a request. Its exact JSON bytes are the leaf.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The server.
    pub host: HostName,
    /// Keeps other servers' leaves from being guessed.
    pub salt: Salt,
    /// Parameters sealed to the host: not built.
    pub sealed: Unused,
}

/// Where a target stands in its tree.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TargetPath {
    /// Which leaf, from 0.
    pub index: u64,
    /// How many leaves.
    pub size: u64,
    /// Hashes from the leaf's sibling upwards.
    pub hashes: Vec<Digest>,
}

/// The servers of a request with their leaves, sorted by host and unique.
#[derive(Clone, Debug)]
pub struct Targets {
    hosts: Vec<HostName>,
    leaves: Vec<Vec<u8>>,
}

impl Targets {
    /// Makes a fresh target for each host.
    ///
    /// # Errors
    /// [`Code::NothingMatched`] for none, [`Code::ArgumentsInvalid`] for more than [`MAX_TARGETS`].
    pub fn of(hosts: impl IntoIterator<Item = HostName>) -> Result<Self, Refusal> {
        let hosts: Vec<_> = hosts.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        if hosts.is_empty() {
            return Err(Code::NothingMatched.into());
        }
        if hosts.len() > MAX_TARGETS {
            return Err(Refusal::because(Code::ArgumentsInvalid, format_args!("more than {MAX_TARGETS} servers")));
        }
        let leaf = |host: &HostName| {
            let target = Target { host: host.clone(), salt: Salt::random(), sealed: Unused };
            serde_json::to_vec(&target).map_err(|_| Refusal::from(Code::Internal))
        };
        let leaves = hosts.iter().map(leaf).collect::<Result<_, _>>()?;
        Ok(Self { hosts, leaves })
    }

    /// The servers.
    pub fn hosts(&self) -> &[HostName] {
        &self.hosts
    }

    /// The root that the header names.
    pub fn root(&self) -> Digest {
        Digest(merkle::root_of(&self.leaves))
    }

    /// Leaf and path of the server at `index`.
    pub fn proof(&self, index: usize) -> Option<(&[u8], TargetPath)> {
        let leaf = self.leaves.get(index)?;
        let (index, size) = (u64::try_from(index).ok()?, u64::try_from(self.leaves.len()).ok()?);
        let hashes = merkle::inclusion_path(index, &self.leaves).ok()?.into_iter().map(Digest).collect();
        Some((leaf, TargetPath { index, size, hashes }))
    }
}

/// A signed request with what proves its author, as they came.
#[derive(Clone, Debug)]
pub struct Papers {
    /// The signed header.
    pub header: Signed,
    /// The session key's delegation, unless the technician's own key signed.
    pub delegation: Option<Signed>,
    /// The technician's certificate, as its wire blob.
    pub certificate: Vec<u8>,
}

/// A request whose author is proved and whose bounds hold. Which server it may touch is for [`Authored::target`].
#[derive(Debug)]
pub struct Authored {
    header: Verified<Header>,
    technician: Technician,
    delegation: Option<Verified<Delegation>>,
    papers: Papers,
    /// The number of the bundle that its author was proved with.
    trust: u64,
}

impl Papers {
    /// Proves who asked, for `site` at `now`, and that the request can be read. Whether its level is within rights,
    /// ceiling and delegation is for whoever knows the level that the work really needs.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn verify(self, trust: &Trust, site: &Name, now: Millis) -> Result<Authored, Refusal> {
        let certificate = certificate::from_wire(&self.certificate).map_err(|error| error.0)?;
        let technician = certificate::technician(&certificate, trust, now).map_err(|error| error.0)?;
        let delegation = match &self.delegation {
            Some(signed) => Some(delegation::verify(signed.clone(), &technician, site, now)?),
            None => None,
        };
        let key = delegation.as_ref().map_or(&technician.key, |d| d.session_key.key());
        let header = self.header.clone().verify::<Header>(key).map_err(unverified)?;

        if header.site != *site {
            return Err(Code::WrongSite.into());
        }
        if header.technician_cert != technician.certificate
            || header.delegation != delegation.as_ref().map(Verified::digest)
        {
            return Err(Code::RequestSignature.into());
        }
        within_time(&header, now)?;
        well_formed(&header)?;
        Ok(Authored { header, technician, delegation, papers: self, trust: trust.number })
    }
}

fn unverified(error: crate::signed::SignedError) -> Refusal {
    use crate::signed::SignedError;
    match error {
        SignedError::Signature(_) => Refusal::because(Code::RequestSignature, error),
        SignedError::Document(_) | SignedError::Framing | SignedError::TooLarge(_) => {
            Refusal::because(Code::RequestMalformed, error)
        }
    }
}

fn within_time(header: &Header, now: Millis) -> Result<(), Refusal> {
    let ordered = header.not_before < header.not_after && header.not_after.since(header.not_before) <= ACCEPT_WITHIN;
    if !ordered || now.plus(SKEW) < header.not_before || now > header.not_after.plus(SKEW) {
        return Err(Code::RequestExpired.into());
    }
    let longest = u64::try_from(LONGEST_RUN.as_millis()).unwrap_or(u64::MAX);
    if header.timeout_ms == 0 || header.timeout_ms > longest {
        return Err(Refusal::because(Code::RequestMalformed, "the time limit must be above 0 and at most 24 h"));
    }
    Ok(())
}

/// The fields belong to the kind, and a raw command is level 3.
fn well_formed(header: &Header) -> Result<(), Refusal> {
    let malformed = |detail: &str| Err(Refusal::because(Code::RequestMalformed, detail));
    match (header.kind, &header.argv, &header.item) {
        (Kind::Raw, Some(argv), None) => {
            if !header.args.is_empty() {
                return malformed("a raw command has no named arguments");
            }
            if header.level != Level::Three {
                return Err(Code::LevelMismatch.into());
            }
            runnable(argv)
        }
        (Kind::Item, None, Some(_)) => Ok(()),
        (Kind::Raw | Kind::Item, _, _) => malformed("its kind and its fields do not belong together"),
    }
}

/// Whether a command line can be started at all: not empty, no NUL, at most [`MAX_ARGV`] bytes.
///
/// # Errors
/// [`Code::ArgumentsInvalid`].
pub fn runnable(argv: &[Text]) -> Result<(), Refusal> {
    let total: usize = argv.iter().map(|argument| argument.0.len() + 1).sum();
    let program = argv.first().is_some_and(|program| !program.0.is_empty());
    if !program || total > MAX_ARGV || argv.iter().any(|argument| argument.0.contains(&0)) {
        return Err(Code::ArgumentsInvalid.into());
    }
    Ok(())
}

impl Authored {
    /// What was signed.
    pub fn header(&self) -> &Header {
        self.header.value()
    }

    /// SHA-256 over the signed header.
    pub const fn digest(&self) -> Digest {
        self.header.digest()
    }

    /// Who asked.
    pub const fn technician(&self) -> &Technician {
        &self.technician
    }

    /// The delegation of the session key that signed, unless the technician's own key did.
    pub fn delegation(&self) -> Option<&Delegation> {
        self.delegation.as_ref().map(Verified::value)
    }

    /// `SHA256:…` of the key that signed.
    pub fn signing_key(&self) -> String {
        let key = self.delegation().map_or(&self.technician.key, |d| d.session_key.key());
        sshsig::fingerprint(key)
    }

    /// The documents as they came, to hand on and to store.
    pub const fn papers(&self) -> &Papers {
        &self.papers
    }

    /// Whether it may still be accepted at `now`: it was in time when it was handed in, and its servers come after.
    ///
    /// # Errors
    /// [`Code::RequestExpired`].
    pub fn in_time(&self, now: Millis) -> Result<(), Refusal> {
        within_time(self.header(), now)
    }

    /// Whether `trust` still vouches for the author: a bundle may have come since that knows the CA no more. A
    /// certificate that has expired since then is no reason: what was begun in time may come to its end.
    ///
    /// # Errors
    /// The rule that the certificate breaks under `trust`.
    pub fn vouched_by(&self, trust: &Trust, now: Millis) -> Result<(), Refusal> {
        if trust.number == self.trust {
            return Ok(());
        }
        let certificate = certificate::from_wire(&self.papers.certificate).map_err(|error| error.0)?;
        match certificate::technician(&certificate, trust, now) {
            Err(error) if error.0.code != Code::CertificateExpired => Err(error.0),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Checks that `leaf` is one of the servers that the technician signed, and gives it.
    ///
    /// # Errors
    /// [`Code::TargetMismatch`].
    pub fn target(&self, leaf: &[u8], path: &TargetPath) -> Result<Target, Refusal> {
        let hashes: Vec<_> = path.hashes.iter().map(|hash| hash.0).collect();
        let hash = merkle::leaf_hash(leaf);
        let signed = merkle::verify_inclusion(&hash, path.index, path.size, &hashes, &self.header.targets_root.0);
        if signed.is_err() {
            return Err(Code::TargetMismatch.into());
        }
        strict::exact_from_slice(leaf).map_err(|_| Code::TargetMismatch.into())
    }
}

#[cfg(test)]
mod tests;
