//! Why a stream or a whole connection is over.

pub use reeve_wire::frame::Reason;

/// Why a connection is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Why {
    /// This side cut it: a right was lost, a key revoked, an operator pulled the switch.
    #[error("the connection was cut")]
    Killed,
    /// This side has no more use for it.
    #[error("the connection was closed")]
    Closed,
    /// The other side closed it or its socket broke.
    #[error("the other side is gone")]
    PeerGone,
    /// The other side broke a rule of the protocol.
    #[error("the other side broke the protocol: {0}")]
    Protocol(&'static str),
    /// The other side did not answer keepalives.
    #[error("the other side fell silent")]
    Silent,
    /// A newer connection of the same agent took its place.
    #[error("a newer connection took its place")]
    Replaced,
}

impl Why {
    /// Whether what had arrived before the end may still be read.
    pub(crate) fn keeps_what_arrived(self) -> bool {
        match self {
            Self::PeerGone | Self::Silent => true,
            Self::Killed | Self::Closed | Self::Protocol(_) | Self::Replaced => false,
        }
    }
}

/// Why a stream takes or gives no more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Ended {
    /// One side reset the stream.
    #[error("the stream was reset: {0}")]
    Reset(Reason),
    /// The connection below is over.
    #[error(transparent)]
    Link(Why),
    /// The payload does not fit into one frame; nothing was sent and the stream goes on.
    #[error("a payload of {0} bytes does not fit into one frame: send it in pieces")]
    TooLong(usize),
}
