//! What the customer's administrator can read on the server itself, whether the agent runs or not: its state, and
//! every receipt in its journal.

use std::io::Write;
use std::path::Path;

use chrono::{DateTime, SecondsFormat, Utc};
use reeve_wire::bundle::Freshness;
use reeve_wire::id::Digest;
use reeve_wire::message::ChainEnd;
use reeve_wire::output::visible_line;
use reeve_wire::receipt::{Event, Receipt};
use reeve_wire::time::Millis;
use serde::Serialize;

use crate::chain;
use crate::cli::printed;
use crate::config::Config;
use crate::failure::Failure;
use crate::journal::{JournalError, Position, look};
use crate::run::all_of;
use crate::state::StateDir;
use crate::status::{self, Connection, Lost};
use crate::trust::TrustStore;
use crate::witness;

/// What `status --json` prints.
#[derive(Debug, Serialize)]
struct State {
    host: String,
    site: String,
    running: bool,
    version: Option<String>,
    pid: Option<u32>,
    started: Option<Millis>,
    programs_started: Option<u64>,
    bundle: Option<Bundle>,
    library: Option<u64>,
    checkpoints: Vec<Kept>,
    history_refused: Option<String>,
    journal: Option<End>,
    connection: Option<Connection>,
    last_connection: Option<Lost>,
}

#[derive(Debug, Serialize)]
struct Bundle {
    number: u64,
    issued: Millis,
    refresh_by: Millis,
    freshness: &'static str,
}

#[derive(Debug, Serialize)]
struct Kept {
    log: String,
    size: u64,
    root: Digest,
}

#[derive(Debug, Serialize)]
struct End {
    #[serde(flatten)]
    end: ChainEnd,
    at: Millis,
}

/// The state of the agent, running or not.
///
/// # Errors
/// When it cannot be read, or there is none yet.
pub fn status(config: &Config, now: Millis, json: bool) -> Result<String, Failure> {
    let state = state(config, now)?;
    if json {
        let text = serde_json::to_string(&state).map_err(Failure::internal)?;
        return Ok(text + "\n");
    }
    Ok(state.for_people())
}

fn state(config: &Config, now: Millis) -> Result<State, Failure> {
    let directory = StateDir::look(&config.state).map_err(|problem| {
        all_of(&[problem]).hint("the directory is made when the agent first runs: reeve-agent run")
    })?;
    let unreadable = |error: std::io::Error| Failure::data(format_args!("{}: {error}", config.state.display()));
    let told = status::read(&directory).map_err(unreadable)?;
    let running = directory.in_use().map_err(unreadable)?;
    let trust = TrustStore::open(config).map_err(|problem| all_of(&[problem]))?.current();
    let library = crate::library::Library::open(&directory, trust.as_deref()).map_err(|problem| all_of(&[problem]))?;
    let refused = witness::standing_refusal(&directory).map_err(unreadable)?;
    let bundle = trust.map(|trust| Bundle {
        number: trust.number,
        issued: trust.issued,
        refresh_by: trust.refresh_by,
        freshness: match trust.freshness(now) {
            Freshness::Fresh => "fresh",
            Freshness::Stale => "stale",
            Freshness::Expired => "expired",
        },
    });
    let (connection, last_connection) = match &told {
        Some(told) if running => (told.connection.clone(), told.last.clone()),
        Some(told) => (None, told.lost_by_now()),
        None => (None, None),
    };
    Ok(State {
        host: config.host.to_string(),
        site: config.site.to_string(),
        running,
        version: told.as_ref().map(|told| told.version.clone()),
        pid: told.as_ref().map(|told| told.pid).filter(|_| running),
        started: told.as_ref().map(|told| told.started),
        programs_started: status::programs_started(&directory).map_err(unreadable)?,
        bundle,
        library: library.current().map(|index| index.version),
        checkpoints: checkpoints(&directory).map_err(unreadable)?,
        history_refused: refused.map(|refusal| refusal.reason),
        journal: journal_end(&directory.file("journal"))?,
        connection,
        last_connection,
    })
}

fn checkpoints(directory: &StateDir) -> std::io::Result<Vec<Kept>> {
    let mut kept = Vec::new();
    for file in std::fs::read_dir(directory.file("checkpoints"))? {
        let note = std::fs::read(file?.path())?;
        let checkpoint = witness::parse(note).map_err(std::io::Error::other)?.checkpoint;
        kept.push(Kept { log: checkpoint.origin, size: checkpoint.size, root: Digest(checkpoint.root) });
    }
    kept.sort_by(|a, b| a.log.cmp(&b.log));
    Ok(kept)
}

fn journal_end(directory: &Path) -> Result<Option<End>, Failure> {
    if !directory.is_dir() {
        return Ok(None);
    }
    let from = chain::mark(directory).map_err(Failure::data)?;
    let unreadable = |error: JournalError| Failure::data(error);
    let last = look(directory, from).map_err(unreadable)?.last().transpose().map_err(unreadable)?;
    let Some(last) = last else {
        return Ok(None);
    };
    let (signed, receipt) = chain::read(last.position, &last.bytes).map_err(Failure::data)?;
    let end = ChainEnd { generation: receipt.generation, seq: receipt.seq, digest: signed.digest() };
    Ok(Some(End { end, at: receipt.at }))
}

