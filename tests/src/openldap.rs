//! A real OpenLDAP server for one site: the distribution's `slapd`, on loopback, with the cast of the lab in it.
//!
//! Everything it has lives below one directory: configuration, database, CA and certificate, port, process id and log.
//! The port stays the same from start to start. Nothing here ends the server by itself, because a site outlives the
//! program that brought it up; a test asks for [`OpenLdap::stop_on_drop`].

mod cast;
pub(crate) mod process;
mod tls;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

pub use self::cast::{Cast, PEOPLE, group_dn, person_dn, rung_dn};
use self::process::Process;
pub use self::tls::make_authority;

/// The base of the lab's tree.
pub const BASE: &str = "dc=noc,dc=example";

/// The account that the master reads with.
pub const BIND_DN: &str = "cn=reeve,ou=services,dc=noc,dc=example";

/// The account that the lab writes with; it is only used through the server's own socket.
const ADMIN_DN: &str = "cn=admin,dc=noc,dc=example";

/// How long the server may take to answer after it was started, and to end after it was told to.
const READY: Duration = Duration::from_secs(20);
const ENDED: Duration = Duration::from_secs(10);

/// How often it is looked whether that is so.
const LOOK: Duration = Duration::from_millis(20);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum OpenLdapError {
    /// A program is not installed.
    #[error("{program} is not installed: apt-get install {package}")]
    Missing {
        /// The program that was looked for in PATH and the sbin directories.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A part of slapd is not where distributions put it.
    #[error("slapd's {what} are in none of the usual places: apt-get install slapd")]
    NoParts {
        /// Which part.
        what: &'static str,
    },
    /// The cast cannot be written down.
    #[error("the cast cannot be loaded: {0}")]
    Cast(String),
    /// A program ended badly.
    #[error("{program} ended with {status}: {says}")]
    Program {
        /// Which one.
        program: String,
        /// How.
        status: String,
        /// The end of what it said.
        says: String,
    },
    /// The server did not come up or go down in time.
    #[error("slapd is not {wanted} after {after:?}; its log ends with: {log}")]
    Late {
        /// What it should be.
        wanted: &'static str,
        /// How long was waited.
        after: Duration,
        /// The end of its log.
        log: String,
    },
    /// A file or a process.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Adds to a system's error what was being done.
pub(crate) trait While<T> {
    /// # Errors
    ///
    /// The same, with `what`.
    fn during(self, what: impl Into<String>) -> Result<T, OpenLdapError>;
}

impl<T, E: Into<io::Error>> While<T> for Result<T, E> {
    fn during(self, what: impl Into<String>) -> Result<T, OpenLdapError> {
        self.map_err(|e| OpenLdapError::Io { what: what.into(), source: e.into() })
    }
}

/// A server below one directory, running or not.
#[derive(Debug)]
pub struct OpenLdap {
    dir: PathBuf,
    port: u16,
    bind_password: String,
}

impl OpenLdap {
    /// Makes a server below `dir`, loads `cast` into it, starts it and waits until it answers. What was below `dir`
    /// is replaced.
    ///
    /// # Errors
    ///
    /// [`OpenLdapError`]; a program that is missing is named with its package.
    pub fn start(dir: &Path, cast: &Cast) -> Result<Self, OpenLdapError> {
        for needed in ["slapd", "slapadd", "ldapmodify", "ldapsearch", "openssl"] {
            program(needed)?;
        }
        if let Ok(earlier) = Self::open(dir) {
            earlier.wipe()?;
        }
        let parts = Parts::find()?;
        for each in [dir.to_owned(), dir.join("db"), dir.join("tls")] {
            fs::create_dir_all(&each).during(format!("creating {}", each.display()))?;
            fs::set_permissions(&each, PermissionsExt::from_mode(0o700)).during("setting a mode")?;
        }
        let (bind_password, admin_password) = (random_password(), random_password());
        let port = free_port()?;
        tls::make(&dir.join("tls"))?;
        write_secret(&dir.join("bind.password"), &bind_password)?;
        write_secret(&dir.join("admin.password"), &admin_password)?;
        write_secret(&dir.join("slapd.conf"), &configuration(dir, &parts, &admin_password))?;
        write_secret(&dir.join("port"), &port.to_string())?;
        let site = Self { dir: dir.to_owned(), port, bind_password };
        site.load(cast)?;
        site.start_again()?;

        Ok(site)
    }

    /// The server that [`start`](Self::start) made below `dir`, running or not.
    ///
    /// # Errors
    ///
    /// [`OpenLdapError::Io`] when there is none.
    pub fn open(dir: &Path) -> Result<Self, OpenLdapError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).during(format!("reading {}", path.display()))
        };
        let port = read("port")?.trim().parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
        Ok(Self { dir: dir.to_owned(), port: port.during("reading the port")?, bind_password: read("bind.password")? })
    }

    /// Starts the server as it was, and waits until it answers. Does nothing when it runs.
    ///
    /// # Errors
    ///
    /// [`OpenLdapError`], with the end of the server's log when it did not come up.
    pub fn start_again(&self) -> Result<(), OpenLdapError> {
        if self.pid().is_some() {
            return Ok(());
        }
        let path = self.dir.join("slapd.log");
        let log = File::options().create(true).append(true).mode(0o600).open(&path).during("opening slapd's log")?;
        let errors = log.try_clone().during("opening slapd's log")?;
        // `-d stats` keeps it in the foreground of nobody, and logs every connection and search.
        let child = Command::new(program("slapd")?)
            .args(["-d", "stats", "-f"])
            .arg(self.dir.join("slapd.conf"))
            .arg("-h")
            .arg(format!("ldaps://127.0.0.1:{} {}", self.port, self.socket()))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .during("starting slapd")?;
        Process::of(&child)?.write(&self.pid_file())?;
        self.wait("answering", READY, || {
            let alive = self.pid().is_some();
            if alive { self.search("", "base", "(objectClass=*)").map(|_| true) } else { Ok(true) }
        })?;
        if self.pid().is_none() {
            return Err(OpenLdapError::Late { wanted: "running", after: Duration::ZERO, log: self.end_of_log() });
        }
        Ok(())
    }

    /// Tells the server to end, and waits until it has.
    ///
    /// # Errors
    ///
    /// [`OpenLdapError::Late`] when it does not.
    pub fn stop(&self) -> Result<(), OpenLdapError> {
        self.end(Signal::TERM)
    }

    /// Ends the server without a word (SIGKILL).
    ///
    /// # Errors
    ///
    /// [`OpenLdapError::Late`] when it does not end.
    pub fn kill(&self) -> Result<(), OpenLdapError> {
        self.end(Signal::KILL)
    }

    /// Freezes the server: its connections stay open and nothing answers, until [`thaw`](Self::thaw).
    ///
    /// # Errors
    ///
    /// [`OpenLdapError::Io`] when it is not running, [`OpenLdapError::Late`] when it does not stop.
    pub fn freeze(&self) -> Result<(), OpenLdapError> {
        let process = self.running()?;
        process.signal(Signal::STOP)?;
        self.wait("frozen", ENDED, || Ok(process.is_frozen()))
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    ///
    /// [`OpenLdapError::Io`] when it is not running.
    pub fn thaw(&self) -> Result<(), OpenLdapError> {
        self.running()?.signal(Signal::CONT)
    }

    /// Ends the server and removes all it had.
    ///
    /// # Errors
    ///
    /// [`OpenLdapError`] when it does not end or its files stay.
    pub fn wipe(&self) -> Result<(), OpenLdapError> {
        self.kill()?;
        fs::remove_dir_all(&self.dir).during(format!("removing {}", self.dir.display()))
    }

    /// The server's process, when it runs.
    pub fn pid(&self) -> Option<u32> {
        Process::read(&self.pid_file()).filter(Process::is_alive).map(|process| process.pid())
    }

    /// Changes the tree as the administrator, by the LDIF of `ldapmodify`.
    ///
    /// # Errors
    ///
    /// [`OpenLdapError::Program`] with what `ldapmodify` said.
    pub fn modify(&self, ldif: &str) -> Result<(), OpenLdapError> {
        // Without `relax` nobody may write the time at which an account was locked.
        self.as_admin("ldapmodify", ["-e", "relax"], ldif).map(drop)
    }

    /// Puts `member` into the group `group`, both by their DN.
    ///
    /// # Errors
    ///
    /// As [`modify`](Self::modify).
    pub fn add_member(&self, group: &str, member: &str) -> Result<(), OpenLdapError> {
        self.modify(&format!("dn: {group}\nchangetype: modify\nadd: member\nmember: {member}\n"))
    }

    /// Takes `member` out of the group `group`, both by their DN.
    ///
    /// # Errors
    ///
    /// As [`modify`](Self::modify).
    pub fn remove_member(&self, group: &str, member: &str) -> Result<(), OpenLdapError> {
        self.modify(&format!("dn: {group}\nchangetype: modify\ndelete: member\nmember: {member}\n"))
    }

    /// Shuts the account of `name` for good.
    ///
    /// # Errors
    ///
    /// As [`modify`](Self::modify).
    pub fn disable(&self, name: &str) -> Result<(), OpenLdapError> {
        let dn = person_dn(name);
        self.modify(&format!(
            "dn: {dn}\nchangetype: modify\nreplace: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z\n"
        ))
    }

    /// Opens the account of `name` again.
    ///
    /// # Errors
    ///
    /// As [`modify`](Self::modify).
    pub fn enable(&self, name: &str) -> Result<(), OpenLdapError> {
        let dn = person_dn(name);
        self.modify(&format!("dn: {dn}\nchangetype: modify\ndelete: pwdAccountLockedTime\n"))
    }

    /// What the administrator finds, as LDIF.
    ///
    /// # Errors
    ///
    /// [`OpenLdapError::Program`] with what `ldapsearch` said.
    pub fn search(&self, base: &str, scope: &str, filter: &str) -> Result<String, OpenLdapError> {
        let found = self.as_admin("ldapsearch", ["-LLL", "-b", base, "-s", scope, filter], "")?;
        Ok(String::from_utf8_lossy(&found.stdout).into_owned())
    }

    /// The value of one attribute of one entry.
    ///
    /// # Errors
    ///
    /// When the entry or the attribute is not there.
    pub fn search_attribute(&self, dn: &str, attribute: &str) -> Result<String, OpenLdapError> {
        let found = self.as_admin("ldapsearch", ["-LLL", "-b", dn, "-s", "base", "(objectClass=*)", attribute], "")?;
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{attribute}: ")));
        let missing = || OpenLdapError::Cast(format!("{dn} has no {attribute}"));
        value.map(ToOwned::to_owned).ok_or_else(missing)
    }

    /// All that the server has logged since it was made: every connection, bind and search.
    pub fn log(&self) -> String {
        fs::read(self.dir.join("slapd.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The address for clients; the server's certificate is for this name.
    pub fn url(&self) -> String {
        format!("ldaps://localhost:{}", self.port)
    }

    /// The port on loopback.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The CA certificate of the server's certificate, PEM.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("tls/ca.pem")
    }

    /// The password of [`BIND_DN`].
    pub fn bind_password(&self) -> &str {
        &self.bind_password
    }

    /// A file with the password of [`BIND_DN`], readable by its owner alone.
    pub fn password_file(&self) -> PathBuf {
        self.dir.join("bind.password")
    }

    /// Ends the server when the guard is dropped.
    #[must_use]
    pub const fn stop_on_drop(&self) -> StopOnDrop<'_> {
        StopOnDrop(self)
    }

    fn load(&self, cast: &Cast) -> Result<(), OpenLdapError> {
        let seed = self.dir.join("seed.ldif");
        write_secret(&seed, &cast.ldif(&self.bind_password)?)?;
        let mut slapadd = Command::new(program("slapadd")?);
        slapadd.args(["-q", "-w", "-f"]).arg(self.dir.join("slapd.conf")).arg("-l").arg(&seed);
        run("slapadd", &mut slapadd, "")?;
        fs::remove_file(&seed).during("removing the seed")
    }

    fn end(&self, signal: Signal) -> Result<(), OpenLdapError> {
        let Some(process) = Process::read(&self.pid_file()).filter(Process::is_alive) else { return Ok(()) };
        process.signal(signal)?;
        // A frozen server hears nothing but SIGKILL.
        process.signal(Signal::CONT)?;
        self.wait("gone", ENDED, || Ok(!process.is_alive()))
    }

    fn running(&self) -> Result<Process, OpenLdapError> {
        let process = Process::read(&self.pid_file()).filter(Process::is_alive);
        process.ok_or(io::Error::from(io::ErrorKind::NotFound)).during("slapd is not running")
    }

    fn wait(
        &self,
        wanted: &'static str,
        most: Duration,
        is_so: impl Fn() -> Result<bool, OpenLdapError>,
    ) -> Result<(), OpenLdapError> {
        let began = Instant::now();
        while !is_so().unwrap_or(false) {
            if began.elapsed() > most {
                return Err(OpenLdapError::Late { wanted, after: most, log: self.end_of_log() });
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn as_admin<const N: usize>(
        &self,
        name: &'static str,
        arguments: [&str; N],
        input: &str,
    ) -> Result<Output, OpenLdapError> {
        let mut command = Command::new(program(name)?);
        command.args(["-x", "-o", "ldif-wrap=no", "-D", ADMIN_DN, "-H", &self.socket(), "-y"]);
        command.arg(self.dir.join("admin.password")).args(arguments).env("LDAPNOINIT", "1");
        run(name, &mut command, input)
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("slapd.pid")
    }

    fn socket(&self) -> String {
        let path = self.dir.join("ldapi");
        let mut url = "ldapi://".to_owned();
        for byte in path.as_os_str().as_encoded_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => url.push(char::from(*byte)),
                other => write!(url, "%{other:02X}").unwrap_or_default(),
            }
        }
        url
    }

    fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(5)).copied().collect::<Vec<_>>().join(" | ")
    }
}

