//! What is kept of one operation while it runs: its output, its receipts, and whether they belong together.

use reeve_audit::content::{Content, ContentError, ContentWriter};
use reeve_link::Content as Stream;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::message::{Part, PartKind, Salts};
use reeve_wire::name::{HostName, Name};
use reeve_wire::receipt::{Event, Outcome, Receipt, StreamReceipt};
use reeve_wire::signed::Signed;
use ssh_key::public::KeyData;

use crate::fleet::Agent;
use crate::policy::Request;

/// The most bytes of one stream that the record keeps. The agent's own limit is lower or the same.
const MAX_OUTPUT: u64 = 256 * 1024 * 1024;

/// How an operation on one server ended, with all that its record needs.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) outcome: Outcome,
    pub(crate) exit_status: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) code: Option<Code>,
    pub(crate) reason: Option<String>,
    pub(crate) truncated: bool,
    pub(crate) stdout: Option<Content>,
    pub(crate) stderr: Option<Content>,
    pub(crate) grant: Option<Vec<u8>>,
    pub(crate) receipts: Vec<Vec<u8>>,
    /// What the server did that no honest one does.
    pub(crate) anomaly: Option<String>,
    streams: [Option<StreamReceipt>; 2],
}

impl Finished {
    fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            exit_status: None,
            signal: None,
            code: None,
            reason: None,
            truncated: false,
            stdout: None,
            stderr: None,
            grant: None,
            receipts: Vec::new(),
            anomaly: None,
            streams: [None, None],
        }
    }

    /// It was not sent, and this is why.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        let undelivered = matches!(refusal.code, Code::Unreachable | Code::NotDelivered);
        let outcome = if undelivered { Outcome::Unreachable } else { Outcome::Refused };
        Self { code: Some(refusal.code), reason: Some(refusal.reason), ..Self::new(outcome) }
    }

    /// It was sent, and nobody can say more.
    pub(crate) fn unknown(why: impl std::fmt::Display) -> Self {
        let refusal = Refusal::because(Code::OutcomeUnknown, why);
        Self { code: Some(refusal.code), reason: Some(refusal.reason), ..Self::new(Outcome::Unknown) }
    }

    /// The server broke the rules; what it says is not believed.
    pub(crate) fn anomaly(why: String) -> Self {
        Self { anomaly: Some(why.clone()), ..Self::unknown(why) }
    }

    /// What a server's own receipt says.
    pub(crate) fn from_receipt(receipt: &Receipt) -> Self {
        let truncated = [receipt.stdout, receipt.stderr].into_iter().flatten().any(|stream| stream.truncated);
        Self {
            exit_status: receipt.exit_status,
            signal: receipt.signal,
            code: receipt.code,
            reason: receipt.reason.clone(),
            truncated,
            streams: [receipt.stdout, receipt.stderr],
            ..Self::new(receipt.outcome.unwrap_or(Outcome::Unknown))
        }
    }

    pub(super) fn with_grant(mut self, grant: &Signed) -> Self {
        self.grant = Some(grant.to_wire());
        self
    }

    /// Adds output and receipts, and compares the output with what the receipt commits to.
    pub(super) fn with_recording(mut self, recording: Recording) -> Self {
        self.receipts = recording.receipts;
        let kept = recording.streams.map(|writer| writer.map(ContentWriter::finish).transpose());
        match kept {
            [Ok(stdout), Ok(stderr)] => {
                let streams = [(&stdout, self.streams[0]), (&stderr, self.streams[1])];
                let differs = streams.into_iter().any(|(content, receipt)| !agrees(content.as_ref(), receipt));
                if differs && self.outcome != Outcome::Unknown {
                    self.anomaly = Some("its receipt commits to other output than it sent".to_owned());
                }
                self.stdout = with_length(stdout, self.streams[0]);
                self.stderr = with_length(stderr, self.streams[1]);
            }
            _ => self.reason = Some("its output could not be packed for the record".to_owned()),
        }
        self
    }
}

