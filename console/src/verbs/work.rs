//! `exec` and `run`: from what was typed to the exit status.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reeve_link::tasks::Tasks;
use reeve_wire::code::{Code, exit};
use reeve_wire::id::OperationId;
use reeve_wire::name::HostName;
use reeve_wire::output::visible_line;
use reeve_wire::receipt::Outcome;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::AbortHandle;

use super::table;
use crate::desk::Desk;
use crate::failure::Failure;
use crate::operation::fanout::{Audience, Fanout, Sinks};
use crate::operation::order::{self, Order};
use crate::operation::outcome::{HostOutcome, status_of_all};
use crate::operation::resolve::{Resolved, resolve};
use crate::operation::round::Author;
use crate::operation::run::Stop;
use crate::show::{Manner, Printer, Sink};
use crate::{own_key, terminal};

/// Up to so many servers, the table at the end has a row for each; beyond, only for those that did not end in 0.
const ROWS: usize = 20;
/// After the second Ctrl-C, what still can be told is told within so long.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What was typed.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) selector: String,
    pub(crate) asked: Asked,
    pub(crate) case: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) stdin: Option<PathBuf>,
    pub(crate) own_key: bool,
}

/// A command line, or an item of the library.
#[derive(Debug)]
pub(crate) enum Asked {
    Command(Vec<OsString>),
    Item { name: String, arguments: Vec<OsString> },
}

/// One operation and how it is told.
#[derive(Debug)]
pub(crate) struct Work {
    operation: OperationId,
    literal: Option<HostName>,
    json: bool,
}

impl Work {
    pub(crate) fn new(json: bool, selector: &str) -> Self {
        Self { operation: OperationId::random(), literal: selector.parse().ok(), json }
    }

    /// Checks what was typed.
    pub(crate) fn order(&self, wanted: Wanted) -> Result<(Order, bool), Failure> {
        let selector = order::selector(&wanted.selector)?;
        let work = match wanted.asked {
            Asked::Command(argv) => order::Work::raw(argv)?,
            Asked::Item { name, arguments } => order::Work::item(&name, arguments)?,
        };
        let timeout = wanted.timeout.map(order::timeout).transpose()?;
        let stdin = wanted.stdin.as_deref().map(order::stdin).transpose()?;
        let order = Order { selector, work, stdin, timeout, case: wanted.case, reason: wanted.reason };
        Ok((order, wanted.own_key))
    }

    /// What refused or ended all of it at once is an object too.
    pub(crate) fn tell_refused_whole(&self, failure: Failure) -> Failure {
        let outcome = HostOutcome::of_failure(self.operation, self.literal.clone(), &failure);
        if let Some(outcome) = outcome.filter(|_| self.json) {
            let mut out = io::stdout().lock();
            if let Err(error) = outcome.write_json(&mut out, None).and_then(|()| out.flush()) {
                return terminal::unwritable(&error);
            }
        }
        failure
    }

    /// Runs it and gives the exit status.
    pub(crate) async fn run(&self, desk: &mut Desk, order: Order, own_key: bool) -> Result<u8, Failure> {
        let connection = desk.connect().await?;
        let author = if own_key {
            Author::OwnKey(Box::new(own_key::private_key(&desk.config, &desk.certificate, &desk.tasks).await?))
        } else {
            Author::Session
        };
        let resolved = resolve(&connection, self.operation, &order).await?;
        let stop = Stop::default();
        let bar = if self.json { ProgressBar::hidden() } else { bar(resolved.hosts.len()) };
        let watching = desk.tasks.spawn("ctrl-c", watch_for_ctrl_c(stop.clone(), bar.clone())?);
        let fanout =
            Fanout { connection: &connection, order: &order, author: &author, stop: &stop, tasks: &desk.tasks };
        let ended = tokio::select! {
            ended = self.run_on(&fanout, resolved, bar) => ended,
            () = given_up(&stop) => Ok(exit::CANCELLED),
        };
        watching.abort();
        if stop.give_up.is_cancelled() { Ok(exit::CANCELLED) } else { ended }
    }

