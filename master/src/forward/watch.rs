//! While something runs, its right is asked for again: at each change in the directory, and every 2 seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reeve_wire::code::{Code, Refusal};

use crate::master::Master;
use crate::policy::{self, Question, Request};

/// How often the right is asked for when nothing rings.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Waits until the right to run `request` is lost. A directory that does not answer takes nothing away: what runs,
/// runs to its signed time limit.
pub(super) async fn lost(master: &Arc<Master>, request: &Request) -> Refusal {
    let mut directory = master.directory.changed();
    let mut bundle = master.trusted.bundle_changes();
    loop {
        tokio::select! {
            changed = directory.changed() => if changed.is_err() { tokio::time::sleep(ASK_EVERY).await },
            changed = bundle.changed() => if changed.is_err() { tokio::time::sleep(ASK_EVERY).await },
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
        if let Err(refusal) = still_allowed(master, request).await
            && refusal.code != Code::DirectoryUnavailable
        {
            return refusal;
        }
    }
}

/// Decides again: the session, the bundle of this moment, and the directory's answer.
pub(super) async fn still_allowed(master: &Arc<Master>, request: &Request) -> Result<(), Refusal> {
    session_stands(master, request)?;
    let authored = &request.authored;
    let technician = authored.technician();
    let answer = master.directory.standing(&technician.name).await;
    let question = Question {
        technician,
        session_level: authored.delegation().map(|delegation| delegation.max_level),
        host: request.host(),
        needs: request.work.needs(),
    };
    let (trust, now) = (master.trusted.bundle(), (master.clock.now(), Instant::now()));
    authored.vouched_by(&trust, now.0)?;
    policy::decide(question, &answer, &trust, now).1
}

/// A logout ends what its session key signed. A session that has run out ends nothing: what it began runs to its
/// signed time limit.
pub(super) fn session_stands(master: &Master, request: &Request) -> Result<(), Refusal> {
    let Some(delegation) = request.authored.delegation() else {
        return Ok(());
    };
    let now = master.clock.now();
    let name = &request.authored.technician().name;
    match master.sessions.find(name, delegation.session_key.key(), now) {
        Err(refusal) if now <= delegation.not_after => Err(refusal),
        Ok(_) | Err(_) => Ok(()),
    }
}
