//! How much of a connection one side lets the other use.

use std::num::NonZeroU32;

use reeve_wire::frame::{MAX_BODY, MAX_PAYLOAD};

/// What an open or data frame costs beyond its body, in bytes of credit: about what it costs to hold, so that a
/// window full of empty frames takes no more memory than one full of bytes.
pub const FRAME_COST: u32 = 64;

/// The window of the control stream, in bytes of credit, on every connection.
pub const CONTROL_WINDOW: u32 = 256 * 1024;

/// How many bytes of credit one stream may have outstanding in one direction. Holds two of the longest frames, since
/// credit comes back by halves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window(NonZeroU32);

impl Window {
    /// The smallest window.
    pub const SMALLEST: Self = match NonZeroU32::new(2 * (MAX_BODY as u32 + FRAME_COST)) {
        Some(bytes) => Self(bytes),
        None => Self(NonZeroU32::MIN),
    };

    /// A window of `bytes`, or the smallest if that is more.
    #[must_use]
    pub const fn of(bytes: u32) -> Self {
        match NonZeroU32::new(bytes) {
            Some(enough) if enough.get() > Self::SMALLEST.get() => Self(enough),
            _ => Self::SMALLEST,
        }
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// What both sides of a connection agree on by its kind, and how much this side queues.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Credit of each stream and direction. The same on both sides.
    pub window: Window,
    /// Streams that each side may have open. The same on both sides.
    pub streams: u16,
    /// Bytes of frames that wait here to be sent before senders wait.
    pub backlog: usize,
    /// The longest payload that [`Sender::send_all`](crate::Sender::send_all) makes, at most [`MAX_PAYLOAD`].
    pub body: usize,
    /// The window of the SSH channel below, in bytes. The same on both sides.
    pub ssh_window: u32,
}

impl Limits {
    /// A control connection: many short streams.
    pub const CONTROL: Self = Self {
        window: Window::of(256 * 1024),
        streams: 1024,
        backlog: 512 * 1024,
        body: MAX_PAYLOAD,
        ssh_window: 2 * 1024 * 1024,
    };

    /// A connection of its own for one session: few streams, and enough in flight for a long way.
    pub const BULK: Self = Self {
        window: Window::of(16 * 1024 * 1024),
        streams: 8,
        backlog: 512 * 1024,
        body: MAX_PAYLOAD,
        ssh_window: 16 * 1024 * 1024,
    };

    /// The SSH subsystem that asks for these limits: both sides take them from its name.
    #[must_use]
    pub fn subsystem(&self) -> &'static str {
        if *self == Self::BULK { "reeve-bulk" } else { "reeve" }
    }

    /// The limits that a subsystem's name stands for.
    #[must_use]
    pub fn of_subsystem(name: &str) -> Option<Self> {
        [Self::CONTROL, Self::BULK].into_iter().find(|limits| limits.subsystem() == name)
    }
}