    /// Runs it on the servers and tells how it came out.
    async fn run_on(&self, fanout: &Fanout<'_>, resolved: Resolved, bar: ProgressBar) -> Result<u8, Failure> {
        if self.json {
            let sinks: Sinks = Arc::new(|_| Sink::kept());
            let mut audience = AsJson { tasks: fanout.tasks.clone() };
            return Ok(status_of_all(&fanout.run(self.operation, resolved, &sinks, &mut audience).await?));
        }
        let mut counting = Bar(bar.clone());
        let show = Show::new(&resolved.hosts, fanout, bar);
        let ended = fanout.run(self.operation, resolved, &show.sinks(), &mut counting).await;
        let several = show.names.is_some();
        let unread = show.finish().await;
        let outcomes = ended?;
        match unread {
            true => {}
            false if several => tell_all(&outcomes),
            false => outcomes.iter().for_each(tell_one),
        }
        Ok(status_of_all(&outcomes))
    }
}

/// The first Ctrl-C cancels what runs and waits for how it ends; the second waits for nothing.
fn watch_for_ctrl_c(stop: Stop, bar: ProgressBar) -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let mut interrupts = signal(SignalKind::interrupt()).map_err(|error| Failure::because(Code::Internal, error))?;
    Ok(async move {
        interrupts.recv().await;
        bar.suspend(|| terminal::note("cancelling; once more to wait no longer"));
        stop.cancel.cancel();
        interrupts.recv().await;
        stop.give_up.cancel();
    })
}

/// Comes back when the technician waits for nothing, and those who listen have had a moment to say so.
async fn given_up(stop: &Stop) {
    stop.give_up.cancelled().await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// One object a server, as each ends. Written on a thread that may block: a reader may be slow.
struct AsJson {
    tasks: Tasks,
}

impl Audience for AsJson {
    async fn done(&mut self, outcome: &HostOutcome, sink: Option<Sink>) -> ControlFlow<()> {
        let (outcome, mut kept) = (outcome.clone(), sink.and_then(Sink::into_kept));
        let writing = self.tasks.spawn_blocking("json", move || {
            let mut out = io::BufWriter::new(io::stdout().lock());
            let output = kept.as_mut().map(|(stdout, stderr)| (stdout, stderr));
            outcome.write_json(&mut out, output).and_then(|()| out.flush())
        });
        match writing.await {
            Ok(Ok(())) => ControlFlow::Continue(()),
            Ok(Err(_)) | Err(_) => ControlFlow::Break(()),
        }
    }
}

/// Output for people and pipes.
struct Show {
    printer: Printer,
    bar: ProgressBar,
    /// The width of the longest name, when there are several.
    names: Option<usize>,
    tasks: Tasks,
    watching: AbortHandle,
}

impl Show {
    /// When nobody reads any more, what runs is cancelled.
    fn new(hosts: &[HostName], fanout: &Fanout<'_>, bar: ProgressBar) -> Self {
        let names = (hosts.len() > 1).then(|| hosts.iter().map(|host| host.to_string().len()).max().unwrap_or(0));
        let printer = Printer::start(io::stdout(), io::stderr(), bar.clone());
        let (unread, stop) = (printer.unread(), fanout.stop.clone());
        let watching = fanout.tasks.spawn("closed pipe", async move {
            unread.cancelled().await;
            stop.cancel.cancel();
        });
        Self { printer, bar, names, tasks: fanout.tasks.clone(), watching }
    }

    fn sinks(&self) -> Sinks {
        let printing = self.printer.printing();
        let out = Manner::of_terminal(terminal::out_is_terminal());
        let err = Manner::of_terminal(terminal::err_is_terminal());
        match self.names {
            None => Arc::new(move |_| Sink::live(printing.clone(), out, err)),
            Some(width) => Arc::new(move |host| {
                let prefix = format!("{:width$} | ", host.to_string());
                Sink::lines(printing.clone(), &prefix, out, err)
            }),
        }
    }

    /// Waits for the last byte. Says whether nobody read it.
    async fn finish(self) -> bool {
        self.bar.finish_and_clear();
        self.watching.abort();
        let unread = self.printer.unread();
        let written = self.tasks.spawn_blocking("last output", move || self.printer.finish()).await;
        written.is_err() || unread.is_cancelled()
    }
}

/// Counts servers.
struct Bar(ProgressBar);

impl Audience for Bar {
    async fn done(&mut self, _: &HostOutcome, _: Option<Sink>) -> ControlFlow<()> {
        self.0.inc(1);
        ControlFlow::Continue(())
    }
}

/// Drawn when a person looks and there is more than one server.
fn bar(servers: usize) -> ProgressBar {
    if servers < 2 || !terminal::err_is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(u64::try_from(servers).ok(), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30.dim} {pos} of {len} servers, {elapsed}") {
        bar.set_style(style);
    }
    bar
}

