//! A site that was brought up: where everything is, and its parts to stop, start and kill.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::{During as _, Failure};
use crate::files::Files;
use crate::openldap::OpenLdap;
use crate::programs::{self, Programs, late, running, wait_until};

/// How long a part may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// `lab.json`: where everything is.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Lab {
    /// The site's name.
    pub site: String,
    /// The root's fingerprint.
    pub root: String,
    /// The newest trust bundle.
    pub trust: PathBuf,
    /// The master.
    pub master: MasterPart,
    /// The directory.
    pub directory: DirectoryPart,
    /// The CA's folder.
    pub ca: PathBuf,
    /// The technicians by name.
    pub technicians: BTreeMap<String, TechnicianPart>,
    /// The agents by host.
    pub agents: BTreeMap<String, AgentPart>,
    /// Reeve's programs by name.
    pub binaries: BTreeMap<String, PathBuf>,
}

/// The master of a site.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MasterPart {
    /// `127.0.0.1:PORT`
    pub address: String,
    /// Its process; null while it is down.
    pub pid: Option<u32>,
    /// Its configuration.
    pub config: PathBuf,
    /// Its ledger.
    pub audit_db: PathBuf,
    /// Its ledger's verifier key.
    pub vkey: String,
}

/// The directory of a site.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryPart {
    /// `file` or `openldap`.
    pub kind: String,
    /// The server's address, or the file's path.
    pub url: String,
    /// The server's CA.
    pub ca: Option<PathBuf>,
    /// The account that the master reads with.
    pub bind_dn: Option<String>,
    /// Its password.
    pub password_file: Option<PathBuf>,
}

/// A technician of a site.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TechnicianPart {
    /// The console's configuration.
    pub config: PathBuf,
    /// The technician's own key.
    pub key: PathBuf,
    /// The technician's certificate.
    pub certificate: PathBuf,
    /// The directory password.
    pub password_file: PathBuf,
}

/// An agent of a site.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AgentPart {
    /// Its process; null while it is down.
    pub pid: Option<u32>,
    /// Its configuration.
    pub config: PathBuf,
    /// Its state.
    pub state: PathBuf,
    /// The customer's policy file; there is none in this version.
    pub policy: Option<PathBuf>,
    /// The server's key.
    pub key: PathBuf,
}

/// A site below one folder.
#[derive(Clone, Debug)]
pub struct Site {
    files: Files,
    programs: Programs,
    lab: Lab,
}

