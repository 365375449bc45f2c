//! A site in memory: its keys, its certificates, its library, and operations as an honest master hands them over.

use std::collections::HashSet;
use std::time::Duration;

use reeve_agent::handed::Handed;
use reeve_agent::verify::{Grounds, Permitted, judge};
use reeve_wire::bundle::{Authorities, Bundle, Log, Trust};
use reeve_wire::certificate::{CUSTOMERS, DIRECTORY_ID, MAX_LEVEL};
use reeve_wire::code::Refusal;
use reeve_wire::delegation::Delegation;
use reeve_wire::grant::{Factor, Grant, VALID_FOR};
use reeve_wire::id::{Digest, OperationId, Salt};
use reeve_wire::keyfile::KeyLine;
use reeve_wire::level::Level;
use reeve_wire::library::{Index, Input, Package, Parameter, ParameterKind, SignedIndex};
use reeve_wire::message::{Part, PartKind};
use reeve_wire::name::{HostName, Name};
use reeve_wire::note::LogSigner;
use reeve_wire::request::{Header, ItemRef, Kind, Targets, Text};
use reeve_wire::signed::Signed;
use reeve_wire::strict::{Unused, V1};
use reeve_wire::time::Millis;
use ssh_key::certificate::{Builder, CertType, Certificate};
use ssh_key::private::{Ed25519Keypair, PrivateKey};

pub(crate) const HOST: &str = "contoso/web01";
pub(crate) const MANAGER: &str = "/usr/bin/systemctl";

/// The key with the number `seed`: each has a part of its own in the tests.
pub(crate) fn key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

pub(crate) fn line(key: &PrivateKey) -> KeyLine {
    KeyLine::new(key.public_key().key_data().clone()).unwrap()
}

/// All keys of a site and what they signed at `now`.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) now: Millis,
    pub(crate) root: PrivateKey,
    pub(crate) technicians_ca: PrivateKey,
    pub(crate) agents_ca: PrivateKey,
    pub(crate) masters_ca: PrivateKey,
    pub(crate) master: PrivateKey,
    pub(crate) host: PrivateKey,
    pub(crate) technician: PrivateKey,
    pub(crate) session: PrivateKey,
    pub(crate) signer: PrivateKey,
    pub(crate) log: LogSigner,
    pub(crate) bundle: Bundle,
    pub(crate) trust: Trust,
}

impl Site {
    pub(crate) fn at(now: Millis) -> Self {
        let log = LogSigner::from_seed("lab.reeve/noc1", &[99; 32]).unwrap();
        let bundle = Bundle {
            v: V1,
            site: "lab".parse().unwrap(),
            number: 7,
            issued: now.minus(Duration::from_secs(3600)),
            refresh_by: now.plus(Duration::from_secs(30 * 24 * 3600)),
            ca: Authorities {
                technicians: vec![line(&key(2))],
                agents: vec![line(&key(3))],
                masters: vec![line(&key(4))],
            },
            masters: vec!["noc1".parse().unwrap()],
            logs: vec![Log { vkey: log.vkey().to_string(), succeeds: Unused }],
            library_signers: vec![line(&key(9))],
            release_keys: Unused,
            krl: Unused,
        };
        let root = key(1);
        let trust = trust(&bundle, &root);
        Self {
            now,
            root,
            technicians_ca: key(2),
            agents_ca: key(3),
            masters_ca: key(4),
            master: key(5),
            host: key(6),
            technician: key(7),
            session: key(8),
            signer: key(9),
            log,
            bundle,
            trust,
        }
    }

    /// The site's bundle, changed and signed again.
    pub(crate) fn rebundled(&self, change: impl FnOnce(&mut Bundle)) -> Trust {
        let mut bundle = self.bundle.clone();
        change(&mut bundle);
        trust(&bundle, &self.root)
    }

    fn certificate(&self, subject: &PrivateKey, kind: CertType, principal: &str) -> Builder {
        let (from, until) = (self.now.seconds() - 3600, self.now.seconds() + 24 * 3600);
        let mut builder = Builder::new([7; 16], subject.public_key(), from, until).unwrap();
        builder.cert_type(kind).unwrap();
        builder.key_id(principal).unwrap();
        builder.valid_principal(principal).unwrap();
        builder
    }

    pub(crate) fn master_certificate(&self) -> Certificate {
        self.certificate(&self.master, CertType::Host, "master:noc1").sign(&self.masters_ca).unwrap()
    }

    pub(crate) fn host_certificate(&self) -> Certificate {
        let principal = format!("host:{HOST}");
        self.certificate(&self.host, CertType::User, &principal).sign(&self.agents_ca).unwrap()
    }

    /// A certificate with this ceiling.
    pub(crate) fn technician_certificate(&self, level: &str, customers: &str) -> Certificate {
        let mut builder = self.certificate(&self.technician, CertType::User, "tech:alice");
        builder.extension(DIRECTORY_ID, "S-1-5-21-7").unwrap();
        builder.extension(MAX_LEVEL, level).unwrap();
        builder.extension(CUSTOMERS, customers).unwrap();
        builder.sign(&self.technicians_ca).unwrap()
    }

