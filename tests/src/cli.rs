//! The command line of `reeve-lab`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use reeve_wire::code::exit;
use reeve_wire::name::NameError;

use crate::by_hand::{ByHand, ByHandError};
use crate::failure::{During as _, Failure};
use crate::site::Site;
use crate::up::{DirectoryKind, Plan};

/// Bring a whole site up on this machine, for tests, for the demo and for trying things out
///
/// Everything binds loopback and lives below one folder. Customers contoso (web01, db01) and fabrikam (mail01);
/// technicians alice, bob, carol, dave, mallory, frank, oscar, sam and erin.
#[derive(Debug, Parser)]
#[command(
    name = "reeve-lab",
    version,
    after_help = "Example:\n  reeve-lab up /tmp/site && eval \"$(reeve-lab env /tmp/site)\""
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a site up in the background and return when it is ready
    #[command(after_help = "Example:\n  reeve-lab up /tmp/site --directory openldap --agents 20")]
    Up {
        /// The folder; it is made, or must be empty
        dir: PathBuf,
        /// How many load agents, beside the three of the cast
        #[arg(long, default_value_t = 0)]
        agents: u32,
        /// The directory
        #[arg(long, value_enum, default_value_t = DirectoryKind::File)]
        directory: DirectoryKind,
    },
    /// End exactly what `up` started
    #[command(after_help = "Example:\n  reeve-lab down /tmp/site")]
    Down {
        /// The site's folder
        dir: PathBuf,
    },
    /// Say which parts are up
    #[command(after_help = "Example:\n  reeve-lab status /tmp/site")]
    Status {
        /// The site's folder
        dir: PathBuf,
    },
    /// Print shell assignments: paths, programs and each technician's configuration
    #[command(
        after_help = "Example:\n  eval \"$(reeve-lab env /tmp/site)\" && REEVE_CONFIG=$REEVE_CONFIG_ALICE reeve hosts"
    )]
    Env {
        /// The site's folder
        dir: PathBuf,
    },
    /// Measure warm commands over one connection that stays open, both records durable
    #[command(after_help = "Example:\n  reeve-lab bench /tmp/site --rounds 100 --json")]
    Bench {
        /// The site's folder
        dir: PathBuf,
        /// How many commands
        #[arg(long, default_value_t = 100)]
        rounds: u32,
        /// Print every time as JSON: {"warm_exec_ms": [...]}
        #[arg(long)]
        json: bool,
    },
    /// Stop a part: SIGTERM, then SIGKILL
    #[command(after_help = "Example:\n  reeve-lab stop /tmp/site agent:contoso/web01")]
    Stop {
        /// The site's folder
        dir: PathBuf,
        /// master, directory or agent:CUSTOMER/HOST
        part: String,
    },
    /// Start a part again as it was, and return when it is ready
    #[command(after_help = "Example:\n  reeve-lab start /tmp/site master")]
    Start {
        /// The site's folder
        dir: PathBuf,
        /// master, directory or agent:CUSTOMER/HOST
        part: String,
    },
    /// End a part with SIGKILL
    #[command(after_help = "Example:\n  reeve-lab kill /tmp/site master")]
    Kill {
        /// The site's folder
        dir: PathBuf,
        /// master, directory or agent:CUSTOMER/HOST
        part: String,
    },
}

/// Parses the command line and acts on it, for the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    match act(&cli.verb) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            drop(writeln!(std::io::stderr(), "reeve-lab: {failure}"));
            ExitCode::from(failure.exit_status())
        }
    }
}

fn act(verb: &Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Up { dir, agents, directory } => {
            let site = Site::up(dir, Plan { agents: *agents, directory: *directory })?;
            say(format_args!("{} is up: master at {}", dir.display(), site.lab().master.address))?;
        }
        Verb::Down { dir } => Site::open(dir)?.down()?,
        Verb::Status { dir } => return status(&Site::open(dir)?),
        Verb::Env { dir } => env(&Site::open(dir)?)?,
        Verb::Bench { dir, rounds, json } => bench(&Site::open(dir)?, *rounds, *json)?,
        Verb::Stop { dir, part } => Site::open(dir)?.stop(part)?,
        Verb::Start { dir, part } => Site::open(dir)?.start(part)?,
        Verb::Kill { dir, part } => Site::open(dir)?.kill(part)?,
    }
    Ok(0)
}

fn say(line: impl std::fmt::Display) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{line}").during("printing")
}

/// Exits 0 when everything is up.
fn status(site: &Site) -> Result<u8, Failure> {
    let mut all_up = true;
    for part in site.parts() {
        let up = site.is_up(&part);
        all_up &= up;
        let pid = site.pid(&part).map_or_else(String::new, |pid| format!("  pid {pid}"));
        say(format_args!("{part:30} {}{pid}", if up { "up" } else { "down" }))?;
    }
    Ok(if all_up { 0 } else { exit::UNREACHABLE })
}

fn bench(site: &Site, rounds: u32, json: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new().during("starting the runtime")?;
    let measured: Result<Vec<f64>, ByHandError> = runtime.block_on(async {
        let alice = ByHand::login(site, "alice").await?;
        let host = "contoso/web01".parse().map_err(|error: NameError| ByHandError(error.to_string()))?;
        let took = alice.warm(&host, &["/bin/true"], rounds).await?;
        alice.leave().await;
        Ok(took)
    });
    let mut took = measured.map_err(std::io::Error::other).during("measuring")?;
    if json {
        return say(serde_json::json!({ "warm_exec_ms": took }));
    }
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or_default();
    say(format_args!("{rounds} warm commands: median {:.2} ms, p90 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.9), at(0.99)))
}

fn env(site: &Site) -> Result<(), Failure> {
    let lab = site.lab();
    let assign = |name: &str, value: &str| say(format_args!("export {name}='{}'", value.replace('\'', "'\\''")));
    assign("REEVE_LAB_DIR", &site.dir().display().to_string())?;
    assign("REEVE_AUDIT_DB", &lab.master.audit_db.display().to_string())?;
    assign("REEVE_AUDIT_VKEY", &lab.master.vkey)?;
    assign("REEVE_CA", &lab.ca.display().to_string())?;
    for (name, technician) in &lab.technicians {
        assign(&format!("REEVE_CONFIG_{}", name.to_uppercase()), &technician.config.display().to_string())?;
    }
    if let Some(folder) = lab.binaries.get("reeve").and_then(|path| path.parent()).and_then(Path::to_str) {
        say(format_args!("export PATH='{}':\"$PATH\"", folder.replace('\'', "'\\''")))?;
    }
    Ok(())
}
