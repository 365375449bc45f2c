//! What comes from the master on an operation's stream: the parts that make it up, then nothing but a cancel.

use reeve_link::{Content, Ended, Reason, Receiver};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::message::{Part, PartKind, PartReader};

use crate::handed::{Handed, MAX_WHOLE};
use crate::running::Stop;

/// Why an operation was not handed over.
#[derive(Debug)]
pub(super) enum NotWhole {
    /// What came does not belong here.
    Refused(Refusal),
    /// The stream or the connection ended; there is nobody to tell.
    Gone(String),
}

/// One direction of an operation's stream.
#[derive(Debug)]
pub(super) struct Incoming {
    receiver: Receiver,
    reader: PartReader,
    /// Bytes that may still come.
    room: usize,
}

/// What came next.
enum Next {
    Part(Part),
    /// The master has said all that it will.
    Over,
    /// What came is no part that this version knows.
    Foreign(Refusal),
    Lost(Ended),
}

impl Incoming {
    pub(super) fn new(receiver: Receiver) -> Self {
        Self { receiver, reader: PartReader::default(), room: MAX_WHOLE }
    }

    /// Collects the parts of one operation up to the last.
    pub(super) async fn collect(&mut self, handed: &mut Handed) -> Result<(), NotWhole> {
        loop {
            match self.next().await {
                Next::Part(part) => {
                    if handed.add(part).map_err(NotWhole::Refused)? {
                        return Ok(());
                    }
                }
                Next::Foreign(refusal) => return Err(NotWhole::Refused(refusal)),
                Next::Over => return Err(NotWhole::Gone("the master ended it".to_owned())),
                Next::Lost(ended) => return Err(NotWhole::Gone(ended.to_string())),
            }
        }
    }

    /// Listens for a reason to stop what runs, until nothing more can come. A lost connection is none.
    pub(super) async fn listen(&mut self, stop: &Stop) {
        loop {
            match self.next().await {
                Next::Part(part) => stop.because(cancel(&part)),
                Next::Foreign(refusal) => return stop.because(Refusal { code: Code::Cancelled, ..refusal }),
                Next::Lost(Ended::Reset(reason)) => return stop.because(of_reset(reason)),
                Next::Over | Next::Lost(Ended::Link(_) | Ended::TooLong(_)) => return,
            }
        }
    }

    /// Waits until the master has ended its side, which it does once it has read ours.
    pub(super) async fn over(&mut self) {
        while let Next::Part(_) = self.next().await {}
    }

    /// Safe to drop and ask again.
    async fn next(&mut self) -> Next {
        loop {
            match self.reader.next_part() {
                Ok(Some(part)) => return Next::Part(part),
                Ok(None) => {}
                Err(error) => return Next::Foreign(error.into()),
            }
            let (content, body) = match self.receiver.next().await {
                Ok(Some(taken)) => (taken.content(), taken.into_body()),
                Ok(None) => return Next::Over,
                Err(ended) => return Next::Lost(ended),
            };
            if content != Content::Message {
                return Next::Foreign(Refusal::because(
                    Code::Protocol,
                    "frames that are no message do not belong here",
                ));
            }
            let Some(room) = self.room.checked_sub(body.len()) else {
                return Next::Foreign(Refusal::because(Code::Protocol, format_args!("more than {MAX_WHOLE} bytes")));
            };
            self.room = room;
            self.reader.feed(&body);
        }
    }
}

/// What a part says while something runs: only a cancel belongs there, and anything else ends it as well.
fn cancel(part: &Part) -> Refusal {
    match part.read::<Refusal>(PartKind::Cancel) {
        Ok(why) if matches!(why.code, Code::Cancelled | Code::RightLost | Code::TimedOut) => why,
        Ok(why) => Refusal { code: Code::Cancelled, ..why },
        Err(error) => Refusal::because(Code::Cancelled, error),
    }
}

fn of_reset(reason: Reason) -> Refusal {
    let code = match reason {
        Reason::RightLost => Code::RightLost,
        Reason::Deadline => Code::TimedOut,
        Reason::Cancelled | Reason::TooMany | Reason::Refused => Code::Cancelled,
    };
    Refusal::because(code, format_args!("the master reset the stream: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_keeps_its_code_only_where_it_is_one_of_three() {
        let said = |code: Code| Part::json(PartKind::Cancel, &Refusal::from(code)).unwrap();

        for code in [Code::Cancelled, Code::RightLost, Code::TimedOut] {
            assert_eq!(cancel(&said(code)), Refusal::from(code));
        }
        assert_eq!(cancel(&said(Code::Vetoed)).code, Code::Cancelled);
        assert_eq!(cancel(&Part::new(PartKind::Query, b"{}")).code, Code::Cancelled);
    }
}