/// Ends a server when it is dropped, also when a test fails.
#[derive(Debug)]
pub struct StopOnDrop<'a>(&'a OpenLdap);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        drop(self.0.kill());
    }
}

/// Where the distribution keeps slapd's modules and schemas.
struct Parts {
    modules: PathBuf,
    schemas: PathBuf,
}

impl Parts {
    fn find() -> Result<Self, OpenLdapError> {
        let first = |what, places: &[&str]| {
            let found = places.iter().map(PathBuf::from).find(|place| place.is_dir());
            found.ok_or(OpenLdapError::NoParts { what })
        };
        Ok(Self {
            modules: first(
                "modules",
                &["/usr/lib/ldap", "/usr/lib/openldap", "/usr/lib64/openldap", "/usr/libexec/openldap"],
            )?,
            schemas: first("schemas", &["/etc/ldap/schema", "/etc/openldap/schema"])?,
        })
    }
}

fn configuration(dir: &Path, parts: &Parts, admin_password: &str) -> String {
    let (dir, modules, schemas) = (dir.display(), parts.modules.display(), parts.schemas.display());
    format!(
        r#"include "{schemas}/core.schema"
include "{schemas}/cosine.schema"
include "{schemas}/inetorgperson.schema"
modulepath "{modules}"
moduleload back_mdb
moduleload syncprov
moduleload ppolicy
sizelimit unlimited
threads 4
TLSCACertificateFile "{dir}/tls/ca.pem"
TLSCertificateFile "{dir}/tls/slapd.pem"
TLSCertificateKeyFile "{dir}/tls/slapd.key"
TLSProtocolMin 3.3
# No password crosses a network in the clear.
security simple_bind=64
localSSF 71
database mdb
suffix "{BASE}"
rootdn "{ADMIN_DN}"
rootpw {admin_password}
directory "{dir}/db"
maxsize 268435456
dbnosync
index objectClass,uid,cn,member,uniqueMember,entryUUID,entryCSN eq
access to attrs=userPassword by anonymous auth by * none
access to * by users read by * none
overlay syncprov
overlay ppolicy
# Without a default policy slapd lets a locked account bind.
ppolicy_default "cn=default,ou=policies,{BASE}"
ppolicy_use_lockout
"#
    )
}

