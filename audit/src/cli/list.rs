//! `list` and `open`.

use clap::Args;
use reeve_audit::Reader;
use reeve_audit::reader::{Filter, Listed, OpenOperation};
use reeve_audit::text::Text;
use reeve_wire::level::Level;
use reeve_wire::receipt::Outcome;
use reeve_wire::time::Clock;
use serde::Serialize;

use super::failure::Failure;
use super::{output, time};

pub(crate) const EXAMPLES: &str = "\
Examples:
  reeve-audit --db audit.db list --user alice --since 7d
  reeve-audit --db audit.db list --customer contoso --decision refused --since 2026-03-01 --until 2026-04-01
  reeve-audit --db audit.db list --host contoso/web01 --text 'systemctl restart' --json";

pub(crate) const OPEN_EXAMPLES: &str = "\
Examples:
  reeve-audit --db audit.db open
  reeve-audit --db audit.db open --unknown --json";

/// The outcomes, and `open` for none yet.
const OUTCOMES: [&str; 10] =
    ["exited", "signalled", "failed", "refused", "vetoed", "unreachable", "timed-out", "cancelled", "unknown", "open"];

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Only this technician (can be repeated)
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,
    /// Only this host, as CUSTOMER/HOST or HOST (can be repeated)
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// Only this customer (can be repeated)
    #[arg(long, value_name = "NAME")]
    customer: Vec<String>,
    /// Only from this moment on: 2026-03-01, 2026-03-01T12:00:00Z (UTC), or a span ago such as 7d
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before this moment
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only what needs this level
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u64).range(1..=3))]
    level: Option<u64>,
    /// Only what was allowed, or refused
    #[arg(long, value_name = "DECISION", value_parser = ["allowed", "refused"])]
    decision: Option<String>,
    /// Only what ended so
    #[arg(long, value_name = "OUTCOME", value_parser = OUTCOMES)]
    outcome: Option<String>,
    /// Only this case
    #[arg(long, value_name = "ID")]
    case: Option<String>,
    /// Only commands that hold this text
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// At most this many, the newest
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// One JSON object a line
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Comma-separated values with a line of titles
    #[arg(long)]
    csv: bool,
}

/// The longest text to search for, in bytes.
const MAX_TEXT: usize = 1024;

impl Arguments {
    fn filter(&self) -> Result<Filter, Failure> {
        let now_us = Clock::system().now().0.saturating_mul(1000);
        let moment = |name: &str, text: &Option<String>| {
            let read = text.as_deref().map(|text| time::parse(text, now_us)).transpose();
            read.map(|moment| moment.map(|moment| moment.0)).map_err(|why| Failure::usage(format!("--{name}: {why}")))
        };
        if self.text.as_ref().is_some_and(|text| text.len() > MAX_TEXT) {
            return Err(Failure::usage(format!("--text: at most {MAX_TEXT} bytes")));
        }
        Ok(Filter {
            users: self.user.clone(),
            hosts: self.host.clone(),
            customers: self.customer.clone(),
            since_us: moment("since", &self.since)?,
            until_us: moment("until", &self.until)?,
            level: self.level.and_then(|level| Level::try_from(level).ok()),
            decision: self.decision.clone(),
            outcome: self.outcome.clone(),
            case: self.case.clone(),
            text: self.text.clone(),
            limit: self.limit,
        })
    }
}

/// Lists operations and events.
pub(crate) fn list(reader: &Reader, arguments: &Arguments) -> Result<u8, Failure> {
    let filter = arguments.filter()?;
    let mut listed = 0_u64;
    let mut table = output::Lines::new(&["TIME", "USER", "HOST", "LEVEL", "DECISION", "OUTCOME", "WHAT", "OPERATION"]);
    let narrow = table.is_narrow();
    if arguments.csv {
        output::csv(&TITLES.map(str::to_owned))?;
    }
    reader.list(&filter, |line| {
        listed += 1;
        match (arguments.json, arguments.csv) {
            (true, _) => output::json(&line)?,
            (false, true) => output::csv(&csv_fields(line))?,
            (false, false) => table.row(table_cells(&line, narrow), line.decision == Some("refused")),
        }
        Ok::<_, Failure>(true)
    })?;
    if listed == 0 {
        return Err(Failure::data("nothing matched"));
    }
    if !arguments.json && !arguments.csv {
        table.print()?;
    }
    Ok(0)
}

