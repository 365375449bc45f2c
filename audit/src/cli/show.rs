//! `show`: one operation, whole.

use clap::Args;
use reeve_audit::Reader;
use reeve_audit::content::Pointer;
use reeve_audit::reader::{At, ReadError, Story};
use reeve_audit::record::{Body, Order, Record, Verdict};
use reeve_audit::text::Text;
use reeve_wire::id::OperationId;
use reeve_wire::name::HostName;
use reeve_wire::output::{visible, visible_line};
use serde::Serialize;
use serde_json::Value;

use super::failure::Failure;
use super::{output, stdout_is_terminal};

pub(crate) const EXAMPLES: &str = "\
Examples:
  reeve-audit --db audit.db show 5f3c01a2
  reeve-audit --db audit.db show 5f3c01a2@contoso/web01 --output > output.bin
  reeve-audit --db audit.db show 5f3c01a2 --json";

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The operation, or the first digits of its id; with @CUSTOMER/HOST only there
    #[arg(value_name = "OPERATION[@HOST]")]
    which: String,
    /// Only the output: standard output, then standard error; exact bytes unless it goes to a terminal
    #[arg(long, conflicts_with = "json")]
    output: bool,
    /// One JSON object a host, with the records as they are
    #[arg(long)]
    json: bool,
}

/// Shows an operation.
pub(crate) fn show(reader: &Reader, arguments: &Arguments) -> Result<u8, Failure> {
    let (id, host) = match arguments.which.split_once('@') {
        Some((id, host)) => (id, Some(host)),
        None => (arguments.which.as_str(), None),
    };
    let host: Option<HostName> =
        host.map(str::parse).transpose().map_err(|error| Failure::usage(format!("{error}")))?;
    let operation = find(reader, id)?;
    let stories = reader.stories(operation, host.as_ref())?;
    if stories.is_empty() {
        return Err(Failure::data("nothing was recorded of this operation there"));
    }
    if arguments.output {
        return print_output(reader, &stories);
    }
    for (place, story) in stories.iter().enumerate() {
        if arguments.json {
            output::json(&json_story(reader, operation, story)?)?;
            continue;
        }
        if place > 0 {
            output::line("")?;
        }
        print_story(reader, operation, story)?;
    }
    Ok(0)
}

/// The one operation whose id begins so.
fn find(reader: &Reader, digits: &str) -> Result<OperationId, Failure> {
    let usable = digits.len() <= 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !usable || digits.len() < 4 {
        return Err(Failure::usage("an operation is 32 hex digits, or at least the first 4 of them"));
    }
    match reader.operations_beginning(digits)?.as_slice() {
        [] => Err(Failure::data(format!("no operation begins with {digits}"))),
        [one] => Ok(*one),
        _ => Err(Failure::data(format!("several operations begin with {digits}")).hint("give more digits")),
    }
}

fn print_output(reader: &Reader, stories: &[Story]) -> Result<u8, Failure> {
    let [story] = stories else {
        let hosts = stories.len();
        return Err(
            Failure::usage(format!("it has {hosts} records of hosts")).hint("name one: OPERATION@CUSTOMER/HOST")
        );
    };
    let streams = story.verdict().into_iter().flat_map(|verdict| [verdict.stdout, verdict.stderr]).flatten();
    for stream in streams {
        let content = reader.content(&stream)?;
        if stdout_is_terminal() {
            output::bytes(visible(&content).as_bytes())?;
        } else {
            output::bytes(&content)?;
        }
    }
    Ok(0)
}

#[derive(Serialize)]
struct JsonStory {
    operation: OperationId,
    host: Option<String>,
    header: Option<JsonRecord>,
    first: JsonRecord,
    result: Option<JsonRecord>,
    late: Option<JsonRecord>,
}

/// A record with its place.
#[derive(Serialize)]
struct JsonRecord {
    index: u64,
    record: Value,
}

fn json_record(reader: &Reader, index: u64) -> Result<JsonRecord, Failure> {
    let bytes = reader.bytes(index)?.ok_or(ReadError::Index(index))?;
    let record = serde_json::from_slice(&bytes).map_err(|error| Failure::data(format!("record {index}: {error}")))?;
    Ok(JsonRecord { index, record })
}

fn json_story(reader: &Reader, operation: OperationId, story: &Story) -> Result<JsonStory, Failure> {
    let record = |at: &Option<At<Record>>| at.as_ref().map(|at| json_record(reader, at.index)).transpose();
    Ok(JsonStory {
        operation,
        host: story.first.value.body.host().map(ToString::to_string),
        header: reader.header(operation)?.map(|header| json_record(reader, header.index)).transpose()?,
        first: json_record(reader, story.first.index)?,
        result: record(&story.result)?,
        late: record(&story.late)?,
    })
}

