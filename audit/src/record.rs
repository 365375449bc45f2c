//! What a leaf says: one JSON object, whose exact bytes are hashed and stored.
//!
//! A [`Draft`] is a record that has not been written yet. The ledger's writer gives it the next number of its
//! customer and turns it into bytes; a [`Record`] is what those bytes say. Every field is present, integers only,
//! bytes that are not UTF-8 as `{"b64": …}`. Sixteen random bytes keep a customer who sees only the hashes of other
//! customers from guessing commands.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reeve_wire::id::{OperationId, Salt};
use reeve_wire::name::{HostName, Name};
use reeve_wire::strict::{self, NotStrict, V1, present};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::content::{Content, ContentError, Pointer};

mod event;
mod operation;
mod stamp;
#[cfg(test)]
mod tests;

pub use event::{Event, EventKind, Happened, Party};
pub use operation::{Command, Ended, Header, Intent, Item, Order, Receipts, Refused, Verdict};
pub use stamp::Stamp;

/// The largest record, in bytes: what C2SP `tlog-tiles` can hold as one entry.
pub const MAX_RECORD: usize = 65_535;

/// Signed things of one record that are longer than this together lie beside it.
const MAX_INLINE: usize = 24 * 1024;

/// What sort of fact a record states.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The signed request, once an operation.
    Header,
    /// One host is about to be sent one operation.
    Intent,
    /// An operation, or its part for one host, was refused.
    Refused,
    /// How an intent ended.
    Result,
    /// How an intent ended whose result was `unknown`.
    Late,
    /// Entries of a host's receipt chain that belong to no result.
    Receipts,
    /// Any other fact.
    #[serde(untagged)]
    Event(EventKind),
}

impl Kind {
    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Intent => "intent",
            Self::Refused => "refused",
            Self::Result => "result",
            Self::Late => "late",
            Self::Receipts => "receipts",
            Self::Event(kind) => kind.as_str(),
        }
    }
}

/// What a record states.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// The signed request, once an operation.
    Header(Header),
    /// One host is about to be sent one operation.
    Intent(Intent),
    /// An operation, or its part for one host, was refused.
    Refused(Refused),
    /// How an intent ended.
    Result(Verdict),
    /// How an intent ended whose result was `unknown`.
    Late(Verdict),
    /// Entries of a host's receipt chain that belong to no result.
    Receipts(Receipts),
    /// Any other fact.
    Event(EventKind, Event),
}

impl Body {
    /// What sort of fact this is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Header(_) => Kind::Header,
            Self::Intent(_) => Kind::Intent,
            Self::Refused(_) => Kind::Refused,
            Self::Result(_) => Kind::Result,
            Self::Late(_) => Kind::Late,
            Self::Receipts(_) => Kind::Receipts,
            Self::Event(kind, _) => Kind::Event(*kind),
        }
    }

    /// The operation that it belongs to.
    pub const fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Header(header) => Some(header.operation),
            Self::Intent(intent) => Some(intent.order.operation),
            Self::Refused(refused) => Some(refused.order.operation),
            Self::Result(verdict) | Self::Late(verdict) => Some(verdict.operation),
            Self::Receipts(_) => None,
            Self::Event(_, event) => event.operation,
        }
    }

    /// The host that it is about.
    pub const fn host(&self) -> Option<&HostName> {
        match self {
            Self::Header(_) => None,
            Self::Intent(intent) => intent.order.host.as_ref(),
            Self::Refused(refused) => refused.order.host.as_ref(),
            Self::Result(verdict) | Self::Late(verdict) => Some(&verdict.host),
            Self::Receipts(receipts) => Some(&receipts.host),
            Self::Event(_, event) => event.host.as_ref(),
        }
    }

    /// Everything that lies beside the record.
    pub fn pointers(&self) -> Vec<&Pointer> {
        let evidence: Vec<&Evidence> = match self {
            Self::Header(header) => [Some(&header.request), header.delegation.as_ref(), Some(&header.certificate)]
                .into_iter()
                .flatten()
                .collect(),
            Self::Intent(_) | Self::Refused(_) => Vec::new(),
            Self::Result(verdict) | Self::Late(verdict) => verdict.grant.iter().chain(&verdict.receipts).collect(),
            Self::Receipts(receipts) => receipts.receipts.iter().collect(),
            Self::Event(_, event) => event.evidence.iter().map(|(_, evidence)| evidence).collect(),
        };
        let streams = match self {
            Self::Result(verdict) | Self::Late(verdict) => [verdict.stdout.as_ref(), verdict.stderr.as_ref()],
            Self::Header(header) => [header.stdin.as_ref(), None],
            Self::Intent(_) | Self::Refused(_) | Self::Receipts(_) | Self::Event(..) => [None, None],
        };
        evidence.into_iter().filter_map(Evidence::pointer).chain(streams.into_iter().flatten()).collect()
    }
}

