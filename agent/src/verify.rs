//! May this operation run here, now? One pure function, in the order of the protocol.
//!
//! The master's word gives no right: every byte that reaches a process is covered by a technician's signature, the
//! server's name comes from its own certificate, and the level from the kind or the signed item. [`Permitted`] can be
//! made here and nowhere else, and cannot be kept to be used twice:
//!
//! ```compile_fail
//! fn twice(permitted: reeve_agent::verify::Permitted) -> [reeve_agent::verify::Permitted; 2] {
//!     [permitted.clone(), permitted]
//! }
//! ```

use std::time::Duration;

use bytes::Bytes;
use reeve_wire::bundle::{Freshness, Trust};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::grant::{self, Expected};
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::level::Level;
use reeve_wire::library::{Input, Package, SignedIndex};
use reeve_wire::name::{HostName, Name};
use reeve_wire::request::{Authored, Header, Kind, MAX_STDIN, Papers, TargetPath, Text, runnable};
use reeve_wire::signed::{Signed, SignedError};
use reeve_wire::strict;
use reeve_wire::time::Millis;

use crate::exec::memfd::SCRIPT_PATH;
use crate::exec::{Argv, Stdin};
use crate::handed::Handed;

/// How far the master's clock may be from ours before levels 2 and 3 are refused.
pub const CLOCKS_APART: Duration = Duration::from_secs(5 * 60);

/// The platform that items must name to run here.
pub const PLATFORM: &str = "linux";

/// The name by which a command line asks for the configured service manager.
const SERVICE_MANAGER: &str = "service-manager";
/// The name by which a command line asks for the path of its script.
const SCRIPT: &str = "script";

/// All that the agent knows when it judges.
#[derive(Clone, Copy)]
pub struct Grounds<'a> {
    /// The site of the configuration.
    pub site: &'a Name,
    /// The server, as its own certificate says.
    pub host: &'a HostName,
    /// Whether the agent takes work on this connection, and why not.
    pub ready: Result<(), &'a Refusal>,
    /// The newest trust bundle.
    pub trust: &'a Trust,
    /// The newest library index.
    pub index: Option<&'a SignedIndex>,
    /// Whether an operation was accepted or refused here before.
    pub used: &'a dyn Fn(OperationId) -> bool,
    /// The agent's now: the latest of its clock, the bundle's issue and the newest grant it accepted.
    pub now: Millis,
    /// This machine's clock alone.
    pub local: Millis,
    /// What the master's clock shows, by its word at the beginning of the connection and the time since.
    pub master: Option<Millis>,
    /// After a reboot, in which the journal's end may have been lost: grants from before it are refused.
    pub no_grant_before: Option<Millis>,
    /// The program behind `@service-manager@`.
    pub service_manager: &'a str,
}

/// An operation that may run here once, now.
#[must_use = "a permitted operation that is neither started nor refused leaves the technician waiting"]
#[derive(Debug)]
pub struct Permitted {
    order: Order,
}

/// What is to run, and on whose word. Has no power of its own: only a [`Permitted`] gives it up.
#[derive(Debug)]
pub struct Order {
    /// The operation.
    pub operation: OperationId,
    /// SHA-256 over the signed request.
    pub request: Digest,
    /// SHA-256 over the signed grant.
    pub grant: Digest,
    /// When the master gave it.
    pub granted: Millis,
    /// Until when its operation id must be remembered.
    pub not_after: Millis,
    /// Who asked.
    pub technician: Name,
    /// The level that it needs.
    pub level: Level,
    /// The command line.
    pub argv: Argv,
    /// What the program reads.
    pub stdin: Stdin,
    /// The longest run.
    pub timeout: Duration,
}

impl Permitted {
    /// What is permitted.
    pub const fn order(&self) -> &Order {
        &self.order
    }

    /// Spends it.
    pub fn into_order(self) -> Order {
        self.order
    }
}

