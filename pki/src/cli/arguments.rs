//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use reeve_wire::certificate::Customers;
use reeve_wire::level::Level;
use reeve_wire::name::{HostName, Name};

/// Issue what proves who is who, and keep an account of it
///
/// The CA's folder belongs on a machine that is not the master, with a copy elsewhere. It takes public keys only:
/// private keys are made where they are used, and stay there.
#[derive(Debug, Parser)]
#[command(name = "reeve-pki", version, after_help = "Example:\n  reeve-pki init --ca ~/ca --site noc1")]
pub(super) struct Cli {
    /// The CA's folder
    #[arg(long, global = true, env = "REEVE_CA", value_name = "DIR")]
    pub(super) ca: Option<PathBuf>,

    /// A file with the passphrase of the CA's keys, that nobody else can read
    ///
    /// Without it the passphrase-command of ca.toml in the CA's folder gives the passphrase, or you are asked.
    #[arg(long, global = true, env = "REEVE_CA_PASSPHRASE_FILE", value_name = "FILE")]
    pub(super) passphrase_file: Option<PathBuf>,

    /// Print facts as JSON, one object a line
    #[arg(long, global = true)]
    pub(super) json: bool,

    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a CA: a root for the trust bundle, and a CA key each for technicians, agents and masters
    #[command(after_help = "Example:\n  reeve-pki init --ca ~/ca --site noc1")]
    Init {
        /// The site's name: one installation of Reeve, whatever number of masters it has
        #[arg(long, value_name = "NAME")]
        site: Name,
    },
    /// Issue a certificate for a public key
    #[command(
        subcommand,
        after_help = "Example:\n  reeve-pki issue --ca ~/ca technician alice --public-key alice.pub -o alice-cert.pub --max-level 3 --customers contoso --directory-id S-1-5-21-1-2-3-1104"
    )]
    Issue(Issue),
    /// Make a key one whose signatures the site trusts
    #[command(subcommand, after_help = "Example:\n  reeve-pki signer --ca ~/ca library --public-key signer.pub")]
    Signer(Signer),
    /// Check every item of a library and sign it
    ///
    /// Reads DIR/ITEM/manifest.toml, writes DIR/signed. An item that changed needs a higher version.
    #[command(after_help = "Example:\n  reeve-pki sign-library --ca ~/ca library --key ~/.ssh/library-signer")]
    SignLibrary {
        /// The library
        dir: PathBuf,
        /// The private key of a library signer
        #[arg(long, env = "REEVE_LIBRARY_KEY", value_name = "FILE")]
        key: PathBuf,
        /// A file with that key's passphrase, that nobody else can read; without it you are asked
        #[arg(long, value_name = "FILE")]
        key_passphrase_file: Option<PathBuf>,
        /// The site, where the CA is out of reach
        #[arg(long, value_name = "NAME")]
        site: Option<Name>,
    },
    /// Sign the next trust bundle: CA keys, masters, ledgers and library signers as they are
    #[command(after_help = "Example:\n  reeve-pki trust --ca ~/ca -o bundle")]
    Trust {
        /// Where to write it
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// List every certificate that was issued
    #[command(after_help = "Example:\n  reeve-pki list --ca ~/ca --json")]
    List,
    /// Show what the issue log holds of a name or a serial
    #[command(after_help = "Example:\n  reeve-pki show --ca ~/ca contoso/web01")]
    Show {
        /// A name (alice, contoso/web01, master:m1) or a serial
        #[arg(value_name = "NAME|SERIAL")]
        which: String,
    },
    /// Print a completion script
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(hide = true)]
    Man,
}

/// Whose certificate.
#[derive(Debug, Subcommand)]
pub(super) enum Issue {
    /// For a master: a host certificate, for a year
    #[command(
        after_help = "Example:\n  reeve-pki issue --ca ~/ca master m1 --public-key host.key.pub --log \"$(reeve-master keys --vkey)\" -o host.key-cert.pub"
    )]
    Master {
        /// The master's name
        name: Name,
        /// The verifier key of the master's ledger, or a file that holds it; puts the master into the trust bundle
        #[arg(long, value_name = "VKEY")]
        log: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// For a managed server's agent: a user certificate, for a year
    #[command(
        after_help = "Example:\n  reeve-pki issue --ca ~/ca agent contoso/web01 --public-key web01.pub -o web01-cert.pub"
    )]
    Agent {
        /// The server, CUSTOMER/HOST
        #[arg(value_name = "NAME")]
        host: HostName,
        #[command(flatten)]
        common: Common,
    },
    /// For a technician: a user certificate with a ceiling, for 7 days unless --valid says else, 30 at most
    #[command(
        after_help = "Example:\n  reeve-pki issue --ca ~/ca technician alice --public-key alice.pub -o alice-cert.pub --max-level 2 --customers contoso,fabrikam --directory-id S-1-5-21-1-2-3-1104"
    )]
    Technician {
        /// The login name
        name: Name,
        /// The highest level, whatever the directory says: 1, 2 or 3
        #[arg(long, value_name = "N", value_parser = level)]
        max_level: Level,
        /// The only customers, whatever the directory says: a comma list, or *
        #[arg(long, value_name = "A,B", value_parser = customers)]
        customers: Customers,
        /// The person's id in the directory: objectSid or entryUUID
        #[arg(long, value_name = "ID")]
        directory_id: String,
        #[command(flatten)]
        common: Common,
    },
}

/// What every certificate needs.
#[derive(Args, Debug)]
pub(super) struct Common {
    /// The public key to certify
    #[arg(long, value_name = "FILE")]
    pub(super) public_key: PathBuf,
    /// Where to write the certificate
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: PathBuf,
    /// How long it is valid, such as 7d or 12h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) valid: Option<Duration>,
}

/// What for.
#[derive(Debug, Subcommand)]
pub(super) enum Signer {
    /// The command library's index
    #[command(after_help = "Example:\n  reeve-pki signer --ca ~/ca library --public-key signer.pub")]
    Library {
        /// The signer's public key
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
    },
}

impl Issue {
    pub(super) const fn common(&self) -> &Common {
        match self {
            Self::Master { common, .. } | Self::Agent { common, .. } | Self::Technician { common, .. } => common,
        }
    }
}

fn level(text: &str) -> Result<Level, String> {
    let number: u64 = text.parse().map_err(|_| "use 1 (diagnose), 2 (maintain) or 3 (administer)".to_owned())?;
    Level::try_from(number).map_err(|error| error.to_string())
}

fn customers(text: &str) -> Result<Customers, String> {
    text.parse().map_err(|error: reeve_wire::name::NameError| error.to_string())
}
