//! What anyone may have: the trust bundle, whose signature is its own authority.

use reeve_link::{Content, Link, parts};
use reeve_wire::message::{Part, PartKind};

use crate::master::Master;

/// Sends the bundle on a stream of its own and lets the visitor hang up.
pub async fn serve(master: &Master, link: &Link) {
    link.refuse_streams();
    let bundle = master.trusted.bundle().signed().to_wire();
    let run = parts::pack(&[Part::new(PartKind::Bundle, bundle), Part::new(PartKind::Go, [])]);
    let Ok(stream) = link.open() else {
        return;
    };
    let (mut sender, _receiver) = stream.split();
    if sender.send_all(Content::Message, run).await.is_ok() && sender.finish().is_ok() {
        let patience = std::time::Duration::from_secs(10);
        drop(tokio::time::timeout(patience, link.closed()).await);
    }
}