fn print_story(reader: &Reader, operation: OperationId, story: &Story) -> Result<(), Failure> {
    let record = &story.first.value;
    let host = record.body.host().map_or_else(|| "no host".to_owned(), ToString::to_string);
    output::line(&format!("operation {operation}  {host}"))?;
    match &record.body {
        Body::Intent(intent) => {
            print_order(record, &intent.order)?;
            field("decision", &decision(&intent.order))?;
            print_verdicts(story)?;
        }
        Body::Refused(refused) => {
            print_order(record, &refused.order)?;
            field("decision", &format!("refused: {} ({})", refused.reason, refused.code))?;
            field("records", &format!("refusal {}", story.first.index))?;
        }
        Body::Header(_) | Body::Result(_) | Body::Late(_) | Body::Receipts(_) | Body::Event(..) => {
            return Err(ReadError::Index(story.first.index).into());
        }
    }
    let streams = story.verdict().map_or([None, None], |verdict| [verdict.stdout, verdict.stderr]);
    for (name, stream) in ["standard output", "standard error"].into_iter().zip(streams) {
        if let Some(stream) = stream.filter(|stream| stream.length > 0) {
            print_stream(reader, name, &stream)?;
        }
    }
    Ok(())
}

fn field(name: &str, value: &str) -> Result<(), Failure> {
    output::line(&format!("  {name:<10} {}", visible_line(value)))
}

fn optional(name: &str, value: Option<String>) -> Result<(), Failure> {
    value.map_or(Ok(()), |value| field(name, &value))
}

fn print_order(record: &Record, order: &Order) -> Result<(), Failure> {
    field("time", &reeve_audit::reader::rfc3339(record.stamp.time_us))?;
    let id = order.user_id.as_ref().map_or_else(String::new, |id| format!(" ({id})"));
    field("user", &format!("{}{id}", order.user))?;
    optional("key", order.key.clone())?;
    optional("from", order.address.clone())?;
    optional("selector", order.selector.as_ref().map(Text::shown))?;
    optional("command", order.command.as_ref().map(|command| command.text.shown()))?;
    let item = order.command.as_ref().and_then(|command| command.item.as_ref());
    optional("item", item.map(|item| format!("{} version {} ({})", item.name, item.version, item.digest)))?;
    optional("case", order.case.as_ref().map(Text::shown))?;
    optional("reason", order.reason_given.as_ref().map(Text::shown))?;
    let age = order.directory_age_ms.map(|age| format!("answer {age} ms old"));
    let server = order.directory.as_ref().map(|server| format!(" from {server}")).unwrap_or_default();
    optional("directory", age.map(|age| format!("{age}{server}")))
}

fn decision(order: &Order) -> String {
    let level =
        |level: Option<reeve_wire::level::Level>| level.map_or_else(|| "none".to_owned(), |level| level.to_string());
    let group = order.via_group.as_ref().map(|group| format!(", through {group}")).unwrap_or_default();
    let rule = order.rule.as_ref().map(|rule| format!(", {rule}")).unwrap_or_default();
    format!("allowed: needs level {}, holds {}{group}{rule}", level(order.level_required), level(order.level_held))
}

fn print_verdicts(story: &Story) -> Result<(), Failure> {
    let mut records = format!("intent {}", story.first.index);
    match &story.result {
        None => field("outcome", "open")?,
        Some(at) => {
            print_verdict("outcome", at)?;
            records.push_str(&format!(", result {}", at.index));
        }
    }
    if let Some(at) = &story.late {
        print_verdict("later", at)?;
        records.push_str(&format!(", late result {}", at.index));
    }
    let receipts = story.verdict().map_or(0, |verdict| verdict.receipts.len());
    let grant = story.verdict().is_some_and(|verdict| verdict.grant.is_some());
    field("records", &records)?;
    field(
        "signed by",
        &format!("{}, {receipts} receipts of the host", if grant { "a grant of the master" } else { "no grant" }),
    )
}

fn print_verdict(name: &str, at: &At<Record>) -> Result<(), Failure> {
    let (Body::Result(verdict) | Body::Late(verdict)) = &at.value.body else {
        return Err(ReadError::Index(at.index).into());
    };
    let when = reeve_audit::reader::rfc3339(at.value.stamp.time_us);
    field(name, &format!("{} ({when})", outcome(verdict)))
}

fn outcome(verdict: &Verdict) -> String {
    let number = verdict.exit_status.or(verdict.signal).map(|number| format!(" {number}")).unwrap_or_default();
    let why = match (&verdict.reason, &verdict.code) {
        (Some(reason), Some(code)) => format!(": {reason} ({code})"),
        (Some(why), None) | (None, Some(why)) => format!(": {why}"),
        (None, None) => String::new(),
    };
    format!("{}{number}{why}", verdict.outcome)
}

fn print_stream(reader: &Reader, name: &str, stream: &Pointer) -> Result<(), Failure> {
    let cut = if stream.truncated { format!(", of which the first {} are kept", stream.stored) } else { String::new() };
    output::line(&format!("--- {name}: {} bytes{cut}", stream.length))?;
    match reader.content(stream) {
        Ok(content) => output::line(visible(&content).trim_end_matches('\n')),
        Err(ReadError::Content(error)) => output::line(&format!("({error})")),
        Err(other) => Err(other.into()),
    }
}
