//! One CA, open for acting: it holds the lock on its folder, so that every serial and number is given once.
//!
//! Each act is checked, signed, written to the issue log, and only then handed out: what gives rights needs its record
//! first. A private key is unlocked for one signature and forgotten.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reeve_wire::bundle::{Trust, TrustError};
use reeve_wire::certificate::{self, CertificateError};
use reeve_wire::id::Digest;
use reeve_wire::keyfile::{KeyError, KeyLine, SecretFileError};
use reeve_wire::name::Name;
use reeve_wire::signed::{Signed, SignedError};
use reeve_wire::sshsig::BadSignature;
use reeve_wire::time::Millis;
use ssh_key::certificate::{Builder, Certificate};

use crate::authority::Authority;
use crate::lock::{self, Lock};
use crate::log::{self, Act, Founding, IssueLog, Issued, LogError};
use crate::order::{self, Order, OrderError, Subject};
use crate::passphrase::{self, Passphrase, PassphraseError};
use crate::register::{NotAdmitted, Register};

/// A certificate is valid from this long before its issue, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(60);

/// Something that the CA could not or would not do.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Nothing there.
    #[error("{0} holds no CA; make one with `reeve-pki init --ca {0} --site NAME`")]
    NoCa(PathBuf),
    /// Something there already.
    #[error("{0} holds a CA already; it is never made anew: name another folder")]
    Exists(PathBuf),
    /// Something else there.
    #[error("{0} is not empty; a CA has a folder of its own")]
    NotEmpty(PathBuf),
    /// Others can look into it.
    #[error("{folder} can be entered by others (mode {mode:04o}); run: chmod 700 '{folder}'", folder = .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another invocation works there.
    #[error("another reeve-pki is working in {0}; try again when it is done")]
    Busy(PathBuf),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The passphrase.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// The passphrase is not the one.
    #[error("{0} does not open with this passphrase")]
    WrongPassphrase(PathBuf),
    /// Somebody took the passphrase off.
    #[error("{0} is not encrypted; set a passphrase with `ssh-keygen -p -f '{0}'`")]
    NotEncrypted(PathBuf),
    /// The key is not the one that the log names.
    #[error("{0} is another key than the CA was founded with; put back the key from a copy of the folder")]
    OtherKey(PathBuf),
    /// A key file that must not be used.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// A key of a kind that is not accepted.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An order that no CA would fulfil.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// An order that does not go with what was issued before.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// A library index by somebody who is no signer.
    #[error("{0} is no library signer of this site; add it with `reeve-pki signer library --public-key FILE`")]
    NotASigner(String),
    /// The system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key that cannot be encoded or signed.
    #[error("the certificate or key cannot be made: {0}")]
    Ssh(#[from] ssh_key::Error),
    /// A certificate that cannot be encoded.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A key that cannot sign.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// A document that cannot be signed.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// A bundle that would not be trusted.
    #[error(transparent)]
    Trust(Box<TrustError>),
}

/// One CA, locked.
#[derive(Debug)]
pub struct Ca {
    folder: PathBuf,
    log: IssueLog,
    _held: File,
}

impl Ca {
    /// Makes a CA in a folder of its own: four keys under one passphrase, and the log.
    ///
    /// # Errors
    /// When there is one already, the folder holds anything but `ca.toml`, or it cannot be written.
    pub fn init(folder: &Path, site: &Name, passphrase: &Passphrase, now: Millis) -> Result<Self, CaError> {
        make_folder(folder)?;
        let held = held(folder, lock::folder(folder, Lock::Exclusive))?;
        refuse_taken(folder)?;
        let passphrase = passphrase.choose()?;
        let found = |authority: Authority| authority.found(folder, site.as_str(), &passphrase);
        let founding = Founding {
            site: site.clone(),
            root: found(Authority::Root)?,
            technicians: found(Authority::Technicians)?,
            agents: found(Authority::Agents)?,
            masters: found(Authority::Masters)?,
        };
        let log = IssueLog::create(folder, now, founding)?;
        held.sync_all().map_err(|source| CaError::Io { path: folder.to_owned(), source })?;
        Ok(Self { folder: folder.to_owned(), log, _held: held })
    }

    /// Opens a CA for acting, once no other invocation works in it.
    ///
    /// # Errors
    /// When there is none, others can enter its folder, or its log was altered.
    pub fn open(folder: &Path) -> Result<Self, CaError> {
        private_folder(folder)?;
        let held = held(folder, lock::folder(folder, Lock::Exclusive))?;
        Ok(Self { folder: folder.to_owned(), log: IssueLog::open(folder)?, _held: held })
    }

