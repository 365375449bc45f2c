//! One line an operation and host, and one an event: what `reeve-audit list` prints.

use reeve_wire::id::{Digest, OperationId};
use reeve_wire::level::Level;
use reeve_wire::receipt::Outcome;
use rusqlite::types::Value;
use rusqlite::{Row, params_from_iter};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{ReadError, Reader, Story};
use crate::content::Pointer;
use crate::record::{Body, Event, EventKind, Order, Record};
use crate::text::Text;

/// What to list. Everything that is set must hold; of several names one must.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only these technicians.
    pub users: Vec<String>,
    /// Only these hosts, as `CUSTOMER/HOST` or as the host's own name.
    pub hosts: Vec<String>,
    /// Only these customers.
    pub customers: Vec<String>,
    /// Only from this moment on, in µs since 1970 UTC.
    pub since_us: Option<u64>,
    /// Only before this moment, in µs since 1970 UTC.
    pub until_us: Option<u64>,
    /// Only what needs this level.
    pub level: Option<Level>,
    /// Only what was `allowed`, or `refused`.
    pub decision: Option<String>,
    /// Only this outcome; `open` for what has none.
    pub outcome: Option<String>,
    /// Only this case.
    pub case: Option<String>,
    /// Only commands that hold this text; ASCII letters match in both cases.
    pub text: Option<String>,
    /// At most this many, the newest.
    pub limit: Option<u64>,
}

/// One line of a list: the fields of design 8, in its order. What does not apply is null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// `operation`, or the kind of the event.
    pub kind: &'static str,
    /// The operation.
    pub operation: Option<OperationId>,
    /// When, in UTC to the µs (RFC 3339).
    pub time: String,
    /// The technician.
    pub user: Option<Text>,
    /// The technician's id in the directory.
    pub user_id: Option<String>,
    /// The fingerprint of the key.
    pub key: Option<String>,
    /// The customer.
    pub customer: Option<String>,
    /// The host, as `CUSTOMER/HOST`.
    pub host: Option<String>,
    /// The level that the operation needs.
    pub level_required: Option<Level>,
    /// The level that the technician holds there.
    pub level_held: Option<Level>,
    /// `allowed` or `refused`.
    pub decision: Option<&'static str>,
    /// The stable code of a refusal or failure.
    pub code: Option<String>,
    /// Its sentence.
    pub reason: Option<String>,
    /// The command on one line.
    pub command: Option<Text>,
    /// Its words, or an item's parameters.
    pub args: Option<Vec<Text>>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// The exit status.
    pub exit_status: Option<i32>,
    /// SHA-256 over standard output, then standard error, as stored.
    pub output_sha256: Option<Digest>,
    /// How many bytes of output are stored.
    pub output_bytes: Option<u64>,
    /// The case that the technician named.
    pub case: Option<Text>,
    /// The index of the intent's record.
    pub record_intent: Option<u64>,
    /// The index of the record that says how it ended; of a refusal or an event, its only one.
    pub record_result: Option<u64>,
}

impl Reader {
    /// Gives every line that `filter` lets through to `each`, newest first, until it returns false.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read, or what `each` returns.
    pub fn list<E: From<ReadError>>(
        &self,
        filter: &Filter,
        mut each: impl FnMut(Listed) -> Result<bool, E>,
    ) -> Result<(), E> {
        let (query, parameters) = filter.query();
        let mut select = self.database().prepare(&query).map_err(ReadError::from)?;
        let mut rows = select.query(params_from_iter(parameters)).map_err(ReadError::from)?;
        while let Some(row) = rows.next().map_err(ReadError::from)? {
            if !each(self.line(row)?)? {
                break;
            }
        }
        Ok(())
    }