/// The exact bytes of something that another party signed: base64, or a pointer where they are long.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Evidence {
    /// The bytes, as standard base64.
    Inline(String),
    /// They lie beside the record.
    Beside(Pointer),
}

impl Evidence {
    fn inline(bytes: &[u8]) -> Self {
        Self::Inline(STANDARD.encode(bytes))
    }

    /// The bytes, when they are in the record itself.
    pub fn inline_bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Inline(encoded) => STANDARD.decode(encoded).ok(),
            Self::Beside(_) => None,
        }
    }

    /// Where the bytes are, when they lie beside the record.
    pub const fn pointer(&self) -> Option<&Pointer> {
        match self {
            Self::Inline(_) => None,
            Self::Beside(pointer) => Some(pointer),
        }
    }
}

/// A record that has not been written yet, with the content that it points at.
#[derive(Clone, Debug)]
pub struct Draft {
    stamp: Stamp,
    customer: Option<Name>,
    nonce: Salt,
    body: Body,
    contents: Vec<Content>,
}

impl Draft {
    fn new(stamp: Stamp, body: Body, contents: Vec<Content>) -> Self {
        let customer = body.host().map(|host| host.customer.clone());
        Self { stamp, customer, nonce: Salt::random(), body, contents }
    }

    /// The signed request of an operation, its delegation and the technician's certificate: once an operation.
    ///
    /// `delegation` is the two SSH strings as they travelled, `certificate` the wire blob, `stdin` what came with the
    /// request.
    ///
    /// # Errors
    ///
    /// [`ContentError::Pack`], for signed things too long for a record.
    pub fn header(
        stamp: Stamp,
        operation: OperationId,
        request: &reeve_wire::signed::Signed,
        delegation: Option<&[u8]>,
        certificate: &[u8],
        stdin: Option<&[u8]>,
    ) -> Result<Self, ContentError> {
        let digest = request.digest();
        let parts = [Some(request.to_wire()), delegation.map(<[u8]>::to_vec), Some(certificate.to_vec())];
        let mut shelf = Shelf::for_bytes(parts.iter().flatten().map(Vec::len).sum());
        let [request, delegation, certificate] = parts;
        let header = Header {
            operation,
            digest,
            request: shelf.put(&request.unwrap_or_default())?,
            delegation: delegation.map(|bytes| shelf.put(&bytes)).transpose()?,
            certificate: shelf.put(&certificate.unwrap_or_default())?,
            stdin: stdin.map(|bytes| shelf.beside(bytes)).transpose()?,
        };
        Ok(Self::new(stamp, Body::Header(header), shelf.contents))
    }

    /// One host is about to be sent one operation; its result is due by `deadline_us` (µs since 1970).
    pub fn intent(stamp: Stamp, order: Order, deadline_us: u64) -> Self {
        Self::new(stamp, Body::Intent(Intent { order: order.bounded(), deadline: deadline_us }), Vec::new())
    }

    /// An operation was refused, under a code of the one table and with its sentence.
    pub fn refused(stamp: Stamp, order: Order, code: &str, reason: &str) -> Self {
        let refused = Refused { order: order.bounded(), code: code.to_owned(), reason: operation::sentence(reason) };
        Self::new(stamp, Body::Refused(refused), Vec::new())
    }

    /// How an intent ended.
    ///
    /// # Errors
    ///
    /// [`ContentError::Pack`], for signed things too long for a record.
    pub fn result(stamp: Stamp, ended: Ended) -> Result<Self, ContentError> {
        let (verdict, contents) = ended.into_verdict(None)?;
        Ok(Self::new(stamp, Body::Result(verdict), contents))
    }

    /// How an intent ended whose result, record `resolves`, was `unknown`.
    ///
    /// # Errors
    ///
    /// [`ContentError::Pack`], for signed things too long for a record.
    pub fn late(stamp: Stamp, resolves: u64, ended: Ended) -> Result<Self, ContentError> {
        let (verdict, contents) = ended.into_verdict(Some(resolves))?;
        Ok(Self::new(stamp, Body::Late(verdict), contents))
    }

    /// Entries of a host's receipt chain that belong to no result, such as `restarted`.
    ///
    /// # Errors
    ///
    /// [`ContentError::Pack`], for signed things too long for a record.
    pub fn receipts(stamp: Stamp, host: HostName, receipts: &[Vec<u8>]) -> Result<Self, ContentError> {
        let mut shelf = Shelf::for_bytes(receipts.iter().map(Vec::len).sum());
        let receipts = receipts.iter().map(|receipt| shelf.put(receipt)).collect::<Result<_, _>>()?;
        Ok(Self::new(stamp, Body::Receipts(Receipts { host, receipts }), shelf.contents))
    }

