//! Logging in and out: key and password once, then a session key for the shift.

use reeve_link::dial::{DialError, Identity};
use reeve_wire::certificate;
use reeve_wire::code::Code;
use reeve_wire::delegation::{Delegation, LONGEST, SKEW};
use reeve_wire::id::Salt;
use reeve_wire::keyfile::KeyLine;
use reeve_wire::level::Level;
use reeve_wire::message::{Answer, Ask, Part, PartKind};
use reeve_wire::signed::Signed;
use reeve_wire::sshsig;
use reeve_wire::strict::V1;
use ssh_key::PrivateKey;
use zeroize::Zeroizing;

use crate::desk::{Desk, unconnected};
use crate::failure::Failure;
use crate::operation::ask;
use crate::session::{Lock, Session};
use crate::{own_key, secret, terminal};

/// How often a mistyped password may be tried again.
const TRIES: usize = 3;

/// How a logout went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LoggedOut {
    /// The master forgot the session key, and it is removed here.
    Ended,
    /// There was no live session.
    NoSession,
}

impl Desk {
    /// Proves key and password, and keeps the session that they give in the place of any other.
    ///
    /// # Errors
    /// Why there is no session.
    pub async fn login(&mut self, max_level: Option<Level>) -> Result<Session, Failure> {
        let lock = self.sessions.lock().await?;
        self.prove(max_level, &lock).await
    }

    /// Logs in for a verb that found no session, or one that is of no use. Another command may have done so meanwhile.
    pub(crate) async fn log_in_instead_of(&mut self, useless: Option<&Session>) -> Result<Session, Failure> {
        let lock = self.sessions.lock().await?;
        let by_another = self.live_session().filter(|live| useless.is_none_or(|useless| !live.is(useless)));
        match by_another {
            Some(session) => Ok(session),
            None => self.prove(None, &lock).await,
        }
    }

    async fn prove(&mut self, max_level: Option<Level>, _lock: &Lock) -> Result<Session, Failure> {
        let own = own_key::private_key(&self.config, &self.certificate, &self.tasks).await?;
        self.refresh_trust().await?;
        let link = self.dial_with_password(&own).await?;
        let (key, delegation) = self.delegate(&own, max_level)?;
        let said =
            [Part::json(PartKind::Ask, &Ask::Register {})?, Part::new(PartKind::Delegation, delegation.to_wire())];
        let Answer::Registered { until } = ask::answer(&link, &said).await? else {
            return Err(Code::Protocol.into());
        };
        let now = self.clock.now();
        let technician = own_key::technician(&self.config, &self.certificate, self.trust(), now)?;
        let session = Session::new(key, delegation, &technician, &self.config.site, now)?;
        self.sessions.store(&session)?;
        terminal::remark(&format!("logged in as {} until {}", self.config.name, crate::verbs::clock_time(until)));
        Ok(session)
    }

    async fn dial_with_password(&mut self, own: &PrivateKey) -> Result<reeve_link::Link, Failure> {
        let user = self.config.principal();
        let asked = self.config.password_command.is_none();
        let mut tries = if asked { TRIES } else { 1 };
        loop {
            let password = self.password().await?;
            let identity = Identity::CertificateThenPassword {
                user: user.clone(),
                key: own.clone().into(),
                certificate: self.certificate.clone(),
                password,
            };
            tries -= 1;
            match self.dial(identity).await {
                Ok(connected) => return Ok(connected.link),
                Err(DialError::PasswordRefused { .. } | DialError::EmptyPassword) if tries > 0 => {
                    terminal::note("the password is not accepted");
                }
                Err(DialError::KeyRefused { .. }) => return Err(self.why_key_refused()),
                Err(error) => return Err(unconnected(&error)),
            }
        }
    }

    async fn password(&self) -> Result<Zeroizing<String>, Failure> {
        match &self.config.password_command {
            Some(command) => secret::from_command(command).await,
            None => {
                let prompt = format!("Password of {} at {}: ", self.config.name, self.config.site);
                secret::ask(&self.tasks, prompt).await
            }
        }
    }

    /// SSH says no reason. The rules are the same here, so this side finds the one that was broken.
    fn why_key_refused(&self) -> Failure {
        let now = self.clock.now();
        match own_key::technician(&self.config, &self.certificate, self.trust(), now) {
            Err(refusal) => refusal.into(),
            Ok(_) => Failure::of(Code::LoginFailed),
        }
    }

    fn delegate(&self, own: &PrivateKey, max_level: Option<Level>) -> Result<(PrivateKey, Signed), Failure> {
        let internal = |error: &dyn std::fmt::Display| Failure::because(Code::Internal, error);
        let key = sshsig::generate("reeve session").map_err(|error| internal(&error))?;
        let session_key = KeyLine::new(key.public_key().key_data().clone()).map_err(|error| internal(&error))?;
        let now = self.clock.now();
        let ceiling = own_key::technician(&self.config, &self.certificate, self.trust(), now)
            .map_or(Level::Three, |technician| technician.ceiling.max_level);
        // A clock that is a little ahead must not make it look as if it came from the future.
        let not_before = now.minus(SKEW);
        let delegation = Delegation {
            v: V1,
            site: self.config.site.clone(),
            technician_cert: certificate::digest(&self.certificate).map_err(|error| error.0)?,
            session_key,
            max_level: max_level.unwrap_or(ceiling),
            not_before,
            not_after: not_before.plus(LONGEST),
            nonce: Salt::random(),
        };
        let signed = Signed::make(&delegation, own).map_err(|error| internal(&error))?;
        Ok((key, signed))
    }

    /// Tells the master to forget the session key, and removes it here whatever the master says.
    ///
    /// # Errors
    /// Why the master could not be told; the key is gone all the same.
    pub(crate) async fn logout(&mut self) -> Result<LoggedOut, Failure> {
        let _lock = self.sessions.lock().await?;
        let live = self.live_session();
        self.sessions.remove()?;
        let Some(session) = live else {
            return Ok(LoggedOut::NoSession);
        };
        match self.tell_logout(&session).await {
            Ok(()) => Ok(LoggedOut::Ended),
            Err(failure) => {
                let until = crate::verbs::clock_time(session.until());
                Err(failure.hint(format!("the session key is removed here; the master will forget it at {until}")))
            }
        }
    }

    async fn tell_logout(&mut self, session: &Session) -> Result<(), Failure> {
        let link = match self.dial_session(session).await {
            Ok(connected) => connected.link,
            // It has forgotten already.
            Err(DialError::KeyRefused { .. }) => return Ok(()),
            Err(error) => return Err(unconnected(&error)),
        };
        let Answer::LoggedOut {} = ask::answer(&link, &[Part::json(PartKind::Ask, &Ask::Logout {})?]).await? else {
            return Err(Code::Protocol.into());
        };
        Ok(())
    }
}