    fn line(&self, row: &Row<'_>) -> Result<Listed, ReadError> {
        let (is_event, first): (bool, u64) = (row.get(0)?, row.get(1)?);
        if is_event {
            let record = self.record(first)?.value;
            return match &record.body {
                Body::Event(kind, event) => Ok(event_line(first, &record, *kind, event)),
                Body::Header(_)
                | Body::Intent(_)
                | Body::Refused(_)
                | Body::Result(_)
                | Body::Late(_)
                | Body::Receipts(_) => Err(ReadError::Index(first)),
            };
        }
        let story = self.story(first, row.get(2)?, row.get(3)?)?;
        self.operation_line(&story)
    }

    fn operation_line(&self, story: &Story) -> Result<Listed, ReadError> {
        let (first, record) = (story.first.index, &story.first.value);
        match &record.body {
            Body::Intent(intent) => {
                let mut line = order_line(record, &intent.order, "allowed");
                line.record_intent = Some(first);
                self.add_verdict(&mut line, story);
                Ok(line)
            }
            Body::Refused(refused) => {
                let mut line = order_line(record, &refused.order, "refused");
                line.code = Some(refused.code.clone());
                line.reason = Some(refused.reason.clone());
                line.outcome = Some(Outcome::Refused);
                line.record_result = Some(first);
                Ok(line)
            }
            Body::Header(_) | Body::Result(_) | Body::Late(_) | Body::Receipts(_) | Body::Event(..) => {
                Err(ReadError::Index(first))
            }
        }
    }

    fn add_verdict(&self, line: &mut Listed, story: &Story) {
        let Some(verdict) = story.verdict() else { return };
        line.code = verdict.code.clone();
        line.reason = verdict.reason.clone();
        line.outcome = Some(verdict.outcome);
        line.exit_status = verdict.exit_status;
        let streams: Vec<Pointer> = verdict.stdout.into_iter().chain(verdict.stderr).collect();
        if !streams.is_empty() {
            line.output_bytes = Some(streams.iter().map(|stream| stream.stored).sum());
            line.output_sha256 = self.output_digest(&streams);
        }
        line.record_result = story.late.as_ref().or(story.result.as_ref()).map(|record| record.index);
    }

    /// None when some of the content is not here.
    fn output_digest(&self, streams: &[Pointer]) -> Option<Digest> {
        let mut digest = Sha256::new();
        for stream in streams {
            digest.update(self.content(stream).ok()?);
        }
        Some(Digest(digest.finalize().into()))
    }
}

fn blank(kind: &'static str, record: &Record) -> Listed {
    Listed {
        kind,
        operation: record.body.operation(),
        time: rfc3339(record.stamp.time_us),
        user: None,
        user_id: None,
        key: None,
        customer: record.customer.as_ref().map(ToString::to_string),
        host: record.body.host().map(ToString::to_string),
        level_required: None,
        level_held: None,
        decision: None,
        code: None,
        reason: None,
        command: None,
        args: None,
        outcome: None,
        exit_status: None,
        output_sha256: None,
        output_bytes: None,
        case: None,
        record_intent: None,
        record_result: None,
    }
}

fn order_line(record: &Record, order: &Order, decision: &'static str) -> Listed {
    Listed {
        user: Some(Text::from(order.user.as_str())),
        user_id: order.user_id.clone(),
        key: order.key.clone(),
        level_required: order.level_required,
        level_held: order.level_held,
        decision: Some(decision),
        command: order.command.as_ref().map(|command| command.text.clone()),
        args: order.command.as_ref().and_then(|command| command.args.clone()),
        case: order.case.clone(),
        ..blank("operation", record)
    }
}

fn event_line(index: u64, record: &Record, kind: EventKind, event: &Event) -> Listed {
    Listed {
        user: event.user.clone(),
        user_id: event.user_id.clone(),
        key: event.key.clone(),
        decision: match kind {
            EventKind::Login | EventKind::Session => Some("allowed"),
            EventKind::LoginFailed | EventKind::ConnectionRefused => Some("refused"),
            EventKind::Logout
            | EventKind::Connection
            | EventKind::Trust
            | EventKind::Configuration
            | EventKind::Start
            | EventKind::Stop
            | EventKind::Read
            | EventKind::Anomaly => None,
        },
        code: event.code.clone(),
        reason: event.reason.clone(),
        record_result: Some(index),
        ..blank(kind.as_str(), record)
    }
}

