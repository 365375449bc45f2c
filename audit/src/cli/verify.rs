//! `verify` and `vkey`.

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reeve_audit::Reader;
use reeve_audit::verify::{Finding, KnownHead, Report, Settings};
use reeve_wire::note::{MAX_NOTE, Vkey};
use reeve_wire::time::Clock;
use serde::Serialize;

use super::failure::Failure;
use super::output;

pub(crate) const ABOUT: &str = "\
Check that no record was changed, removed or added

Recomputes every leaf from its record and every root from the leaves, and compares them with the signed \
checkpoints in the file and with heads that were kept elsewhere. Needs no server and no network.

Exit status: 0 fine; 10 a record was modified (which one is said); 11 shorter than a known head; 13 two \
histories; 14 an operation is open past its deadline; 15 content is missing or wrong; 16 a request, grant or \
receipt does not belong to its record; 17 malformed. Of several findings the lowest; all are printed.

Without --vkey the file is only compared with the key that it names itself. Without --against a cut-off end \
is not noticed: keep heads where the master cannot write.";

pub(crate) const EXAMPLES: &str = "\
Examples:
  reeve-audit --db audit.db --vkey log.vkey verify
  reeve-audit --db audit.db --vkey noc.reeve/master1+de2c6801+Aep... verify --against kept.note
  reeve-audit --db audit.db --vkey log.vkey verify --against *.note --json";

pub(crate) const VKEY_EXAMPLES: &str = "\
Examples:
  reeve-audit --db audit.db vkey > log.vkey";

/// Ledgers from this size on are worth a progress bar.
const LONG: u64 = 50_000;

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// A head (checkpoint note) that was kept where the master cannot write (can be repeated)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    against: Vec<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct VkeyArguments {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the file's own key.
pub(crate) fn vkey(reader: &Reader, arguments: &VkeyArguments) -> Result<u8, Failure> {
    #[derive(Serialize)]
    struct Own {
        origin: String,
        vkey: String,
    }
    let vkey = reader.vkey()?;
    if arguments.json {
        output::json(&Own { origin: vkey.name().to_owned(), vkey: vkey.to_string() })?;
    } else {
        output::line(&vkey.to_string())?;
    }
    Ok(0)
}

/// A key given as itself, or as a file that holds it.
pub(crate) fn read_vkey(given: &str) -> Result<Vkey, Failure> {
    if Path::new(given).exists() {
        let text = std::fs::read_to_string(given).map_err(|error| Failure::config(format!("{given}: {error}")))?;
        return text.trim().parse().map_err(|error| Failure::config(format!("{given}: {error}")));
    }
    given
        .trim()
        .parse()
        .map_err(|error| Failure::config(format!("--vkey: {error}")).hint("give the key, or a file that holds it"))
}

fn read_head(path: &Path) -> Result<KnownHead, Failure> {
    let name = path.display().to_string();
    let wrong = |why: &dyn std::fmt::Display| Failure::data(format!("--against {name}: {why}"));
    let size = std::fs::metadata(path).map_err(|error| wrong(&error))?.len();
    if size > MAX_NOTE as u64 {
        return Err(wrong(&"it is too long for a checkpoint note"));
    }
    let note = std::fs::read(path).map_err(|error| wrong(&error))?;
    Ok(KnownHead { name, note })
}

/// Verifies the ledger; the exit status is the lowest number of all findings.
pub(crate) fn verify(reader: &Reader, vkey: Option<Vkey>, arguments: &Arguments) -> Result<u8, Failure> {
    let against = arguments.against.iter().map(|path| read_head(path)).collect::<Result<Vec<_>, _>>()?;
    let heads = against.len();
    let settings = Settings { vkey, against, now_us: Clock::system().now().0.saturating_mul(1000) };
    let bar = progress_bar(reader.size().unwrap_or(0));
    let report = reeve_audit::verify::verify(reader, &settings, |done, _| bar.set_position(done))?;
    bar.finish_and_clear();
    if arguments.json {
        output::json(&JsonReport::of(&report, heads))?;
    } else {
        print(&report, heads)?;
    }
    Ok(report.fault().map_or(0, reeve_audit::verify::Fault::exit_status))
}

/// Drawn only on a terminal, and only when there is time to look at it.
fn progress_bar(records: u64) -> ProgressBar {
    if records < LONG {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(records), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} records, {eta} left");
    style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
}

fn print(report: &Report, heads: usize) -> Result<(), Failure> {
    output::line(if report.key_from_outside {
        "checked under the key that was given"
    } else {
        "self-consistent under the key that this file names"
    })?;
    output::line(&format!("  key         {}", report.vkey))?;
    output::line(&format!("  records     {}, of which checkpoints sign {}", report.records, report.signed))?;
    output::line(&format!("  root        {}", report.root.map_or_else(|| "none".to_owned(), hex::encode)))?;
    output::line(&format!("  checkpoints {} in the file, {heads} from outside", report.checkpoints))?;
    output::line(&format!("  content     {} pieces", report.blobs))?;
    output::line(&format!("  operations  {} open, {} unknown", report.open, report.unknown))?;
    for finding in &report.findings {
        output::line(&reeve_wire::output::visible_line(&finding.to_string()))?;
    }
    let unprinted = report.found.saturating_sub(report.findings.len() as u64);
    if unprinted > 0 {
        output::line(&format!("and {unprinted} more"))?;
    }
    if heads == 0 {
        output::line("no head from outside was given: an end that was cut off would not be noticed")?;
    }
    match report.found {
        0 => output::line("verified: nothing is wrong"),
        1 => output::line("NOT verified: 1 finding"),
        found => output::line(&format!("NOT verified: {found} findings")),
    }
}

#[derive(Serialize)]
struct JsonReport {
    verified: bool,
    status: u8,
    vkey: String,
    key_from_outside: bool,
    records: u64,
    signed: u64,
    root: Option<String>,
    checkpoints: u64,
    heads: usize,
    content: u64,
    open: u64,
    unknown: u64,
    found: u64,
    findings: Vec<JsonFinding>,
}

#[derive(Serialize)]
struct JsonFinding {
    status: u8,
    record: Option<u64>,
    operation: Option<String>,
    host: Option<String>,
    reason: String,
}

impl JsonFinding {
    fn of(finding: &Finding) -> Self {
        Self {
            status: finding.fault.exit_status(),
            record: finding.index,
            operation: finding.operation.map(|operation| operation.to_string()),
            host: finding.host.as_ref().map(ToString::to_string),
            reason: finding.what.clone(),
        }
    }
}

impl JsonReport {
    fn of(report: &Report, heads: usize) -> Self {
        Self {
            verified: report.fault().is_none(),
            status: report.fault().map_or(0, reeve_audit::verify::Fault::exit_status),
            vkey: report.vkey.to_string(),
            key_from_outside: report.key_from_outside,
            records: report.records,
            signed: report.signed,
            root: report.root.map(hex::encode),
            checkpoints: report.checkpoints,
            heads,
            content: report.blobs,
            open: report.open,
            unknown: report.unknown,
            found: report.found,
            findings: report.findings.iter().map(JsonFinding::of).collect(),
        }
    }
}
