//! The facts that are not operations: logins, keys, connections, trust, configuration, reads.

use reeve_wire::id::{Digest, OperationId};
use reeve_wire::name::{HostName, Name};
use reeve_wire::strict::present;
use serde::{Deserialize, Serialize};

use super::operation::sentence;
use super::{Evidence, Shelf};
use crate::content::{Content, ContentError};
use crate::text::Text;

/// The most bytes of one fact.
const MAX_FACT: usize = 4096;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// What sort of event.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl EventKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

kinds! {
    /// A technician proved both factors.
    Login = "login",
    /// A login was refused.
    LoginFailed = "login-failed",
    /// A session ended.
    Logout = "logout",
    /// A session key was registered; the delegation is the evidence.
    Session = "session",
    /// An agent connected, or its connection ended.
    Connection = "connection",
    /// A connection was refused; before authentication one record a source and minute, with a count.
    ConnectionRefused = "connection-refused",
    /// A trust bundle was taken or refused.
    Trust = "trust",
    /// The configuration in force, or a change of it.
    Configuration = "configuration",
    /// The master started.
    Start = "start",
    /// The master stopped.
    Stop = "stop",
    /// Someone read other people's records or facts of the fleet.
    Read = "read",
    /// A peer sent what no honest peer sends, or claims what its key does not say.
    Anomaly = "anomaly",
}

/// Who an event is about. Before authentication nothing of it is proved but the address.
#[derive(Clone, Debug, Default)]
pub struct Party {
    /// The name that was given.
    pub user: Option<Text>,
    /// The id in the directory.
    pub user_id: Option<String>,
    /// The fingerprint of the key, `SHA256:…`.
    pub key: Option<String>,
    /// The network address.
    pub address: Option<String>,
    /// The host, for an agent.
    pub host: Option<HostName>,
}

impl Party {
    /// A technician whom the master knows.
    pub fn technician(name: &Name, user_id: Option<&str>, key: Option<&str>, address: Option<&str>) -> Self {
        Self {
            user: Some(Text::from(name.as_str())),
            user_id: user_id.map(ToOwned::to_owned),
            key: key.map(ToOwned::to_owned),
            address: address.map(ToOwned::to_owned),
            host: None,
        }
    }

    /// An agent whom the master knows.
    pub fn agent(host: HostName, key: Option<&str>, address: Option<&str>) -> Self {
        Self {
            key: key.map(ToOwned::to_owned),
            address: address.map(ToOwned::to_owned),
            host: Some(host),
            ..Self::default()
        }
    }

    /// A peer of whom only the address is known.
    pub fn address(address: &str) -> Self {
        Self { address: Some(address.to_owned()), ..Self::default() }
    }
}

/// What a record of an event states.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The technician, or the name that was given.
    #[serde(deserialize_with = "present")]
    pub user: Option<Text>,
    /// The technician's id in the directory.
    #[serde(deserialize_with = "present")]
    pub user_id: Option<String>,
    /// The fingerprint of the key.
    #[serde(deserialize_with = "present")]
    pub key: Option<String>,
    /// The network address.
    #[serde(deserialize_with = "present")]
    pub address: Option<String>,
    /// The host.
    #[serde(deserialize_with = "present")]
    pub host: Option<HostName>,
    /// The operation, where it is about one.
    #[serde(deserialize_with = "present")]
    pub operation: Option<OperationId>,
    /// The stable code of a refusal or failure.
    #[serde(deserialize_with = "present")]
    pub code: Option<String>,
    /// Its sentence.
    #[serde(deserialize_with = "present")]
    pub reason: Option<String>,
    /// How many times it happened.
    pub count: u64,
    /// What else there is to know, as `[name, value]`.
    pub facts: Vec<(String, Text)>,
    /// The exact bytes that prove it, as `[name, bytes]`.
    pub evidence: Vec<(String, Evidence)>,
}

/// An event about to be recorded. Each constructor is one kind; `because`, `fact` and the like add to it.
#[derive(Clone, Debug)]
pub struct Happened {
    kind: EventKind,
    party: Party,
    operation: Option<OperationId>,
    code: Option<String>,
    reason: Option<String>,
    count: u64,
    facts: Vec<(String, Text)>,
    evidence: Vec<(String, Vec<u8>)>,
}

impl Happened {
    const fn new(kind: EventKind, party: Party) -> Self {
        Self {
            kind,
            party,
            operation: None,
            code: None,
            reason: None,
            count: 1,
            facts: Vec::new(),
            evidence: Vec::new(),
        }
    }