    /// The library of the tests, in this version.
    pub(crate) fn index(&self, version: u64) -> SignedIndex {
        let items = packages().iter().map(item_ref).collect();
        let index = Index { v: V1, site: "lab".parse().unwrap(), version, issued: self.now, items };
        SignedIndex::open(Signed::make(&index, &self.signer).unwrap(), &self.trust).unwrap()
    }

    /// A raw command by alice's session on [`HOST`] and one more.
    pub(crate) fn raw(&self, argv: &[&str]) -> Draft<'_> {
        self.draft(Kind::Raw, Level::Three, |header| {
            header.argv = Some(argv.iter().copied().map(Text::from).collect());
        })
    }

    /// A library item by alice's session.
    pub(crate) fn item(&self, name: &str, args: &[(&str, &str)]) -> Draft<'_> {
        let package = packages().into_iter().find(|package| package.name.as_str() == name).unwrap();
        let item = item_ref(&package);
        let level = package.level;
        let mut draft = self.draft(Kind::Item, level, |header| {
            header.item = Some(item);
            header.args = args.iter().map(|(name, value)| ((*name).to_owned(), Text::from(*value))).collect();
        });
        draft.package = Some(serde_json::to_vec(&package).unwrap());
        draft
    }

    fn draft(&self, kind: Kind, level: Level, fill: impl FnOnce(&mut Header)) -> Draft<'_> {
        let targets = Targets::of(["contoso/db01", HOST].map(|host| host.parse().unwrap())).unwrap();
        let mut header = Header {
            v: V1,
            site: "lab".parse().unwrap(),
            operation: OperationId::random(),
            technician_cert: Digest([0; 32]),
            delegation: None,
            kind,
            item: None,
            argv: None,
            args: Vec::new(),
            stdin: None,
            level,
            case: None,
            reason: None,
            timeout_ms: 30_000,
            not_before: self.now,
            not_after: self.now.plus(Duration::from_secs(120)),
            checkpoint: Unused,
            ephemeral: Unused,
            targets_root: targets.root(),
        };
        fill(&mut header);
        let session = Delegation {
            v: V1,
            site: "lab".parse().unwrap(),
            technician_cert: Digest([0; 32]),
            session_key: line(&self.session),
            max_level: Level::Three,
            not_before: self.now.minus(Duration::from_secs(60)),
            not_after: self.now.plus(Duration::from_secs(4 * 3600)),
            nonce: Salt([1; 16]),
        };
        let grant = Grant {
            v: V1,
            site: "lab".parse().unwrap(),
            operation: header.operation,
            host: HOST.parse().unwrap(),
            request: Digest([0; 32]),
            leaf: Digest([3; 32]),
            log: "lab.reeve/noc1".into(),
            at: self.now,
            directory_age_ms: 12,
            factors: vec![Factor::Key, Factor::Password],
            not_after: self.now.plus(VALID_FOR),
        };
        Draft {
            site: self,
            header,
            certificate: self.technician_certificate("3", "contoso"),
            delegation: Some(session),
            targets,
            package: None,
            stdin: None,
            grant,
            signed_by: self.session.clone(),
            granted_by: self.master.clone(),
        }
    }
}

pub(crate) fn trust(bundle: &Bundle, root: &PrivateKey) -> Trust {
    Trust::open(Signed::make(bundle, root).unwrap(), &line(root).fingerprint()).unwrap()
}

/// An operation before it is signed.
#[derive(Clone)]
pub(crate) struct Draft<'a> {
    site: &'a Site,
    pub(crate) header: Header,
    pub(crate) certificate: Certificate,
    pub(crate) delegation: Option<Delegation>,
    pub(crate) targets: Targets,
    pub(crate) package: Option<Vec<u8>>,
    pub(crate) stdin: Option<Vec<u8>>,
    pub(crate) grant: Grant,
    pub(crate) signed_by: PrivateKey,
    pub(crate) granted_by: PrivateKey,
}

impl Draft<'_> {
    /// Input whose digest is signed.
    pub(crate) fn with_stdin(mut self, bytes: &[u8]) -> Self {
        self.header.stdin = Some(Digest::of(bytes));
        self.stdin = Some(bytes.to_vec());
        self
    }

    pub(crate) fn operation(&self) -> OperationId {
        self.header.operation
    }

    /// Signs everything and hands it over for [`HOST`].
    pub(crate) fn handed(&self) -> Handed {
        let mut header = self.header.clone();
        let certificate = Digest::of(&self.certificate.to_bytes().unwrap());
        header.technician_cert = certificate;
        let delegation = self.delegation.clone().map(|mut delegation| {
            delegation.technician_cert = certificate;
            Signed::make(&delegation, &self.site.technician).unwrap()
        });
        header.delegation = delegation.as_ref().map(Signed::digest);
        let request = Signed::make(&header, &self.signed_by).unwrap();
        let mut grant = self.grant.clone();
        if grant.request == Digest([0; 32]) {
            grant.request = request.digest();
        }
        let index = self.targets.hosts().iter().position(|host| host.to_string() == HOST).unwrap_or(0);
        let (target, path) = self.targets.proof(index).unwrap();
        Handed {
            request: Some(request.to_wire()),
            delegation: delegation.map(|signed| signed.to_wire()),
            certificate: Some(self.certificate.to_bytes().unwrap()),
            target: Some(target.to_vec()),
            path: Some(serde_json::to_vec(&path).unwrap()),
            package: self.package.clone(),
            grant: Some(Signed::make(&grant, &self.granted_by).unwrap().to_wire()),
            master: Some(self.site.master_certificate().to_bytes().unwrap()),
            stdin: self.stdin.clone().map(Into::into),
        }
    }
}

