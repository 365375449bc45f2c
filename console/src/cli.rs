//! The command line of `reeve`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use reeve_link::tasks::Tasks;
use reeve_wire::code::{Code, exit};
use reeve_wire::level::Level;

use crate::config::Config;
use crate::desk::Desk;
use crate::failure::Failure;
use crate::{terminal, verbs};

const EXIT_STATUSES: &str = "Exit status:
  one server     that of the remote command; 128+n when signal n ended it, 126 or 127 when it
                 could not be started, 124 out of time, 130 cancelled
  several        0 when every command ended in 0, else 1
  64 usage  65 bad data or nothing matched  69 unreachable  70 internal  75 outcome unknown
  77 refused  78 configuration

Example:
  reeve exec contoso/web01 -- uname -sr";

/// Administer customers' servers through the master, every command checked and recorded
///
/// A command runs on a server only after the directory has agreed for you, that server and that level, and after its
/// record is on disk. A verb without a session logs in first.
#[derive(Debug, Parser)]
#[command(
    name = "reeve",
    version,
    after_help = EXIT_STATUSES
)]
pub struct Cli {
    #[command(flatten)]
    common: Common,

    #[command(subcommand)]
    verb: Option<Verb>,
}

/// Options that every verb takes, before it or after it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
struct Common {
    /// The configuration file [default: ~/.config/reeve/reeve.toml]
    #[arg(long, global = true, env = "REEVE_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print facts as JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    /// The case that the work belongs to, for the record
    #[arg(long, global = true, value_name = "ID")]
    case: Option<String>,
    /// Why the work is done, for the record
    #[arg(long, global = true, value_name = "TEXT")]
    reason: Option<String>,
    /// The longest run, such as 90s or 2h [default: 5m, or the item's own limit]
    #[arg(long, global = true, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Send this file, or - for standard input, as the command's input: at most 1 MiB
    #[arg(long, global = true, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// Do not ask before running on the servers that a tag means (tags are not available in this version)
    #[arg(long, global = true)]
    yes: bool,
    /// Sign with your own key and not with the session's
    #[arg(long, global = true)]
    own_key: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Prove key and password, and open a session for at most 8 hours
    #[command(after_help = "Example:\n  reeve login --max-level 1")]
    Login {
        /// The highest level that the session is good for [default: your certificate's]
        #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u64).range(1..=3))]
        max_level: Option<u64>,
    },
    /// End the session
    #[command(after_help = "Example:\n  reeve logout")]
    Logout,
    /// Show who the master takes you for
    #[command(after_help = "Example:\n  reeve whoami --json")]
    Whoami,
    /// List the servers that are yours, with your level on each
    #[command(after_help = "Example:\n  reeve hosts 'contoso/*'")]
    Hosts {
        /// Only those that it means: CUSTOMER/HOST with * for any text, comma lists, ! to exclude
        selector: Option<String>,
    },
    /// Run a command line, without a shell, at level 3
    ///
    /// The words after -- become the command's arguments as they are. What one server prints is handed on as it comes;
    /// several run side by side, each line with the server's name before it.
    #[command(
        after_help = "Examples:\n  reeve exec contoso/web01 -- uname -sr\n  reeve exec 'contoso/*,!contoso/db*' \
                            --timeout 30s -- systemctl is-active nginx\n  reeve exec contoso/web01 --stdin fix.sh \
                            -- sh -s"
    )]
    Exec {
        /// Which servers: CUSTOMER/HOST with * for any text, comma lists, ! to exclude
        selector: String,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "ARGV")]
        argv: Vec<OsString>,
    },
    /// Run a library item at its own level
    #[command(after_help = "Example:\n  reeve run contoso/web01 service-restart NAME=nginx --case INC-1042")]
    Run {
        /// Which servers: CUSTOMER/HOST with * for any text, comma lists, ! to exclude
        selector: String,
        /// The item
        item: String,
        /// Its parameters
        #[arg(value_name = "NAME=VALUE")]
        arguments: Vec<OsString>,
    },
    /// Say what you may do on a server, and through which group
    #[command(after_help = "Example:\n  reeve why contoso/db01 service-restart")]
    Why {
        /// The server, CUSTOMER/HOST
        host: String,
        /// The library item [default: a command line]
        item: Option<String>,
    },
    /// Print a completion script
    #[command(
        hide = true,
        after_help = "Example:\n  reeve completions bash > ~/.local/share/bash-completion/completions/reeve"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(hide = true, after_help = "Example:\n  reeve man > reeve.1")]
    Man,
}

