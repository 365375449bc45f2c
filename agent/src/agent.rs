//! The agent as a whole: what it keeps, what it knows, and how an operation is judged with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use reeve_link::tasks::Tasks;
use reeve_wire::bundle::Trust;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::delegation::SKEW;
use reeve_wire::name::HostName;
use reeve_wire::time::{Clock, Millis};
use tokio_util::sync::CancellationToken;

use crate::chain::{Accepted, Chain};
use crate::config::{Config, Problem};
use crate::exec::Account;
use crate::handed::Handed;
use crate::identity::Identity;
use crate::library::Library;
use crate::pace::Pace;
use crate::running::{Late, Running};
use crate::session::Session;
use crate::state::StateDir;
use crate::status::{Programs, StatusFile};
use crate::trust::TrustStore;
use crate::verify::{Grounds, Permitted, judge};

/// Where Linux tells which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A running agent. Shared by all its tasks.
#[derive(Debug)]
pub struct Agent {
    /// The configuration.
    pub config: Config,
    /// Its tasks.
    pub tasks: Tasks,
    /// The trust bundle.
    pub trust: TrustStore,
    /// The library's index.
    pub library: Library,
    /// The receipts. Dropped before the directory's lock, so that whoever gets that finds the journal free.
    pub chain: Chain,
    /// Its directory.
    pub state: StateDir,
    /// What it tells of itself.
    pub status: StatusFile,
    /// How many programs it started.
    pub programs: Programs,
    /// What runs.
    pub running: Running,
    /// Receipts that wait for a connection.
    pub late: Late,
    /// How fast refusals may be written.
    pub refusals: Pace,
    /// Cancelled when nothing more is to be accepted.
    pub draining: CancellationToken,
    /// The account that programs run as.
    pub account: Account,
    /// When this process started, and no other on this state directory.
    pub started: Millis,
    /// Which boot of the machine this is.
    pub boot_id: String,
    clock: Clock,
    identity: Mutex<Identity>,
    /// The moment of the newest grant that was accepted.
    newest_grant: AtomicU64,
    /// Grants from before this are refused; 0 for no such moment.
    no_grant_before: AtomicU64,
}