/// Says on standard error what the exit status alone does not.
fn tell_one(outcome: &HostOutcome) {
    let host = outcome.host.as_ref().map(ToString::to_string).unwrap_or_default();
    if outcome.outcome != Outcome::Exited || outcome.code.is_some() {
        let reason = outcome.reason.clone().unwrap_or_else(|| outcome.outcome.to_string());
        match outcome.code {
            Some(code) => terminal::complain(&Failure::saying(code, format!("{host}: {reason}"))),
            None => terminal::note(&format!("{host}: {reason}")),
        }
    }
    if outcome.truncated {
        terminal::note(&format!("{host}: the output was cut at the limit, here and in the record"));
    }
}

/// The table at the end of a fan-out.
fn tell_all(outcomes: &[HostOutcome]) {
    let good = outcomes.iter().filter(|outcome| outcome.is_success()).count();
    let rows = outcomes.iter().filter(|outcome| outcomes.len() <= ROWS || !outcome.is_success()).map(row).collect();
    terminal::aside(&summary(rows, good, outcomes.len()));
}

fn summary(rows: Vec<Vec<String>>, good: usize, all: usize) -> String {
    let listed = if rows.is_empty() { String::new() } else { table(&["HOST", "OUTCOME", "STATUS", "WHY"], rows) };
    format!("\n{listed}{good} of {all} servers ended in status 0\n")
}

fn row(outcome: &HostOutcome) -> Vec<String> {
    let cut = if outcome.truncated { "output cut at the limit" } else { "" };
    let why = match (&outcome.reason, outcome.code) {
        (Some(reason), Some(code)) => format!("{} [{code}]", visible_line(reason)),
        (Some(reason), None) => visible_line(reason),
        (None, Some(code)) => code.to_string(),
        (None, None) => cut.to_owned(),
    };
    vec![
        outcome.host.as_ref().map(ToString::to_string).unwrap_or_default(),
        outcome.outcome.to_string(),
        outcome.exit_status.map(|status| status.to_string()).unwrap_or_default(),
        why,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_wire::code::Refusal;
    use reeve_wire::message::Ended;

    #[test]
    fn a_fan_out_ends_with_a_table() {
        let operation = OperationId([7; 16]);
        let ended = Ended {
            outcome: Outcome::Exited,
            exit_status: Some(3),
            signal: None,
            code: None,
            reason: None,
            truncated: false,
            record: Some(1),
        };
        let exited = HostOutcome::ended(operation, "contoso/web01".parse().unwrap(), Some(1), ended);
        let refusal = Refusal { code: Code::Unreachable, reason: "its agent\nis away".into() };
        let away = HostOutcome::of_refusal(operation, "contoso/db01".parse().ok(), None, &refusal);

        assert_eq!(
            summary(vec![row(&away), row(&exited)], 0, 2),
            "\nHOST           OUTCOME      STATUS  WHY\n\
             contoso/db01   unreachable          its agent\\nis away [unreachable]\n\
             contoso/web01  exited       3\n0 of 2 servers ended in status 0\n"
        );
        assert_eq!(summary(vec![], 300, 300), "\n300 of 300 servers ended in status 0\n");
    }
}
