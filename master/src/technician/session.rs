//! Who am I, and the life of a session key.

use reeve_audit::record::Happened;
use reeve_link::parts::Inbound;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::message::{Answer, PartKind, Whoami};
use reeve_wire::signed::Signed;
use reeve_wire::time::Millis;

use super::{Visit, within};

impl Visit {
    pub(super) fn whoami(&self) -> Answer {
        Answer::Whoami(Whoami {
            name: self.technician.name.clone(),
            directory_id: self.technician.directory_id.clone(),
            max_level: self.technician.ceiling.max_level,
            customers: self.technician.ceiling.customers.to_string(),
            until: self.session.as_ref().map(|session| session.until()),
            site: self.master.config.site.clone(),
            master: self.master.config.name.clone(),
        })
    }

    /// Registers a session key. The record comes before the key counts.
    pub(super) async fn register(&self, inbound: &mut Inbound) -> Answer {
        match self.try_register(inbound).await {
            Ok(until) => Answer::Registered { until },
            Err(refusal) => self.refuse_login(refusal).await,
        }
    }

    /// Records that this technician got no session.
    pub(super) async fn refuse_login(&self, refusal: Refusal) -> Answer {
        let happened = Happened::login_failed(self.party(), refusal.code.as_str(), &refusal.reason, 1);
        let record = self.master.ledger.event(happened).await.ok();
        Answer::Refused { refusal, record }
    }

    async fn try_register(&self, inbound: &mut Inbound) -> Result<Millis, Refusal> {
        let part = within(inbound.part()).await?;
        if part.kind != PartKind::Delegation {
            return Err(Code::Protocol.into());
        }
        let signed =
            Signed::from_wire(&part.bytes).map_err(|error| Refusal::because(Code::DelegationInvalid, error))?;
        let master = &self.master;
        let checked =
            reeve_wire::delegation::verify(signed.clone(), &self.technician, &master.config.site, self.now())?;
        let session_key = checked.session_key.fingerprint();
        let happened = Happened::session(self.party(), &session_key, &signed.to_wire(), &self.certificate);
        master.ledger.event(happened).await?;
        let (technician, certificate) = (self.technician.clone(), self.certificate.clone());
        let session = master.sessions.register(technician, certificate, signed, &master.config.site, self.now())?;
        Ok(session.until())
    }

    /// Forgets the session key at once, and records it after: it only takes away.
    pub(super) async fn logout(&self) -> Answer {
        if let Some(session) = &self.session {
            self.master.sessions.end(session);
            self.master.ledger.took_away(Happened::logout(self.party(), "requested")).await;
        }
        Answer::LoggedOut {}
    }
}
