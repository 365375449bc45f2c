//! The command line of `reeve-pki`.

mod arguments;
mod facts;
mod failure;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use reeve_wire::keyfile::{KeyError, KeyLine};
use reeve_wire::name::Name;
use reeve_wire::note::Vkey;
use reeve_wire::time::{Clock, Millis};
use serde::Serialize;

use crate::authority::Authority;
use crate::ca::Ca;
use crate::deliver::{Delivery, Kind};
use crate::library::{self, Library};
use crate::order::{Order, Subject};
use crate::passphrase::Passphrase;
use crate::register::{self, Register, rfc3339};
use arguments::{Cli, Issue, Signer, Verb};
use facts::CertificateFacts;
use failure::Failure;

type Outcome = Result<(), Failure>;

/// Parses the command line and acts on it.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { reeve_wire::code::exit::USAGE } else { 0 });
        }
    };
    match Desk::new(&cli).act(&cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let red = anstyle::AnsiColor::Red.on_default();
            for line in failure.message.lines() {
                drop(writeln!(anstream::stderr(), "{red}reeve-pki:{red:#} {line}"));
            }
            ExitCode::from(failure.status)
        }
    }
}

/// What every verb has at hand.
struct Desk<'a> {
    ca: Option<&'a Path>,
    passphrase_file: Option<&'a Path>,
    json: bool,
    now: Millis,
}

impl<'a> Desk<'a> {
    fn new(cli: &'a Cli) -> Self {
        Self {
            ca: cli.ca.as_deref(),
            passphrase_file: cli.passphrase_file.as_deref(),
            json: cli.json,
            now: Clock::system().now(),
        }
    }

    fn act(&self, verb: &Verb) -> Outcome {
        match verb {
            Verb::Init { site } => self.init(site),
            Verb::Issue(issue) => self.issue(issue),
            Verb::Signer(Signer::Library { public_key }) => self.signer(public_key),
            Verb::SignLibrary { dir, key, key_passphrase_file, site } => {
                self.sign_library(dir, key, key_passphrase_file.as_deref(), site.as_ref())
            }
            Verb::Trust { output } => self.trust(output),
            Verb::List => self.list(),
            Verb::Show { which } => self.show(which),
            Verb::Completions { shell } => {
                clap_complete::generate(*shell, &mut Cli::command(), "reeve-pki", &mut std::io::stdout());
                Ok(())
            }
            Verb::Man => printed(clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())),
        }
    }

    fn folder(&self) -> Result<&'a Path, Failure> {
        self.ca.ok_or_else(|| Failure::usage("name the CA's folder with --ca DIR or REEVE_CA"))
    }

    fn passphrase(&self) -> Result<Passphrase, Failure> {
        Ok(Passphrase::for_ca(self.folder()?, self.passphrase_file)?)
    }

    /// Prints facts: one JSON object a line, or the text.
    fn tell(&self, facts: &impl Serialize, text: impl std::fmt::Display) -> Outcome {
        if self.json {
            return say(serde_json::to_string(facts).map_err(Failure::internal)?);
        }
        say(text)
    }

    fn init(&self, site: &Name) -> Outcome {
        let folder = self.folder()?;
        let ca = Ca::init(folder, site, &self.passphrase()?, self.now)?;
        let register = ca.register()?;
        self.tell(&facts::founded(&register, folder), facts::founded_text(&register, folder))
    }

    fn issue(&self, issue: &Issue) -> Outcome {
        let common = issue.common();
        let order = Order { subject: subject(issue)?, key: public_key(&common.public_key)?, valid: common.valid };
        let mut ca = Ca::open(self.folder()?)?;
        let delivery = Delivery::prepare(&common.output, Kind::Certificate)?;
        let (certificate, issued) = ca.issue(&order, &self.passphrase()?, self.now)?;
        let line = certificate.to_openssh().map_err(Failure::internal)?;
        delivery.finish(format!("{line}\n").as_bytes())?;

        let text = format!(
            "{} has certificate {} until {}: {}",
            issued.principal,
            issued.serial,
            rfc3339(issued.not_after),
            common.output.display()
        );
        self.tell(&CertificateFacts::of(&issued, self.now), text)?;
        if let Subject::Master { name, log: None } = &order.subject
            && !ca.register()?.ledgers().iter().any(|(known, _)| *known == name)
        {
            note(format_args!(
                "the trust bundle leaves {name} out until its ledger key is known; issue again with --log \"$(reeve-master keys --vkey)\""
            ));
        }
        Ok(())
    }

    fn signer(&self, path: &Path) -> Outcome {
        #[derive(Serialize)]
        struct Facts {
            signer: &'static str,
            key: String,
            fingerprint: String,
        }
        let key = public_key(path)?;
        Ca::open(self.folder()?)?.add_library_signer(&key, self.now)?;
        let facts = Facts { signer: "library", key: key.to_string(), fingerprint: key.fingerprint() };
        let text = format!(
            "{} may sign the library from the next trust bundle on; sign it with `reeve-pki trust`",
            facts.fingerprint
        );
        self.tell(&facts, text)
    }

    fn sign_library(&self, dir: &Path, key: &Path, key_passphrase: Option<&Path>, site: Option<&Name>) -> Outcome {
        let mut ca = self.ca.map(Ca::open).transpose()?;
        let (known, version) = match &ca {
            Some(ca) => (Some(ca.register()?.site().clone()), ca.register()?.library_version()),
            None => (None, 0),
        };
        let site = match (known, site) {
            (Some(known), Some(site)) if known != *site => {
                return Err(Failure::usage(format!("the CA is that of site {known}, not of {site}; leave --site out")));
            }
            (Some(known), _) => known,
            (None, Some(site)) => site.clone(),
            (None, None) => {
                return Err(Failure::usage("name the CA's folder with --ca DIR, or the site with --site NAME"));
            }
        };
        let library = Library::read(dir)?;
        let passphrase = key_passphrase.map_or(Passphrase::Prompt, |file| Passphrase::File(file.to_owned()));
        let key = library::signer_key(key, &passphrase)?;
        let signed = library.sign(&site, version, &key, self.now)?;
        if let Some(ca) = &mut ca {
            let signer = KeyLine::new(key.public_key().key_data().clone()).map_err(Failure::internal)?;
            ca.record_library(signed.version(), signed.digest(), &signer, self.now)?;
        }
        signed.write()?;
        let facts = facts::library(&library, &site, signed.version());
        self.tell(&facts, facts::library_text(&library, &site, signed.version()))
    }

    fn trust(&self, output: &Path) -> Outcome {
        let mut ca = Ca::open(self.folder()?)?;
        let delivery = Delivery::prepare(output, Kind::Document)?;
        let trust = ca.sign_trust(&self.passphrase()?, self.now)?;
        delivery.finish(&trust.signed().to_wire())?;
        let facts = facts::bundle(&trust, output, ca.head());
        let text = format!(
            "trust bundle {} of site {}, fresh until {}: {}",
            trust.number,
            trust.site,
            rfc3339(trust.refresh_by),
            output.display()
        );
        self.tell(&facts, text)?;
        if trust.masters.is_empty() {
            note(format_args!("no master is in it: `reeve-pki issue master NAME --log VKEY` first"));
        }
        Ok(())
    }

    fn list(&self) -> Outcome {
        let (entries, head) = register::read(self.folder()?)?;
        let register = Register::of(&entries).ok_or_else(|| Failure::internal("an issue log without a founding"))?;
        let all: Vec<_> = register.certificates().map(|issued| CertificateFacts::of(issued, self.now)).collect();
        if self.json {
            return all.iter().try_for_each(|facts| self.tell(facts, ""));
        }
        say(facts::table(&all))?;
        say(format_args!(
            "\ncertificates  {}\nsite          {}\nroot          {}\nissue log     {} lines, head {head} (keep it elsewhere)",
            all.len(),
            register.site(),
            register.authority(Authority::Root).fingerprint(),
            entries.len()
        ))
    }

    fn show(&self, which: &str) -> Outcome {
        let (entries, _) = register::read(self.folder()?)?;
        let register = Register::of(&entries).ok_or_else(|| Failure::internal("an issue log without a founding"))?;
        let all = register.certificates().map(|issued| CertificateFacts::of(issued, self.now));
        let found: Vec<_> = all.filter(|facts| facts.is(which)).collect();
        if found.is_empty() {
            return Err(Failure::data(format!("no certificate is called {which:?}; `reeve-pki list` shows them all")));
        }
        found.iter().try_for_each(|facts| self.tell(facts, facts))
    }
}

