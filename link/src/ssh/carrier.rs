//! Frames on an SSH channel: in through russh's `data` callback, which never waits, and out through one writer.

use std::sync::Arc;

use bytes::Bytes;
use russh::server::ChannelOpenHandle;
use russh::{Channel, ChannelId, ChannelMsg, ChannelWriteHalf, server};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Killable;
use crate::ended::Why;
use crate::limits::Limits;
use crate::link::{Carrier, Inlet, Link, Sending};
use crate::mux::Side;
use crate::tasks::Tasks;

/// What a server's handler keeps of its one channel. The handler passes its callbacks on; none of them waits.
///
/// ```text
/// channel_open_session(channel, reply, ..)  => carrier.open(channel, reply).await
/// subsystem_request(id, name, session)      => if let Some(link) = carrier.subsystem(id, name, session)? { hand it over }
/// data(id, bytes, ..)                       => carrier.data(id, bytes)?
/// channel_eof / channel_close(id, ..)       => carrier.ended(id)
/// adjust_window(_, current)                 => carrier.adjust_window(current)
/// ```
///
/// Drop it with the handler: that tells the link that the other side is gone.
pub struct ServerCarrier {
    tasks: Tasks,
    socket: CancellationToken,
    stage: Stage,
}

/// Runs one accepted connection until it ends or `kill` is cancelled. The handler's [`ServerCarrier`] is to have the
/// same token. How long a login may take, and how many are under way, is for the caller to bound.
///
/// # Errors
///
/// What ended it, when that was not the other side's disconnect.
pub async fn serve<H>(
    config: Arc<server::Config>,
    socket: TcpStream,
    handler: H,
    kill: &CancellationToken,
) -> Result<(), H::Error>
where
    H: server::Handler + Send + 'static,
{
    if config.nodelay {
        socket.set_nodelay(true).map_err(russh::Error::from)?;
    }
    // Until the subsystem is asked for, nobody knows which window it will be.
    let socket = Killable::new(socket, kill, Limits::BULK.ssh_window);

    server::run_stream(config, socket, handler).await?.await
}

enum Stage {
    Unopened,
    Opened(ChannelWriteHalf<server::Msg>),
    Attached { channel: ChannelId, inlet: Inlet, window: u32 },
    Over,
}

impl ServerCarrier {
    /// For a connection whose socket obeys `socket`.
    #[must_use]
    pub fn new(tasks: &Tasks, socket: CancellationToken) -> Self {
        Self { tasks: tasks.clone(), socket, stage: Stage::Unopened }
    }

    /// Accepts the first session channel and no other.
    pub async fn open(&mut self, channel: Channel<server::Msg>, reply: ChannelOpenHandle) {
        if !matches!(self.stage, Stage::Unopened) {
            // A dropped reply is a refusal.
            return;
        }
        // The read half would have to be read: a hundred unread messages stop a russh connection for good.
        let (_, write) = channel.split();
        self.stage = Stage::Opened(write);
        reply.accept().await;
    }

    /// Answers a request for a subsystem on the channel; the link, if it is ours.
    ///
    /// # Errors
    ///
    /// The session is gone.
    pub fn subsystem(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut server::Session,
    ) -> Result<Option<Link>, russh::Error> {
        let Some(link) = self.attach(channel, name) else {
            session.channel_failure(channel)?;
            return Ok(None);
        };
        session.channel_success(channel)?;

        Ok(Some(link))
    }

    fn attach(&mut self, channel: ChannelId, name: &str) -> Option<Link> {
        let limits = Limits::of_subsystem(name)?;
        let Stage::Opened(write) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return None;
        };
        if write.id() != channel {
            return None;
        }
        let (link, inlet) = Link::new(Side::Master, limits, &self.tasks, self.socket.clone());
        link.attach(Arc::new(Writer::new(write, ())));
        self.stage = Stage::Attached { channel, inlet, window: limits.ssh_window };

        Some(link)
    }

    /// Takes what came on the channel.
    ///
    /// # Errors
    ///
    /// The link is over, perhaps because of these bytes: end the session.
    pub fn data(&mut self, channel: ChannelId, bytes: &[u8]) -> Result<(), Why> {
        match &self.stage {
            Stage::Attached { channel: ours, inlet, .. } if *ours == channel => inlet.feed(bytes),
            Stage::Unopened | Stage::Opened(_) | Stage::Attached { .. } | Stage::Over => {
                Err(Why::Protocol("data came before the subsystem was asked for"))
            }
        }
    }

    /// The other side closed the channel, or its direction of it; one is as good as both.
    pub fn ended(&mut self, channel: ChannelId) {
        if matches!(&self.stage, Stage::Attached { channel: ours, .. } if *ours == channel) {
            self.stage = Stage::Over;
        }
    }

    /// The window that the channel's kind of link has.
    #[must_use]
    pub fn adjust_window(&self, current: u32) -> u32 {
        match self.stage {
            Stage::Attached { window, .. } => window,
            Stage::Unopened | Stage::Opened(_) | Stage::Over => current,
        }
    }

    /// Ends the link with a reason, where the handler knows one; otherwise its end is told by the drop.
    pub fn close(&mut self, why: Why) {
        if let Stage::Attached { inlet, .. } = std::mem::replace(&mut self.stage, Stage::Over) {
            inlet.close(why);
        }
    }
}

/// The one writer of a channel: frames are cut where packets and windows end, so two would mix theirs.
pub(crate) struct Writer<M: From<(ChannelId, ChannelMsg)>, K> {
    channel: ChannelWriteHalf<M>,
    /// What must live as long as frames may be sent: russh ends a client's session with its handle.
    _keep: K,
}

impl<M: From<(ChannelId, ChannelMsg)>, K> Writer<M, K> {
    pub(crate) fn new(channel: ChannelWriteHalf<M>, keep: K) -> Self {
        Self { channel, _keep: keep }
    }
}

impl<M, K> Carrier for Writer<M, K>
where
    M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
    K: Send + Sync + 'static,
{
    fn send(&self, bytes: Bytes) -> Sending<'_> {
        Box::pin(async move { self.channel.data_bytes(bytes).await.map_err(|_| Why::PeerGone) })
    }
}
