//! What `--json` prints, and the same for people.

use std::path::Path;

use comfy_table::{Table, presets};
use reeve_wire::bundle::Trust;
use reeve_wire::id::Digest;
use reeve_wire::name::{Name, Principal};
use reeve_wire::time::Millis;
use serde::Serialize;

use super::shell;
use crate::authority::Authority;
use crate::library::Library;
use crate::log::Issued;
use crate::register::{Register, rfc3339};

/// A certificate. Fields that do not apply are null.
#[derive(Debug, Serialize)]
pub(super) struct CertificateFacts {
    serial: u64,
    kind: &'static str,
    name: String,
    principal: String,
    state: &'static str,
    not_before: String,
    not_after: String,
    fingerprint: String,
    key: String,
    max_level: Option<u8>,
    customers: Option<String>,
    directory_id: Option<String>,
    log: Option<String>,
    ca: String,
    certificate: Digest,
}

impl CertificateFacts {
    pub(super) fn of(issued: &Issued, now: Millis) -> Self {
        let (kind, name) = match &issued.principal {
            Principal::Technician(name) => ("technician", name.to_string()),
            Principal::Host(host) => ("agent", host.to_string()),
            Principal::Master(name) => ("master", name.to_string()),
        };
        let state = if now < issued.not_before {
            "not-yet-valid"
        } else if now < issued.not_after {
            "valid"
        } else {
            "expired"
        };
        let bounds = issued.bounds.as_ref();
        Self {
            serial: issued.serial,
            kind,
            name,
            principal: issued.principal.to_string(),
            state,
            not_before: rfc3339(issued.not_before),
            not_after: rfc3339(issued.not_after),
            fingerprint: issued.key.fingerprint(),
            key: issued.key.to_string(),
            max_level: bounds.map(|bounds| bounds.max_level.number()),
            customers: bounds.map(|bounds| bounds.customers.clone()),
            directory_id: bounds.map(|bounds| bounds.directory_id.clone()),
            log: issued.log.clone(),
            ca: issued.ca.fingerprint(),
            certificate: issued.certificate,
        }
    }

    /// Whether a person means this certificate: by serial, by name or by principal.
    pub(super) fn is(&self, which: &str) -> bool {
        self.serial.to_string() == which || self.name == which || self.principal == which
    }

    fn ceiling(&self) -> String {
        match (self.max_level, &self.customers) {
            (Some(level), Some(customers)) => format!("level {level}, {customers}"),
            _ => String::new(),
        }
    }
}

impl std::fmt::Display for CertificateFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "certificate   {} ({}), {}", self.serial, self.state, self.principal)?;
        writeln!(f, "valid         {} to {}", self.not_before, self.not_after)?;
        writeln!(f, "key           {}", self.fingerprint)?;
        if self.max_level.is_some() {
            writeln!(f, "ceiling       {}", self.ceiling())?;
        }
        if let Some(id) = &self.directory_id {
            writeln!(f, "directory id  {id}")?;
        }
        if let Some(log) = &self.log {
            writeln!(f, "ledger        {log}")?;
        }
        writeln!(f, "signed by     {}", self.ca)?;
        writeln!(f, "SHA-256       {}", self.certificate)
    }
}

/// Certificates as a table.
pub(super) fn table(certificates: &[CertificateFacts]) -> String {
    let mut table = Table::new();
    table.set_header(["SERIAL", "PRINCIPAL", "STATE", "UNTIL", "CEILING", "KEY"]);
    for facts in certificates {
        let ceiling = facts.ceiling();
        table.add_row([
            facts.serial.to_string().as_str(),
            &facts.principal,
            facts.state,
            &facts.not_after,
            &ceiling,
            &facts.fingerprint,
        ]);
    }
    plain(&mut table)
}

/// Columns two spaces apart, nothing drawn between them.
fn plain(table: &mut Table) -> String {
    table.load_style(presets::NOTHING);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// A CA that was made.
#[derive(Debug, Serialize)]
pub(super) struct Founded {
    site: Name,
    ca: String,
    root: String,
    technicians: String,
    agents: String,
    masters: String,
}

pub(super) fn founded(register: &Register<'_>, folder: &Path) -> Founded {
    let fingerprint = |authority| register.authority(authority).fingerprint();
    Founded {
        site: register.site().clone(),
        ca: folder.display().to_string(),
        root: fingerprint(Authority::Root),
        technicians: fingerprint(Authority::Technicians),
        agents: fingerprint(Authority::Agents),
        masters: fingerprint(Authority::Masters),
    }
}

pub(super) fn founded_text(register: &Register<'_>, folder: &Path) -> String {
    let facts = founded(register, folder);
    let ca = shell(folder);
    format!(
        "root {root}\n\n\
         The CA of site {site} is in {folder}. Agents and consoles pin the root: root = \"{root}\"\n\
         Keep a copy of the folder elsewhere, and the folder itself off the master. Next:\n\n  \
         reeve-pki issue --ca {ca} master m1 --public-key host.key.pub --log \"$(reeve-master keys --vkey)\" -o host.key-cert.pub\n  \
         reeve-pki signer --ca {ca} library --public-key signer.pub\n  \
         reeve-pki trust --ca {ca} -o bundle",
        root = facts.root,
        site = facts.site,
        folder = facts.ca,
    )
}

/// A bundle that was signed.
#[derive(Debug, Serialize)]
pub(super) struct BundleFacts {
    site: Name,
    number: u64,
    root: String,
    issued: String,
    refresh_by: String,
    masters: Vec<Name>,
    logs: Vec<String>,
    library_signers: Vec<String>,
    digest: Digest,
    file: String,
    log_head: Digest,
}

pub(super) fn bundle(trust: &Trust, file: &Path, log_head: Digest) -> BundleFacts {
    BundleFacts {
        site: trust.site.clone(),
        number: trust.number,
        root: trust.root().to_owned(),
        issued: rfc3339(trust.issued),
        refresh_by: rfc3339(trust.refresh_by),
        masters: trust.masters.clone(),
        logs: trust.logs.iter().map(|log| log.vkey.clone()).collect(),
        library_signers: trust.library_signers.iter().map(ToString::to_string).collect(),
        digest: trust.digest(),
        file: file.display().to_string(),
        log_head,
    }
}

/// A library that was signed.
#[derive(Debug, Serialize)]
pub(super) struct LibraryFacts {
    site: Name,
    version: u64,
    items: Vec<ItemFacts>,
}

#[derive(Debug, Serialize)]
struct ItemFacts {
    name: Name,
    version: u64,
    level: u8,
    summary: String,
    digest: Digest,
}

pub(super) fn library(library: &Library, site: &Name, version: u64) -> LibraryFacts {
    let items = library.items().iter().map(|item| ItemFacts {
        name: item.reference.name.clone(),
        version: item.reference.version,
        level: item.package.level.number(),
        summary: item.package.summary.clone(),
        digest: item.reference.digest,
    });
    LibraryFacts { site: site.clone(), version, items: items.collect() }
}

pub(super) fn library_text(of: &Library, site: &Name, version: u64) -> String {
    let mut table = Table::new();
    table.set_header(["ITEM", "VERSION", "LEVEL", "SUMMARY"]);
    for item in library(of, site, version).items {
        table.add_row([item.name.to_string(), item.version.to_string(), item.level.to_string(), item.summary]);
    }
    let table = plain(&mut table);
    format!("{table}\n\nlibrary index {version} of site {site}, {} items", of.items().len())
}