impl Site {
    /// Opens the site below `dir`.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let files = Files { dir: std::path::absolute(dir).during("naming the folder")? };
        let text = std::fs::read_to_string(files.lab()).map_err(|_| Failure::NoSite(dir.to_owned()))?;
        let lab = serde_json::from_str(&text).map_err(std::io::Error::from).during("reading lab.json")?;
        Ok(Self { files, programs: Programs::beside_us()?, lab })
    }

    pub(crate) const fn of(files: Files, programs: Programs, lab: Lab) -> Self {
        Self { files, programs, lab }
    }

    /// Where everything is.
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The site's folder.
    pub fn dir(&self) -> &Path {
        &self.files.dir
    }

    /// The site's slapd.
    ///
    /// # Errors
    /// When its directory is a file.
    pub fn openldap(&self) -> Result<OpenLdap, Failure> {
        Ok(OpenLdap::open(&self.files.directory())?)
    }

    /// All parts, in the order in which they start.
    pub fn parts(&self) -> Vec<String> {
        let fixed = ["directory", "master"].into_iter().map(ToOwned::to_owned);
        fixed.chain(self.lab.agents.keys().map(|host| format!("agent:{host}"))).collect()
    }

    /// The process of a part, when it runs. The file directory is always there and has none.
    pub fn pid(&self, part: &str) -> Option<u32> {
        if part == "directory" {
            return self.openldap().ok().and_then(|server| server.pid());
        }
        running(&self.files, part).map(|process| process.pid())
    }

    /// Whether a part does its work.
    pub fn is_up(&self, part: &str) -> bool {
        (part == "directory" && self.lab.directory.kind == "file") || self.pid(part).is_some()
    }

    /// Starts a part as it was, and returns when it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&mut self, part: &str) -> Result<(), Failure> {
        self.launch(part)?;
        self.wait_ready(part)?;
        self.save()
    }

    /// Starts a part without waiting for it.
    pub(crate) fn launch(&self, part: &str) -> Result<(), Failure> {
        self.known(part)?;
        if self.is_up(part) {
            return Ok(());
        }
        match part {
            "directory" => Ok(self.openldap()?.start_again()?),
            "master" => {
                let config = self.lab.master.config.as_os_str();
                self.programs.start(
                    &self.files,
                    part,
                    "reeve-master",
                    &[OsStr::new("--config"), config, OsStr::new("run")],
                )
            }
            agent => {
                let config = self.agent(agent)?.config.as_os_str();
                self.programs.start(
                    &self.files,
                    part,
                    "reeve-agent",
                    &[OsStr::new("--config"), config, OsStr::new("run")],
                )
            }
        }
    }

    /// Waits until a part that was started is ready.
    pub(crate) fn wait_ready(&self, part: &str) -> Result<(), Failure> {
        let ready = match part {
            "directory" => true,
            "master" => wait_until(READY, || !self.is_up(part) || self.listens()) && self.is_up(part),
            agent => {
                let state = self.agent(agent)?.state.clone();
                let pid = self.pid(part);
                wait_until(READY, || self.pid(part) != pid || connected(&state, pid)) && self.pid(part) == pid
            }
        };
        if ready { Ok(()) } else { Err(late(&self.files, part, "it is not ready", READY)) }
    }

    /// Whether somebody listens on the master's port, by the kernel's own table (proc(5)): a connection to find out
    /// would be a refused one in the record.
    fn listens(&self) -> bool {
        let port = self.lab.master.address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let ours = port.map(|port| format!("0100007F:{port:04X}"));
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        table.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().map(ToOwned::to_owned) == ours && fields.nth(1) == Some("0A")
        })
    }

    /// Ends a part: SIGTERM, then SIGKILL.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self, part: &str) -> Result<(), Failure> {
        self.known(part)?;
        match part {
            "directory" if self.lab.directory.kind == "file" => {}
            "directory" => self.openldap()?.stop()?,
            other => programs::stop(&self.files, other)?,
        }
        self.save()
    }

    /// Ends a part with SIGKILL.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self, part: &str) -> Result<(), Failure> {
        self.known(part)?;
        match part {
            "directory" if self.lab.directory.kind == "file" => {}
            "directory" => self.openldap()?.kill()?,
            other => programs::kill(&self.files, other)?,
        }
        self.save()
    }

    /// Ends exactly what the lab started. The folder stays, with logs and ledger.
    ///
    /// # Errors
    /// When something does not end.
    pub fn down(&mut self) -> Result<(), Failure> {
        for part in self.parts().iter().rev() {
            self.stop(part)?;
        }
        if let Err(error) = std::fs::remove_dir_all(self.files.runtime())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).during("removing the session keys");
        }
        std::fs::rename(self.files.lab(), self.files.lab().with_extension("down.json")).during("closing lab.json")
    }

    fn known(&self, part: &str) -> Result<(), Failure> {
        if self.parts().iter().any(|known| known == part) { Ok(()) } else { Err(Failure::NoPart(part.to_owned())) }
    }

    fn agent(&self, part: &str) -> Result<&AgentPart, Failure> {
        let host = part.strip_prefix("agent:").unwrap_or(part);
        self.lab.agents.get(host).ok_or_else(|| Failure::NoPart(part.to_owned()))
    }

    /// Writes `lab.json` with the processes as they are.
    pub(crate) fn save(&mut self) -> Result<(), Failure> {
        self.lab.master.pid = self.pid("master");
        let pids: Vec<_> = self.lab.agents.keys().map(|host| self.pid(&format!("agent:{host}"))).collect();
        for (agent, pid) in self.lab.agents.values_mut().zip(pids) {
            agent.pid = pid;
        }
        let text = serde_json::to_string_pretty(&self.lab).map_err(std::io::Error::from).during("writing lab.json")?;
        crate::files::write_private(&self.files.lab(), &text)
    }
}

/// Whether the agent's own status says that this process is connected.
fn connected(state: &Path, pid: Option<u32>) -> bool {
    #[derive(Deserialize)]
    struct Status {
        pid: Option<u32>,
        connected: bool,
    }
    let status = std::fs::read(state.join("status.json")).ok();
    let status = status.and_then(|bytes| serde_json::from_slice::<Status>(&bytes).ok());
    status.is_some_and(|status| status.connected && (status.pid.is_none() || status.pid == pid))
}
