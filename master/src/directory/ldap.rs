//! The directory on an LDAP server.
//!
//! Three kinds of connection, all `ldaps://` with our own CA: `ask`, which the service account keeps open and on
//! which questions are sent side by side; `watch`, which reads the change marker every two seconds; and one that
//! lives as long as one password check. A bind that fails makes a connection anonymous on some servers, and then
//! everybody seems to be gone: so nobody's password is ever tried on the first two.
//!
//! Nothing is repeated inside an answer. A failure condemns its connection, and the next question dials again, at
//! most once a second while that does not help.

mod link;
mod openldap;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use reeve_wire::name::Name;
use tokio::sync::{Mutex, Semaphore, watch};

use self::link::Link;
use self::openldap::Tree;
use self::server::Server;
use super::config::{LdapConfig, Problem};
use super::{Answer, Facts, Unavailable, WHOLE_ANSWER};

/// How often the change marker is read.
const POLL: Duration = Duration::from_secs(2);

/// How long the watch waits before it dials again.
const REDIAL: Duration = Duration::from_secs(1);

/// How many passwords are checked at once: each holds a connection of its own.
const CHECKS: usize = 32;

/// One LDAP server and the part of its tree that is ours.
#[derive(Debug)]
pub(super) struct LdapSource {
    server: Server,
    tree: Tree,
    ask: Mutex<Option<Arc<Link>>>,
    checks: Semaphore,
}

impl LdapSource {
    /// # Errors
    ///
    /// Everything that is wrong with the configuration and the files it names.
    pub(super) fn open(config: &LdapConfig) -> Result<Self, Vec<Problem>> {
        match (Server::open(config), Tree::open(config)) {
            (Ok(server), Ok(tree)) => Ok(Self { server, tree, ask: Mutex::new(None), checks: Semaphore::new(CHECKS) }),
            (server, tree) => Err(server.err().into_iter().chain(tree.err()).flatten().collect()),
        }
    }

    pub(super) fn server(&self) -> &str {
        self.server.shown()
    }

    /// What the directory says of `name`.
    pub(super) async fn read(&self, name: &Name) -> Result<Facts, Unavailable> {
        let link = self.link().await?;
        let asked_at = Instant::now();
        let found = self.tree.person(&link, name).await;
        if link.is_condemned() {
            self.server.note_failure(found.as_ref().err()).await;
        }
        let (person, dn) = found?.unzip();
        let answer = Answer { asked_at, server: self.server().to_owned(), person: person.map(Arc::new) };

        Ok(Facts { answer, dn })
    }

    /// Whether the server accepts `password` for `dn`. Without a DN one that cannot exist is tried, with something
    /// that is not the password, so that an unknown name takes as long as a known one.
    pub(super) async fn password_matches(&self, dn: Option<&str>, password: &str) -> Result<bool, Unavailable> {
        let late = || Unavailable::TimedOut { server: self.server().to_owned() };
        let check = async {
            let _turn = self.checks.acquire().await.map_err(|_| Unavailable::Busy)?;
            match dn {
                Some(dn) => self.server.password_matches(dn, password).await,
                None => self.server.password_matches(self.tree.nobody(), "not a password").await,
            }
        };
        let accepted = tokio::time::timeout(WHOLE_ANSWER, check).await.unwrap_or_else(|_| Err(late()))?;

        Ok(accepted && dn.is_some())
    }

    /// Whether the server can be asked and holds what the configuration names. Asked on a connection of its own,
    /// because whoever asks may leave half-way.
    pub(super) async fn check(&self) -> Result<(), Unavailable> {
        let link = self.server.dial().await?;
        self.tree.check(&link).await
    }

    /// Rings `bell` when the change marker moves, when the watch is lost, and when it is back. Ends with the task it
    /// runs in.
    pub(super) async fn watch(&self, bell: &watch::Sender<u64>) {
        let ring = || bell.send_modify(|epoch| *epoch += 1);
        loop {
            if let Ok(link) = self.server.dial().await {
                // Whatever happened while nobody watched.
                ring();
                let lost = self.follow(&link, ring).await;
                tracing::warn!(server = self.server(), %lost, "The directory's changes are not watched");
                self.server.note_failure(Some(&lost)).await;
                ring();
            }
            tokio::time::sleep(REDIAL).await;
        }
    }

    /// Reads the marker until that fails.
    async fn follow(&self, link: &Link, ring: impl Fn()) -> Unavailable {
        let mut last = None;
        loop {
            match self.tree.marker(link).await {
                Err(lost) => return lost,
                Ok(marker) => {
                    if marker.is_empty() && last.is_none() {
                        tracing::warn!(
                            server = self.server(),
                            "The directory shows no contextCSN: changes are felt only after max-age"
                        );
                    }
                    if last.as_ref().is_some_and(|last| *last != marker) {
                        ring();
                    }
                    last = Some(marker);
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The connection for questions, dialled when there is none that works.
    async fn link(&self) -> Result<Arc<Link>, Unavailable> {
        let mut ask = self.ask.lock().await;
        if let Some(link) = ask.as_ref().filter(|link| link.is_usable()) {
            return Ok(Arc::clone(link));
        }
        *ask = None;
        let link = Arc::new(self.server.dial().await?);
        *ask = Some(Arc::clone(&link));
        Ok(link)
    }
}
