//! The accept loop. It never ends on a failed accept, admits a bounded number of strangers at once, and gives each a
//! bounded time to prove who it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reeve_link::ssh::{HostIdentity, server_config};
use ssh_key::{Certificate, PrivateKey};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::visitor::Visitor;
use crate::master::Master;

/// Connections that have not proved who they are, at once.
const STRANGERS: usize = 256;
/// How long a connection has to prove who it is and to ask for what Reeve serves. Who proves nothing, and only reads
/// the trust bundle, has no more.
const LOGIN_GRACE: Duration = Duration::from_secs(20);
/// Connections that the kernel holds for us.
const BACKLOG: u32 = 4096;
/// How long to wait after an accept that failed for want of descriptors or memory.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// Binds the address.
///
/// # Errors
/// When it cannot be bound.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Listens until the master stops. Returns once the address is bound; the loop is a task.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(master: &Arc<Master>, key: PrivateKey, certificate: Certificate) -> std::io::Result<SocketAddr> {
    let listener = bind(master.config.listen)?;
    let address = listener.local_addr()?;
    let config = Arc::new(server_config(HostIdentity { key, certificate }));
    let served = Arc::clone(master);
    master.tasks.spawn_essential("listener", async move {
        tokio::select! {
            () = served.running.closing().cancelled_owned() => drop(listener),
            () = accept_for_ever(&listener, &config, &served) => return,
        }
        served.tasks.stop().cancelled_owned().await;
    });
    Ok(address)
}

async fn accept_for_ever(listener: &TcpListener, config: &Arc<russh::server::Config>, master: &Arc<Master>) {
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    loop {
        let Ok(permit) = Arc::clone(&strangers).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((socket, peer)) => {
                // One listener takes both versions, and shows those of version 4 in the form of version 6.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let (config, master) = (Arc::clone(config), Arc::clone(master));
                let serving = Arc::clone(&master);
                serving.tasks.spawn("connection", async move {
                    let admitted = CancellationToken::new();
                    tokio::join!(serve(socket, peer, config, master, admitted.clone()), async {
                        // A stranger's place is free again when it is known, or its time is up.
                        drop(tokio::time::timeout(LOGIN_GRACE, admitted.cancelled()).await);
                        drop(permit);
                    });
                });
            }
            Err(error) => {
                tracing::error!(%error, "a connection could not be accepted");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

async fn serve(
    socket: TcpStream,
    peer: SocketAddr,
    config: Arc<russh::server::Config>,
    master: Arc<Master>,
    admitted: CancellationToken,
) {
    let kill = master.tasks.stop().child_token();
    let visitor = Visitor::new(Arc::clone(&master), peer, &kill, admitted.clone());
    let gone = visitor.leaving();
    let session = async {
        if let Err(error) = reeve_link::ssh::serve(config, socket, visitor, &kill).await {
            tracing::debug!(%peer, %error, "a connection ended");
        }
    };
    let in_time = async {
        if tokio::time::timeout(LOGIN_GRACE, admitted.cancelled()).await.is_err() {
            kill.cancel();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = session => {}
        () = in_time => {}
    }
    admitted.cancel();
    gone.record_if_nobody(&master, peer).await;
}
