//! Who a technician is, whether the account is in good standing, and which level it holds on which host.
//!
//! Holding a [`Directory`] means that its configuration was checked and that a task watches it for changes. It never
//! invents an answer: what the directory did not say, in time, is [`Unavailable`], and every [`Answer`] names the
//! moment at which its question was sent. Passwords that a server could mistake for "no password" never leave here.
//! The only LDAP client of Reeve is below `ldap`; the same questions are answered from one TOML file by `file`.

mod answers;
mod config;
mod dn;
mod failure;
mod file;
mod ldap;
mod password;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reeve_wire::level::Level;
use reeve_wire::name::{HostName, Name};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::answers::Answers;
pub use self::config::{DirectoryConfig, FileConfig, LdapConfig, Problem};
pub use self::failure::{AuthFailure, Unavailable};
use self::file::FileSource;
use self::ldap::LdapSource;
pub use self::password::{PasswordError, hash_password};

/// The longest that one answer may take, from the call to the verdict.
const WHOLE_ANSWER: Duration = Duration::from_millis(2900);

/// A name and a password that belong together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The name that was asked for.
    pub name: Name,
    /// The directory's own id of the account: entryUUID, objectSid or the id in the file.
    pub id: String,
}

/// What the directory said of one person, and when it was asked.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The moment the question was sent. The age of an answer counts from here.
    pub asked_at: Instant,
    /// Which server or file answered.
    pub server: String,
    /// The person, or `None` when there is no such account.
    pub person: Option<Arc<Person>>,
}

/// One account of the directory, with all that it may do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Person {
    /// The name that was asked for.
    pub name: Name,
    /// The directory's own id of the account; it survives a rename and differs after re-creation.
    pub id: String,
    /// Whether the account may be used at all.
    pub state: State,
    /// Whether the account is in the NOC staff group, directly or through nested groups.
    pub staff: bool,
    /// The highest level held on each host. A host without a level is not in here.
    pub rights: BTreeMap<HostName, Right>,
}

/// A level on one host, and where it comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Right {
    /// The highest level held.
    pub level: Level,
    /// The group that gives the level: the DN of the host's L1, L2 or L3 group, or the entry of the file's list.
    pub via_group: String,
}

/// Whether an account may be used. Only [`Good`](Self::Good) is good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// In use.
    Good,
    /// Switched off by an administrator.
    Disabled,
    /// Shut after wrong passwords.
    Locked,
    /// Past its last day.
    Expired,
    /// The password must be changed before anything else.
    MustChange,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Disabled => "disabled",
            Self::Locked => "locked",
            Self::Expired => "expired",
            Self::MustChange => "waiting for a new password",
        })
    }
}

/// The directory, watched, with its answers shared between those who ask at the same time.
///
/// Dropping it ends its tasks and closes its connections.
#[derive(Debug)]
pub struct Directory {
    source: Arc<Source>,
    answers: Answers<Facts>,
    changed: watch::Receiver<u64>,
    /// Ends the watching task when the directory goes.
    _watch: JoinSet<()>,
}

impl Directory {
    /// Opens the directory that `config` describes and begins to watch it. A server that is down is no problem here:
    /// questions are refused until it is back.
    ///
    /// Call it inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the configuration and the files it names.
    pub fn open(config: &DirectoryConfig) -> Result<Self, Vec<Problem>> {
        let source = Arc::new(match config {
            DirectoryConfig::File(file) => Source::File(Box::new(FileSource::open(file)?)),
            DirectoryConfig::Ldap(ldap) => Source::Ldap(Box::new(LdapSource::open(ldap)?)),
        });
        let (bell, changed) = watch::channel(0);
        let answers = Answers::new(config.max_age(), changed.clone());
        let mut watching = JoinSet::new();
        let watched = Arc::clone(&source);
        watching.spawn(async move {
            match &*watched {
                Source::File(file) => file.watch(&bell).await,
                Source::Ldap(ldap) => ldap.watch(&bell).await,
            }
        });

        Ok(Self { source, answers, changed, _watch: watching })
    }

