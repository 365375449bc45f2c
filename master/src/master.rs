//! The parts of a running master, in one place, so that a path through the code can be followed by its names.

use ssh_key::PrivateKey;

use reeve_link::tasks::Tasks;
use reeve_wire::time::Clock;

use crate::config::Config;
use crate::directory::Directory;
use crate::fleet::Fleet;
use crate::ledger::Ledger;
use crate::replay::Replay;
use crate::running::Running;
use crate::sessions::Sessions;
use crate::ssh::Door;
use crate::trusted::Trusted;

/// A running master.
#[derive(Debug)]
pub struct Master {
    /// As it was configured.
    pub config: Config,
    /// Where `now` comes from.
    pub clock: Clock,
    /// All its tasks.
    pub tasks: Tasks,
    /// Bundle and library.
    pub trusted: Trusted,
    /// People, groups and rights.
    pub directory: Directory,
    /// The record.
    pub ledger: Ledger,
    /// Connected agents.
    pub fleet: Fleet,
    /// Session keys.
    pub sessions: Sessions,
    /// Who was turned away.
    pub door: Door,
    /// Requests that were used.
    pub replay: Replay,
    /// What is on its way, for a stop in order.
    pub running: Running,
    /// The host key: signs grants.
    pub key: PrivateKey,
    /// The host certificate, wire blob.
    pub certificate: Vec<u8>,
}
