//! Brings a site up: CA, directory, master, technicians, agents, bundle, library, and then the processes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use reeve_wire::keyfile;

use crate::cast::{self, FilePerson};
use crate::failure::{During as _, Failure};
use crate::files::{Files, copy_folder, private_folder, write_mode, write_private};
use crate::openldap::{Cast, OpenLdap};
use crate::programs::Programs;
use crate::site::{AgentPart, DirectoryPart, Lab, MasterPart, Site, TechnicianPart};

const SITE: &str = "lab";
const MASTER: &str = "m1";
const BINARIES: [&str; 6] = ["reeve", "reeve-master", "reeve-agent", "reeve-pki", "reeve-audit", "reeve-lab"];

/// Which directory the site gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum DirectoryKind {
    /// One TOML file: needs nothing.
    File,
    /// A real slapd of the distribution.
    Openldap,
}

/// What to bring up.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Load agents, beside the three of the cast.
    pub agents: u32,
    /// The directory.
    pub directory: DirectoryKind,
}

impl Site {
    /// Brings a site up below `dir` and returns when it is ready.
    ///
    /// # Errors
    /// When there is one already, whole or half-dead, or a part does not come up; what did come up is ended then.
    pub fn up(dir: &Path, plan: Plan) -> Result<Self, Failure> {
        refuse_taken(dir)?;
        let dir = std::path::absolute(dir).during("naming the folder")?;
        private_folder(&dir)?;
        let building = Building { files: Files { dir }, programs: Programs::beside_us()?, plan };
        let mut site = building.build()?;
        let launched = site.bring_up();
        if launched.is_err() {
            drop(site.down());
        }
        launched.map(|()| site)
    }

    fn bring_up(&mut self) -> Result<(), Failure> {
        self.start("master")?;
        let agents: Vec<_> = self.parts().into_iter().filter(|part| part.starts_with("agent:")).collect();
        for agent in &agents {
            self.launch(agent)?;
        }
        for agent in &agents {
            self.wait_ready(agent)?;
        }
        self.save()
    }
}

fn refuse_taken(dir: &Path) -> Result<(), Failure> {
    if let Ok(site) = Site::open(dir) {
        let up: Vec<_> = site.parts().into_iter().filter(|part| site.is_up(part)).collect();
        let down: Vec<_> = site.parts().into_iter().filter(|part| !site.is_up(part)).collect();
        let state = if down.is_empty() {
            "all of it is up".to_owned()
        } else {
            format!(
                "down: {}; up: {}",
                down.join(", "),
                if up.is_empty() { "nothing".to_owned() } else { up.join(", ") }
            )
        };
        return Err(Failure::Taken { dir: dir.to_owned(), state });
    }
    match std::fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                Err(Failure::NotEmpty(dir.to_owned()))
            } else {
                Ok(())
            }
        }
        Err(_) => Ok(()),
    }
}

struct Building {
    files: Files,
    programs: Programs,
    plan: Plan,
}

impl Building {
    fn build(&self) -> Result<Site, Failure> {
        for folder in ["run", "logs", "trust", "directory"] {
            private_folder(&self.files.dir.join(folder))?;
        }
        let root = self.ca()?;
        let passwords: BTreeMap<_, _> =
            cast::TECHNICIANS.iter().map(|person| (person.name.to_owned(), random_word())).collect();
        let (directory, ids) = self.directory(&passwords)?;
        let master = self.master(&root, &directory)?;
        let technicians = self.technicians(&root, &master.address, &passwords, &ids)?;
        let hosts = cast::HOSTS.iter().map(ToString::to_string).chain(cast::load_hosts(self.plan.agents));
        let agents = hosts.map(|host| Ok((host.clone(), self.agent(&root, &master.address, &host)?)));
        let agents = agents.collect::<Result<BTreeMap<_, _>, Failure>>()?;
        self.library()?;
        self.pki(&["trust", "-o", text(&self.files.trust())])?;

        let binaries = BINARIES.iter().map(|name| ((*name).to_owned(), self.programs.path(name))).collect();
        let lab = Lab {
            site: SITE.to_owned(),
            root,
            trust: self.files.trust(),
            master,
            directory,
            ca: self.files.ca(),
            technicians,
            agents,
            binaries,
        };
        let mut site = Site::of(self.files.clone(), self.programs.clone(), lab);
        site.save()?;
        Ok(site)
    }

    fn pki(&self, arguments: &[&str]) -> Result<String, Failure> {
        let ca = self.files.ca();
        self.programs.run("reeve-pki", arguments.iter().copied().chain(["--ca", text(&ca)]))
    }