    /// Any other fact.
    ///
    /// # Errors
    ///
    /// [`ContentError::Pack`], for signed things too long for a record.
    pub fn event(stamp: Stamp, event: event::Happened) -> Result<Self, ContentError> {
        let (kind, event, contents) = event.into_event()?;
        Ok(Self::new(stamp, Body::Event(kind, event), contents))
    }

    /// What it will state.
    pub const fn body(&self) -> &Body {
        &self.body
    }

    /// Whose record it is; its number is one of this customer's.
    pub const fn customer(&self) -> Option<&Name> {
        self.customer.as_ref()
    }

    /// When it was made.
    pub const fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The content that it points at.
    pub(crate) fn contents(&self) -> &[Content] {
        &self.contents
    }

    /// The leaf's bytes, with the customer's next `number`.
    ///
    /// # Errors
    ///
    /// When serde cannot write it, which no value of this type causes.
    pub fn to_bytes(&self, number: Option<u64>) -> Result<Vec<u8>, NotStrict> {
        let kind = self.body.kind();
        match &self.body {
            Body::Header(body) => self.envelope(kind, number, body),
            Body::Intent(body) => self.envelope(kind, number, body),
            Body::Refused(body) => self.envelope(kind, number, body),
            Body::Result(body) | Body::Late(body) => self.envelope(kind, number, body),
            Body::Receipts(body) => self.envelope(kind, number, body),
            Body::Event(_, body) => self.envelope(kind, number, body),
        }
    }

    fn envelope<B: Serialize>(&self, kind: Kind, number: Option<u64>, body: &B) -> Result<Vec<u8>, NotStrict> {
        let envelope = Envelope {
            v: V1,
            kind,
            time: self.stamp.time_us,
            monotonic: self.stamp.monotonic_us,
            boot: self.stamp.boot.clone(),
            nonce: self.nonce,
            customer: self.customer.clone(),
            number,
            body,
        };
        Ok(serde_json::to_vec(&envelope)?)
    }
}

/// The fields that every record has, in their order.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Envelope<B> {
    v: V1,
    kind: Kind,
    time: u64,
    monotonic: u64,
    boot: String,
    nonce: Salt,
    #[serde(deserialize_with = "present")]
    customer: Option<Name>,
    #[serde(deserialize_with = "present")]
    number: Option<u64>,
    body: B,
}

/// What the bytes of a leaf say.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When it was made, and on which start of which machine.
    pub stamp: Stamp,
    /// Whose record it is.
    pub customer: Option<Name>,
    /// The how-many-th record of that customer, from 0 and without gaps.
    pub number: Option<u64>,
    /// What it states.
    pub body: Body,
}

impl Record {
    /// Reads the bytes of a leaf.
    ///
    /// # Errors
    ///
    /// When they are not a record of version 1 that this build reads.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotStrict> {
        let Envelope::<IgnoredAny> { kind, .. } = serde_json::from_slice(bytes)?;
        match kind {
            Kind::Header => Self::read(bytes, Body::Header),
            Kind::Intent => Self::read(bytes, Body::Intent),
            Kind::Refused => Self::read(bytes, Body::Refused),
            Kind::Result => Self::read(bytes, Body::Result),
            Kind::Late => Self::read(bytes, Body::Late),
            Kind::Receipts => Self::read(bytes, Body::Receipts),
            Kind::Event(kind) => Self::read(bytes, |event| Body::Event(kind, event)),
        }
    }

    fn read<B: DeserializeOwned>(bytes: &[u8], body: impl FnOnce(B) -> Body) -> Result<Self, NotStrict> {
        let envelope: Envelope<B> = strict::from_slice(bytes)?;
        let stamp = Stamp { time_us: envelope.time, monotonic_us: envelope.monotonic, boot: envelope.boot };
        Ok(Self { stamp, customer: envelope.customer, number: envelope.number, body: body(envelope.body) })
    }
}

/// Puts signed things into a record, or beside it when there is too much of them.
struct Shelf {
    beside: bool,
    contents: Vec<Content>,
}

impl Shelf {
    const fn for_bytes(total: usize) -> Self {
        Self { beside: total > MAX_INLINE, contents: Vec::new() }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<Evidence, ContentError> {
        if !self.beside {
            return Ok(Evidence::inline(bytes));
        }
        Ok(Evidence::Beside(self.beside(bytes)?))
    }

    fn beside(&mut self, bytes: &[u8]) -> Result<Pointer, ContentError> {
        let content = Content::new(Salt::random(), bytes)?;
        let pointer = *content.pointer();
        self.contents.push(content);
        Ok(pointer)
    }
}
