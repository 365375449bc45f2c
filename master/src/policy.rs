//! The decision: may this person do this, on this server, now?
//!
//! [`decide`] is a pure function; its table is in the tests and meant to be read by a security admin. [`judge`] spends
//! a [`Request`] on it and gives a [`Permit`] or a [`Refused`], which nothing else can make. There is no third case:
//! a directory that does not answer is a refusal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reeve_wire::bundle::Trust;
use reeve_wire::certificate::Technician;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::level::Level;
use reeve_wire::library::Package;
use reeve_wire::name::HostName;
use reeve_wire::request::{Authored, ItemRef, Target, TargetPath};
use reeve_wire::time::Millis;

use crate::directory::{Answer, Person, State, Unavailable};

/// What is to run, with the level that it needs by its own word.
#[derive(Clone, Debug)]
pub enum Work {
    /// A command line as typed: level 3.
    Raw,
    /// A library item.
    Item {
        /// Name, version and digest.
        item: ItemRef,
        /// The package, checked against the signed index.
        package: Arc<Package>,
        /// The package's bytes, to send along.
        bytes: Arc<[u8]>,
    },
}

impl Work {
    /// The level that it needs.
    pub fn needs(&self) -> Level {
        match self {
            Self::Raw => Level::Three,
            Self::Item { package, .. } => package.level,
        }
    }
}

/// A request for one server: signed, understood, not yet allowed.
#[derive(Debug)]
pub struct Request {
    /// The signed request, shared by its servers.
    pub authored: Arc<Authored>,
    /// What is to run.
    pub work: Work,
    /// The server.
    pub target: Target,
    /// The target's exact bytes.
    pub leaf: Vec<u8>,
    /// Where the target stands in the signed tree.
    pub path: TargetPath,
}

impl Request {
    /// Takes one server of a signed request.
    ///
    /// # Errors
    /// When the technician did not sign that server.
    pub fn for_host(authored: Arc<Authored>, work: Work, leaf: Vec<u8>, path: TargetPath) -> Result<Self, Refusal> {
        let target = authored.target(&leaf, &path)?;
        Ok(Self { authored, work, target, leaf, path })
    }

    /// The server.
    pub const fn host(&self) -> &HostName {
        &self.target.host
    }
}

/// What a decision rests on: the same for a yes, a no and an explanation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Grounds {
    /// The level that the directory gives on that server.
    pub held: Option<Level>,
    /// The group that gives it.
    pub via_group: Option<String>,
    /// The directory server that answered.
    pub directory: Option<String>,
    /// How old its answer was.
    pub age: Duration,
}

/// What is asked of [`decide`].
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks, as the certificate says.
    pub technician: &'a Technician,
    /// The highest level of the session, where a session asks.
    pub session_level: Option<Level>,
    /// Where.
    pub host: &'a HostName,
    /// The level that the work needs.
    pub needs: Level,
}

/// Whether the person may use Reeve at all: known, the same person, in good standing, of the NOC staff.
///
/// # Errors
/// The first rule that says no.
pub fn admit<'a>(technician: &Technician, answer: &'a Result<Answer, Unavailable>) -> Result<&'a Person, Refusal> {
    let answer = answer.as_ref().map_err(unavailable)?;
    let person = answer.person.as_deref().ok_or_else(|| Refusal::from(Code::PersonUnknown))?;
    if person.id != technician.directory_id {
        return Err(Code::IdentityChanged.into());
    }
    match person.state {
        State::Good => {}
        State::Disabled => return Err(Code::AccountDisabled.into()),
        State::Locked => return Err(Code::AccountLocked.into()),
        State::Expired => return Err(Code::AccountExpired.into()),
        State::MustChange => return Err(Code::PasswordMustChange.into()),
    }
    if !person.staff {
        return Err(Code::NotStaff.into());
    }
    Ok(person)
}

fn unavailable(error: &Unavailable) -> Refusal {
    if let Unavailable::AmbiguousIdentity { .. } = error {
        return Code::AmbiguousIdentity.into();
    }
    Refusal::because(Code::DirectoryUnavailable, error)
}

/// Decides `question` from what the directory said, at `now`. The rules stand in the order in which they are tried;
/// each can only take away.
///
/// # Errors
/// The first rule that says no.
pub fn decide(
    question: Question<'_>,
    answer: &Result<Answer, Unavailable>,
    trust: &Trust,
    now: (Millis, Instant),
) -> (Grounds, Result<(), Refusal>) {
    let mut grounds = Grounds::default();
    if let Ok(answer) = answer {
        grounds.directory = Some(answer.server.clone());
        grounds.age = now.1.saturating_duration_since(answer.asked_at);
    }
    let verdict = rules(question, answer, trust, now.0, &mut grounds);
    (grounds, verdict)
}

