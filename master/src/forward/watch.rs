//! While something runs, its right is asked for again: at each change in the directory, and every 2 seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reeve_wire::certificate::Technician;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::level::Level;
use reeve_wire::name::HostName;

use crate::master::Master;
use crate::policy::{self, Question};

/// How often the right is asked for when nothing rings.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// A right that something rests on.
pub(super) struct Watched<'a> {
    pub(super) master: &'a Arc<Master>,
    pub(super) technician: &'a Technician,
    pub(super) session_level: Option<Level>,
    pub(super) host: &'a HostName,
    pub(super) needs: Level,
}

impl Watched<'_> {
    /// Waits until the right is lost. A directory that does not answer takes nothing away: what runs, runs to its
    /// signed time limit.
    pub(super) async fn lost(&self) -> Refusal {
        let mut directory = self.master.directory.changed();
        let mut bundle = self.master.trusted.bundle_changes();
        loop {
            tokio::select! {
                changed = directory.changed() => if changed.is_err() { tokio::time::sleep(ASK_EVERY).await },
                changed = bundle.changed() => if changed.is_err() { tokio::time::sleep(ASK_EVERY).await },
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
            if let Err(refusal) = self.ask().await
                && refusal.code != Code::DirectoryUnavailable
            {
                return refusal;
            }
        }
    }

    async fn ask(&self) -> Result<(), Refusal> {
        let answer = self.master.directory.standing(&self.technician.name).await;
        let question = Question {
            technician: self.technician,
            session_level: self.session_level,
            host: self.host,
            needs: self.needs,
        };
        let now = (self.master.clock.now(), Instant::now());
        policy::decide(question, &answer, &self.master.trusted.bundle(), now).1
    }
}
