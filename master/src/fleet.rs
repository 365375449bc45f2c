//! Which agents are connected. One connection a server; a newer one takes the place of an older.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reeve_link::{Link, Why};
use reeve_wire::certificate::AgentIdentity;
use reeve_wire::code::Refusal;
use reeve_wire::message::AgentHello;
use reeve_wire::name::HostName;
use reeve_wire::time::Millis;

/// A connected agent that has answered with its trust bundle's number.
#[derive(Debug)]
pub struct Agent {
    /// Who it is, as its certificate says.
    pub identity: AgentIdentity,
    /// What it said of itself.
    pub hello: AgentHello,
    /// Its connection.
    pub link: Link,
    /// Since when it is here.
    pub since: Millis,
    /// Why it takes no work, if it takes none.
    pub refusal: Option<Refusal>,
}

/// The connected agents. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    agents: Arc<Mutex<HashMap<HostName, Arc<Agent>>>>,
}

impl Fleet {
    /// Takes in an agent; an older connection of the same server is cut.
    pub fn join(&self, agent: &Arc<Agent>) {
        let older = self.table().insert(agent.identity.host.clone(), Arc::clone(agent));
        if let Some(older) = older {
            older.link.kill(Why::Replaced);
        }
    }

    /// Cuts an older connection of the same server, so that what is on its way there ends before it is asked about.
    pub fn make_way(&self, host: &HostName) {
        let older = self.table().remove(host);
        if let Some(older) = older {
            older.link.kill(Why::Replaced);
        }
    }

    /// Takes out exactly this connection; a newer one of the same server stays.
    pub fn leave(&self, agent: &Arc<Agent>) {
        let mut table = self.table();
        if table.get(&agent.identity.host).is_some_and(|present| Arc::ptr_eq(present, agent)) {
            table.remove(&agent.identity.host);
        }
    }

    /// The agent of `host`, if it is connected.
    pub fn agent(&self, host: &HostName) -> Option<Arc<Agent>> {
        self.table().get(host).cloned()
    }

    /// All connected agents.
    pub fn agents(&self) -> Vec<Arc<Agent>> {
        self.table().values().cloned().collect()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<HostName, Arc<Agent>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
