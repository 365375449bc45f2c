//! How the server is reached: address, trust, Reeve's own account, and how often a failed connection may be tried.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::link::{DIAL, Link};
use crate::directory::Unavailable;
use crate::directory::config::{LdapConfig, Problem, Secrecy, read_guarded};
use crate::directory::dn::Dn;

/// The port of `ldaps://` unless the URL says otherwise.
const LDAPS: u16 = 636;

/// After a failure, connections are tried at most this often.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// While the server refuses Reeve's own account, the time between tries doubles up to this, so that a wrong password
/// does not lock the account.
const TRY_EVERY_MOST: Duration = Duration::from_secs(30);

/// Result codes of LDAP (RFC 4511, A.1): a bind succeeded, or the name and password do not belong together. Servers
/// use the other three for an account that is locked or may not bind.
const SUCCESS: u32 = 0;
const CONSTRAINT_VIOLATION: u32 = 19;
const INAPPROPRIATE_AUTHENTICATION: u32 = 48;
const INVALID_CREDENTIALS: u32 = 49;
const UNWILLING_TO_PERFORM: u32 = 53;

/// The server is there but has no time: its refusal says nothing about the account.
const BUSY: u32 = 51;
const UNAVAILABLE: u32 = 52;

/// One server, and Reeve's account on it.
#[derive(Debug)]
pub(super) struct Server {
    shown: String,
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
    bind_dn: String,
    password_file: PathBuf,
    tries: Mutex<Tries>,
}

impl Server {
    /// # Errors
    ///
    /// Everything that is wrong with the address, the CA file and the account.
    pub(super) fn open(config: &LdapConfig) -> Result<Self, Vec<Problem>> {
        let mut problems = vec![];
        let mut keep = |problem| problems.push(problem);
        let address = address(&config.url).map_err(&mut keep).ok();
        let tls = trusting(config).map_err(&mut keep).ok();
        read_password(&config.password_file).map_err(&mut keep).ok();
        Dn::parse(&config.bind_dn).map_err(|e| keep(Problem::Dn { key: "bind-dn", why: e.to_string() })).ok();
        match (address, tls) {
            (Some((host, port)), Some(tls)) if problems.is_empty() => Ok(Self {
                shown: format!("ldaps://{host}:{port}"),
                host,
                port,
                tls: Arc::new(tls),
                bind_dn: config.bind_dn.clone(),
                password_file: config.password_file.clone(),
                tries: Mutex::default(),
            }),
            _ => Err(problems),
        }
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// A connection that is bound to Reeve's own account. One is dialled at a time; after a failure the next try waits
    /// its turn, and until then the last reason is the answer.
    pub(super) async fn dial(&self) -> Result<Link, Unavailable> {
        let mut tries = self.tries.lock().await;
        tries.may_try(Instant::now())?;
        let dialled = match tokio::time::timeout(DIAL, self.connect_and_bind()).await {
            Ok(dialled) => dialled,
            Err(_) => Err(Unavailable::TimedOut { server: self.shown.clone() }),
        };
        match &dialled {
            Ok(_) => tries.succeeded(),
            Err(why) => tries.failed(why),
        }
        dialled
    }

    /// Remembers that a connection had to be given up, and why.
    pub(super) async fn note_failure(&self, why: Option<&Unavailable>) {
        if let Some(why) = why {
            self.tries.lock().await.failed(why);
        }
    }

    async fn connect_and_bind(&self) -> Result<Link, Unavailable> {
        let path = self.password_file.clone();
        let password = tokio::task::spawn_blocking(move || read_password(&path)).await;
        let refused = |why: String| Unavailable::ServiceRefused { server: self.shown.clone(), why };
        let password =
            password.map_err(|_| Unavailable::Interrupted)?.map_err(|problem| refused(problem.to_string()))?;
        let link = Link::connect(&self.shown, &self.host, self.port, Arc::clone(&self.tls)).await?;
        let bind = link.bind(&self.bind_dn, &password).await?;
        match bind.code {
            SUCCESS => Ok(link),
            BUSY | UNAVAILABLE => Err(Unavailable::BadAnswer {
                server: self.shown.clone(),
                why: format!("result code {} {}", bind.code, bind.text),
            }),
            code => Err(refused(format!("result code {code} {}", bind.text))),
        }
    }

    /// Whether the server accepts `password` for `dn`, asked on a connection of its own.
    pub(super) async fn password_matches(&self, dn: &str, password: &str) -> Result<bool, Unavailable> {
        let (shown, host, port, tls) = (self.shown.clone(), self.host.clone(), self.port, Arc::clone(&self.tls));
        let (dn, password) = (dn.to_owned(), Zeroizing::new(password.to_owned()));
        // A task of its own: ldap3 panics on some answers, and that must cost no more than this check.
        let mut check = JoinSet::new();
        check.spawn(async move {
            if dn.is_empty() || password.is_empty() {
                return Ok(false);
            }
            let late = |_| Unavailable::TimedOut { server: shown.clone() };
            let link = tokio::time::timeout(DIAL, Link::connect(&shown, &host, port, tls)).await.map_err(late)??;
            let bind = tokio::time::timeout(DIAL, link.bind(&dn, &password)).await.map_err(late)??;
            match bind.code {
                SUCCESS => Ok(true),
                CONSTRAINT_VIOLATION | INAPPROPRIATE_AUTHENTICATION | INVALID_CREDENTIALS | UNWILLING_TO_PERFORM => {
                    tracing::info!(%dn, code = bind.code, text = %bind.text, "The directory refused a password");
                    Ok(false)
                }
                code => Err(Unavailable::BadAnswer {
                    server: shown.clone(),
                    why: format!("result code {code} {}", bind.text),
                }),
            }
        });
        match check.join_next().await {
            Some(Ok(matches)) => matches,
            Some(Err(_)) | None => Err(Unavailable::Interrupted),
        }
    }
}

/// When a connection may be tried again.
#[derive(Debug, Default)]
struct Tries {
    last: Option<Instant>,
    failure: Option<Unavailable>,
    refusals: u32,
}

impl Tries {
    fn may_try(&mut self, now: Instant) -> Result<(), Unavailable> {
        if let (Some(last), Some(failure)) = (self.last, &self.failure)
            && now.saturating_duration_since(last) < self.wait()
        {
            return Err(failure.clone());
        }
        self.last = Some(now);
        Ok(())
    }