fn with_length(content: Option<Content>, receipt: Option<StreamReceipt>) -> Option<Content> {
    match (content, receipt) {
        (Some(content), Some(receipt)) => Some(content.cut_from(receipt.length)),
        (content, _) => content,
    }
}

/// Whether output is what a receipt commits to. A receipt that says nothing of output goes with none.
fn agrees(content: Option<&Content>, receipt: Option<StreamReceipt>) -> bool {
    match (content, receipt) {
        (None, None) => true,
        (Some(content), None) => content.pointer().length == 0,
        (None, Some(receipt)) => receipt.kept == 0,
        (Some(content), Some(receipt)) => content.commitment() == receipt.commitment,
    }
}

/// Output and receipts of one operation, as they come.
pub(super) struct Recording {
    site: Name,
    host: HostName,
    key: KeyData,
    operation: OperationId,
    request: Digest,
    grant: Digest,
    streams: [Option<ContentWriter>; 2],
    accepted: bool,
    receipts: Vec<Vec<u8>>,
}

impl Recording {
    pub(super) fn new(request: &Request, agent: &Agent, grant: Digest) -> Self {
        Self {
            site: request.authored.header().site.clone(),
            host: agent.identity.host.clone(),
            key: agent.identity.key.clone(),
            operation: request.authored.header().operation,
            request: request.authored.digest(),
            grant,
            streams: [None, None],
            accepted: false,
            receipts: Vec::new(),
        }
    }

    /// Takes a part of the agent's; the end, if it is the last.
    pub(super) fn part(&mut self, part: &Part) -> Result<Option<Finished>, String> {
        if part.kind == PartKind::Receipt {
            return self.receipt(&part.bytes);
        }
        let salts: Salts = part.read(PartKind::Salts).map_err(|error| error.to_string())?;
        if self.streams.iter().any(Option::is_some) {
            return Err("it sent its salts twice".to_owned());
        }
        self.streams = [salts.stdout, salts.stderr].map(|salt| Some(ContentWriter::new(salt, MAX_OUTPUT)));
        Ok(None)
    }

    /// Takes output; gives how many of its bytes, from the first, the record keeps.
    pub(super) fn output(&mut self, content: Stream, bytes: &[u8]) -> Result<usize, String> {
        let [stdout, stderr] = &mut self.streams;
        let writer = match content {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
            Stream::Message | Stream::Stdin | Stream::Resize | Stream::Signal => {
                return Err("it sent what is no output".to_owned());
            }
        };
        let writer = writer.as_mut().ok_or("it sent output before its salts")?;
        let room = usize::try_from(MAX_OUTPUT.saturating_sub(writer.seen())).unwrap_or(usize::MAX);
        writer.write(bytes).map_err(|error: ContentError| error.to_string())?;
        Ok(room.min(bytes.len()))
    }

    fn receipt(&mut self, bytes: &[u8]) -> Result<Option<Finished>, String> {
        let signed = Signed::from_wire(bytes).map_err(|error| error.to_string())?;
        let receipt = signed.verify::<Receipt>(&self.key).map_err(|error| error.to_string())?;
        receipt.consistent().map_err(|refusal| refusal.reason)?;
        let ours = receipt.site == self.site && receipt.host == self.host && receipt.operation == Some(self.operation);
        let about = receipt.request.is_none_or(|request| request == self.request)
            && receipt.grant.is_none_or(|grant| grant == self.grant);
        if !ours || !about {
            return Err("it sent a receipt of another operation".to_owned());
        }
        let end = match (receipt.event, self.accepted) {
            (Event::Accepted, false) => None,
            (Event::Ended, true) | (Event::Refused, false) => Some(Finished::from_receipt(&receipt)),
            (Event::Accepted | Event::Ended | Event::Refused | Event::Restarted, _) => {
                return Err("it sent a receipt that does not belong here".to_owned());
            }
        };
        self.accepted = true;
        self.receipts.push(bytes.to_vec());
        Ok(end)
    }
}