impl State {
    fn for_people(&self) -> String {
        let mut lines = vec![format!("{} of site {}", self.host, self.site)];
        lines.push(match (self.running, self.pid, self.started) {
            (true, Some(pid), Some(started)) => format!("agent: running since {}, process {pid}", time(started)),
            (true, ..) => "agent: starting".to_owned(),
            (false, ..) => "agent: not running".to_owned(),
        });
        lines.push(match &self.connection {
            Some(connection) => {
                format!("connection: {} at {} since {}", connection.master, connection.address, time(connection.since))
            }
            None => "connection: none".to_owned(),
        });
        match self.connection.as_ref().map(|connection| (&connection.refusal, connection.answered)) {
            Some((Some(refusal), _)) => lines.push(format!("  takes no work: {} ({})", refusal.reason, refusal.code)),
            Some((None, false)) => lines.push("  takes no work yet: the trust bundle is being compared".to_owned()),
            Some((None, true)) | None => {}
        }
        if let Some(lost) = &self.last_connection {
            let master = &lost.connection.master;
            lines.push(format!("last connection: {master} until {}: {}", time(lost.ended), visible_line(&lost.why)));
        }
        lines.push(match &self.bundle {
            Some(bundle) => format!(
                "trust bundle: {} of {}, {} (refresh by {})",
                bundle.number,
                time(bundle.issued),
                bundle.freshness,
                time(bundle.refresh_by)
            ),
            None => "trust bundle: none yet".to_owned(),
        });
        lines.push(self.library.map_or("library: none".to_owned(), |version| format!("library: version {version}")));
        for kept in &self.checkpoints {
            lines.push(format!("checkpoint: {} with {} records, root {}", kept.log, kept.size, kept.root));
        }
        if let Some(reason) = &self.history_refused {
            lines.push(format!("HISTORY REFUSED: {}", visible_line(reason)));
            lines.push(
                "  the evidence is in the state directory; remove history-refused there once it is settled".into(),
            );
        }
        lines.push(match &self.journal {
            Some(End { end, at }) => format!("journal: entry {}.{} of {}", end.generation, end.seq, time(*at)),
            None => "journal: empty".to_owned(),
        });
        lines.push(format!("programs started: {}", self.programs_started.unwrap_or(0)));
        lines.join("\n") + "\n"
    }
}

/// Prints every receipt of the journal, oldest first.
///
/// # Errors
/// When the journal cannot be read to its end; what could be read is printed before.
pub fn log(config: &Config, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let directory = StateDir::look(&config.state).map_err(|problem| all_of(&[problem]))?.file("journal");
    let unreadable = |error: &dyn std::fmt::Display| Failure::data(error);
    for entry in look(&directory, Position(0)).map_err(|error| unreadable(&error))? {
        let entry = entry.map_err(|error| unreadable(&error))?;
        let (_, receipt) = chain::read(entry.position, &entry.bytes).map_err(|error| unreadable(&error))?;
        let line = if json { json_line(&receipt) } else { Ok(text_line(&receipt)) };
        let line = line.map_err(Failure::internal)?;
        printed(writeln!(out, "{line}"))?;
    }
    printed(out.flush())
}

/// The receipt's own fields as they were signed, with the time spelt out before them.
fn json_line(receipt: &Receipt) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        #[serde(flatten)]
        receipt: &'a Receipt,
    }
    serde_json::to_string(&Line { time: time(receipt.at), receipt })
}

fn text_line(receipt: &Receipt) -> String {
    let event = match receipt.event {
        Event::Accepted => "accepted",
        Event::Ended => "ended",
        Event::Refused => "refused",
        Event::Restarted => "restarted",
    };
    let mut line = format!("{} {}.{} {event:<9}", time(receipt.at), receipt.generation, receipt.seq);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            line.push_str(&format!(" {name}{value}"));
        }
    };
    add("", receipt.operation.map(|operation| operation.to_string()));
    add("outcome=", receipt.outcome.map(|outcome| outcome.to_string()));
    add("exit=", receipt.exit_status.map(|status| status.to_string()));
    add("signal=", receipt.signal.map(|signal| signal.to_string()));
    add("code=", receipt.code.map(|code| code.to_string()));
    add("request=", receipt.request.map(|digest| digest.to_string()));
    add("output=", receipt.stdout.zip(receipt.stderr).map(|(out, err)| format!("{}+{}", out.length, err.length)));
    add("reason=", receipt.reason.as_ref().map(|reason| format!("{:?}", visible_line(reason))));
    line
}

/// A moment as people write it; a moment that no calendar has, in milliseconds.
fn time(moment: Millis) -> String {
    let shown = i64::try_from(moment.0).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    shown.map_or_else(|| moment.to_string(), |shown| shown.to_rfc3339_opts(SecondsFormat::Millis, true))
}