impl Agent {
    /// Reads everything that the configuration names and opens the journal. An entry of the chain says that the agent
    /// started.
    ///
    /// # Errors
    /// Every problem that stands in the way.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open(config: Config, clock: Clock) -> Result<Arc<Self>, Vec<Problem>> {
        let (identity, trust) = match (Identity::load(&config), TrustStore::open(&config)) {
            (Ok(identity), Ok(trust)) => (identity, trust),
            (identity, trust) => return Err(identity.err().into_iter().flatten().chain(trust.err()).collect()),
        };
        let state = StateDir::take(&config.state).map_err(|problem| vec![problem])?;
        let in_state = |why: String| vec![Problem::State { path: config.state.clone(), why }];
        let boot_id = boot_id().map_err(|error| in_state(format!("{BOOT_ID}: {error}")))?;
        let held = trust.current();
        let now = clock.now().max(held.as_ref().map_or(Millis(0), |trust| trust.issued));
        let library = Library::open(&state, held.as_deref()).map_err(|problem| vec![problem])?;
        let journal = state.file("journal");
        let (chain, recovered) = Chain::open(&journal, identity.key(), &config.site, identity.host(), &boot_id, now)
            .map_err(|error| in_state(error.to_string()))?;
        if recovered.closed > 0 {
            tracing::warn!(operations = recovered.closed, "Operations were cut off; their outcome is unknown");
        }
        let status = StatusFile::begin(&state, identity.host(), now).map_err(|error| in_state(error.to_string()))?;
        let started = status.current().started;
        let programs = Programs::begin(&state).map_err(|error| in_state(error.to_string()))?;
        // The acceptance agreed with the grant's moment to within the skew.
        let newest_grant = recovered.newest_accepted.map_or(0, |at| at.minus(SKEW).0);
        Ok(Arc::new(Self {
            config,
            tasks: Tasks::new(),
            state,
            trust,
            library,
            chain,
            status,
            programs,
            running: Running::default(),
            late: Late::default(),
            refusals: Pace::new(),
            draining: CancellationToken::new(),
            account: Account::of_this_process(),
            started,
            boot_id,
            clock,
            identity: Mutex::new(identity),
            newest_grant: AtomicU64::new(newest_grant),
            no_grant_before: AtomicU64::new(if recovered.rebooted { now.0 } else { 0 }),
        }))
    }

    /// This machine's clock alone.
    pub fn local(&self) -> Millis {
        self.clock.now()
    }

    /// The agent's now: the latest of its clock, the bundle's issue and the newest grant that it accepted.
    pub fn now(&self) -> Millis {
        let issued = self.trust.current().map_or(Millis(0), |trust| trust.issued);
        self.local().max(issued).max(Millis(self.newest_grant.load(Ordering::SeqCst)))
    }

    /// The server, as its own certificate says.
    pub fn host(&self) -> HostName {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).host().clone()
    }

    /// Who this server is. Reads the files again, so that a renewed certificate is used without a restart.
    pub fn identity(&self) -> Identity {
        let mut held = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        match Identity::load(&self.config) {
            Ok(fresh) if fresh.key().public_key() == held.key().public_key() => *held = fresh,
            Ok(_) => tracing::error!("The key file was changed; restart the agent to begin the new key's chain"),
            Err(problems) => {
                for problem in problems {
                    tracing::warn!(%problem, "Key or certificate cannot be read again; the ones read before are used");
                }
            }
        }
        held.clone()
    }

    /// From here on, only grants of this moment or later are good.
    pub fn refuse_older_grants(&self, now: Millis) {
        self.no_grant_before.fetch_max(now.0, Ordering::SeqCst);
    }

    /// Judges an operation that came on `session`, and writes down that it is accepted.
    ///
    /// # Errors
    /// Why it must not run.
    pub fn accept(&self, handed: Handed, session: &Session) -> Result<Accepted, Refusal> {
        let permitted = self.permit(handed, session)?;
        let granted = permitted.order().granted;
        let accepted = self.chain.accept(permitted, self.now())?;
        self.newest_grant.fetch_max(granted.0, Ordering::SeqCst);
        Ok(accepted)
    }

    fn permit(&self, handed: Handed, session: &Session) -> Result<Permitted, Refusal> {
        let host = self.host();
        let trust = self.trust.current().ok_or_else(|| Refusal::from(Code::TrustUnanswered))?;
        let index = self.library.current();
        let ready = self.takes_work(session);
        let no_grant_before = Some(self.no_grant_before.load(Ordering::SeqCst)).filter(|&moment| moment > 0);
        judge(
            handed,
            &Grounds {
                site: &self.config.site,
                host: &host,
                ready: ready.as_ref().copied(),
                trust: &trust,
                index: index.as_deref(),
                used: &|operation| self.chain.used(operation),
                now: self.now(),
                local: self.local(),
                master: session.master_clock(),
                no_grant_before: no_grant_before.map(Millis),
                service_manager: &self.config.service_manager.to_string_lossy(),
            },
        )
    }

    fn takes_work(&self, session: &Session) -> Result<(), Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::because(Code::Busy, "the agent is being stopped"));
        }
        if self.chain.has_failed() {
            return Err(Code::JournalFailed.into());
        }
        session.ready()
    }

    /// Takes a newer bundle everywhere it matters.
    ///
    /// # Errors
    /// When it is not taken; what must not have happened is kept as evidence.
    pub fn take_bundle(&self, bytes: &[u8]) -> Result<Arc<Trust>, Refusal> {
        use crate::trust::NotTaken;
        use reeve_wire::bundle::TrustError;
        let refused = |why: &dyn std::fmt::Display| {
            tracing::error!(%why, "A trust bundle was refused");
            Refusal::because(Code::TrustUnanswered, why)
        };
        let signed = reeve_wire::signed::Signed::from_wire(bytes).map_err(|error| refused(&error))?;
        let taken = self.trust.take(signed);
        if let Err(NotTaken::Trust(TrustError::Rollback { .. })) = &taken {
            let held = self.trust.current().map(|trust| trust.signed().to_wire()).unwrap_or_default();
            if let Err(error) = self.state.keep_evidence("bundle", &[("held", &held), ("shown", bytes)]) {
                tracing::error!(%error, "The refused bundle could not be kept as evidence");
            }
        }
        let trust = taken.map_err(|error| refused(&error))?;
        self.library.trust_changed(&trust);
        Ok(trust)
    }
}

fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string(BOOT_ID)?.trim().to_owned())
}