    /// The CA, whose passphrase the lab's own configuration gives; the root's fingerprint.
    fn ca(&self) -> Result<String, Failure> {
        let passphrase = self.files.dir.join("ca-passphrase");
        write_private(&passphrase, &format!("{}\n", random_word()))?;
        self.pki(&["init", "--site", SITE, "--passphrase-file", text(&passphrase)])?;
        let config = format!("passphrase-command = [\"cat\", {:?}]\n", passphrase);
        write_private(&self.files.ca().join("ca.toml"), &config)?;
        let root = std::fs::read_to_string(self.files.ca().join("root.pub")).during("reading the root's public key")?;
        let root: reeve_wire::keyfile::KeyLine =
            root.trim().parse().map_err(std::io::Error::other).during("reading the root's public key")?;
        Ok(root.fingerprint())
    }

    fn directory(
        &self,
        passwords: &BTreeMap<String, String>,
    ) -> Result<(DirectoryPart, BTreeMap<String, String>), Failure> {
        match self.plan.directory {
            DirectoryKind::File => self.directory_file(passwords),
            DirectoryKind::Openldap => self.openldap(passwords),
        }
    }

    fn directory_file(
        &self,
        passwords: &BTreeMap<String, String>,
    ) -> Result<(DirectoryPart, BTreeMap<String, String>), Failure> {
        let mut people = Vec::new();
        for (name, password) in passwords {
            let hash = reeve_master::directory::hash_password(password).map_err(std::io::Error::other);
            let id = format!("person-{}", hex::encode(rand::random::<[u8; 8]>()));
            people.push(FilePerson { name: name.clone(), id, hash: hash.during("hashing a password")? });
        }
        let path = self.files.directory().join("people.toml");
        write_private(&path, &cast::directory_file(&people, self.plan.agents))?;
        let ids = people.into_iter().map(|person| (person.name, person.id)).collect();
        let url = path.display().to_string();
        Ok((DirectoryPart { kind: "file".to_owned(), url, ca: None, bind_dn: None, password_file: None }, ids))
    }

    fn openldap(
        &self,
        passwords: &BTreeMap<String, String>,
    ) -> Result<(DirectoryPart, BTreeMap<String, String>), Failure> {
        let cast = Cast { passwords: passwords.clone(), load_hosts: self.plan.agents };
        let server = OpenLdap::start(&self.files.directory(), &cast)?;
        let mut ids = BTreeMap::new();
        for name in passwords.keys() {
            let found = server.search_attribute(&crate::openldap::person_dn(name), "entryUUID")?;
            ids.insert(name.clone(), found);
        }
        let part = DirectoryPart {
            kind: "openldap".to_owned(),
            url: server.url(),
            ca: Some(server.ca()),
            bind_dn: Some(crate::openldap::BIND_DN.to_owned()),
            password_file: Some(server.password_file()),
        };
        Ok((part, ids))
    }

    fn master(&self, root: &str, directory: &DirectoryPart) -> Result<MasterPart, Failure> {
        let file = |name: &str| self.files.master(name);
        let address = format!("127.0.0.1:{}", free_port()?);
        let config = file("master.toml");
        let directory = match (&directory.ca, &directory.bind_dn, &directory.password_file) {
            (Some(ca), Some(bind_dn), Some(password)) => format!(
                "kind = \"ldap\"\nurl = {:?}\nca = {ca:?}\nbase = {:?}\nbind-dn = {bind_dn:?}\npassword-file = {password:?}\n",
                directory.url,
                crate::openldap::BASE
            ),
            _ => format!("kind = \"file\"\npath = {:?}\n", directory.url),
        };
        let lines = [
            format!("site = {SITE:?}\nname = {MASTER:?}\nroot = {root:?}\nlisten = {address:?}"),
            format!("trust = {:?}\nkey = {:?}", self.files.trust(), file("host.key")),
            format!("certificate = {:?}\nlog-key = {:?}", file("host.key-cert.pub"), file("log.key")),
            format!("audit-db = {:?}\nstate = {:?}", file("audit.db"), file("state")),
            format!("library = {:?}\n\n[directory]\n{directory}", self.files.library()),
        ];
        write_private(&config, &lines.join("\n"))?;
        self.programs.run("reeve-master", ["--config", text(&config), "keys"])?;
        let vkey = self.programs.run("reeve-master", ["--config", text(&config), "keys", "--vkey"])?.trim().to_owned();
        let (public, certificate) = (file("host.key.pub"), file("host.key-cert.pub"));
        self.pki(&[
            "issue",
            "master",
            MASTER,
            "--public-key",
            text(&public),
            "--log",
            &vkey,
            "-o",
            text(&certificate),
        ])?;
        Ok(MasterPart { address, pid: None, config, audit_db: file("audit.db"), vkey })
    }