/// Parses the command line, acts on it and tells how that went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let status = if error.use_stderr() { exit::USAGE } else { 0 };
            // It goes to a closed pipe at worst.
            drop(error.print());
            return ExitCode::from(status);
        }
    };
    start_log();
    let ended = act(cli);
    ExitCode::from(ended.unwrap_or_else(|failure| {
        terminal::complain(&failure);
        failure.exit_status()
    }))
}

fn act(cli: Cli) -> Result<u8, Failure> {
    let Cli { common, verb } = cli;
    match verb {
        None => terminal::answer(&Cli::command().render_long_help().to_string()).map(|()| 0),
        Some(Verb::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "reeve", &mut script);
            terminal::answer(&String::from_utf8_lossy(&script)).map(|()| 0)
        }
        Some(Verb::Man) => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
            rendered.map_err(|error| Failure::because(Code::Internal, error))?;
            terminal::answer(&String::from_utf8_lossy(&page)).map(|()| 0)
        }
        Some(Verb::Exec { selector, argv }) => {
            let json = common.json;
            work(common, selector, json, verbs::work::Asked::Command(argv))
        }
        Some(Verb::Run { selector, item, arguments }) => {
            let json = common.json;
            work(common, selector, json, verbs::work::Asked::Item { name: item, arguments })
        }
        Some(Verb::Login { max_level }) => at_desk(&common, async |desk| {
            let max_level = max_level.map(Level::try_from).transpose();
            let max_level = max_level.map_err(|error| Failure::because(Code::Internal, error))?;
            verbs::session::login(desk, max_level, common.json).await
        }),
        Some(Verb::Logout) => at_desk(&common, async |desk| verbs::session::logout(desk, common.json).await),
        Some(Verb::Whoami) => at_desk(&common, async |desk| verbs::reads::whoami(desk, common.json).await),
        Some(Verb::Hosts { selector }) => {
            at_desk(&common, async |desk| verbs::reads::hosts(desk, selector.as_deref(), common.json).await)
        }
        Some(Verb::Why { host, item }) => {
            at_desk(&common, async |desk| verbs::reads::why(desk, &host, item.as_deref(), common.json).await)
        }
    }
}

/// `exec` and `run`: every end of theirs, the refusal of a whole selector included, is one JSON object a server.
fn work(common: Common, selector: String, json: bool, asked: verbs::work::Asked) -> Result<u8, Failure> {
    let Common { config, case, reason, timeout, stdin, own_key, json: _, yes: _ } = common;
    let wanted = verbs::work::Wanted { selector, asked, case, reason, timeout, stdin, own_key };
    let work = verbs::work::Work::new(json, &wanted.selector);
    let ended = work.order(wanted).and_then(|(order, own_key)| {
        let config = configuration(config)?;
        with_desk(config, async |desk| work.run(desk, order, own_key).await)
    });
    ended.map_err(|failure| work.tell_refused_whole(failure))
}

/// Acts with the configuration's desk.
fn at_desk(common: &Common, act: impl AsyncFnOnce(&mut Desk) -> Result<u8, Failure>) -> Result<u8, Failure> {
    with_desk(configuration(common.config.clone())?, act)
}

fn configuration(named: Option<PathBuf>) -> Result<Config, Failure> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let path = named.unwrap_or_else(|| Config::default_path(home.as_deref()));
    Config::load(&path, home.as_deref())
}

fn with_desk(config: Config, act: impl AsyncFnOnce(&mut Desk) -> Result<u8, Failure>) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::because(Code::Internal, error))?;
    let ended = runtime.block_on(async {
        let mut desk = Desk::open(config, Tasks::new()).await?;
        let ended = act(&mut desk).await;
        desk.leave().await;
        ended
    });
    // Whoever still waits for a terminal that is stopped does not hold up the end.
    runtime.shutdown_background();
    ended
}

/// `REEVE_LOG` chooses what is logged on standard error; nothing by default.
fn start_log() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("REEVE_LOG") {
        // There is no other log that it could fail to replace.
        drop(tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init());
    }
}

#[cfg(test)]
mod tests;