    /// Proves that `password` belongs to `name`.
    ///
    /// # Errors
    ///
    /// [`AuthFailure`], in the same words and about the same time for an unknown name and a wrong password. A
    /// password that is empty, blank, holds a NUL or is longer than 1024 bytes is wrong before anything is sent.
    pub async fn authenticate(&self, name: &Name, password: &str) -> Result<Identity, AuthFailure> {
        password::screen(password)?;
        // Asked afresh, so that the id is that of the account whose password is checked.
        let facts = self.facts(name, true).await?;
        let matches = match &*self.source {
            Source::File(file) => file.password_matches(name, password).await?,
            Source::Ldap(ldap) => ldap.password_matches(facts.dn.as_deref(), password).await?,
        };
        match (facts.answer.person.as_deref(), matches) {
            (None, _) => Err(AuthFailure::WrongPassword),
            (Some(person), true) if person.state == State::Good => {
                Ok(Identity { name: person.name.clone(), id: person.id.clone() })
            }
            (Some(person), false) if person.state == State::Good => Err(AuthFailure::WrongPassword),
            (Some(person), _) => Err(AuthFailure::AccountState { state: person.state, password_was_right: matches }),
        }
    }

    /// What the directory says of `name`. An answer of the last `max-age` is reused, and those who ask at the same
    /// time share one question; a change that the watch has seen ends both.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] within 2.9 s when the directory cannot say. The reason is shared for 250 ms.
    pub async fn standing(&self, name: &Name) -> Result<Answer, Unavailable> {
        Ok(self.facts(name, false).await?.answer.clone())
    }

    /// Like [`standing`](Self::standing), but never an answer that was already there: the question is asked again,
    /// or one that is on its way is joined.
    ///
    /// # Errors
    ///
    /// As [`standing`](Self::standing).
    pub async fn standing_fresh(&self, name: &Name) -> Result<Answer, Unavailable> {
        Ok(self.facts(name, true).await?.answer.clone())
    }

    /// A number that rises whenever something in the directory may have changed: a change was seen, or the watch was
    /// lost or is back. Whoever holds rights open asks again when it does.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// Whether the directory can be asked and holds what the configuration names: the base, the staff group, the OU
    /// of the managed servers.
    ///
    /// # Errors
    ///
    /// [`Unavailable`], naming what is missing.
    pub async fn check(&self) -> Result<(), Unavailable> {
        match &*self.source {
            Source::File(file) => file.check(),
            Source::Ldap(ldap) => tokio::time::timeout(WHOLE_ANSWER, ldap.check())
                .await
                .unwrap_or(Err(Unavailable::TimedOut { server: ldap.server().to_owned() })),
        }
    }

    /// Which server or file is asked, as people write it.
    pub fn server(&self) -> &str {
        self.source.server()
    }

    async fn facts(&self, name: &Name, fresh: bool) -> Result<Arc<Facts>, Unavailable> {
        let (source, asked) = (Arc::clone(&self.source), name.clone());
        let lookup = async move {
            let read = async {
                match &*source {
                    Source::File(file) => file.read(&asked).await,
                    Source::Ldap(ldap) => ldap.read(&asked).await,
                }
            };
            let late = || Unavailable::TimedOut { server: source.server().to_owned() };
            tokio::time::timeout(WHOLE_ANSWER, read).await.unwrap_or_else(|_| Err(late()))
        };
        self.answers.ask(name, fresh, lookup).await
    }
}

/// Where the answers come from.
#[derive(Debug)]
enum Source {
    File(Box<FileSource>),
    Ldap(Box<LdapSource>),
}

impl Source {
    fn server(&self) -> &str {
        match self {
            Self::File(file) => file.server(),
            Self::Ldap(ldap) => ldap.server(),
        }
    }
}

/// An answer, with what only the password check needs to know.
#[derive(Clone, Debug)]
struct Facts {
    answer: Answer,
    dn: Option<String>,
}

impl answers::Dated for Facts {
    fn asked_at(&self) -> Instant {
        self.answer.asked_at
    }
}