/// Judges one operation.
///
/// # Errors
/// The first check that fails, with its code. Nothing may run then.
pub fn judge(handed: Handed, grounds: &Grounds<'_>) -> Result<Permitted, Refusal> {
    grounds.takes_work()?;
    // The level stated can only cause a refusal here: further down it must be the true one.
    if let Some(stated) = stated_level(&handed) {
        grounds.takes_level(stated)?;
    }

    let Handed { request, delegation, certificate, target, path, package, grant, master, stdin } = handed;
    let papers = Papers {
        header: document(request, "the signed request")?,
        delegation: delegation.map(|bytes| Signed::from_wire(&bytes)).transpose().map_err(malformed)?,
        certificate: present(certificate, "the technician's certificate")?,
    };
    let authored = papers.verify(grounds.trust, grounds.site, grounds.now)?;
    let header = authored.header();
    check_target(&authored, target, path, grounds.host)?;
    if (grounds.used)(header.operation) {
        return Err(Code::RequestReplayed.into());
    }
    let (grant, granted) = check_grant(&authored, grant, master, grounds)?;

    let work = Work::of(header, package, grounds)?;
    if header.level != work.level() {
        let why = format_args!("it states level {}, and the work needs level {}", header.level, work.level());
        return Err(Refusal::because(Code::LevelMismatch, why));
    }
    grounds.takes_level(work.level())?;
    authored.technician().ceiling.covers(&grounds.host.customer, work.level())?;
    if authored.delegation().is_some_and(|delegation| work.level() > delegation.max_level) {
        return Err(Code::DelegationLevel.into());
    }
    let command = work.command(header, grounds.service_manager)?;
    let stdin = work.stdin(header, stdin)?;
    runnable(&command)?;
    let argv = command.into_iter().map(|argument| argument.0).collect();
    let argv = Argv::new(argv).map_err(|error| Refusal::because(Code::ArgumentsInvalid, error))?;

    Ok(Permitted {
        order: Order {
            operation: header.operation,
            request: authored.digest(),
            grant,
            granted,
            not_after: header.not_after,
            technician: authored.technician().name.clone(),
            level: work.level(),
            argv,
            stdin,
            timeout: work.timeout(header),
        },
    })
}

impl Grounds<'_> {
    fn takes_work(&self) -> Result<(), Refusal> {
        self.ready.map_err(Clone::clone)?;
        match self.trust.freshness(self.now) {
            Freshness::Fresh | Freshness::Stale => Ok(()),
            Freshness::Expired => Err(Code::TrustStale.into()),
        }
    }

    /// Level 1 is looking: it still works on an old bundle, and while the clocks disagree.
    fn takes_level(&self, level: Level) -> Result<(), Refusal> {
        if !self.trust.allows(level, self.now) {
            return Err(Code::TrustStale.into());
        }
        let apart = |master: Millis| master.since(self.local).max(self.local.since(master)) > CLOCKS_APART;
        if level > Level::One && self.master.is_none_or(apart) {
            return Err(Code::ClockApart.into());
        }
        Ok(())
    }
}

fn stated_level(handed: &Handed) -> Option<Level> {
    let signed = Signed::from_wire(handed.request.as_ref()?).ok()?;
    Some(signed.peek_unverified::<Header>().ok()?.level)
}

fn present<T>(part: Option<T>, what: &str) -> Result<T, Refusal> {
    part.ok_or_else(|| Refusal::because(Code::RequestMalformed, format_args!("{what} is missing")))
}

fn document(part: Option<Vec<u8>>, what: &str) -> Result<Signed, Refusal> {
    Signed::from_wire(&present(part, what)?).map_err(malformed)
}

fn malformed(error: SignedError) -> Refusal {
    Refusal::because(Code::RequestMalformed, error)
}

/// The target must be one that the technician signed, and must name this server.
fn check_target(
    authored: &Authored,
    target: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    host: &HostName,
) -> Result<(), Refusal> {
    let missing = |_| Refusal::from(Code::TargetMismatch);
    let leaf = present(target, "the target").map_err(missing)?;
    let path = present(path, "the target's path").map_err(missing)?;
    let path: TargetPath = strict::from_slice(&path).map_err(|_| Refusal::from(Code::TargetMismatch))?;
    let target = authored.target(&leaf, &path)?;
    if target.host == *host {
        return Ok(());
    }
    Err(Refusal::because(Code::WrongHost, format_args!("it names {}, and this is {host}", target.host)))
}