/// A moment as RFC 3339 in UTC, to the µs.
pub fn rfc3339(time_us: u64) -> String {
    let moment = i64::try_from(time_us).ok().and_then(chrono::DateTime::from_timestamp_micros);
    let moment = moment.unwrap_or(chrono::DateTime::<chrono::Utc>::MAX_UTC);
    moment.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

impl Filter {
    /// The rows as `is_event, first, result, late`; every value is a parameter.
    fn query(&self) -> (String, Vec<Value>) {
        let mut rows = Conditions::default();
        rows.one_of("user", &self.users);
        rows.one_of("customer", &self.customers);
        rows.hosts(&self.hosts);
        rows.value("time >= ?", self.since_us.map(bounded));
        rows.value("time < ?", self.until_us.map(bounded));
        rows.value("level = ?", self.level.map(|level| i64::from(level.number()).into()));
        rows.value("decision = ?", self.decision.clone().map(Value::from));
        match self.outcome.as_deref() {
            Some("open") => rows.plain("is_event = 0 AND outcome IS NULL"),
            outcome => rows.value("outcome = ?", outcome.map(|outcome| outcome.to_owned().into())),
        }
        rows.value("\"case\" = ?", self.case.clone().map(Value::from));
        let pattern = self.text.as_deref().map(|text| format!("%{}%", like_escaped(text)));
        rows.value("command LIKE ? ESCAPE '\\'", pattern.map(Value::from));
        let Conditions { terms, mut parameters } = rows;
        let condition = if terms.is_empty() { "true".to_owned() } else { terms.join(" AND ") };
        parameters.push(self.limit.map_or(Value::from(-1), bounded));
        let query = format!(
            "WITH line AS (
                 SELECT 0 AS is_event, first, result, late, user, customer, host, time, level, decision, outcome,
                        \"case\", command FROM operation
                 UNION ALL
                 SELECT 1, idx, NULL, NULL, user, customer, host, time, NULL,
                        CASE WHEN kind IN ('login', 'session') THEN 'allowed'
                             WHEN kind IN ('login-failed', 'connection-refused') THEN 'refused' END,
                        NULL, NULL, NULL FROM event)
             SELECT is_event, first, result, late FROM line WHERE {condition} ORDER BY first DESC LIMIT ?"
        );
        (query, parameters)
    }
}

#[derive(Default)]
struct Conditions {
    terms: Vec<String>,
    parameters: Vec<Value>,
}

impl Conditions {
    fn plain(&mut self, term: &str) {
        self.terms.push(term.to_owned());
    }

    fn value(&mut self, term: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.terms.push(term.to_owned());
            self.parameters.push(value);
        }
    }

    fn one_of(&mut self, column: &str, names: &[String]) {
        if !names.is_empty() {
            self.terms.push(format!("{column} IN ({})", vec!["?"; names.len()].join(", ")));
            self.parameters.extend(names.iter().cloned().map(Value::from));
        }
    }

    fn hosts(&mut self, names: &[String]) {
        let terms: Vec<&str> = names
            .iter()
            .map(|name| if name.contains('/') { "host = ?" } else { "host LIKE '%/' || ? ESCAPE '\\'" })
            .collect();
        if !terms.is_empty() {
            self.terms.push(format!("({})", terms.join(" OR ")));
            let values = names.iter().map(|name| if name.contains('/') { name.clone() } else { like_escaped(name) });
            self.parameters.extend(values.map(Value::from));
        }
    }
}

fn bounded(number: u64) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

/// The text with what LIKE gives a meaning escaped.
fn like_escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}