    /// A technician proved `factors`, such as `key` and `password`.
    pub fn login(party: Party, factors: &[&str]) -> Self {
        Self::new(EventKind::Login, party).fact("factors", factors.join(","))
    }

    /// A login was refused, `count` times.
    pub fn login_failed(party: Party, code: &str, reason: &str, count: u64) -> Self {
        Self::new(EventKind::LoginFailed, party).because(code, reason).times(count)
    }

    /// A session ended; `why` is a code or `requested`.
    pub fn logout(party: Party, why: &str) -> Self {
        Self::new(EventKind::Logout, party).fact("why", why)
    }

    /// A session key was registered under a delegation (two SSH strings).
    pub fn session(party: Party, session_key: &str, delegation: &[u8], certificate: &[u8]) -> Self {
        Self::new(EventKind::Session, party)
            .fact("session_key", session_key)
            .evidence("delegation", delegation)
            .evidence("certificate", certificate)
    }

    /// An agent is connected.
    pub fn connected(party: Party, instance: &str) -> Self {
        Self::new(EventKind::Connection, party).fact("state", "connected").fact("instance", instance)
    }

    /// An agent's connection ended.
    pub fn disconnected(party: Party, instance: &str, why: &str) -> Self {
        Self::new(EventKind::Connection, party).fact("state", "gone").fact("instance", instance).fact("why", why)
    }

    /// Connections were refused, `count` times from this party.
    pub fn connection_refused(party: Party, code: &str, reason: &str, count: u64) -> Self {
        Self::new(EventKind::ConnectionRefused, party).because(code, reason).times(count)
    }

    /// The trust bundle `number` was taken.
    pub fn trust(number: u64, digest: Digest) -> Self {
        let event = Self::new(EventKind::Trust, Party::default());
        event.fact("number", number.to_string()).fact("digest", digest.to_string())
    }

    /// The configuration in force.
    pub fn configuration(digest: Digest) -> Self {
        Self::new(EventKind::Configuration, Party::default()).fact("digest", digest.to_string())
    }

    /// The master started.
    pub fn start(version: &str) -> Self {
        Self::new(EventKind::Start, Party::default()).fact("version", version)
    }

    /// The master stops; `why` is what asked it to.
    pub fn stop(why: &str) -> Self {
        Self::new(EventKind::Stop, Party::default()).fact("why", why)
    }

    /// Someone read `what`.
    pub fn read(party: Party, what: &str) -> Self {
        Self::new(EventKind::Read, party).fact("what", what)
    }

    /// A peer sent or claims what it may not.
    pub fn anomaly(party: Party, code: &str, reason: &str) -> Self {
        Self::new(EventKind::Anomaly, party).because(code, reason)
    }

    /// Adds a stable code and its sentence.
    #[must_use]
    pub fn because(mut self, code: &str, reason: &str) -> Self {
        self.code = Some(code.to_owned());
        self.reason = Some(sentence(reason));
        self
    }

    /// States how many times it happened.
    #[must_use]
    pub const fn times(mut self, count: u64) -> Self {
        self.count = count;
        self
    }

    /// Names the operation that it is about.
    #[must_use]
    pub const fn of_operation(mut self, operation: OperationId) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Names the host that it is about.
    #[must_use]
    pub fn at_host(mut self, host: HostName) -> Self {
        self.party.host = Some(host);
        self
    }

    /// Adds what else there is to know.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl Into<Text>) -> Self {
        self.facts.push((name.to_owned(), value.into().cut(MAX_FACT)));
        self
    }

    /// Adds the exact bytes that prove it.
    #[must_use]
    pub fn evidence(mut self, name: &str, bytes: &[u8]) -> Self {
        self.evidence.push((name.to_owned(), bytes.to_vec()));
        self
    }

    pub(super) fn into_event(self) -> Result<(EventKind, Event, Vec<Content>), ContentError> {
        let mut shelf = Shelf::for_bytes(self.evidence.iter().map(|(_, bytes)| bytes.len()).sum());
        let mut evidence = Vec::new();
        for (name, bytes) in self.evidence {
            evidence.push((name, shelf.put(&bytes)?));
        }
        let short = |text: Option<String>| text.map(|text| sentence(&text));
        let event = Event {
            user: self.party.user.map(|user| user.cut(MAX_FACT)),
            user_id: short(self.party.user_id),
            key: short(self.party.key),
            address: short(self.party.address),
            host: self.party.host,
            operation: self.operation,
            code: self.code,
            reason: self.reason,
            count: self.count,
            facts: self.facts,
            evidence,
        };
        Ok((self.kind, event, shelf.contents))
    }
}
