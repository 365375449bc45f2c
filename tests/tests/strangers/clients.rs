//! How strangers come: the product's own dialler, stock OpenSSH, and a bare transport that says whatever a test wants.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use reeve_link::Limits;
use reeve_link::dial::{Connected, DialError, Identity, Options, SigningKey, dial_over};
use reeve_link::ssh::client_config;
use reeve_link::tasks::Tasks;
use reeve_wire::signed::put_ssh_string;
use russh::client::{Handle, Handler};
use russh::keys::PublicKeyOrCertificate;
use russh::keys::signature::Signer as _;
use ssh_key::{Certificate, PrivateKey};
use zeroize::Zeroizing;

use super::papers::Held;
use super::stage::Stage;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn with_certificate(user: &str, key: &PrivateKey, certificate: &Certificate) -> Identity {
    Identity::Certificate {
        user: user.to_owned(),
        key: SigningKey::from(key.clone()),
        certificate: certificate.clone(),
    }
}

pub(crate) fn with_password(user: &str, key: &PrivateKey, certificate: &Certificate, password: &str) -> Identity {
    Identity::CertificateThenPassword {
        user: user.to_owned(),
        key: SigningKey::from(key.clone()),
        certificate: certificate.clone(),
        password: Zeroizing::new(password.to_owned()),
    }
}

pub(crate) fn with_key(user: &str, key: &PrivateKey) -> Identity {
    Identity::SessionKey { user: user.to_owned(), key: SigningKey::from(key.clone()) }
}

impl Stage {
    /// Dials as the product's programs do.
    pub(crate) async fn dial(&self, source: Ipv4Addr, identity: Identity) -> Result<Connected, DialError> {
        let anyone = |_: &Certificate| Ok(());
        let socket = self.connect(source).await;
        dial_over(socket, identity, Arc::new(anyone), &Options::CONTROL, &Tasks::new()).await
    }

    /// A technician at the master, with both factors.
    pub(crate) async fn log_in(&self, name: &str) -> Connected {
        let (key, certificate) = self.technician(name);
        let identity = with_password(&format!("tech:{name}"), &key, &certificate, &self.password(name));
        self.dial(self.source(), identity).await.unwrap()
    }

    /// An SSH session whose every call is the test's: key exchange only.
    pub(crate) async fn bare(&self, source: Ipv4Addr) -> Handle<Anyone> {
        let config = Arc::new(client_config(&Limits::CONTROL));
        russh::client::connect_stream(config, self.connect(source).await, Anyone).await.unwrap()
    }

    /// Stock `ssh`, asking for the subsystem. Gives its exit status and what it says.
    pub(crate) fn stock_ssh(&self, source: Ipv4Addr, user: &str, held: &Held, more: &[&str]) -> (i32, String) {
        let master = self.master();
        let mut command = self.ssh(source, user, held);
        command.args(more).args(["-p", &master.port().to_string(), &master.ip().to_string(), "-s", "reeve"]);
        let done = command.output().unwrap();
        (done.status.code().unwrap_or(-1), String::from_utf8_lossy(&done.stderr).into_owned())
    }

    pub(crate) fn ssh(&self, source: Ipv4Addr, user: &str, held: &Held) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-b", &source.to_string(), "-l", user, "-i"]).arg(&held.key_file);
        command.arg("-o").arg(format!("CertificateFile={}", held.certificate_file.display()));
        for option in [
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "PreferredAuthentications=publickey",
            "ConnectTimeout=20",
        ] {
            command.args(["-o", option]);
        }
        command.env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
        command
    }
}

/// Trusts every host: it is the master that is tried here.
#[derive(Debug)]
pub(crate) struct Anyone;