/// The master must have granted exactly this, and lately. Gives the grant's digest and its moment.
fn check_grant(
    authored: &Authored,
    grant: Option<Vec<u8>>,
    master: Option<Vec<u8>>,
    grounds: &Grounds<'_>,
) -> Result<(Digest, Millis), Refusal> {
    let missing = |refusal: Refusal| Refusal { code: Code::GrantInvalid, ..refusal };
    let grant = document(grant, "the master's grant").map_err(missing)?;
    let master = present(master, "the master's certificate").map_err(missing)?;
    let expected = Expected {
        site: grounds.site,
        host: grounds.host,
        operation: authored.header().operation,
        request: authored.digest(),
    };
    let (grant, _) = grant::verify(grant, &master, expected, grounds.trust, grounds.now)?;
    if grounds.no_grant_before.is_some_and(|start| grant.at < start) {
        return Err(Refusal::because(Code::GrantStale, "it is from before this machine's restart"));
    }
    Ok((grant.digest(), grant.at))
}

/// What is to be done, with the level that follows from it.
enum Work {
    Raw,
    Item(Package),
}

impl Work {
    fn of(header: &Header, package: Option<Vec<u8>>, grounds: &Grounds<'_>) -> Result<Self, Refusal> {
        match (header.kind, &header.item, package) {
            (Kind::Raw, None, None) => Ok(Self::Raw),
            (Kind::Item, Some(item), Some(bytes)) => {
                let index = grounds.index.ok_or_else(|| Refusal::from(Code::ItemUnknown))?;
                let package = index.package(item, &bytes)?;
                check_item(&package)?;
                Ok(Self::Item(package))
            }
            (Kind::Raw | Kind::Item, _, _) => {
                Err(Refusal::because(Code::ItemMismatch, "a package comes with an item, and with nothing else"))
            }
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::Raw => Level::Three,
            Self::Item(package) => package.level,
        }
    }

    fn timeout(&self, header: &Header) -> Duration {
        let asked = Duration::from_millis(header.timeout_ms);
        match self {
            Self::Raw => asked,
            Self::Item(package) => asked.min(package.timeout()),
        }
    }

    fn command(&self, header: &Header, service_manager: &str) -> Result<Vec<Text>, Refusal> {
        match self {
            Self::Raw => Ok(header.argv.clone().unwrap_or_default()),
            Self::Item(package) => package.command(&header.args, |name| match name {
                SERVICE_MANAGER => Some(service_manager.to_owned()),
                SCRIPT if package.script.is_some() || package.stdin == Input::Signed => Some(SCRIPT_PATH.to_owned()),
                _ => None,
            }),
        }
    }

    /// The process reads the bytes whose digest was signed, the item's own script, or nothing.
    fn stdin(&self, header: &Header, came: Option<Bytes>) -> Result<Stdin, Refusal> {
        let came = signed_stdin(header, came)?;
        let Self::Item(package) = self else {
            return Ok(came.map_or(Stdin::Null, Stdin::Bytes));
        };
        let bad = |why| Err(Refusal::because(Code::StdinMismatch, why));
        match (package.stdin, came, &package.script) {
            (Input::None, None, None) => Ok(Stdin::Null),
            (Input::None, None, Some(script)) => Ok(Stdin::Script(Bytes::copy_from_slice(script.as_bytes()))),
            (Input::Signed, Some(bytes), _) if wants_script(package) => Ok(Stdin::Script(bytes)),
            (Input::Signed, Some(bytes), _) => Ok(Stdin::Bytes(bytes)),
            (Input::None, Some(_), _) => bad("the item takes no input"),
            (Input::Signed, None, _) => bad("the item needs its input, given with --stdin"),
        }
    }
}

fn wants_script(package: &Package) -> bool {
    package.argv.iter().any(|element| element.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) == Some(SCRIPT))
}

/// An item that this build cannot run as its author meant is not run at all.
fn check_item(package: &Package) -> Result<(), Refusal> {
    let mismatch = |why| Err(Refusal::because(Code::ItemMismatch, why));
    if !package.platforms.iter().any(|platform| platform == PLATFORM) {
        return mismatch("it is not made for this platform");
    }
    if package.script.is_some() && package.stdin == Input::Signed {
        return mismatch("an item has a script of its own or takes input, not both");
    }
    if package.script.is_some() && !wants_script(package) {
        return mismatch("its script stands nowhere in its command line");
    }
    Ok(())
}

fn signed_stdin(header: &Header, came: Option<Bytes>) -> Result<Option<Bytes>, Refusal> {
    match (header.stdin, came) {
        (None, None) => Ok(None),
        (Some(signed), Some(bytes)) if bytes.len() <= MAX_STDIN && Digest::of(&bytes) == signed => Ok(Some(bytes)),
        (Some(_) | None, _) => Err(Code::StdinMismatch.into()),
    }
}
