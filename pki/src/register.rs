//! What the CA knows, read from its issue log: which key belongs to whom, which certificates there are, what comes next.

use std::path::Path;

use reeve_wire::bundle::{Authorities, Bundle, FRESH_FOR, Log};
use reeve_wire::id::Digest;
use reeve_wire::keyfile::KeyLine;
use reeve_wire::name::{Name, Principal};
use reeve_wire::note::Vkey;
use reeve_wire::strict::{Unused, V1};
use reeve_wire::time::Millis;

use crate::authority::Authority;
use crate::ca::CaError;
use crate::lock::{self, Lock};
use crate::log::{Act, Entry, Founding, IssueLog, Issued};
use crate::order::{Order, Subject};

/// The lines of an issue log, with what follows from them.
#[derive(Clone, Copy, Debug)]
pub struct Register<'a> {
    founding: &'a Founding,
    entries: &'a [Entry],
}

/// Why the register does not admit an order.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    /// One key, one owner.
    #[error("this public key belongs to {owner} for ever; make another one for {wanted}")]
    KeyTaken {
        /// Whose it is.
        owner: String,
        /// Who was to get it.
        wanted: String,
    },
    /// One name, one key.
    #[error(
        "{principal} has certificate {serial} for another key until {until}; a machine has one key, and this version cannot revoke the old one",
        until = rfc3339(*.until)
    )]
    OtherKeyInUse {
        /// The machine.
        principal: Principal,
        /// The certificate that stands in the way.
        serial: u64,
        /// When that ends.
        until: Millis,
    },
    /// A ledger is named after its site and master.
    #[error(
        "the ledger of this master is called {wanted}, the key given is of {found}; take it from `reeve-master keys --vkey`"
    )]
    OtherLedgerName {
        /// The name that it must have.
        wanted: String,
        /// The name in the key.
        found: String,
    },
    /// A ledger goes on under its own key.
    #[error("master {0} has another ledger key already; a ledger never changes its key under the same name")]
    OtherLedgerKey(Name),
}

