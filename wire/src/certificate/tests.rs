use super::*;
use crate::bundle::{Authorities, Bundle, Log};
use crate::keyfile::KeyError;
use crate::note::LogSigner;
use crate::signed::{Signed, put_ssh_string, ssh_string};
use crate::strict::{Unused, V1};
use ssh_key::PrivateKey;
use ssh_key::certificate::Builder;
use ssh_key::public::{Ed25519PublicKey, SkEd25519};

const NOW: Millis = Millis(1_800_000_000_000);
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A root, the CA keys that its bundle names, and one that it does not.
struct Site {
    trust: Trust,
    technicians: PrivateKey,
    agents: PrivateKey,
    masters: PrivateKey,
    stranger: PrivateKey,
}

impl Site {
    fn new() -> Self {
        let [root, technicians, agents, masters, stranger] = std::array::from_fn(|_| sshsig::generate("").unwrap());
        let line = |key: &PrivateKey| vec![KeyLine::new(key.public_key().key_data().clone()).unwrap()];
        let log = LogSigner::generate("lab.reeve/m1").unwrap();
        let bundle = Bundle {
            v: V1,
            site: "lab".parse().unwrap(),
            number: 1,
            issued: NOW,
            refresh_by: NOW.plus(crate::bundle::FRESH_FOR),
            ca: Authorities { technicians: line(&technicians), agents: line(&agents), masters: line(&masters) },
            masters: vec!["m1".parse().unwrap()],
            logs: vec![Log { vkey: log.vkey().to_string(), succeeds: Unused }],
            library_signers: vec![],
            release_keys: Unused,
            krl: Unused,
        };
        let signed = Signed::make(&bundle, &root).unwrap();
        let trust = Trust::open(signed, &sshsig::fingerprint(root.public_key().key_data())).unwrap();
        Self { trust, technicians, agents, masters, stranger }
    }

    fn make(&self, recipe: &Recipe) -> Certificate {
        let ca = match recipe.ca {
            Ca::Technicians => &self.technicians,
            Ca::Agents => &self.agents,
            Ca::Masters => &self.masters,
            Ca::Stranger => &self.stranger,
        };
        let mut builder = Builder::new([7; 16], recipe.key.clone(), recipe.after, recipe.before).unwrap();
        builder.cert_type(recipe.kind).unwrap().serial(7).unwrap();
        if recipe.principals.is_empty() {
            builder.all_principals_valid().unwrap();
        }
        for principal in &recipe.principals {
            builder.valid_principal(*principal).unwrap();
        }
        for (name, value) in &recipe.options {
            builder.critical_option(*name, *value).unwrap();
        }
        for (name, value) in &recipe.extensions {
            builder.extension(*name, value.clone()).unwrap();
        }
        builder.sign(ca).unwrap()
    }
}

#[derive(Clone, Copy)]
enum Ca {
    Technicians,
    Agents,
    Masters,
    Stranger,
}

