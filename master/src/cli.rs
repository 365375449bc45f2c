//! The command line of `reeve-master`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use reeve_wire::code::exit;
use reeve_wire::keyfile;
use reeve_wire::note::LogSigner;
use reeve_wire::sshsig;
use reeve_wire::time::Clock;

use crate::config::Config;
use crate::directory;
use crate::run;

/// Judge, record and forward what technicians ask of managed servers
///
/// One listener for agents and technicians; a role is what a certificate proves. Nothing is forwarded before the
/// directory has agreed and the intent is on disk.
#[derive(Debug, Parser)]
#[command(name = "reeve-master", version, after_help = "Example:\n  reeve-master --config /etc/reeve/master.toml run")]
pub struct Cli {
    /// The configuration file
    #[arg(long, global = true, env = "REEVE_CONFIG", value_name = "FILE", default_value = "/etc/reeve/master.toml")]
    config: PathBuf,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run until SIGTERM or SIGINT
    #[command(after_help = "Example:\n  reeve-master --config /etc/reeve/master.toml run")]
    Run,
    /// Make the host key and the ledger's key where they are used, and print what reeve-pki needs
    #[command(
        after_help = "Example:\n  reeve-master keys > keys.txt\n  reeve-pki issue --ca CA master m1 --public-key /etc/reeve/host.key.pub --log \"$(reeve-master keys --vkey)\" -o host.key-cert.pub"
    )]
    Keys {
        /// Print only the ledger's verifier key
        #[arg(long)]
        vkey: bool,
    },
    /// Check the configuration and every file that it names
    #[command(after_help = "Example:\n  reeve-master --config master.toml check-config")]
    CheckConfig,
    /// Hash a password read from standard input, for the file directory
    #[command(after_help = "Example:\n  printf %s \"$PASSWORD\" | reeve-master hash-password")]
    HashPassword,
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

/// Parses the command line and acts on it.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let status = if error.use_stderr() { exit::USAGE } else { 0 };
            drop(error.print());
            return ExitCode::from(status);
        }
    };
    match act(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err((status, message)) => {
            for line in message.lines() {
                drop(writeln!(std::io::stderr(), "reeve-master: {line}"));
            }
            ExitCode::from(status)
        }
    }
}

type Outcome = Result<(), (u8, String)>;

fn act(cli: &Cli) -> Outcome {
    match &cli.verb {
        Verb::Run => run_master(&cli.config),
        Verb::Keys { vkey } => keys(&load(&cli.config)?, *vkey),
        Verb::CheckConfig => check(&cli.config),
        Verb::HashPassword => hash_password(),
        Verb::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "reeve-master", &mut std::io::stdout());
            Ok(())
        }
        Verb::Man => clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout()).map_err(internal),
    }
}

fn internal(error: impl std::fmt::Display) -> (u8, String) {
    (exit::INTERNAL, error.to_string())
}

fn load(path: &Path) -> Result<Config, (u8, String)> {
    Config::load(path).map_err(|problems| listed(&problems))
}

fn listed(problems: &[crate::config::Problem]) -> (u8, String) {
    (exit::CONFIG, problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn say(line: impl std::fmt::Display) -> Outcome {
    writeln!(std::io::stdout(), "{line}").map_err(internal)
}

fn run_master(path: &Path) -> Outcome {
    let config = load(path)?;
    start_log();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(internal)?;
    runtime.block_on(run::run(config, asked_to_stop())).map_err(|failure| (failure.exit_status(), failure.to_string()))
}

/// Logs go to standard error; `REEVE_LOG` chooses what (`info` by default).
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("REEVE_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,russh=warn"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let started = log.try_init();
    if let Err(error) = started {
        drop(writeln!(std::io::stderr(), "reeve-master: no log: {error}"));
    }
}

async fn asked_to_stop() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

fn keys(config: &Config, only_vkey: bool) -> Outcome {
    if !config.key.exists() {
        keyfile::make_key(&config.key, &format!("master:{}", config.name)).map_err(internal)?;
    }
    if !config.log_key.exists() {
        let signer = LogSigner::generate(&config.log_name()).map_err(internal)?;
        keyfile::write_secret(&config.log_key, signer.secret_text().as_bytes()).map_err(internal)?;
    }
    let key = keyfile::read_private_key(&config.key).map_err(|error| (exit::CONFIG, error.to_string()))?;
    let signer = config.log_signer().map_err(|error| (exit::CONFIG, error.to_string()))?;
    if only_vkey {
        return say(signer.vkey());
    }
    say(format_args!("host key   {}  {}", sshsig::fingerprint(key.public_key().key_data()), config.key.display()))?;
    say(format_args!("public     {}", keyfile::public_path(&config.key).display()))?;
    say(format_args!("vkey       {}", signer.vkey()))
}

fn check(path: &Path) -> Outcome {
    let config = load(path)?;
    let identity = config.identity(Clock::system().now()).map_err(|problems| listed(&problems))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    runtime.block_on(async {
        let problems = |problems: Vec<directory::Problem>| {
            (exit::CONFIG, problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        };
        let directory = directory::Directory::open(&config.directory).map_err(problems)?;
        directory.check().await.map_err(|error| (exit::UNREACHABLE, error.to_string()))
    })?;
    say(format_args!(
        "{} is good: bundle {}, ledger {}",
        path.display(),
        identity.trusted.bundle().number,
        config.log_name()
    ))
}

fn hash_password() -> Outcome {
    let mut password = zeroize::Zeroizing::new(String::new());
    std::io::Read::read_to_string(&mut std::io::stdin(), &mut password).map_err(internal)?;
    let hash =
        directory::hash_password(password.trim_end_matches('\n')).map_err(|error| (exit::DATA, error.to_string()))?;
    say(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