/// The parts in the order in which a master sends them.
pub(crate) fn parts(handed: &Handed) -> Vec<Part> {
    let all = [
        (PartKind::Request, &handed.request),
        (PartKind::Delegation, &handed.delegation),
        (PartKind::Certificate, &handed.certificate),
        (PartKind::Target, &handed.target),
        (PartKind::Path, &handed.path),
        (PartKind::Package, &handed.package),
        (PartKind::Grant, &handed.grant),
        (PartKind::MasterCertificate, &handed.master),
    ];
    let mut said: Vec<_> = all.into_iter().filter_map(|(kind, bytes)| Some(Part::new(kind, bytes.clone()?))).collect();
    said.extend(handed.stdin.clone().map(|bytes| Part::new(PartKind::Stdin, bytes.to_vec())));
    said.push(Part::new(PartKind::Go, []));
    said
}

/// An agent's knowledge, to be judged with.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) site: Name,
    pub(crate) host: HostName,
    pub(crate) ready: Result<(), Refusal>,
    pub(crate) trust: Trust,
    pub(crate) index: Option<SignedIndex>,
    pub(crate) used: HashSet<OperationId>,
    pub(crate) now: Millis,
    pub(crate) local: Millis,
    pub(crate) master: Option<Millis>,
    pub(crate) no_grant_before: Option<Millis>,
}

impl Bench {
    pub(crate) fn of(site: &Site) -> Self {
        Self {
            site: "lab".parse().unwrap(),
            host: HOST.parse().unwrap(),
            ready: Ok(()),
            trust: site.trust.clone(),
            index: Some(site.index(4)),
            used: HashSet::new(),
            now: site.now,
            local: site.now,
            master: Some(site.now),
            no_grant_before: None,
        }
    }

    pub(crate) fn judge(&self, handed: Handed) -> Result<Permitted, Refusal> {
        judge(
            handed,
            &Grounds {
                site: &self.site,
                host: &self.host,
                ready: self.ready.as_ref().copied(),
                trust: &self.trust,
                index: self.index.as_ref(),
                used: &|operation| self.used.contains(&operation),
                now: self.now,
                local: self.local,
                master: self.master,
                no_grant_before: self.no_grant_before,
                service_manager: MANAGER,
            },
        )
    }
}

fn item_ref(package: &Package) -> ItemRef {
    let digest = Digest::of(&serde_json::to_vec(package).unwrap());
    ItemRef { name: package.name.clone(), version: package.version, digest }
}

/// The items of the tests: `(name, level, argv, parameters, stdin, script)`.
pub(crate) fn packages() -> Vec<Package> {
    let package = |name: &str, level, argv: &[&str]| Package {
        v: V1,
        name: name.parse().unwrap(),
        version: 3,
        summary: "for tests".into(),
        level,
        platforms: vec!["linux".into()],
        timeout_ms: 10_000,
        parameters: Vec::new(),
        argv: argv.iter().map(|element| (*element).to_owned()).collect(),
        stdin: Input::None,
        script: None,
    };
    let text =
        |name: &str, kind| Parameter { name: name.into(), summary: "x".into(), required: true, default: None, kind };
    let mut restart = package("restart", Level::Two, &["@service-manager@", "restart", "--", "{NAME}"]);
    restart.parameters = vec![text("NAME", ParameterKind::ServiceName)];
    let mut say = package("say", Level::One, &["/bin/echo", "{WORDS}"]);
    say.parameters = vec![text("WORDS", ParameterKind::Text { max: 40 })];
    let mut script = package("script", Level::Three, &["/bin/sh", "{script}"]);
    script.stdin = Input::Signed;
    let mut read = package("read", Level::Two, &["/bin/cat"]);
    read.stdin = Input::Signed;
    let mut own = package("own", Level::One, &["/bin/sh", "{script}"]);
    own.script = Some("echo own script; cat".into());
    let mut elsewhere = package("elsewhere", Level::One, &["/bin/true"]);
    elsewhere.platforms = vec!["windows".into()];
    let mut confused = package("confused", Level::One, &["/bin/sh", "{script}"]);
    confused.script = Some("true".into());
    confused.stdin = Input::Signed;
    vec![package("look", Level::One, &["/bin/true"]), restart, say, script, read, own, elsewhere, confused]
}