fn rules(
    question: Question<'_>,
    answer: &Result<Answer, Unavailable>,
    trust: &Trust,
    now: Millis,
    grounds: &mut Grounds,
) -> Result<(), Refusal> {
    let Question { technician, session_level, host, needs } = question;
    let person = admit(technician, answer)?;
    let right = person.rights.get(host).ok_or_else(|| Refusal::from(Code::NotYours))?;
    grounds.held = Some(right.level);
    grounds.via_group = Some(right.via_group.clone());
    technician.ceiling.covers(&host.customer, Level::One)?;
    if needs > right.level {
        let detail = format_args!("it needs level {needs}, you hold level {} through {}", right.level, right.via_group);
        return Err(Refusal::because(Code::LevelTooLow, detail));
    }
    technician.ceiling.covers(&host.customer, needs)?;
    if session_level.is_some_and(|level| needs > level) {
        return Err(Code::DelegationLevel.into());
    }
    if !trust.allows(needs, now) {
        return Err(Code::TrustStale.into());
    }
    Ok(())
}

/// The answer to one request.
#[must_use]
#[derive(Debug)]
pub enum Verdict {
    /// It may run.
    Allow(Permit),
    /// It may not.
    Refuse(Refused),
}

/// Proof that one technician may run one request on one server now.
///
/// Only [`judge`] makes one. It is neither `Clone` nor `Copy`, and [`Ledger::open`](crate::ledger::Ledger::open)
/// consumes it, so one check pays for exactly one command:
///
/// ```compile_fail,E0451
/// # use reeve_master::policy::{Grounds, Permit, Request};
/// fn forge(request: Request, grounds: Grounds, at: std::time::Instant) -> Permit {
///     Permit { request, grounds, judged_at: at, trust: 1 }
/// }
/// ```
///
/// ```compile_fail,E0599
/// # use reeve_master::policy::Permit;
/// fn twice(permit: Permit) -> (Permit, Permit) {
///     (permit.clone(), permit)
/// }
/// ```
#[derive(Debug)]
pub struct Permit {
    request: Request,
    grounds: Grounds,
    judged_at: Instant,
    trust: u64,
}

impl Permit {
    /// What is permitted.
    pub const fn request(&self) -> &Request {
        &self.request
    }

    /// What the decision rests on.
    pub const fn grounds(&self) -> &Grounds {
        &self.grounds
    }

    /// When the directory's answer that it rests on was asked for.
    pub fn asked_at(&self) -> Instant {
        self.judged_at.checked_sub(self.grounds.age).unwrap_or(self.judged_at)
    }

    /// The number of the trust bundle that it rests on.
    pub const fn trust(&self) -> u64 {
        self.trust
    }

    /// Spends the permit.
    pub(crate) fn into_parts(self) -> (Request, Grounds) {
        (self.request, self.grounds)
    }
}

/// A request that may not run, with why; the ledger records it.
#[derive(Debug)]
pub struct Refused {
    /// What was asked.
    pub request: Request,
    /// What the decision rests on.
    pub grounds: Grounds,
    /// Why not.
    pub refusal: Refusal,
}

/// Decides `request` from what the directory said, at `now`.
pub fn judge(request: Request, answer: &Result<Answer, Unavailable>, trust: &Trust, now: (Millis, Instant)) -> Verdict {
    let question = Question {
        technician: request.authored.technician(),
        session_level: request.authored.delegation().map(|delegation| delegation.max_level),
        host: &request.target.host,
        needs: request.work.needs(),
    };
    let (grounds, verdict) = decide(question, answer, trust, now);
    let verdict = verdict
        .and_then(|()| stated_level(&request))
        .and_then(|()| request.authored.in_time(now.0))
        .and_then(|()| request.authored.vouched_by(trust, now.0));
    match verdict {
        Ok(()) => Verdict::Allow(Permit { request, grounds, judged_at: now.1, trust: trust.number }),
        Err(refusal) => Verdict::Refuse(Refused { request, grounds, refusal }),
    }
}

/// The level that the technician signed is the one that the work needs.
fn stated_level(request: &Request) -> Result<(), Refusal> {
    if request.authored.header().level == request.work.needs() { Ok(()) } else { Err(Code::LevelMismatch.into()) }
}

#[cfg(test)]
mod tests;