impl Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// A transport that has exchanged keys and said nothing yet.
pub(crate) struct Raw {
    child: Child,
    out: ChildStdin,
    came: Receiver<Vec<u8>>,
    pub(crate) session: Vec<u8>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const TRANSPORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/strangers/raw_ssh.py");

impl Raw {
    pub(crate) fn connect(stage: &Stage, source: Ipv4Addr) -> Self {
        let master = stage.master();
        let mut command = Command::new("/usr/bin/python3");
        command.args([TRANSPORT, &source.to_string(), &master.ip().to_string(), &master.port().to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (out, lines) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (sender, came) = channel();
        std::thread::spawn(move || {
            for line in lines.lines() {
                let message = line.ok().and_then(|line| hex::decode(line).ok());
                if message.is_none_or(|message| sender.send(message).is_err()) {
                    return;
                }
            }
        });
        let session = came.recv_timeout(PATIENCE).unwrap();
        Self { child, out, came, session }
    }

    pub(crate) fn send(&mut self, message: &[u8]) {
        writeln!(self.out, "{}", hex::encode(message)).unwrap();
    }

    /// The next message that is for the client to answer; none when the master has hung up.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.came.recv_timeout(PATIENCE) {
                Ok(message) if message.first().is_some_and(|kind| IDLE.contains(kind)) => {}
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("nothing came within {PATIENCE:?}"),
            }
        }
    }

    /// Asks for authentication and waits for leave to try.
    pub(crate) fn begin(&mut self) {
        self.send(&Message::of(kind::SERVICE_REQUEST).string(b"ssh-userauth").0);
        assert_eq!(self.next().unwrap().first(), Some(&kind::SERVICE_ACCEPT));
    }

    /// Sends a message and gives the kind of what comes next; 0 when the master hangs up.
    pub(crate) fn ask(&mut self, message: &Message) -> u8 {
        self.send(&message.0);
        self.next().and_then(|answer| answer.first().copied()).unwrap_or_default()
    }
}

/// A request to be let in with `shown`, a key or a certificate, signed over `session` by `key`.
pub(crate) fn signed_login(user: &str, shown: &Shown, key: &PrivateKey, session: &[u8]) -> Message {
    let request = Message::login(user, "publickey").byte(1).string(shown.algorithm.as_bytes()).string(&shown.blob);
    let mut signed = Vec::new();
    put_ssh_string(&mut signed, session);
    signed.extend_from_slice(&request.0);
    let signature = key.try_sign(&signed).unwrap();
    let blob = Message(Vec::new()).string(b"ssh-ed25519").string(signature.as_bytes());
    request.string(&blob.0)
}

/// The question whether `shown` would do, without a signature.
pub(crate) fn query(user: &str, shown: &Shown) -> Message {
    Message::login(user, "publickey").byte(0).string(shown.algorithm.as_bytes()).string(&shown.blob)
}

/// A public key or certificate as it travels.
pub(crate) struct Shown {
    algorithm: &'static str,
    blob: Vec<u8>,
}

impl From<&PrivateKey> for Shown {
    fn from(key: &PrivateKey) -> Self {
        Self { algorithm: "ssh-ed25519", blob: key.public_key().to_bytes().unwrap() }
    }
}

impl From<&Certificate> for Shown {
    fn from(certificate: &Certificate) -> Self {
        Self { algorithm: "ssh-ed25519-cert-v01@openssh.com", blob: certificate.to_bytes().unwrap() }
    }
}

/// IGNORE, DEBUG and EXT_INFO.
const IDLE: [u8; 3] = [2, 4, 7];

/// Message numbers of RFC 4252 and 4254.
pub(crate) mod kind {
    pub(crate) const SERVICE_REQUEST: u8 = 5;
    pub(crate) const SERVICE_ACCEPT: u8 = 6;
    pub(crate) const USERAUTH_REQUEST: u8 = 50;
    pub(crate) const USERAUTH_FAILURE: u8 = 51;
    pub(crate) const USERAUTH_SUCCESS: u8 = 52;
    pub(crate) const USERAUTH_PK_OK: u8 = 60;
    pub(crate) const GLOBAL_REQUEST: u8 = 80;
    pub(crate) const CHANNEL_OPEN: u8 = 90;
}

/// An SSH message in the making.
#[derive(Clone)]
pub(crate) struct Message(pub(crate) Vec<u8>);

impl Message {
    pub(crate) fn of(kind: u8) -> Self {
        Self(vec![kind])
    }

    pub(crate) fn string(mut self, text: &[u8]) -> Self {
        put_ssh_string(&mut self.0, text);
        self
    }

    pub(crate) fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    pub(crate) fn number(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// The start of an authentication request.
    pub(crate) fn login(user: &str, method: &str) -> Self {
        let service: &[u8] = b"ssh-connection";
        Self::of(kind::USERAUTH_REQUEST).string(user.as_bytes()).string(service).string(method.as_bytes())
    }
}