fn subject(issue: &Issue) -> Result<Subject, Failure> {
    Ok(match issue {
        Issue::Master { name, log, .. } => {
            Subject::Master { name: name.clone(), log: log.as_deref().map(vkey).transpose()? }
        }
        Issue::Agent { host, .. } => Subject::Agent(host.clone()),
        Issue::Technician { name, max_level, customers, directory_id, .. } => Subject::Technician {
            name: name.clone(),
            ceiling: reeve_wire::certificate::Ceiling { max_level: *max_level, customers: customers.clone() },
            directory_id: directory_id.clone(),
        },
    })
}

/// A verifier key: the literal, or a file that holds it.
fn vkey(text: &str) -> Result<Vkey, Failure> {
    let literal = match text.parse::<Vkey>() {
        Ok(vkey) => return Ok(vkey),
        Err(error) => error,
    };
    let held = std::fs::read_to_string(text).map_err(|_| Failure::data(format!("--log {text:?}: {literal}")))?;
    held.trim().parse().map_err(|error| Failure::data(format!("--log {text}: {error}")))
}

fn public_key(path: &Path) -> Result<KeyLine, Failure> {
    let bad = |why: &dyn std::fmt::Display| Failure::data(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| bad(&error))?;
    if text.contains("PRIVATE KEY") {
        return Err(bad(&"this is a private key, which never leaves its machine; name the .pub file"));
    }
    text.parse().map_err(|error: KeyError| {
        let kind = text.split_whitespace().next().unwrap_or_default();
        match error {
            KeyError::Malformed if kind.contains("-cert-v01@") => {
                bad(&"this is a certificate; name the public key that it is for")
            }
            KeyError::Malformed if kind.starts_with("ecdsa-") || kind.starts_with("sk-ecdsa-") => {
                bad(&KeyError::Algorithm(kind.to_owned()))
            }
            KeyError::Malformed | KeyError::Algorithm(_) => bad(&error),
        }
    })
}

fn say(line: impl std::fmt::Display) -> Outcome {
    printed(writeln!(std::io::stdout(), "{line}"))
}

/// A reader that had enough is no failure.
fn printed(result: std::io::Result<()>) -> Outcome {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::internal(error)),
        _ => Ok(()),
    }
}

fn note(text: impl std::fmt::Display) {
    let yellow = anstyle::AnsiColor::Yellow.on_default();
    drop(writeln!(anstream::stderr(), "{yellow}reeve-pki:{yellow:#} {text}"));
}

/// A path that a person can paste into a shell.
fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests;