    fn wait(&self) -> Duration {
        let doublings = self.refusals.saturating_sub(1).min(5);
        (TRY_EVERY * 2_u32.pow(doublings)).min(TRY_EVERY_MOST)
    }

    fn succeeded(&mut self) {
        self.failure = None;
        self.refusals = 0;
    }

    fn failed(&mut self, why: &Unavailable) {
        self.refusals =
            if matches!(why, Unavailable::ServiceRefused { .. }) { self.refusals.saturating_add(1) } else { 0 };
        self.failure = Some(why.clone());
    }
}

/// Host and port of `ldaps://HOST[:PORT]`.
fn address(url: &str) -> Result<(String, u16), Problem> {
    let wrong = || Problem::Url(url.to_owned());
    let rest = match url.split_once("://") {
        Some(("ldaps", rest)) => rest,
        Some(("ldap" | "ldapi", _)) => return Err(Problem::Plaintext(url.to_owned())),
        _ => return Err(wrong()),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
        None => (rest, LDAPS),
    };
    // An IPv6 address in brackets is no server name for ldap3: the certificate's name must be used.
    if port == 0 || ServerName::try_from(host).is_err() || host.contains(':') {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

/// TLS that trusts the CA of the configuration and no other.
fn trusting(config: &LdapConfig) -> Result<ClientConfig, Problem> {
    let unusable = |why: String| Problem::Ca { path: config.ca.clone(), why };
    let (pem, _) = read_guarded("ca", &config.ca, Secrecy::Public)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| unusable(format!("it is not PEM: {e}")))?;
        roots.add(certificate).map_err(|e| unusable(format!("a certificate in it cannot be used: {e}")))?;
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();

    Ok(tls)
}

fn read_password(path: &std::path::Path) -> Result<Zeroizing<String>, Problem> {
    let none = || Problem::NoPassword { path: path.to_owned() };
    let (bytes, _) = read_guarded("password-file", path, Secrecy::OwnerOnly)?;
    let text = Zeroizing::new(String::from_utf8(bytes).map_err(|_| none())?);
    let password = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if password.trim().is_empty() || password.contains(['\0', '\n']) {
        return Err(none());
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_encrypted_address_with_a_name_is_taken() {
        assert_eq!(address("ldaps://ldap.noc.example"), Ok(("ldap.noc.example".to_owned(), 636)));
        assert_eq!(address("ldaps://localhost:1636/"), Ok(("localhost".to_owned(), 1636)));
        assert_eq!(address("ldaps://10.0.0.1"), Ok(("10.0.0.1".to_owned(), 636)));

        for plain in ["ldap://ldap.noc.example", "ldapi://%2frun%2fldapi"] {
            assert_eq!(address(plain), Err(Problem::Plaintext(plain.to_owned())));
        }
        for wrong in ["", "ldap.noc.example", "https://x", "ldaps://", "ldaps://:636", "ldaps://x:0", "ldaps://x:99999"]
        {
            assert_eq!(address(wrong), Err(Problem::Url(wrong.to_owned())));
        }
        for wrong in ["ldaps://[::1]", "ldaps://[::1]:636", "ldaps://a b", "ldaps://u@h", "ldaps://h/dc=x", "LDAPS://x"]
        {
            assert_eq!(address(wrong), Err(Problem::Url(wrong.to_owned())));
        }
    }

    #[test]
    fn a_failed_connection_is_tried_once_a_second() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let down = Unavailable::TimedOut { server: "x".to_owned() };
        let mut tries = Tries::default();

        assert_eq!(tries.may_try(at(0)), Ok(()));
        tries.failed(&down);
        assert_eq!(tries.may_try(at(999)), Err(down.clone()));
        assert_eq!(tries.may_try(at(1000)), Ok(()));
        tries.succeeded();
        assert_eq!(tries.may_try(at(1001)), Ok(()), "nothing to wait for after a success");
        tries.failed(&down);
        assert_eq!(tries.may_try(at(1500)), Err(down));
    }

    #[test]
    fn a_refused_account_is_tried_less_and_less() {
        let mut now = Instant::now();
        let refused = Unavailable::ServiceRefused { server: "x".to_owned(), why: "49".to_owned() };
        let mut tries = Tries::default();
        assert_eq!(tries.may_try(now), Ok(()));

        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            tries.failed(&refused);
            now += Duration::from_secs(seconds);
            assert!(tries.may_try(now.checked_sub(Duration::from_millis(1)).unwrap()).is_err(), "{seconds}");
            assert_eq!(tries.may_try(now), Ok(()), "{seconds}");
        }
        tries.succeeded();
        tries.failed(&refused);
        assert_eq!(tries.may_try(now + Duration::from_secs(1)), Ok(()), "and begins again after a success");
    }
}
