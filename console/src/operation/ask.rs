//! A question to the master on a stream of its own.

use std::time::Duration;

use bytes::Bytes;
use reeve_link::parts::{self, Inbound};
use reeve_link::{Content, Ended, Link, MAX_PAYLOAD, Sender};
use reeve_wire::code::Code;
use reeve_wire::message::{Answer, MessageError, Part, PartKind};

use crate::failure::Failure;

/// How long the master may take to answer; a directory may be behind it.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Asks, and takes the one answer.
///
/// # Errors
/// A refusal, an answer that does not come, or one that does not belong here.
pub async fn answer(link: &Link, question: &[Part]) -> Result<Answer, Failure> {
    let (_, answer) = answer_with(link, question, &[]).await?;
    Ok(answer)
}

/// Asks, and takes the answer with the parts of these kinds before it, each at most once.
///
/// # Errors
/// As [`answer`].
pub async fn answer_with(link: &Link, question: &[Part], before: &[PartKind]) -> Result<(Vec<Part>, Answer), Failure> {
    let asking = async {
        let (sender, receiver) = link.open()?.split();
        // A master that refuses in the middle of the question has said why: what it said is read in any case.
        let asked = say_all(sender, parts::pack(question)).await;
        tracing::trace!(?asked, "asked");
        read(&mut Inbound::new(receiver), before).await
    };
    within(asking).await
}

/// Says a question to its end. The end goes with the last frame: a master that has answered does not wait for it.
async fn say_all(mut sender: Sender, mut question: Bytes) -> Result<(), Ended> {
    let most = question.len().min(MAX_PAYLOAD);
    let last = question.split_off(question.len() - most);
    sender.send_all(Content::Message, question).await?;
    sender.finish_with(Content::Message, last).await
}

/// Reads an answer and the parts of these kinds before it.
///
/// # Errors
/// As [`answer`].
pub async fn read(inbound: &mut Inbound, before: &[PartKind]) -> Result<(Vec<Part>, Answer), Failure> {
    let mut found: Vec<Part> = Vec::new();
    loop {
        let part = inbound.part().await?;
        if part.kind == PartKind::Answer {
            let answer = part.read(PartKind::Answer)?;
            if let Answer::Refused { refusal, record } = answer {
                return Err(Failure::from(refusal).recorded(record));
            }
            return Ok((found, answer));
        }
        if !before.contains(&part.kind) || found.iter().any(|seen| seen.kind == part.kind) {
            return Err(MessageError::Unexpected(part.kind).into());
        }
        found.push(part);
    }
}

/// Waits for the master, but not for ever.
pub(crate) async fn within<T>(asking: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let answered = tokio::time::timeout(ANSWER_WITHIN, asking).await;
    answered.unwrap_or_else(|_| {
        Err(Failure::because(Code::MasterUnreachable, format_args!("no answer within {ANSWER_WITHIN:?}")))
    })
}

/// Parts that go into one opening frame.
pub(crate) fn packed(parts: &[Part]) -> Bytes {
    parts::pack(parts)
}
