use super::*;
use crate::bundle::{Authorities, Bundle};
use crate::certificate::{CUSTOMERS, DIRECTORY_ID, MAX_LEVEL};
use crate::keyfile::KeyLine;
use proptest::prelude::*;
use ssh_key::PrivateKey;
use ssh_key::certificate::Builder;

const NOW: Millis = Millis(1_800_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// alice at her console: her own key with two certificates, a session key, and the site that knows her.
struct Desk {
    trust: Trust,
    own: PrivateKey,
    session: PrivateKey,
    other: PrivateKey,
    certificate: Vec<u8>,
    second_certificate: Vec<u8>,
    others_certificate: Vec<u8>,
    targets: Targets,
}

fn line(key: &PrivateKey) -> KeyLine {
    KeyLine::new(key.public_key().key_data().clone()).unwrap()
}

fn certified(ca: &PrivateKey, key: &PrivateKey, name: &str, serial: u64) -> Vec<u8> {
    let (after, before) = (NOW.seconds() - 60, NOW.seconds() + 7 * 24 * 3600);
    let mut builder = Builder::new([7; 16], key.public_key().key_data().clone(), after, before).unwrap();
    builder.serial(serial).unwrap().valid_principal(format!("tech:{name}")).unwrap();
    for (extension, value) in [(DIRECTORY_ID, name), (MAX_LEVEL, "3"), (CUSTOMERS, "*")] {
        builder.extension(extension, value).unwrap();
    }
    builder.sign(ca).unwrap().to_bytes().unwrap()
}

impl Desk {
    fn new() -> Self {
        let [root, ca, own, session, other] = std::array::from_fn(|_| sshsig::generate("").unwrap());
        let bundle = Bundle {
            v: V1,
            site: "lab".parse().unwrap(),
            number: 1,
            issued: NOW,
            refresh_by: NOW.plus(crate::bundle::FRESH_FOR),
            ca: Authorities { technicians: vec![line(&ca)], agents: vec![], masters: vec![] },
            masters: vec![],
            logs: vec![],
            library_signers: vec![],
            release_keys: Unused,
            krl: Unused,
        };
        let signed = Signed::make(&bundle, &root).unwrap();
        Self {
            trust: Trust::open(signed, &sshsig::fingerprint(root.public_key().key_data())).unwrap(),
            certificate: certified(&ca, &own, "alice", 1),
            second_certificate: certified(&ca, &own, "alice", 2),
            others_certificate: certified(&ca, &other, "bob", 3),
            targets: Targets::of(hosts(&["contoso/web01", "contoso/db01", "fabrikam/mail01"])).unwrap(),
            own,
            session,
            other,
        }
    }

    fn delegation(&self, change: impl FnOnce(&mut Delegation)) -> Signed {
        self.delegation_by(&self.own, change)
    }

    fn delegation_by(&self, key: &PrivateKey, change: impl FnOnce(&mut Delegation)) -> Signed {
        let mut delegation = Delegation {
            v: V1,
            site: "lab".parse().unwrap(),
            technician_cert: Digest::of(&self.certificate),
            session_key: line(&self.session),
            max_level: Level::Three,
            not_before: NOW.minus(HOUR),
            not_after: NOW.plus(7 * HOUR),
            nonce: Salt([3; 16]),
        };
        change(&mut delegation);
        Signed::make(&delegation, key).unwrap()
    }

    /// A request for `uptime` on three servers, with `change` made before it is signed.
    fn header(&self, delegation: Option<&Signed>, change: impl FnOnce(&mut Header)) -> Header {
        let mut header = Header {
            v: V1,
            site: "lab".parse().unwrap(),
            operation: OperationId([1; 16]),
            technician_cert: Digest::of(&self.certificate),
            delegation: delegation.map(Signed::digest),
            kind: Kind::Raw,
            item: None,
            argv: Some(vec!["uptime".into()]),
            args: vec![],
            stdin: None,
            level: Level::Three,
            case: Some("4711".to_owned()),
            reason: None,
            timeout_ms: 60_000,
            not_before: NOW,
            not_after: NOW.plus(5 * MINUTE),
            checkpoint: Unused,
            ephemeral: Unused,
            targets_root: self.targets.root(),
        };
        change(&mut header);
        header
    }

    fn papers(&self, change: impl FnOnce(&mut Header)) -> Papers {
        self.papers_under(self.delegation(|_| ()), change)
    }

    fn papers_under(&self, delegation: Signed, change: impl FnOnce(&mut Header)) -> Papers {
        let header = Signed::make(&self.header(Some(&delegation), change), &self.session).unwrap();
        Papers { header, delegation: Some(delegation), certificate: self.certificate.clone() }
    }

    /// As alice's own key signs it.
    fn own_key(&self, key: &PrivateKey, change: impl FnOnce(&mut Header)) -> Papers {
        let header = Signed::make(&self.header(None, change), key).unwrap();
        Papers { header, delegation: None, certificate: self.certificate.clone() }
    }

    /// The header as JSON text that `change` makes into something else, signed as it is then.
    fn rewritten(&self, change: impl FnOnce(String) -> String) -> Papers {
        let delegation = self.delegation(|_| ());
        let json = serde_json::to_string(&self.header(Some(&delegation), |_| ())).unwrap();
        let changed = change(json.clone());
        assert_ne!(changed, json, "the rewriting changes nothing");
        let signature = sshsig::sign(&self.session, Namespace::Request, changed.as_bytes()).unwrap();
        let header = Signed::from_parts(changed.into_bytes(), signature);
        Papers { header, delegation: Some(delegation), certificate: self.certificate.clone() }
    }

    fn verify(&self, papers: Papers) -> Result<Authored, Refusal> {
        self.verify_at(papers, NOW)
    }

    fn verify_at(&self, papers: Papers, now: Millis) -> Result<Authored, Refusal> {
        papers.verify(&self.trust, &self.trust.site, now)
    }
}

fn hosts(names: &[&str]) -> Vec<HostName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn item() -> ItemRef {
    ItemRef { name: "uptime".parse().unwrap(), version: 1, digest: Digest::of(b"package") }
}

fn as_item(header: &mut Header, level: Level) {
    (header.kind, header.item, header.argv) = (Kind::Item, Some(item()), None);
    (header.level, header.args) = (level, vec![("NAME".to_owned(), "nginx".into())]);
}

fn argv(words: &[&str]) -> Option<Vec<Text>> {
    Some(words.iter().map(|word| (*word).into()).collect())
}

#[test]
fn a_request_by_a_session_key_proves_its_author() {
    let desk = Desk::new();
    let authored = desk.verify(desk.papers(|_| ())).unwrap();
    assert_eq!(authored.technician().name.as_str(), "alice");
    assert_eq!(authored.header().operation, OperationId([1; 16]));
    assert_eq!(authored.digest(), authored.papers().header.digest());
    assert_eq!(authored.delegation().unwrap().session_key, line(&desk.session));
    assert_eq!(authored.signing_key(), line(&desk.session).fingerprint());
}

#[test]
fn a_request_by_the_technicians_own_key_needs_no_delegation() {
    let desk = Desk::new();
    let authored = desk.verify(desk.own_key(&desk.own, |_| ())).unwrap();
    assert!(authored.delegation().is_none());
    assert_eq!(authored.signing_key(), line(&desk.own).fingerprint());
}

#[test]
fn the_bounds_themselves_are_inside() {
    let desk = Desk::new();
    let longest = "x".repeat(MAX_ARGV - "echo".len() - 2);
    let good: [(&str, Papers, Millis); 8] = [
        ("an item at level 1", desk.papers(|h| as_item(h, Level::One)), NOW),
        ("as early as clocks allow", desk.papers(|_| ()), NOW.minus(SKEW)),
        ("as late as clocks allow", desk.papers(|_| ()), NOW.plus(5 * MINUTE).plus(SKEW)),
        ("the longest run", desk.papers(|h| h.timeout_ms = 24 * 3_600_000), NOW),
        ("the longest command line", desk.papers(|h| h.argv = argv(&["echo", &longest])), NOW),
        ("arguments that look like options", desk.papers(|h| h.argv = argv(&["rm", "--", "", "-f"])), NOW),
        ("bytes that are no UTF-8", desk.papers(|h| h.argv = Some(vec!["cat".into(), Text(vec![0xff])])), NOW),
        ("eight hours of session", desk.papers_under(desk.delegation(|d| d.not_before = NOW.minus(HOUR)), |_| ()), NOW),
    ];
    for (what, papers, now) in good {
        let verified = desk.verify_at(papers, now);
        assert!(verified.is_ok(), "{what}: {}", verified.unwrap_err());
    }
}

/// What is wrong with a request, how it comes to be, and the code of the refusal.
type Breach = (&'static str, fn(&Desk) -> Papers, Code);

const AUTHOR: &[Breach] = &[
    ("another site", |d| d.papers(|h| h.site = "other".parse().unwrap()), Code::WrongSite),
    ("another certificate named", |d| d.papers(|h| h.technician_cert = Digest([9; 32])), Code::RequestSignature),
    (
        "another certificate of the same person",
        |d| Papers { certificate: d.second_certificate.clone(), ..d.own_key(&d.own, |_| ()) },
        Code::RequestSignature,
    ),
    (
        "another person's certificate",
        |d| Papers { certificate: d.others_certificate.clone(), ..d.own_key(&d.own, |_| ()) },
        Code::RequestSignature,
    ),
    ("no certificate", |d| Papers { certificate: vec![], ..d.papers(|_| ()) }, Code::RequestMalformed),
    ("signed by a key of nobody", |d| d.own_key(&d.session, |_| ()), Code::RequestSignature),
    ("signed by another person", |d| d.own_key(&d.other, |_| ()), Code::RequestSignature),
    (
        "signed by the own key under a delegation",
        |d| {
            let delegation = d.delegation(|_| ());
            let header = Signed::make(&d.header(Some(&delegation), |_| ()), &d.own).unwrap();
            Papers { header, delegation: Some(delegation), certificate: d.certificate.clone() }
        },
        Code::RequestSignature,
    ),
    ("the delegation left out", |d| Papers { delegation: None, ..d.papers(|_| ()) }, Code::RequestSignature),
    ("a delegation brought that is not named", |d| d.papers(|h| h.delegation = None), Code::RequestSignature),
    ("another delegation named", |d| d.papers(|h| h.delegation = Some(Digest([9; 32]))), Code::RequestSignature),
    (
        "another delegation of the same key brought",
        |d| {
            let wider = d.delegation(|delegation| delegation.nonce = Salt([4; 16]));
            Papers { delegation: Some(wider), ..d.papers(|_| ()) }
        },
        Code::RequestSignature,
    ),
    (
        "a signature for another purpose",
        |d| {
            let papers = d.papers(|_| ());
            let signature = sshsig::sign(&d.session, Namespace::Grant, papers.header.json()).unwrap();
            Papers { header: Signed::from_parts(papers.header.json().to_vec(), signature), ..papers }
        },
        Code::RequestSignature,
    ),
    (
        "a command line changed after signing",
        |d| {
            let papers = d.papers(|_| ());
            let json = String::from_utf8(papers.header.json().to_vec()).unwrap().replace("uptime", "reboot");
            Papers { header: Signed::from_parts(json.into_bytes(), papers.header.signature().to_vec()), ..papers }
        },
        Code::RequestSignature,
    ),
    (
        "servers widened after signing",
        |d| {
            let papers = d.papers(|_| ());
            let wider =
                Targets::of(hosts(&["contoso/db01", "contoso/web01", "fabrikam/mail01", "fabrikam/mail02"])).unwrap();
            let json = String::from_utf8(papers.header.json().to_vec()).unwrap();
            let json = json.replace(&d.targets.root().to_string(), &wider.root().to_string());
            Papers { header: Signed::from_parts(json.into_bytes(), papers.header.signature().to_vec()), ..papers }
        },
        Code::RequestSignature,
    ),
];

const SESSION: &[Breach] = &[
    (
        "a delegation for another site",
        |d| d.papers_under(d.delegation(|s| s.site = "other".parse().unwrap()), |_| ()),
        Code::WrongSite,
    ),
    (
        "a delegation by another person",
        |d| d.papers_under(d.delegation_by(&d.other, |_| ()), |_| ()),
        Code::DelegationInvalid,
    ),
    (
        "a delegation by the session key itself",
        |d| d.papers_under(d.delegation_by(&d.session, |_| ()), |_| ()),
        Code::DelegationInvalid,
    ),
    (
        "a delegation with another certificate",
        |d| d.papers_under(d.delegation(|s| s.technician_cert = Digest::of(&d.second_certificate)), |_| ()),
        Code::DelegationInvalid,
    ),
    (
        "a delegation of another session key",
        |d| d.papers_under(d.delegation(|s| s.session_key = line(&d.other)), |_| ()),
        Code::RequestSignature,
    ),
    (
        "a delegation that has expired",
        |d| d.papers_under(d.delegation(|s| s.not_after = NOW.minus(Duration::from_millis(1))), |_| ()),
        Code::SessionExpired,
    ),
    (
        "a delegation that is not valid yet",
        |d| d.papers_under(d.delegation(|s| s.not_before = NOW.plus(SKEW).plus(Duration::from_millis(1))), |_| ()),
        Code::DelegationInvalid,
    ),
    (
        "a delegation for more than 8 hours",
        |d| d.papers_under(d.delegation(|s| s.not_after = NOW.plus(7 * HOUR).plus(Duration::from_millis(1))), |_| ()),
        Code::DelegationInvalid,
    ),
    (
        "a delegation that ends before it begins",
        |d| d.papers_under(d.delegation(|s| s.not_after = s.not_before), |_| ()),
        Code::DelegationInvalid,
    ),
];

const CONTENT: &[Breach] = &[
    ("a raw command at level 2", |d| d.papers(|h| h.level = Level::Two), Code::LevelMismatch),
    ("a raw command at level 1", |d| d.own_key(&d.own, |h| h.level = Level::One), Code::LevelMismatch),
    ("no program", |d| d.papers(|h| h.argv = argv(&[])), Code::ArgumentsInvalid),
    ("an empty program", |d| d.papers(|h| h.argv = argv(&["", "x"])), Code::ArgumentsInvalid),
    ("a NUL in the program", |d| d.papers(|h| h.argv = argv(&["up\0time"])), Code::ArgumentsInvalid),
    ("a NUL in an argument", |d| d.papers(|h| h.argv = argv(&["echo", "a\0b"])), Code::ArgumentsInvalid),
    (
        "a command line too long",
        |d| d.papers(|h| h.argv = argv(&["echo", &"x".repeat(MAX_ARGV - 5)])),
        Code::ArgumentsInvalid,
    ),
    ("a raw command without argv", |d| d.papers(|h| h.argv = None), Code::RequestMalformed),
    ("a raw command with an item", |d| d.papers(|h| h.item = Some(item())), Code::RequestMalformed),
    (
        "a raw command with named arguments",
        |d| d.papers(|h| h.args = vec![("A".to_owned(), "b".into())]),
        Code::RequestMalformed,
    ),
    (
        "an item without its name",
        |d| {
            d.papers(|h| {
                as_item(h, Level::One);
                h.item = None;
            })
        },
        Code::RequestMalformed,
    ),
    (
        "an item with a command line",
        |d| {
            d.papers(|h| {
                as_item(h, Level::One);
                h.argv = argv(&["reboot"]);
            })
        },
        Code::RequestMalformed,
    ),
    ("no time to run", |d| d.papers(|h| h.timeout_ms = 0), Code::RequestMalformed),
    ("a run of more than a day", |d| d.papers(|h| h.timeout_ms = 24 * 3_600_000 + 1), Code::RequestMalformed),
    (
        "open for more than 5 minutes",
        |d| d.papers(|h| h.not_after = NOW.plus(5 * MINUTE).plus(Duration::from_millis(1))),
        Code::RequestExpired,
    ),
    ("closed before it opens", |d| d.papers(|h| h.not_after = h.not_before), Code::RequestExpired),
    (
        "from the future",
        |d| {
            d.papers(|h| {
                h.not_before = NOW.plus(SKEW).plus(Duration::from_millis(1));
                h.not_after = h.not_before.plus(MINUTE);
            })
        },
        Code::RequestExpired,
    ),
    (
        "too old",
        |d| {
            d.papers(|h| {
                h.not_after = NOW.minus(SKEW).minus(Duration::from_millis(1));
                h.not_before = h.not_after.minus(MINUTE);
            })
        },
        Code::RequestExpired,
    ),
];

const FORM: &[Breach] = &[
    ("an unknown format", |d| d.rewritten(|json| json.replace("\"v\":1", "\"v\":2")), Code::RequestMalformed),
    (
        "an unknown field",
        |d| d.rewritten(|json| json.replace("\"v\":1", "\"v\":1,\"as\":\"root\"")),
        Code::RequestMalformed,
    ),
    ("a field twice", |d| d.rewritten(|json| json.replace("\"v\":1", "\"v\":1,\"level\":3")), Code::RequestMalformed),
    ("a field left out", |d| d.rewritten(|json| json.replace("\"stdin\":null,", "")), Code::RequestMalformed),
    (
        "a feature that is not built",
        |d| d.rewritten(|json| json.replace("\"ephemeral\":null", "\"ephemeral\":\"x\"")),
        Code::RequestMalformed,
    ),
    ("an unknown kind", |d| d.rewritten(|json| json.replace("\"raw\"", "\"shell\"")), Code::RequestMalformed),
    ("level 4", |d| d.rewritten(|json| json.replace("\"level\":3", "\"level\":4")), Code::RequestMalformed),
    ("something after the end", |d| d.rewritten(|json| format!("{json} {{}}")), Code::RequestMalformed),
    ("no JSON", |d| d.rewritten(|_| "uptime".to_owned()), Code::RequestMalformed),
    (
        "too large",
        |d| d.rewritten(|json| json.replace("4711", &"7".repeat(crate::signed::MAX_SIGNED))),
        Code::RequestMalformed,
    ),
];

#[test]
fn each_broken_rule_of_a_request_has_its_own_code() {
    let desk = Desk::new();
    for (what, made, code) in AUTHOR.iter().chain(SESSION).chain(CONTENT).chain(FORM) {
        let refused = desk.verify(made(&desk)).map(|_| ()).map_err(|refusal| refusal.code);
        assert_eq!(refused, Err(*code), "{what}");
    }
}

#[test]
fn a_request_is_for_the_site_of_the_one_who_reads_it() {
    let desk = Desk::new();
    let elsewhere = desk.papers(|_| ()).verify(&desk.trust, &"elsewhere".parse().unwrap(), NOW);
    assert_eq!(elsewhere.unwrap_err().code, Code::WrongSite);
}

#[test]
fn a_request_dies_with_its_certificate() {
    let desk = Desk::new();
    let after = NOW.plus(Duration::from_secs(7 * 24 * 3600));
    let papers = desk.own_key(&desk.own, |h| (h.not_before, h.not_after) = (after, after.plus(MINUTE)));
    assert_eq!(desk.verify_at(papers, after).unwrap_err().code, Code::CertificateExpired);
}

#[test]
fn only_a_signed_server_is_a_target() {
    let desk = Desk::new();
    let authored = desk.verify(desk.papers(|_| ())).unwrap();
    let sorted = hosts(&["contoso/db01", "contoso/web01", "fabrikam/mail01"]);
    assert_eq!(desk.targets.hosts(), sorted);
    for (index, host) in sorted.iter().enumerate() {
        let (leaf, path) = desk.targets.proof(index).unwrap();
        assert_eq!(authored.target(leaf, &path).unwrap().host, *host);
    }
    assert!(desk.targets.proof(3).is_none());

    let (leaf, path) = desk.targets.proof(1).unwrap();
    let changed = |change: &dyn Fn(&mut TargetPath)| {
        let mut path = path.clone();
        change(&mut path);
        path
    };
    let text = std::str::from_utf8(leaf).unwrap();
    let wider = Targets::of(hosts(&["contoso/web01", "contoso/db01", "fabrikam/mail01", "fabrikam/mail02"])).unwrap();
    let (widened, its_path) = wider.proof(3).unwrap();
    for (what, leaf, path) in [
        ("another server", text.replace("web01", "web02").into_bytes(), path.clone()),
        ("another customer", text.replace("contoso", "initech").into_bytes(), path.clone()),
        ("another leaf's path", leaf.to_vec(), desk.targets.proof(0).unwrap().1),
        ("another index", leaf.to_vec(), changed(&|path| path.index = 0)),
        ("an index outside", leaf.to_vec(), changed(&|path| path.index = 3)),
        ("no servers", leaf.to_vec(), changed(&|path| path.size = 0)),
        ("one server", leaf.to_vec(), changed(&|path| (path.index, path.size) = (0, 1))),
        ("a hash more", leaf.to_vec(), changed(&|path| path.hashes.push(Digest([0; 32])))),
        ("a hash less", leaf.to_vec(), changed(&|path| path.hashes.truncate(path.hashes.len() - 1))),
        ("hashes in another order", leaf.to_vec(), changed(&|path| path.hashes.reverse())),
        ("a server that was added after signing", widened.to_vec(), its_path),
        ("the root as a leaf", desk.targets.root().0.to_vec(), TargetPath { index: 0, size: 1, hashes: vec![] }),
        ("nothing", vec![], path.clone()),
    ] {
        assert_eq!(authored.target(&leaf, &path).unwrap_err().code, Code::TargetMismatch, "{what}");
    }
}

#[test]
fn a_leaf_that_was_signed_but_is_no_target_is_refused() {
    let desk = Desk::new();
    let good = desk.targets.proof(0).unwrap().0;
    let text = std::str::from_utf8(good).unwrap();
    for leaf in [
        text.replace("\"sealed\":null", "\"sealed\":\"x\""),
        text.replace("\"sealed\":null", "\"sealed\":null,\"port\":22"),
        text.replace("contoso/db01", "db01"),
        "contoso/db01".to_owned(),
    ] {
        let root = Digest(merkle::root_of(&[leaf.clone().into_bytes()]));
        let authored = desk.verify(desk.papers(|h| h.targets_root = root)).unwrap();
        let path = TargetPath { index: 0, size: 1, hashes: vec![] };
        assert_eq!(authored.target(leaf.as_bytes(), &path).unwrap_err().code, Code::TargetMismatch, "{leaf}");
    }
}

#[test]
fn targets_are_sorted_unique_bounded_and_salted() {
    let twice = Targets::of(hosts(&["b/x", "a/x", "b/x"])).unwrap();
    assert_eq!(twice.hosts(), hosts(&["a/x", "b/x"]));
    assert_ne!(twice.root(), Targets::of(hosts(&["a/x", "b/x"])).unwrap().root());
    assert_eq!(Targets::of([]).unwrap_err().code, Code::NothingMatched);
    let many = |count: usize| Targets::of((0..count).map(|n| format!("load/h{n}").parse().unwrap()));
    assert_eq!(many(MAX_TARGETS + 1).unwrap_err().code, Code::ArgumentsInvalid);
    let most = many(MAX_TARGETS).unwrap();
    let (_, path) = most.proof(MAX_TARGETS - 1).unwrap();
    assert!(path.hashes.len() <= 14);
}

#[test]
fn text_is_a_string_where_it_can_be_and_base64_where_it_cannot() {
    for (bytes, json) in [(&b"uptime"[..], r#""uptime""#), (b"\xff\0", r#"{"b64":"/wA="}"#), ("ü".as_bytes(), "\"ü\"")]
    {
        let text = Text(bytes.to_vec());
        assert_eq!(serde_json::to_string(&text).unwrap(), json);
        assert_eq!(serde_json::from_str::<Text>(json).unwrap(), text);
    }
    for bad in [r#"{"b64":"?"}"#, r#"{"b64":"/wA=","more":1}"#, "7", "null", "{}"] {
        assert!(serde_json::from_str::<Text>(bad).is_err(), "{bad}");
    }
}

/// What travels, part by part, each with a bit that can be flipped.
#[derive(Clone, Copy, Debug)]
enum Part {
    Header,
    Signature,
    Delegation,
    DelegationSignature,
    Certificate,
    Leaf,
    PathHash,
}

const PARTS: [Part; 7] = [
    Part::Header,
    Part::Signature,
    Part::Delegation,
    Part::DelegationSignature,
    Part::Certificate,
    Part::Leaf,
    Part::PathHash,
];

fn flip(bytes: &mut [u8], at: prop::sample::Index) {
    let bit = at.index(bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
}

fn flip_signed(signed: &Signed, json: bool, at: prop::sample::Index) -> Signed {
    let (mut text, mut signature) = (signed.json().to_vec(), signed.signature().to_vec());
    flip(if json { &mut text } else { &mut signature }, at);
    Signed::from_parts(text, signature)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_flipped_bit_is_refused(part in prop::sample::select(&PARTS[..]), at in any::<prop::sample::Index>()) {
        thread_local!(static DESK: Desk = Desk::new());
        DESK.with(|desk| {
            let mut papers = desk.papers(|_| ());
            let (leaf, mut path) = desk.targets.proof(1).unwrap();
            let mut leaf = leaf.to_vec();
            match part {
                Part::Header => papers.header = flip_signed(&papers.header, true, at),
                Part::Signature => papers.header = flip_signed(&papers.header, false, at),
                Part::Delegation => papers.delegation = papers.delegation.map(|d| flip_signed(&d, true, at)),
                Part::DelegationSignature => papers.delegation = papers.delegation.map(|d| flip_signed(&d, false, at)),
                Part::Certificate => flip(&mut papers.certificate, at),
                Part::Leaf => flip(&mut leaf, at),
                Part::PathHash => {
                    let (hash, bit) = (at.index(path.hashes.len()), at);
                    flip(&mut path.hashes[hash].0, bit);
                }
            }
            let target = desk.verify(papers).and_then(|authored| authored.target(&leaf, &path));
            prop_assert!(target.is_err(), "{part:?}");
            Ok(())
        })?;
    }

    /// Index and size only say how the hashes are put together: whatever they say, the server is the one that was
    /// signed, or none.
    #[test]
    fn no_index_or_size_gives_another_server(index in 0_u64..64, size in 0_u64..64, of in 1_usize..20, at in any::<prop::sample::Index>()) {
        thread_local!(static DESK: Desk = Desk::new());
        DESK.with(|desk| {
            let targets = Targets::of((0..of).map(|n| format!("load/h{n:02}").parse().unwrap())).unwrap();
            let authored = desk.verify(desk.papers(|header| header.targets_root = targets.root())).unwrap();
            let signed = at.index(of);
            let (leaf, path) = targets.proof(signed).unwrap();
            if let Ok(target) = authored.target(leaf, &TargetPath { index, size, ..path }) {
                prop_assert_eq!(&target.host, &targets.hosts()[signed]);
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_request_survives_its_own_encoding(words in prop::collection::vec(prop::collection::vec(1_u8.., 1..20), 1..8)) {
        thread_local!(static DESK: Desk = Desk::new());
        DESK.with(|desk| {
            let words: Vec<_> = words.into_iter().map(Text).collect();
            let papers = desk.own_key(&desk.own, |header| header.argv = Some(words.clone()));
            let again = Papers { header: Signed::from_wire(&papers.header.to_wire()).unwrap(), ..papers };
            let authored = desk.verify(again).unwrap();
            prop_assert_eq!(authored.header().argv.as_ref(), Some(&words));
            Ok(())
        })?;
    }
}