/// A moment as people read it: RFC 3339, in UTC, to the second.
pub fn rfc3339(at: Millis) -> String {
    let seconds = i64::try_from(at.seconds()).ok();
    let time = seconds.and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
    time.map_or_else(|| at.to_string(), |time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Reads the issue log of the CA in `folder`, while nobody adds to it: its lines and its head.
///
/// # Errors
/// When there is no CA, it is in use, or its log was altered.
pub fn read(folder: &Path) -> Result<(Vec<Entry>, Digest), CaError> {
    crate::ca::private_folder(folder)?;
    let _held = crate::ca::held(folder, lock::folder(folder, Lock::Shared))?;
    Ok(IssueLog::read(folder)?)
}

impl<'a> Register<'a> {
    /// The register of a log's lines; `None` when they do not begin with a founding.
    pub fn of(entries: &'a [Entry]) -> Option<Self> {
        match entries.first().map(|entry| &entry.act) {
            Some(Act::Init(founding)) => Some(Self { founding, entries }),
            _ => None,
        }
    }

    /// The site.
    pub const fn site(&self) -> &'a Name {
        &self.founding.site
    }

    /// The public half of one of the CA's keys.
    pub const fn authority(&self, authority: Authority) -> &'a KeyLine {
        match authority {
            Authority::Root => &self.founding.root,
            Authority::Technicians => &self.founding.technicians,
            Authority::Agents => &self.founding.agents,
            Authority::Masters => &self.founding.masters,
        }
    }

    /// Every certificate, oldest first.
    pub fn certificates(&self) -> impl Iterator<Item = &'a Issued> {
        self.entries.iter().filter_map(|entry| match &entry.act {
            Act::Issue(issued) => Some(&**issued),
            Act::Init(_) | Act::LibrarySigner { .. } | Act::SignLibrary { .. } | Act::Trust { .. } => None,
        })
    }

    /// Keys that may sign the library's index, oldest first.
    pub fn library_signers(&self) -> impl Iterator<Item = &'a KeyLine> {
        self.entries.iter().filter_map(|entry| match &entry.act {
            Act::LibrarySigner { key } => Some(key),
            Act::Init(_) | Act::Issue(_) | Act::SignLibrary { .. } | Act::Trust { .. } => None,
        })
    }

    /// The serial of the next certificate.
    pub fn next_serial(&self) -> u64 {
        self.certificates().map(|issued| issued.serial).max().unwrap_or(0).saturating_add(1)
    }

    /// The number of the next trust bundle.
    pub fn next_bundle(&self) -> u64 {
        self.last(|act| if let Act::Trust { number, .. } = act { Some(*number) } else { None }).saturating_add(1)
    }

    /// The version of the last library index that was signed in the presence of this CA; 0 for none.
    pub fn library_version(&self) -> u64 {
        self.last(|act| if let Act::SignLibrary { version, .. } = act { Some(*version) } else { None })
    }

    fn last(&self, number: impl Fn(&Act) -> Option<u64>) -> u64 {
        self.entries.iter().filter_map(|entry| number(&entry.act)).max().unwrap_or(0)
    }

    /// Masters whose ledger is known, with its verifier key, oldest first.
    pub fn ledgers(&self) -> Vec<(&'a Name, &'a str)> {
        let mut ledgers: Vec<(&Name, &str)> = Vec::new();
        for issued in self.certificates() {
            if let (Principal::Master(name), Some(log)) = (&issued.principal, issued.log.as_deref())
                && !ledgers.iter().any(|(known, _)| *known == name)
            {
                ledgers.push((name, log));
            }
        }
        ledgers
    }

    /// The next trust bundle.
    pub fn bundle(&self, now: Millis) -> Bundle {
        let ca = |authority| vec![self.authority(authority).clone()];
        let ledgers = self.ledgers();
        Bundle {
            v: V1,
            site: self.site().clone(),
            number: self.next_bundle(),
            issued: now,
            refresh_by: now.plus(FRESH_FOR),
            ca: Authorities {
                technicians: ca(Authority::Technicians),
                agents: ca(Authority::Agents),
                masters: ca(Authority::Masters),
            },
            masters: ledgers.iter().map(|(name, _)| (*name).clone()).collect(),
            logs: ledgers.iter().map(|(_, vkey)| Log { vkey: (*vkey).to_owned(), succeeds: Unused }).collect(),
            library_signers: self.library_signers().cloned().collect(),
            release_keys: Unused,
            krl: Unused,
        }
    }

    /// Checks an order against everything that was issued before.
    ///
    /// # Errors
    /// Why it is not admitted.
    pub fn admit(&self, order: &Order, now: Millis) -> Result<(), NotAdmitted> {
        let principal = order.subject.principal();
        self.belongs_to_no_other(&order.key, &principal.to_string())?;
        match &order.subject {
            Subject::Technician { .. } => Ok(()),
            Subject::Agent(_) | Subject::Master { log: None, .. } => self.one_key(&principal, &order.key, now),
            Subject::Master { name, log: Some(vkey) } => {
                self.one_key(&principal, &order.key, now)?;
                self.admit_ledger(name, vkey, &order.key)
            }
        }
    }

    /// Checks that a key has no owner yet who is not called `wanted`.
    ///
    /// # Errors
    /// [`NotAdmitted::KeyTaken`].
    pub fn belongs_to_no_other(&self, key: &KeyLine, wanted: &str) -> Result<(), NotAdmitted> {
        let taken = |owner: String| Err(NotAdmitted::KeyTaken { owner, wanted: wanted.to_owned() });
        match self.owner(key) {
            Some(owner) if owner != wanted => taken(owner),
            _ => match self.ledgers().into_iter().find(|(_, vkey)| is_key_of(key, vkey)) {
                Some((name, _)) => taken(format!("the ledger of master:{name}")),
                None => Ok(()),
            },
        }
    }

    /// Whose key this is, if it is anybody's.
    pub fn owner(&self, key: &KeyLine) -> Option<String> {
        if let Some(authority) = Authority::ALL.into_iter().find(|authority| self.authority(*authority) == key) {
            return Some(format!("this CA ({})", authority.file()));
        }
        if self.library_signers().any(|signer| signer == key) {
            return Some("a library signer".to_owned());
        }
        self.certificates().find(|issued| issued.key == *key).map(|issued| issued.principal.to_string())
    }

    fn one_key(&self, principal: &Principal, key: &KeyLine, now: Millis) -> Result<(), NotAdmitted> {
        let other = self
            .certificates()
            .find(|issued| issued.principal == *principal && issued.key != *key && issued.not_after > now);
        match other {
            Some(issued) => Err(NotAdmitted::OtherKeyInUse {
                principal: principal.clone(),
                serial: issued.serial,
                until: issued.not_after,
            }),
            None => Ok(()),
        }
    }

    fn admit_ledger(&self, name: &Name, vkey: &Vkey, host_key: &KeyLine) -> Result<(), NotAdmitted> {
        let wanted = format!("{}.reeve/{name}", self.site());
        if vkey.name() != wanted {
            return Err(NotAdmitted::OtherLedgerName { wanted, found: vkey.name().to_owned() });
        }
        let text = vkey.to_string();
        if self.ledgers().into_iter().any(|(known, log)| known == name && log != text) {
            return Err(NotAdmitted::OtherLedgerKey(name.clone()));
        }
        let keys = Authority::ALL.into_iter().map(|authority| self.authority(authority));
        let keys = keys.chain(self.library_signers()).chain(self.certificates().map(|issued| &issued.key));
        match keys.chain([host_key]).find(|key| is_key_of(key, &text)) {
            Some(key) => Err(NotAdmitted::KeyTaken {
                owner: self.owner(key).unwrap_or_else(|| format!("master:{name}")),
                wanted: format!("the ledger of master:{name}"),
            }),
            None => Ok(()),
        }
    }
}

/// Whether a ledger's verifier key is this SSH key: they must be keys of their own.
fn is_key_of(key: &KeyLine, vkey: &str) -> bool {
    let (Some(key), Ok(vkey)) = (key.key().ed25519(), vkey.parse::<Vkey>()) else { return false };
    (*key).try_into().is_ok_and(|key| Vkey::new(vkey.name(), key) == Ok(vkey))
}