    /// What the CA knows.
    ///
    /// # Errors
    /// [`CaError::NoCa`] for a log without a founding, which none that was opened is.
    pub fn register(&self) -> Result<Register<'_>, CaError> {
        Register::of(self.log.entries()).ok_or_else(|| CaError::NoCa(self.folder.clone()))
    }

    /// SHA-256 of the log's last line.
    pub const fn head(&self) -> Digest {
        self.log.head()
    }

    /// Issues a certificate, and what the log holds of it.
    ///
    /// # Errors
    /// When the order breaks a rule, the CA key does not open, or the log cannot be written.
    pub fn issue(
        &mut self,
        order: &Order,
        passphrase: &Passphrase,
        now: Millis,
    ) -> Result<(Certificate, Issued), CaError> {
        let life = order.checked()?;
        let register = self.register()?;
        register.admit(order, now)?;
        let authority = order.subject.authority();
        let (ca, serial) = (register.authority(authority).clone(), register.next_serial());
        let principal = order.subject.principal();
        let (not_before, not_after) = (now.minus(BACKDATED).seconds(), now.plus(life).seconds());
        let bounds = order.subject.bounds();

        let nonce = rand::random::<[u8; 32]>();
        let mut builder = Builder::new(nonce, order.key.key().clone(), not_before, not_after)?;
        builder.serial(serial)?.cert_type(order.subject.cert_type())?;
        builder.key_id(format!("{principal} of site {}", register.site()))?.valid_principal(principal.to_string())?;
        for (name, value) in bounds.iter().flat_map(crate::log::Bounds::extensions) {
            builder.extension(name, value)?;
        }
        let certificate = builder.sign(&authority.unlock(&self.folder, &ca, passphrase)?)?;
        certificate.verify_signature()?;

        let log = match &order.subject {
            Subject::Master { log, .. } => log.as_ref().map(ToString::to_string),
            Subject::Agent(_) | Subject::Technician { .. } => None,
        };
        let issued = Issued {
            serial,
            principal,
            key: order.key.clone(),
            ca,
            not_before: Millis(not_before.saturating_mul(1000)),
            not_after: Millis(not_after.saturating_mul(1000)),
            certificate: certificate::digest(&certificate)?,
            bounds,
            log,
        };
        self.log.append(now, Act::Issue(Box::new(issued.clone())))?;
        Ok((certificate, issued))
    }

    /// Makes a key a library signer from the next trust bundle on.
    ///
    /// # Errors
    /// When the key is somebody's already, or on a hardware token.
    pub fn add_library_signer(&mut self, key: &KeyLine, now: Millis) -> Result<(), CaError> {
        if key.key().algorithm() != ssh_key::Algorithm::Ed25519 {
            return Err(OrderError::HardwareKey { whose: "a library signer" }.into());
        }
        if order::is_weak(key) {
            return Err(OrderError::WeakKey.into());
        }
        self.register()?.belongs_to_no_other(key, "another library signer")?;
        Ok(self.log.append(now, Act::LibrarySigner { key: key.clone() })?)
    }

    /// Writes down that a library index was signed.
    ///
    /// # Errors
    /// When `signer` is no library signer of this site, or the log cannot be written.
    pub fn record_library(
        &mut self,
        version: u64,
        digest: Digest,
        signer: &KeyLine,
        now: Millis,
    ) -> Result<(), CaError> {
        if !self.register()?.library_signers().any(|known| known == signer) {
            return Err(CaError::NotASigner(signer.fingerprint()));
        }
        Ok(self.log.append(now, Act::SignLibrary { version, digest, signer: signer.clone() })?)
    }

    /// Signs the next trust bundle with the root.
    ///
    /// # Errors
    /// When the root does not open or the log cannot be written.
    pub fn sign_trust(&mut self, passphrase: &Passphrase, now: Millis) -> Result<Trust, CaError> {
        let register = self.register()?;
        let bundle = register.bundle(now);
        let root = register.authority(Authority::Root).clone();
        let signed = Signed::make(&bundle, &Authority::Root.unlock(&self.folder, &root, passphrase)?)?;
        let trust = Trust::open(signed, &root.fingerprint()).map_err(|error| CaError::Trust(Box::new(error)))?;
        let act = Act::Trust { number: bundle.number, digest: trust.digest(), refresh_by: bundle.refresh_by };
        self.log.append(now, act)?;
        Ok(trust)
    }
}

fn make_folder(folder: &Path) -> Result<(), CaError> {
    let failed = |source| CaError::Io { path: folder.to_owned(), source };
    if folder.is_dir() {
        refuse_taken(folder)?;
        return std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).map_err(failed);
    }
    DirBuilder::new().mode(0o700).create(folder).map_err(failed)
}

/// A configuration may be there first; anything else is somebody's.
fn refuse_taken(folder: &Path) -> Result<(), CaError> {
    let failed = |source| CaError::Io { path: folder.to_owned(), source };
    if folder.join(log::FILE).exists() {
        return Err(CaError::Exists(folder.to_owned()));
    }
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        if entry.map_err(failed)?.file_name() != passphrase::CONFIG {
            return Err(CaError::NotEmpty(folder.to_owned()));
        }
    }
    Ok(())
}

/// Checks that a CA is there and nobody else can enter its folder.
pub(crate) fn private_folder(folder: &Path) -> Result<(), CaError> {
    if !folder.join(log::FILE).is_file() {
        return Err(CaError::NoCa(folder.to_owned()));
    }
    let facts = std::fs::metadata(folder).map_err(|source| CaError::Io { path: folder.to_owned(), source })?;
    if facts.mode() & 0o077 != 0 {
        return Err(CaError::Folder { folder: folder.to_owned(), mode: facts.mode() & 0o7777 });
    }
    Ok(())
}

pub(crate) fn held(folder: &Path, taken: std::io::Result<Option<File>>) -> Result<File, CaError> {
    let taken = taken.map_err(|source| CaError::Io { path: folder.to_owned(), source })?;
    taken.ok_or_else(|| CaError::Busy(folder.to_owned()))
}

#[cfg(test)]
mod tests;
