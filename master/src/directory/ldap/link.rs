//! One connection to an LDAP server, and the only way in which it is searched.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions, StdStream};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::directory::Unavailable;

/// The longest that dialling and one question may take, each as a whole.
pub(super) const DIAL: Duration = Duration::from_secs(1);
const QUESTION: Duration = Duration::from_secs(1);

/// The longest that the server itself may work on one question, in seconds.
const SERVER_TIME: i32 = 2;

/// Result codes of LDAP (RFC 4511, A.1).
const SUCCESS: u32 = 0;
const SIZE_LIMIT_EXCEEDED: u32 = 4;

/// An open connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Link {
    ldap: Ldap,
    server: String,
    condemned: AtomicBool,
    /// Drives the connection; to abort it is the one sure way to end it.
    _drive: JoinSet<()>,
}

/// One search.
pub(super) struct Question<'a> {
    pub(super) base: &'a str,
    pub(super) scope: Scope,
    pub(super) filter: &'a str,
    pub(super) attributes: &'a [&'a str],
    /// The most entries that are read; one more is a failure.
    pub(super) most: usize,
}

/// How a bind ended.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) code: u32,
    pub(super) text: String,
}

impl Link {
    /// Connects by TLS and proves the server's name. The caller limits the time.
    pub(super) async fn connect(
        server: &str,
        host: &str,
        port: u16,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, Unavailable> {
        let failed =
            |e: LdapError| Unavailable::Unreachable { server: server.to_owned(), why: printable(&e.to_string()) };
        let stream = TcpStream::connect((host, port)).await.map_err(|e| failed(e.into()))?;
        // Else every bind waits 40 ms for an acknowledgement.
        stream.set_nodelay(true).map_err(|e| failed(e.into()))?;
        let stream = StdStream::Tcp(stream.into_std().map_err(|e| failed(e.into()))?);
        let settings = LdapConnSettings::new().set_config(tls).set_std_stream(stream);
        let (connection, ldap) =
            LdapConnAsync::with_settings(settings, &format!("ldaps://{host}")).await.map_err(failed)?;
        let mut drive = JoinSet::new();
        drive.spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!(%error, "The directory's connection has ended");
            }
        });
        Ok(Self { ldap, server: server.to_owned(), condemned: AtomicBool::new(false), _drive: drive })
    }

    /// Binds once. The caller limits the time, and has made sure that neither the DN nor the password is empty.
    pub(super) async fn bind(&self, dn: &str, password: &str) -> Result<Bind, Unavailable> {
        let unfinished = Unfinished(self);
        let result = self.ldap.clone().simple_bind(dn, password).await.map_err(|e| self.broken(&e))?;
        unfinished.finish();

        Ok(Bind { code: result.rc, text: printable(&result.text) })
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.is_condemned() && !self.ldap.clone().is_closed()
    }

    /// Whether something failed on this connection that makes everything else on it doubtful.
    pub(super) fn is_condemned(&self) -> bool {
        self.condemned.load(Ordering::SeqCst)
    }

    /// The entries that `question` finds. Referrals are skipped: nothing is asked of a server that is not configured.
    ///
    /// # Errors
    ///
    /// Anything but a complete answer. A server that is slow, breaks off or says something that is not LDAP condemns
    /// the connection; one that answers with a result code does not.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Vec<SearchEntry>, Unavailable> {
        let unfinished = Unfinished(self);
        let (entries, code, text) = match tokio::time::timeout(QUESTION, self.entries(question)).await {
            Ok(found) => found?,
            Err(_) => return Err(Unavailable::TimedOut { server: self.server.clone() }),
        };
        unfinished.finish();
        match code {
            SUCCESS => Ok(entries),
            SIZE_LIMIT_EXCEEDED => Err(self.too_many(question.most)),
            code => Err(self.bad_answer(format!("result code {code} {text}"))),
        }
    }

    /// `Ldap::search` would leak a message id a call for the life of the connection, and has no cap: the stream is
    /// read to its end, then finished.
    async fn entries(&self, question: &Question<'_>) -> Result<(Vec<SearchEntry>, u32, String), Unavailable> {
        let most = i32::try_from(question.most).unwrap_or(i32::MAX);
        let mut ldap = self.ldap.clone();
        ldap.with_search_options(SearchOptions::new().sizelimit(most).timelimit(SERVER_TIME));
        let attributes = question.attributes.to_vec();
        let mut stream = ldap
            .streaming_search(question.base, question.scope, question.filter, attributes)
            .await
            .map_err(|e| self.broken(&e))?;
        let mut entries = vec![];
        while let Some(entry) = stream.next().await.map_err(|e| self.broken(&e))? {
            if entry.is_ref() || entry.is_intermediate() {
                continue;
            }
            if entries.len() == question.most {
                return Err(self.too_many(question.most));
            }
            let entry = catch_unwind(AssertUnwindSafe(|| SearchEntry::construct(entry)));
            entries.push(entry.map_err(|_| self.bad_answer("an entry that is not LDAP".to_owned()))?);
        }
        let result = stream.finish().await;
        Ok((entries, result.rc, printable(&result.text)))
    }

    fn broken(&self, error: &LdapError) -> Unavailable {
        Unavailable::Unreachable { server: self.server.clone(), why: printable(&error.to_string()) }
    }

    fn bad_answer(&self, why: String) -> Unavailable {
        Unavailable::BadAnswer { server: self.server.clone(), why }
    }

    fn too_many(&self, limit: usize) -> Unavailable {
        Unavailable::TooMany { server: self.server.clone(), limit }
    }
}

/// Condemns its connection unless it is told that all went well, also when the waiting was given up.
struct Unfinished<'a>(&'a Link);

impl Unfinished<'_> {
    fn finish(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.condemned.store(true, Ordering::SeqCst);
    }
}

/// What a server says, fit for a log and a terminal.
fn printable(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
