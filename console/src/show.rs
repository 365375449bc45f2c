//! Where the output of servers goes: to a terminal made visible, to a pipe byte for byte, or aside for JSON.
//!
//! Back-pressure is a chain: the credit of a frame goes back when its bytes were written, so a reader that stops stops
//! the server that writes, and nothing else.

mod captured;
mod printer;
mod text;

use std::io;

use bytes::Bytes;
use reeve_link::{Content, Credit};

pub use self::captured::Captured;
pub use self::printer::{Printer, Printing, Std};
pub use self::text::{Escaper, Lines};

/// How bytes of a server reach one of our streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Manner {
    /// As they are: nobody but a program reads them.
    Exact,
    /// With everything hostile made visible: a person looks.
    Visible,
}

impl Manner {
    /// For a stream that is a terminal or is not.
    pub const fn of_terminal(is_terminal: bool) -> Self {
        if is_terminal { Self::Visible } else { Self::Exact }
    }
}

/// One of a server's two streams on its way to one of ours.
#[derive(Debug)]
enum Flow {
    Exact,
    Visible(Escaper),
    Lines(Lines),
}

impl Flow {
    const fn plain(manner: Manner) -> Self {
        match manner {
            Manner::Exact => Self::Exact,
            Manner::Visible => Self::Visible(Escaper::new()),
        }
    }

    fn push(&mut self, bytes: Bytes) -> Bytes {
        match self {
            Self::Exact => bytes,
            Self::Visible(escaper) => escaper.push(&bytes).into(),
            Self::Lines(lines) => lines.push(&bytes).into(),
        }
    }

    fn finish(&mut self) -> Bytes {
        match self {
            Self::Exact => Bytes::new(),
            Self::Visible(escaper) => escaper.finish().into(),
            Self::Lines(lines) => lines.finish().into(),
        }
    }
}

/// Takes the output of one server.
#[derive(Debug)]
pub struct Sink(Inner);

#[derive(Debug)]
enum Inner {
    Printed { printing: Printing, out: Flow, err: Flow },
    Kept(Box<(Captured, Captured)>),
}

impl Sink {
    /// Hands output on as it comes, as the only server's.
    pub fn live(printing: Printing, out: Manner, err: Manner) -> Self {
        Self(Inner::Printed { printing, out: Flow::plain(out), err: Flow::plain(err) })
    }

    /// Hands output on line by line, with `prefix` before each.
    pub fn lines(printing: Printing, prefix: &str, out: Manner, err: Manner) -> Self {
        let flow = |manner| Flow::Lines(Lines::new(prefix, manner));
        Self(Inner::Printed { printing, out: flow(out), err: flow(err) })
    }

    /// Keeps output until it is told as JSON.
    pub fn kept() -> Self {
        Self(Inner::Kept(Box::default()))
    }

    /// Takes bytes of standard output or standard error, and the credit that they hold.
    ///
    /// # Errors
    /// When they cannot be kept.
    pub async fn take(&mut self, content: Content, bytes: Bytes, credit: Credit) -> io::Result<()> {
        let to = if content == Content::Stderr { Std::Err } else { Std::Out };
        match &mut self.0 {
            Inner::Kept(kept) => match to {
                Std::Out => kept.0.push(&bytes),
                Std::Err => kept.1.push(&bytes),
            },
            Inner::Printed { printing, out, err } => {
                let flow = match to {
                    Std::Out => out,
                    Std::Err => err,
                };
                printing.print(to, flow.push(bytes), Some(credit)).await;
                Ok(())
            }
        }
    }

    /// Hands on what was held back: the start of a character, a line without its end.
    pub async fn finish(&mut self) {
        if let Inner::Printed { printing, out, err } = &mut self.0 {
            printing.print(Std::Out, out.finish(), None).await;
            printing.print(Std::Err, err.finish(), None).await;
        }
    }

    /// Standard output and standard error, where they were kept.
    pub fn into_kept(self) -> Option<(Captured, Captured)> {
        match self.0 {
            Inner::Printed { .. } => None,
            Inner::Kept(kept) => Some(*kept),
        }
    }
}