    fn technicians(
        &self,
        root: &str,
        master: &str,
        passwords: &BTreeMap<String, String>,
        ids: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, TechnicianPart>, Failure> {
        let mut parts = BTreeMap::new();
        for person in cast::TECHNICIANS {
            let folder = self.files.technician(person.name);
            let (key, certificate) = (folder.join("id_ed25519"), folder.join("id_ed25519-cert.pub"));
            let public = make_key(&key, &format!("tech:{}", person.name))?;
            let level = person.max_level.to_string();
            let id = ids.get(person.name).map(String::as_str).unwrap_or_default();
            let bounds = ["--max-level", &level, "--customers", person.customers, "--directory-id", id];
            let issue = ["issue", "technician", person.name, "--public-key", text(&public), "-o", text(&certificate)];
            self.pki(&[issue.as_slice(), &bounds].concat())?;

            let password_file = folder.join("password");
            write_private(&password_file, passwords.get(person.name).map(String::as_str).unwrap_or_default())?;
            let config = folder.join("reeve.toml");
            let lines = [
                format!("site = {SITE:?}\nroot = {root:?}\ntrust = {:?}", folder.join("trust-bundle")),
                format!("masters = [{master:?}]\nname = {:?}", person.name),
                format!("key = {key:?}\ncertificate = {certificate:?}"),
                format!("password-command = [\"cat\", {password_file:?}]"),
                format!("runtime-dir = {:?}\n", self.files.runtime().join(person.name)),
            ];
            write_private(&config, &lines.join("\n"))?;
            private_folder(&self.files.runtime().join(person.name))?;
            parts.insert(person.name.to_owned(), TechnicianPart { config, key, certificate, password_file });
        }
        Ok(parts)
    }

    fn agent(&self, root: &str, master: &str, host: &str) -> Result<AgentPart, Failure> {
        let folder = self.files.agent(host);
        let (key, certificate, state) =
            (folder.join("host.key"), folder.join("host.key-cert.pub"), folder.join("state"));
        let config = folder.join("agent.toml");
        let manager = folder.join("service-manager");
        write_mode(&manager, SERVICE_MANAGER, 0o700)?;
        let lines = [
            format!("site = {SITE:?}\nhost = {host:?}\nroot = {root:?}\ntrust = {:?}", folder.join("trust-bundle")),
            format!("masters = [{master:?}]\nkey = {key:?}\ncertificate = {certificate:?}"),
            format!("state = {state:?}\nservice-manager = {manager:?}\n"),
        ];
        write_private(&config, &lines.join("\n"))?;
        self.programs.run("reeve-agent", ["--config", text(&config), "keys"])?;
        let public = folder.join("host.key.pub");
        self.pki(&["issue", "agent", host, "--public-key", text(&public), "-o", text(&certificate)])?;
        Ok(AgentPart { pid: None, config, state, policy: None, key })
    }

    /// The library that Reeve ships, signed for this site.
    fn library(&self) -> Result<(), Failure> {
        let library = self.files.library();
        copy_folder(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../library")), &library)?;
        let key = self.files.dir.join("library-signer");
        let public = make_key(&key, "library signer")?;
        self.pki(&["signer", "library", "--public-key", text(&public)])?;
        self.pki(&["sign-library", text(&library), "--key", text(&key)])?;
        Ok(())
    }
}

/// Where there is no systemd: says what it would do, and keeps a line of it.
const SERVICE_MANAGER: &str = "#!/bin/sh\n\
    # Stands in for a service manager, which a lab has none of.\n\
    printf '%s\\n' \"$*\" >>\"$(dirname \"$0\")/service-manager.log\"\n\
    printf 'restarted %s (stand-in)\\n' \"$3\"\n";

/// Makes a key file and the public one beside it, whose path it gives.
fn make_key(path: &Path, comment: &str) -> Result<PathBuf, Failure> {
    if let Some(folder) = path.parent() {
        private_folder(folder)?;
    }
    keyfile::make_key(path, comment).during("making a key")?;
    Ok(keyfile::public_path(path))
}

fn random_word() -> String {
    hex::encode(rand::random::<[u8; 12]>())
}

fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).during("looking for a free port")?;
    Ok(listener.local_addr().during("looking for a free port")?.port())
}

/// A path that the lab made itself, so that it is UTF-8 when the folder's name is.
fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
