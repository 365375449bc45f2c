//! A directory in one TOML file, for a small site:
//!
//! ```toml
//! staff = ["alice", "group:night-shift"]
//!
//! [people.alice]
//! id = "7f6b1c52"               # never given to anyone else
//! password = "$argon2id$..."    # reeve-master hash-password
//! disabled = false
//!
//! [groups]
//! night-shift = ["bob", "group:trainees"]
//! trainees = ["carol"]
//!
//! [hosts."contoso/web01"]
//! l1 = ["group:night-shift"]
//! l3 = ["alice"]
//! ```
//!
//! The file is looked at once a second and at every question that is asked afresh. A file that has become unreadable
//! answers nothing: what it said before may be just what was meant to change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reeve_wire::level::Level;
use reeve_wire::name::{HostName, Name};
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};

use super::config::{FileConfig, Problem, Secrecy, read_guarded};
use super::password::Hash;
use super::walk::{self, DEEPEST, Groups, MOST_GROUPS, WalkError};
use super::{Answer, Facts, Person, Right, State, Unavailable, hash_password};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How many passwords are checked at once: each takes a core and 19 MiB for a while.
const CHECKS: usize = 2;

/// How many may wait for that.
const CHECKS_WAITING: usize = 64;

/// The file, what it said when it was last read, and how it looked then.
#[derive(Debug)]
pub(super) struct FileSource {
    path: PathBuf,
    shown: String,
    /// How the file looked when this was opened, for the watch to begin from.
    opened: Look,
    read: Mutex<Read>,
    /// Checked when a name is unknown, so that the answer takes as long.
    nobody: Arc<Hash>,
    checks: Arc<Semaphore>,
    waiting: Semaphore,
}

#[derive(Debug)]
struct Read {
    look: Option<Look>,
    roster: Result<Arc<Roster>, Unavailable>,
}