/// What goes into a certificate.
struct Recipe {
    ca: Ca,
    kind: CertType,
    key: KeyData,
    principals: Vec<&'static str>,
    after: u64,
    before: u64,
    options: Vec<(&'static str, &'static str)>,
    extensions: Vec<(&'static str, String)>,
}

fn recipe(ca: Ca, kind: CertType, principal: &'static str) -> Recipe {
    Recipe {
        ca,
        kind,
        key: sshsig::generate("").unwrap().public_key().key_data().clone(),
        principals: vec![principal],
        after: NOW.seconds() - 60,
        before: NOW.seconds() + 7 * DAY,
        options: vec![],
        extensions: vec![],
    }
}

fn technician_recipe() -> Recipe {
    let extensions = vec![
        (DIRECTORY_ID, "S-1-5-21-1-2-3-1104".to_owned()),
        (MAX_LEVEL, "2".to_owned()),
        (CUSTOMERS, "contoso,fabrikam".to_owned()),
    ];
    Recipe { extensions, ..recipe(Ca::Technicians, CertType::User, "tech:alice") }
}

fn agent_recipe() -> Recipe {
    recipe(Ca::Agents, CertType::User, "host:contoso/web01")
}

fn master_recipe() -> Recipe {
    recipe(Ca::Masters, CertType::Host, "master:m1")
}

fn hardware_key() -> KeyData {
    let Some(point) = sshsig::generate("").unwrap().public_key().key_data().ed25519().copied() else { unreachable!() };
    KeyData::SkEd25519(SkEd25519::new(Ed25519PublicKey(point.0), "ssh:"))
}

impl Recipe {
    fn extend(&mut self, name: &str, value: Option<&str>) {
        self.extensions.retain(|(known, _)| *known != name);
        let name = [DIRECTORY_ID, MAX_LEVEL, CUSTOMERS].into_iter().find(|known| *known == name).unwrap();
        self.extensions.extend(value.map(|value| (name, value.to_owned())));
    }
}

/// One broken rule: what it is called, how a good certificate comes to break it, and the code of the refusal.
type Breach = (&'static str, fn(&mut Recipe), Code);

/// Rules that hold for every kind of certificate.
const COMMON: &[Breach] = &[
    ("another CA", |r| r.ca = Ca::Stranger, Code::CertificateUntrusted),
    ("expired", |r| r.before = NOW.seconds() - 1, Code::CertificateExpired),
    ("expires this second", |r| r.before = NOW.seconds(), Code::CertificateExpired),
    ("valid from the next second", |r| r.after = NOW.seconds() + 1, Code::CertificateExpired),
    ("no principal, which OpenSSH takes for all", |r| r.principals = vec![], Code::CertificatePrincipal),
    ("two principals", |r| r.principals.push("tech:bob"), Code::CertificatePrincipal),
    ("the same principal twice", |r| r.principals.push(r.principals[0]), Code::CertificatePrincipal),
    ("a principal of no kind", |r| r.principals = vec!["alice"], Code::CertificatePrincipal),
    ("an empty principal", |r| r.principals = vec![""], Code::CertificatePrincipal),
    ("an unknown critical option", |r| r.options.push(("two-person@reeve", "")), Code::CertificateOption),
    ("a known critical option", |r| r.options.push(("force-command", "/bin/true")), Code::CertificateOption),
];

const TECHNICIAN: &[Breach] = &[
    ("the agents' CA", |r| r.ca = Ca::Agents, Code::CertificateUntrusted),
    ("the masters' CA", |r| r.ca = Ca::Masters, Code::CertificateUntrusted),
    ("a host certificate", |r| r.kind = CertType::Host, Code::CertificateKind),
    ("an agent's principal", |r| r.principals = vec!["host:contoso/web01"], Code::CertificatePrincipal),
    ("a master's principal", |r| r.principals = vec!["master:m1"], Code::CertificatePrincipal),
    ("two names in one principal", |r| r.principals = vec!["tech:alice,bob"], Code::CertificatePrincipal),
    ("a principal with a newline", |r| r.principals = vec!["tech:alice\n"], Code::CertificatePrincipal),
    ("a principal with a NUL", |r| r.principals = vec!["tech:alice\0"], Code::CertificatePrincipal),
    ("a principal in capitals", |r| r.principals = vec!["tech:Alice"], Code::CertificatePrincipal),
    ("a principal without a name", |r| r.principals = vec!["tech:"], Code::CertificatePrincipal),
    ("longer than 30 days and an hour", |r| r.before = r.after + 30 * DAY + HOUR + 1, Code::CertificateLifetime),
    ("for ever", |r| (r.after, r.before) = (0, u64::MAX), Code::CertificateLifetime),
    ("no directory id", |r| r.extend(DIRECTORY_ID, None), Code::CertificateCeiling),
    ("an empty directory id", |r| r.extend(DIRECTORY_ID, Some("")), Code::CertificateCeiling),
    ("a directory id without end", |r| r.extend(DIRECTORY_ID, Some(&"x".repeat(257))), Code::CertificateCeiling),
    ("no highest level", |r| r.extend(MAX_LEVEL, None), Code::CertificateCeiling),
    ("level 0", |r| r.extend(MAX_LEVEL, Some("0")), Code::CertificateCeiling),
    ("level 4", |r| r.extend(MAX_LEVEL, Some("4")), Code::CertificateCeiling),
    ("a level in words", |r| r.extend(MAX_LEVEL, Some("three")), Code::CertificateCeiling),
    ("an empty level", |r| r.extend(MAX_LEVEL, Some("")), Code::CertificateCeiling),
    ("a level with a space", |r| r.extend(MAX_LEVEL, Some(" 3")), Code::CertificateCeiling),
    ("no customers", |r| r.extend(CUSTOMERS, None), Code::CertificateCeiling),
    ("an empty list of customers", |r| r.extend(CUSTOMERS, Some("")), Code::CertificateCeiling),
    ("a hole in the customers", |r| r.extend(CUSTOMERS, Some("contoso,,load")), Code::CertificateCeiling),
    ("a star among the customers", |r| r.extend(CUSTOMERS, Some("contoso,*")), Code::CertificateCeiling),
    ("a space among the customers", |r| r.extend(CUSTOMERS, Some("contoso, load")), Code::CertificateCeiling),
];

const AGENT: &[Breach] = &[
    ("the technicians' CA", |r| r.ca = Ca::Technicians, Code::CertificateUntrusted),
    ("the masters' CA", |r| r.ca = Ca::Masters, Code::CertificateUntrusted),
    ("a host certificate", |r| r.kind = CertType::Host, Code::CertificateKind),
    ("a technician's principal", |r| r.principals = vec!["tech:alice"], Code::CertificatePrincipal),
    ("a host without its customer", |r| r.principals = vec!["host:web01"], Code::CertificatePrincipal),
    ("a host that is a path", |r| r.principals = vec!["host:contoso/../fabrikam"], Code::CertificatePrincipal),
    ("two hosts in one principal", |r| r.principals = vec!["host:a/b,c/d"], Code::CertificatePrincipal),
    ("a hardware key", |r| r.key = hardware_key(), Code::CertificateAlgorithm),
];

const MASTER: &[Breach] = &[
    ("the agents' CA", |r| r.ca = Ca::Agents, Code::CertificateUntrusted),
    ("the technicians' CA", |r| r.ca = Ca::Technicians, Code::CertificateUntrusted),
    ("a user certificate", |r| r.kind = CertType::User, Code::CertificateKind),
    ("a master that the bundle does not name", |r| r.principals = vec!["master:m2"], Code::CertificatePrincipal),
    ("an agent's principal", |r| r.principals = vec!["host:contoso/web01"], Code::CertificatePrincipal),
    ("an address", |r| r.principals = vec!["master.example.net"], Code::CertificatePrincipal),
    ("a hardware key", |r| r.key = hardware_key(), Code::CertificateAlgorithm),
];

fn code<T: std::fmt::Debug>(result: Result<T, CertificateError>) -> Code {
    result.unwrap_err().0.code
}

#[test]
fn each_broken_rule_of_a_certificate_has_its_own_code() {
    let site = Site::new();
    for (what, breach, expected) in COMMON.iter().chain(TECHNICIAN) {
        let mut recipe = technician_recipe();
        breach(&mut recipe);
        assert_eq!(code(technician(&site.make(&recipe), &site.trust, NOW)), *expected, "a technician: {what}");
    }
    for (what, breach, expected) in COMMON.iter().chain(AGENT) {
        let mut recipe = agent_recipe();
        breach(&mut recipe);
        assert_eq!(code(agent(&site.make(&recipe), &site.trust, NOW)), *expected, "an agent: {what}");
    }
    for (what, breach, expected) in COMMON.iter().chain(MASTER) {
        let mut recipe = master_recipe();
        breach(&mut recipe);
        assert_eq!(code(master(&site.make(&recipe), &site.trust, NOW)), *expected, "a master: {what}");
    }
}

#[test]
fn a_certificate_that_keeps_the_rules_says_who_it_is() {
    let site = Site::new();
    let recipe = technician_recipe();
    let made = site.make(&recipe);
    let found = technician(&made, &site.trust, NOW).unwrap();
    assert_eq!((found.name.as_str(), found.directory_id.as_str()), ("alice", "S-1-5-21-1-2-3-1104"));
    assert_eq!((found.ceiling.max_level, found.ceiling.customers.to_string()), (Level::Two, "contoso,fabrikam".into()));
    assert_eq!((found.key.clone(), found.serial), (recipe.key, 7));
    assert_eq!(found.certificate, Digest::of(&made.to_bytes().unwrap()));
    assert_eq!(found.not_after, NOW.plus(Duration::from_secs(7 * DAY)));

    let found = agent(&site.make(&agent_recipe()), &site.trust, NOW).unwrap();
    assert_eq!((found.host.to_string(), found.serial), ("contoso/web01".to_owned(), 7));
    assert_eq!(master(&site.make(&master_recipe()), &site.trust, NOW).unwrap().name.as_str(), "m1");
}

#[test]
fn the_bounds_themselves_are_inside() {
    let site = Site::new();
    type Change = fn(&mut Recipe);
    let good: [(&str, Change); 6] = [
        ("valid from this second", |r| r.after = NOW.seconds()),
        ("valid for one more second", |r| r.before = NOW.seconds() + 1),
        ("30 days and an hour", |r| r.before = r.after + 30 * DAY + HOUR),
        ("a hardware key", |r| r.key = hardware_key()),
        ("all customers", |r| r.extend(CUSTOMERS, Some("*"))),
        ("an unknown extension", |r| r.extensions.push(("permit-pty", String::new()))),
    ];
    for (what, change) in good {
        let mut recipe = technician_recipe();
        change(&mut recipe);
        let found = technician(&site.make(&recipe), &site.trust, NOW);
        assert!(found.is_ok(), "{what}: {found:?}");
    }
    let year = Recipe { before: NOW.seconds() + 365 * DAY, ..agent_recipe() };
    assert!(agent(&site.make(&year), &site.trust, NOW).is_ok());
}

#[test]
fn one_kind_of_certificate_never_passes_for_another() {
    let site = Site::new();
    let made = [technician_recipe(), agent_recipe(), master_recipe()].map(|recipe| site.make(&recipe));
    for (mine, certificate) in made.iter().enumerate() {
        let taken = [
            technician(certificate, &site.trust, NOW).is_ok(),
            agent(certificate, &site.trust, NOW).is_ok(),
            master(certificate, &site.trust, NOW).is_ok(),
        ];
        assert_eq!(taken, std::array::from_fn(|kind| kind == mine));
    }
}

#[test]
fn the_login_name_is_the_principal_and_nothing_else() {
    let site = Site::new();
    let [person, server, broker] =
        [technician_recipe(), agent_recipe(), master_recipe()].map(|recipe| site.make(&recipe));
    assert!(
        matches!(role("tech:alice", &person, &site.trust, NOW), Ok(Role::Technician(t)) if t.name.as_str() == "alice")
    );
    assert!(matches!(role("host:contoso/web01", &server, &site.trust, NOW), Ok(Role::Agent(_))));
    for (login, certificate, expected) in [
        ("tech:bob", &person, Code::CertificatePrincipal),
        ("alice", &person, Code::CertificatePrincipal),
        ("enroll", &person, Code::CertificatePrincipal),
        ("root", &person, Code::CertificatePrincipal),
        ("", &person, Code::CertificatePrincipal),
        ("tech:alice\n", &person, Code::CertificatePrincipal),
        ("host:contoso/web01", &person, Code::CertificateUntrusted),
        ("host:contoso/db01", &server, Code::CertificatePrincipal),
        ("tech:alice", &server, Code::CertificateUntrusted),
        ("master:m1", &broker, Code::CertificatePrincipal),
        ("tech:alice", &broker, Code::CertificateUntrusted),
    ] {
        assert_eq!(code(role(login, certificate, &site.trust, NOW)), expected, "{login:?}");
    }
}

#[test]
fn every_flipped_bit_of_a_certificate_is_refused() {
    let site = Site::new();
    let blob = site.make(&technician_recipe()).to_bytes().unwrap();
    for bit in 0..blob.len() * 8 {
        let mut flipped = blob.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let found = from_wire(&flipped).and_then(|made| technician(&made, &site.trust, NOW));
        assert!(found.is_err(), "bit {bit}");
    }
}

#[test]
fn bytes_after_a_certificate_or_a_missing_end_are_refused() {
    let blob = Site::new().make(&technician_recipe()).to_bytes().unwrap();
    assert!(from_wire(&blob).is_ok());
    for bad in [[&blob[..], b"\0"].concat(), blob[..blob.len() - 1].to_vec(), vec![]] {
        assert_eq!(code(from_wire(&bad)), Code::RequestMalformed);
    }
}

#[test]
fn an_algorithm_that_is_not_accepted_is_refused() {
    let site = Site::new();
    let number = |bytes: &[u8]| ssh_key::Mpint::from_positive_bytes(bytes);
    let mut modulus = [0xa5; 256];
    modulus[255] |= 1;
    let rsa = ssh_key::public::RsaPublicKey::new(number(&[1, 0, 1]), number(&modulus)).unwrap();
    let recipe = Recipe { key: KeyData::Rsa(rsa), ..technician_recipe() };
    assert_eq!(code(technician(&site.make(&recipe), &site.trust, NOW)), Code::CertificateAlgorithm);
}

#[test]
fn a_cas_own_key_is_nobodys() {
    let site = Site::new();
    let own =
        |ca: &PrivateKey, recipe: Recipe| site.make(&Recipe { key: ca.public_key().key_data().clone(), ..recipe });
    let person = own(&site.technicians, technician_recipe());
    let server = own(&site.agents, agent_recipe());
    let broker = own(&site.masters, master_recipe());
    assert_eq!(code(technician(&person, &site.trust, NOW)), Code::CertificateKind);
    assert_eq!(code(agent(&server, &site.trust, NOW)), Code::CertificateKind);
    assert_eq!(code(master(&broker, &site.trust, NOW)), Code::CertificateKind);
}

#[test]
fn a_certificate_never_stands_for_a_key() {
    let made = Site::new().make(&technician_recipe());
    assert_eq!(KeyLine::new(KeyData::from(made.clone())), Err(KeyError::Malformed));
    let line = made.to_openssh().unwrap();
    for disguised in [line.clone(), line.replace("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519")] {
        assert_eq!(disguised.parse::<KeyLine>(), Err(KeyError::Malformed), "{disguised}");
    }
}

#[test]
fn a_certificate_that_was_signed_with_a_certificate_is_refused() {
    let site = Site::new();
    let middle = sshsig::generate("").unwrap();
    let between = Recipe { key: middle.public_key().key_data().clone(), ..technician_recipe() };
    let between = site.make(&between).to_bytes().unwrap();
    // The middle key signs, and its own certificate of the right CA stands where the CA's key belongs. The library
    // reads that, so that the comparison with the bundle's keys is what refuses it.
    let nested = resigned(&site.make(&technician_recipe()).to_bytes().unwrap(), &between, &middle);
    let nested = from_wire(&nested).unwrap();
    assert_eq!(code(technician(&nested, &site.trust, NOW)), Code::CertificateUntrusted);

    // The same with the CA's own key and signature is taken, so that it is the nesting which is refused.
    let ca = site.technicians.public_key().to_bytes().unwrap();
    let plain = resigned(&site.make(&technician_recipe()).to_bytes().unwrap(), &ca, &site.technicians);
    assert!(technician(&from_wire(&plain).unwrap(), &site.trust, NOW).is_ok());
}

/// A certificate's blob with `authority` as signature key, signed by `key`.
fn resigned(blob: &[u8], authority: &[u8], key: &PrivateKey) -> Vec<u8> {
    use ssh_key::encoding::Encode as _;
    let (mut rest, mut signed) = (blob, Vec::new());
    // Type, nonce and key; serial and kind; id and principals; the two dates; options, extensions and reserved.
    for step in [Step::Strings(3), Step::Bytes(12), Step::Strings(2), Step::Bytes(16), Step::Strings(3)] {
        match step {
            Step::Strings(count) => {
                for _ in 0..count {
                    let (string, after) = ssh_string(rest).unwrap();
                    put_ssh_string(&mut signed, string);
                    rest = after;
                }
            }
            Step::Bytes(count) => {
                let (bytes, after) = rest.split_at(count);
                signed.extend_from_slice(bytes);
                rest = after;
            }
        }
    }
    put_ssh_string(&mut signed, authority);
    let signature = signature_of(key, &signed);
    put_ssh_string(&mut signed, &signature.encode_vec().unwrap());
    signed
}

fn signature_of<K: ssh_key::SigningKey>(key: &K, message: &[u8]) -> ssh_key::Signature {
    key.try_sign(message).unwrap()
}

enum Step {
    Strings(usize),
    Bytes(usize),
}

#[test]
fn a_ceiling_bounds_level_and_customer() {
    let only = |max_level, customers: &str| Ceiling { max_level, customers: customers.parse().unwrap() };
    let contoso: Name = "contoso".parse().unwrap();
    for (ceiling, level, refused) in [
        (only(Level::Three, "*"), Level::Three, None),
        (only(Level::Two, "contoso,load"), Level::Two, None),
        (only(Level::Two, "contoso,load"), Level::Three, Some(Code::CeilingLevel)),
        (only(Level::One, "*"), Level::Two, Some(Code::CeilingLevel)),
        (only(Level::Three, "load"), Level::One, Some(Code::CeilingCustomer)),
        (only(Level::One, "load"), Level::Three, Some(Code::CeilingCustomer)),
    ] {
        assert_eq!(ceiling.covers(&contoso, level).err().map(|refusal| refusal.code), refused, "{ceiling:?} {level}");
    }
}