fn random_password() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// A port on loopback that nobody has at this moment.
fn free_port() -> Result<u16, OpenLdapError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).during("looking for a free port")?;
    Ok(listener.local_addr().during("looking for a free port")?.port())
}

fn write_secret(path: &Path, text: &str) -> Result<(), OpenLdapError> {
    let what = || format!("writing {}", path.display());
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path).during(what())?;
    file.write_all(text.as_bytes()).during(what())
}

/// The full path of a program, in PATH or where daemons are kept.
pub(crate) fn program(name: &'static str) -> Result<PathBuf, OpenLdapError> {
    let package = match name {
        "slapd" | "slapadd" => "slapd",
        "openssl" => "openssl",
        _ => "ldap-utils",
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/libexec"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|path| path.is_file());

    found.ok_or(OpenLdapError::Missing { program: name, package })
}

/// Runs a program to its end, with `input` as its input.
pub(crate) fn run(name: &str, command: &mut Command, input: &str) -> Result<Output, OpenLdapError> {
    let what = || format!("running {name}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().during(what())?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e).during(what()),
            _ => {}
        }
    }
    let output = child.wait_with_output().during(what())?;
    if !output.status.success() {
        let says = String::from_utf8_lossy(&output.stderr);
        let says = says.trim().chars().rev().take(500).collect::<Vec<_>>().into_iter().rev().collect();
        return Err(OpenLdapError::Program { program: name.to_owned(), status: output.status.to_string(), says });
    }
    Ok(output)
}