/// Differs when the file was replaced or changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Look {
    device: u64,
    inode: u64,
    length: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.size(),
            mode: metadata.mode(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl FileSource {
    /// # Errors
    ///
    /// Everything that is wrong with the file.
    pub(super) fn open(config: &FileConfig) -> Result<Self, Vec<Problem>> {
        let (roster, look) = load(&config.path)?;
        let shown = config.path.display().to_string();
        let password = |source| Problem::Password { file: shown.clone(), name: "(nobody)".to_owned(), source };
        let nobody = hash_password("nobody has this password").and_then(|text| Hash::parse(&text));

        Ok(Self {
            path: config.path.clone(),
            opened: look,
            read: Mutex::new(Read { look: Some(look), roster: Ok(Arc::new(roster)) }),
            nobody: Arc::new(nobody.map_err(|e| vec![password(e)])?),
            checks: Arc::new(Semaphore::new(CHECKS)),
            waiting: Semaphore::new(CHECKS + CHECKS_WAITING),
            shown,
        })
    }

    pub(super) fn server(&self) -> &str {
        &self.shown
    }

    /// What the file says of `name`.
    pub(super) async fn read(&self, name: &Name) -> Result<Facts, Unavailable> {
        let asked_at = Instant::now();
        let roster = self.roster()?;
        let person = match roster.people.get(name) {
            Some(entry) => Some(Arc::new(roster.person(name, entry).await.map_err(|e| self.of_walk(&e))?)),
            None => None,
        };
        Ok(Facts { answer: Answer { asked_at, server: self.shown.clone(), person }, dn: None })
    }

    /// Whether `password` is that of `name`; a name that is not there takes as long.
    pub(super) async fn password_matches(&self, name: &Name, password: &str) -> Result<bool, Unavailable> {
        let _place = self.waiting.try_acquire().map_err(|_| Unavailable::Busy)?;
        let turn = Arc::clone(&self.checks).acquire_owned().await.map_err(|_| Unavailable::Busy)?;
        let roster = self.roster()?;
        let known = roster.people.get(name).map(|entry| Arc::clone(&entry.password));
        let exists = known.is_some();
        let (hash, password) =
            (known.unwrap_or_else(|| Arc::clone(&self.nobody)), zeroize::Zeroizing::new(password.to_owned()));
        let matches = tokio::task::spawn_blocking(move || {
            let _until_done = turn;
            hash.matches(&password)
        });

        Ok(matches.await.map_err(|_| Unavailable::Interrupted)? && exists)
    }

    /// Rings `bell` whenever the file says something else. Ends with the task it runs in.
    pub(super) async fn watch(&self, bell: &watch::Sender<u64>) {
        let mut last = Some(self.opened);
        loop {
            tokio::time::sleep(LOOK).await;
            let look = self.look_again();
            if look != last {
                tracing::info!(file = %self.shown, "The directory file has changed");
                bell.send_modify(|epoch| *epoch += 1);
            }
            last = look;
        }
    }

    /// Whether the file can be used as it is.
    pub(super) fn check(&self) -> Result<(), Unavailable> {
        self.roster().map(drop)
    }

    /// What the file says at this moment.
    fn roster(&self) -> Result<Arc<Roster>, Unavailable> {
        self.look_again();
        self.read.lock().unwrap_or_else(PoisonError::into_inner).roster.clone()
    }

    /// Reads the file again when it looks different, and says how it looks.
    fn look_again(&self) -> Option<Look> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let look = std::fs::metadata(&self.path).ok().map(|metadata| Look::of(&metadata));
        if look.is_none() || look != read.look {
            *read = match load(&self.path) {
                Ok((roster, look)) => Read { look: Some(look), roster: Ok(Arc::new(roster)) },
                Err(problems) => Read { look, roster: Err(self.unusable(&problems)) },
            };
        }
        read.look
    }

    fn unusable(&self, problems: &[Problem]) -> Unavailable {
        for problem in problems {
            tracing::error!(%problem, "The directory file cannot be used");
        }
        let why = problems.first().map(Problem::to_string).unwrap_or_default();
        Unavailable::BadFile { file: self.shown.clone(), why }
    }

    fn of_walk(&self, error: &WalkError<std::convert::Infallible>) -> Unavailable {
        match error {
            WalkError::TooDeep => Unavailable::NestedTooDeep { limit: DEEPEST },
            WalkError::TooMany => Unavailable::TooMany { server: self.shown.clone(), limit: MOST_GROUPS },
            WalkError::Lookup(never) => match *never {},
        }
    }
}