const TITLES: [&str; 22] = [
    "kind",
    "operation",
    "time",
    "user",
    "user_id",
    "key",
    "customer",
    "host",
    "level_required",
    "level_held",
    "decision",
    "code",
    "reason",
    "command",
    "args",
    "outcome",
    "exit_status",
    "output_sha256",
    "output_bytes",
    "case",
    "record_intent",
    "record_result",
];

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn text(value: Option<&Text>) -> String {
    value.map_or_else(String::new, Text::shown)
}

fn csv_fields(line: Listed) -> Vec<String> {
    let args = line.args.as_ref().and_then(|args| serde_json::to_string(args).ok());
    vec![
        line.kind.to_owned(),
        shown(line.operation),
        line.time,
        text(line.user.as_ref()),
        shown(line.user_id),
        shown(line.key),
        shown(line.customer),
        shown(line.host),
        shown(line.level_required),
        shown(line.level_held),
        shown(line.decision),
        shown(line.code),
        shown(line.reason),
        text(line.command.as_ref()),
        shown(args),
        shown(line.outcome),
        shown(line.exit_status),
        shown(line.output_sha256),
        shown(line.output_bytes),
        text(line.case.as_ref()),
        shown(line.record_intent),
        shown(line.record_result),
    ]
}

/// Where there is little room the year goes first.
fn table_cells(line: &Listed, narrow: bool) -> Vec<String> {
    let time: String =
        line.time.chars().take(19).skip(if narrow { 5 } else { 0 }).map(|c| if c == 'T' { ' ' } else { c }).collect();
    let outcome = match (line.outcome, line.exit_status) {
        (Some(Outcome::Exited), Some(status)) => format!("exited {status}"),
        (Some(outcome), _) => outcome.to_string(),
        (None, _) if line.record_intent.is_some() => "open".to_owned(),
        (None, _) => String::new(),
    };
    let what = line.command.as_ref().map_or_else(|| line.kind.to_owned(), Text::shown);
    vec![
        time,
        text(line.user.as_ref()),
        shown(line.host.as_ref()),
        shown(line.level_required),
        shown(line.code.as_ref().filter(|_| line.decision == Some("refused")).map(String::as_str).or(line.decision)),
        outcome,
        what,
        shown(line.operation).chars().take(12).collect(),
    ]
}

#[derive(Args, Debug)]
pub(crate) struct OpenArguments {
    /// Also those whose outcome is unknown to this day
    #[arg(long)]
    unknown: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct OpenLine<'a> {
    operation: String,
    host: String,
    user: &'a str,
    command: Option<&'a Text>,
    state: &'static str,
    deadline_ms: u64,
    overdue: bool,
    record_intent: u64,
    record_result: Option<u64>,
}

/// Lists operations without a result. There being none is no failure.
pub(crate) fn open(reader: &Reader, arguments: &OpenArguments) -> Result<u8, Failure> {
    let now_us = Clock::system().now().0.saturating_mul(1000);
    let found = reader.open_operations(arguments.unknown)?;
    let mut table = output::Lines::new(&["STATE", "USER", "HOST", "WHAT", "OPERATION"]);
    for open in &found {
        let line = open_line(open, now_us);
        if arguments.json {
            output::json(&line)?;
            continue;
        }
        let state = if line.overdue && line.state == "open" { "overdue" } else { line.state };
        let cells = vec![state.to_owned(), line.user.to_owned(), line.host, text(line.command), line.operation];
        table.row(cells, line.overdue);
    }
    if !arguments.json && !found.is_empty() {
        table.print()?;
    }
    Ok(0)
}

fn open_line(open: &OpenOperation, now_us: u64) -> OpenLine<'_> {
    let order = &open.intent.value.order;
    OpenLine {
        operation: order.operation.to_string(),
        host: shown(order.host.as_ref()),
        user: order.user.as_str(),
        command: order.command.as_ref().map(|command| &command.text),
        state: if open.unknown.is_some() { "unknown" } else { "open" },
        deadline_ms: open.intent.value.deadline / 1000,
        overdue: open.unknown.is_none() && open.intent.value.deadline < now_us,
        record_intent: open.intent.index,
        record_result: open.unknown,
    }
}
