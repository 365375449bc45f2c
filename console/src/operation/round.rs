//! A signed request at the master, good for five minutes: who signed it, for which servers, and one errand for each.
//!
//! Servers whose turn does not come while the request may be accepted need a request of their own, so a fan-out is one
//! round or several.

use std::time::Duration;

use bytes::Bytes;
use reeve_link::parts::{self, Inbound};
use reeve_link::{Content, Sender};
use reeve_wire::certificate;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::level::Level;
use reeve_wire::message::{Answer, Ask, Part, PartKind};
use reeve_wire::name::HostName;
use reeve_wire::request::{ACCEPT_WITHIN, Header, Kind, Targets};
use reeve_wire::signed::{Signed, SignedError};
use reeve_wire::strict::{Unused, V1};
use reeve_wire::time::Millis;
use ssh_key::PrivateKey;

use super::ask;
use super::order::{Order, Work};
use super::resolve::Resolved;
use crate::desk::Connection;
use crate::failure::Failure;

/// The longest run of a raw command when nothing is said.
pub const RAW_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Nothing is started so shortly before a request's end: it has yet to reach the server.
const LAST_START: Duration = Duration::from_secs(20);

/// Whose key signs.
#[derive(Clone, Debug)]
pub enum Author {
    /// The session's, with its delegation.
    Session,
    /// The technician's own.
    OwnKey(Box<PrivateKey>),
}

/// A request that the master has taken in. It is good for as long as this is held.
#[derive(Debug)]
pub struct Round {
    operation: OperationId,
    targets: Targets,
    timeout: Duration,
    last_start: Millis,
    _held: (Sender, Inbound),
}

/// What is to be said for one server.
#[derive(Clone, Debug)]
pub struct Errand {
    /// The operation.
    pub operation: OperationId,
    /// The server.
    pub host: HostName,
    /// The longest run.
    pub timeout: Duration,
    /// The ask with the server's target and path, as they travel.
    pub opening: Bytes,
}

impl Round {
    /// Signs `order` for the servers of `resolved` and hands it in.
    ///
    /// # Errors
    /// A refusal, or what cannot be signed.
    pub async fn submit(
        connection: &Connection,
        operation: OperationId,
        order: &Order,
        resolved: &Resolved,
        author: &Author,
    ) -> Result<Self, Failure> {
        let targets = Targets::of(resolved.hosts.iter().cloned())?;
        let header = header(connection, operation, order, resolved, &targets, author)?;
        let timeout = Duration::from_millis(header.timeout_ms);
        let last_start = header.not_after.minus(LAST_START);
        let papers = papers(connection, &header, order, author)?;
        let held = ask::within(hand_in(connection, &papers)).await?;
        Ok(Self { operation, targets, timeout, last_start, _held: held })
    }

    /// The servers, in the order of their [errands](Self::errand).
    pub fn hosts(&self) -> &[HostName] {
        self.targets.hosts()
    }

    /// The operation.
    pub const fn operation(&self) -> OperationId {
        self.operation
    }

    /// Whether a server that starts at `now` still gets it in time.
    pub fn is_open(&self, now: Millis) -> bool {
        now < self.last_start
    }

    /// What is to be said for the server at `index`.
    ///
    /// # Errors
    /// [`Code::Internal`] where there is none.
    pub fn errand(&self, index: usize) -> Result<Errand, Failure> {
        let proved = self.hosts().get(index).zip(self.targets.proof(index));
        let (host, (target, path)) = proved.ok_or(Code::Internal)?;
        let opening = ask::packed(&[
            Part::json(PartKind::Ask, &Ask::Run { operation: self.operation, host: host.clone() })?,
            Part::new(PartKind::Target, target),
            Part::json(PartKind::Path, &path)?,
            Part::new(PartKind::Go, []),
        ]);
        Ok(Errand { operation: self.operation, host: host.clone(), timeout: self.timeout, opening })
    }
}

fn header(
    connection: &Connection,
    operation: OperationId,
    order: &Order,
    resolved: &Resolved,
    targets: &Targets,
    author: &Author,
) -> Result<Header, Failure> {
    let delegation = match author {
        Author::Session => Some(connection.session.delegation().digest()),
        Author::OwnKey(_) => None,
    };
    let (kind, argv, args, level, timeout) = match (&order.work, &resolved.item) {
        (Work::Raw(argv), None) => {
            (Kind::Raw, Some(argv.clone()), Vec::new(), Level::Three, order.timeout.unwrap_or(RAW_TIMEOUT))
        }
        (Work::Item { args, .. }, Some((_, package))) => {
            let longest = package.timeout();
            let timeout = order.timeout.map_or(longest, |asked| asked.min(longest));
            (Kind::Item, None, args.clone(), package.level, timeout)
        }
        (Work::Raw(_), Some(_)) | (Work::Item { .. }, None) => return Err(Code::Internal.into()),
    };
    let now = connection.now();
    Ok(Header {
        v: V1,
        site: connection.site().clone(),
        operation,
        technician_cert: certificate::digest(&connection.certificate).map_err(|error| error.0)?,
        delegation,
        kind,
        item: resolved.item.as_ref().map(|(item, _)| item.clone()),
        argv,
        args,
        stdin: order.stdin.as_deref().map(Digest::of),
        level,
        case: order.case.clone(),
        reason: order.reason.clone(),
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        not_before: now,
        not_after: now.plus(ACCEPT_WITHIN),
        checkpoint: Unused,
        ephemeral: Unused,
        targets_root: targets.root(),
    })
}

/// The submission, part by part.
fn papers(connection: &Connection, header: &Header, order: &Order, author: &Author) -> Result<Vec<Part>, Failure> {
    let session = &connection.session;
    let key = match author {
        Author::Session => session.key(),
        Author::OwnKey(key) => key,
    };
    let request = Signed::make(header, key).map_err(|error| match error {
        SignedError::TooLarge(_) => {
            Refusal { code: Code::ArgumentsInvalid, reason: "command, case and reason are too long together".into() }
        }
        SignedError::Framing | SignedError::Signature(_) | SignedError::Document(_) => {
            Refusal::because(Code::Internal, error)
        }
    })?;
    let certificate = connection.certificate.to_bytes().map_err(|error| Failure::because(Code::Internal, error))?;
    let mut papers = vec![
        Part::json(PartKind::Ask, &Ask::Submit { operation: header.operation })?,
        Part::new(PartKind::Request, request.to_wire()),
    ];
    if header.delegation.is_some() {
        papers.push(Part::new(PartKind::Delegation, session.delegation().signed().to_wire()));
    }
    papers.push(Part::new(PartKind::Certificate, certificate));
    if let Some(input) = &order.stdin {
        papers.push(Part::new(PartKind::Stdin, input.clone()));
    }
    papers.push(Part::new(PartKind::Go, []));
    Ok(papers)
}

async fn hand_in(connection: &Connection, papers: &[Part]) -> Result<(Sender, Inbound), Failure> {
    let (mut sender, receiver) = connection.link.open()?.split();
    let mut inbound = Inbound::new(receiver);
    // A master that refuses in the middle of it has said why: what it said is read in any case.
    let handed_in = sender.send_all(Content::Message, parts::pack(papers)).await;
    tracing::trace!(?handed_in, "handed in");
    let (_, Answer::Submitted {}) = ask::read(&mut inbound, &[]).await? else {
        return Err(Code::Protocol.into());
    };
    Ok((sender, inbound))
}