fn load(path: &Path) -> Result<(Roster, Look), Vec<Problem>> {
    let (bytes, metadata) = read_guarded("path", path, Secrecy::OwnerAndGroup).map_err(|problem| vec![problem])?;
    let shown = path.display().to_string();
    let syntax = |why: String| vec![Problem::Syntax { file: shown.clone(), why }];
    let text = String::from_utf8(bytes).map_err(|_| syntax("it is not UTF-8".to_owned()))?;
    let raw: Raw = toml::from_str(&text).map_err(|e| syntax(e.to_string()))?;

    Ok((Roster::check(&shown, raw)?, Look::of(&metadata)))
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    staff: Vec<String>,
    #[serde(default)]
    people: BTreeMap<Name, RawPerson>,
    #[serde(default)]
    groups: BTreeMap<Name, Vec<String>>,
    #[serde(default)]
    hosts: BTreeMap<HostName, RawHost>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawPerson {
    id: String,
    password: String,
    #[serde(default)]
    disabled: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawHost {
    #[serde(default)]
    l1: Vec<String>,
    #[serde(default)]
    l2: Vec<String>,
    #[serde(default)]
    l3: Vec<String>,
}

/// Whatever can be a member or have members.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Node {
    Person(Name),
    Group(Name),
    Staff,
    Rung(HostName, Level),
}

/// The file, checked: every member that is named exists.
#[derive(Debug)]
struct Roster {
    people: BTreeMap<Name, Entry>,
    /// For each member what it is directly in.
    holders: BTreeMap<Node, BTreeSet<Node>>,
}

#[derive(Debug)]
struct Entry {
    id: String,
    password: Arc<Hash>,
    state: State,
}

impl Roster {
    fn check(file: &str, raw: Raw) -> Result<Self, Vec<Problem>> {
        let mut problems = vec![];
        let known =
            Known { people: raw.people.keys().cloned().collect(), groups: raw.groups.keys().cloned().collect() };
        let people = check_people(file, raw.people, &mut problems);
        let mut holders: BTreeMap<Node, BTreeSet<Node>> = BTreeMap::new();
        let mut join = |holder: Node, place: String, members: Vec<String>| {
            for member in members {
                match known.node(&member) {
                    Some(node) => drop(holders.entry(node).or_default().insert(holder.clone())),
                    None => {
                        problems.push(Problem::UnknownMember { file: file.to_owned(), place: place.clone(), member })
                    }
                }
            }
        };
        join(Node::Staff, "staff".to_owned(), raw.staff);
        for (name, members) in raw.groups {
            let place = format!("groups.{name}");
            join(Node::Group(name), place, members);
        }
        for (host, lists) in raw.hosts {
            for (level, members) in [(Level::One, lists.l1), (Level::Two, lists.l2), (Level::Three, lists.l3)] {
                join(Node::Rung(host.clone(), level), format!("hosts.\"{host}\".l{level}"), members);
            }
        }
        if problems.is_empty() { Ok(Self { people, holders }) } else { Err(problems) }
    }

    async fn person(&self, name: &Name, entry: &Entry) -> Result<Person, WalkError<std::convert::Infallible>> {
        let own = Node::Person(name.clone());
        let nodes = walk::groups_of(self, &own).await?;
        let held = nodes.iter().filter_map(|node| match node {
            Node::Rung(host, level) => {
                Some((host.clone(), Right { level: *level, via_group: self.via(node, &own, &nodes) }))
            }
            Node::Person(_) | Node::Group(_) | Node::Staff => None,
        });
        Ok(Person {
            name: name.clone(),
            id: entry.id.clone(),
            state: entry.state,
            staff: nodes.contains(&Node::Staff),
            rights: walk::highest(held),
        })
    }

    /// The entry of the list of `rung` by which the person is in it: themself, or one of their groups.
    fn via(&self, rung: &Node, own: &Node, nodes: &BTreeSet<Node>) -> String {
        let is_member = |node: &&Node| self.holders.get(*node).is_some_and(|holders| holders.contains(rung));
        match std::iter::once(own).chain(nodes).find(is_member) {
            Some(Node::Person(name)) => name.to_string(),
            Some(Node::Group(name)) => format!("group:{name}"),
            Some(Node::Staff | Node::Rung(..)) | None => String::new(),
        }
    }
}

/// The names that a list of members may use.
struct Known {
    people: BTreeSet<Name>,
    groups: BTreeSet<Name>,
}

impl Known {
    fn node(&self, member: &str) -> Option<Node> {
        match member.strip_prefix("group:") {
            Some(group) => group.parse().ok().filter(|name| self.groups.contains(name)).map(Node::Group),
            None => member.parse().ok().filter(|name| self.people.contains(name)).map(Node::Person),
        }
    }
}

fn check_people(file: &str, raw: BTreeMap<Name, RawPerson>, problems: &mut Vec<Problem>) -> BTreeMap<Name, Entry> {
    let mut people = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for (name, person) in raw {
        if person.id.trim().is_empty() || !ids.insert(person.id.clone()) {
            problems.push(Problem::Id { file: file.to_owned(), name: name.to_string() });
        }
        let state = if person.disabled { State::Disabled } else { State::Good };
        match Hash::parse(&person.password) {
            Ok(hash) => drop(people.insert(name, Entry { id: person.id, password: Arc::new(hash), state })),
            Err(source) => {
                problems.push(Problem::Password { file: file.to_owned(), name: name.to_string(), source });
            }
        }
    }
    people
}

impl Groups for Roster {
    type Node = Node;
    type Error = std::convert::Infallible;

    async fn holding(&self, members: &[Node]) -> Result<Vec<Node>, Self::Error> {
        Ok(members.iter().filter_map(|member| self.holders.get(member)).flatten().cloned().collect())
    }
}

#[cfg(test)]
mod tests;
