use super::*;
use reeve_wire::certificate::{Ceiling, Customers};
use reeve_wire::level::Level;
use reeve_wire::note::LogSigner;
use reeve_wire::sshsig;
use ssh_key::PrivateKey;
use std::process::Command;

const NOW: Millis = Millis(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A CA in a folder that goes with it.
struct Bench {
    ca: Ca,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::init(&folder.path().join("ca"), &"lab".parse().unwrap(), &secret(), NOW).unwrap();
        Self { ca, folder }
    }

    fn issue(&mut self, subject: Subject, key: &PrivateKey) -> Result<(Certificate, Issued), CaError> {
        self.ca.issue(&Order { subject, key: line(key), valid: None }, &secret(), NOW)
    }

    fn refused(&mut self, subject: Subject, key: &PrivateKey) -> String {
        let lines = self.ca.log.entries().len();
        let refused = self.issue(subject, key).unwrap_err();
        assert_eq!(self.ca.log.entries().len(), lines, "a refusal leaves no line");
        refused.to_string()
    }

    fn trust(&mut self) -> Trust {
        self.ca.sign_trust(&secret(), NOW).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn secret() -> Passphrase {
    Passphrase::Given("correct horse".to_owned().into())
}

fn key() -> PrivateKey {
    sshsig::generate("").unwrap()
}

fn line(key: &PrivateKey) -> KeyLine {
    KeyLine::new(key.public_key().key_data().clone()).unwrap()
}

fn technician(name: &str) -> Subject {
    Subject::Technician {
        name: name.parse().unwrap(),
        ceiling: Ceiling { max_level: Level::Two, customers: "fabrikam,contoso".parse().unwrap() },
        directory_id: "S-1-5-21-1-2-3-1104".to_owned(),
    }
}

fn agent(host: &str) -> Subject {
    Subject::Agent(host.parse().unwrap())
}

fn ledger(name: &str) -> LogSigner {
    LogSigner::generate(&format!("lab.reeve/{name}")).unwrap()
}

fn master(name: &str, log: Option<&LogSigner>) -> Subject {
    Subject::Master { name: name.parse().unwrap(), log: log.map(|log| log.vkey().clone()) }
}

/// What `ssh-keygen` prints and whether it was content.
fn ssh_keygen(arguments: &[&str], input: Option<&Path>) -> (String, bool) {
    let mut command = Command::new("ssh-keygen");
    command.args(arguments).env("TZ", "UTC").env("LC_ALL", "C");
    if let Some(input) = input {
        command.stdin(File::open(input).unwrap());
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.success())
}

/// The lines of `ssh-keygen -L`, without their indentation.
fn shown(bench: &Bench, certificate: &Certificate) -> Vec<String> {
    let path = bench.path("shown-cert.pub");
    std::fs::write(&path, certificate.to_openssh().unwrap()).unwrap();
    let (text, read) = ssh_keygen(&["-L", "-f", path.to_str().unwrap()], None);
    assert!(read, "{text}");
    text.lines().skip(1).map(|line| line.trim().to_owned()).collect()
}

/// An extension as `ssh-keygen -L` shows one that it does not know: the data in hex, itself an SSH string.
fn extension(name: &str, value: &str) -> String {
    let data = format!("{:08x}{}", value.len(), hex::encode(value));
    format!("{name} UNKNOWN OPTION: {data} (len {})", value.len() + 4)
}

#[test]
fn stock_openssh_reads_every_kind_of_certificate_as_it_was_meant() {
    let mut bench = Bench::new();
    let (alice, web01, m1) = (key(), key(), key());
    let cases = [
        (
            technician("alice"),
            &alice,
            Authority::Technicians,
            "user",
            "tech:alice",
            7,
            vec![
                extension("customers@reeve", "contoso,fabrikam"),
                extension("directory-id@reeve", "S-1-5-21-1-2-3-1104"),
                extension("max-level@reeve", "2"),
            ],
        ),
        (agent("contoso/web01"), &web01, Authority::Agents, "user", "host:contoso/web01", 365, vec![]),
        (master("m1", None), &m1, Authority::Masters, "host", "master:m1", 365, vec![]),
    ];
    for (serial, (subject, key, authority, kind, principal, days, extensions)) in (1..).zip(cases) {
        let (certificate, issued) = bench.issue(subject, key).unwrap();
        let ca = bench.ca.register().unwrap().authority(authority).fingerprint();
        let utc = |at: Millis| crate::register::rfc3339(at).trim_end_matches('Z').to_owned();
        assert_eq!(issued.not_after, NOW.plus(DAY * days));
        let mut expected = vec![
            format!("Type: ssh-ed25519-cert-v01@openssh.com {kind} certificate"),
            format!("Public key: ED25519-CERT {}", line(key).fingerprint()),
            format!("Signing CA: ED25519 {ca} (using ssh-ed25519)"),
            format!("Key ID: \"{principal} of site lab\""),
            format!("Serial: {serial}"),
            format!("Valid: from {} to {}", utc(NOW.minus(BACKDATED)), utc(issued.not_after)),
            "Principals:".to_owned(),
            principal.to_owned(),
            "Critical Options: (none)".to_owned(),
        ];
        if extensions.is_empty() {
            expected.push("Extensions: (none)".to_owned());
        } else {
            expected.push("Extensions:".to_owned());
            expected.extend(extensions);
        }
        assert_eq!(shown(&bench, &certificate), expected, "{principal}");
    }
}

#[test]
fn what_the_ca_issues_is_what_the_verifying_side_takes() {
    let mut bench = Bench::new();
    let log = ledger("m1");
    let (alice, web01, m1) = (key(), key(), key());
    let (of_alice, _) = bench.issue(technician("alice"), &alice).unwrap();
    let (of_web01, _) = bench.issue(agent("contoso/web01"), &web01).unwrap();
    let (of_m1, _) = bench.issue(master("m1", Some(&log)), &m1).unwrap();
    let trust = bench.trust();

    let found = certificate::technician(&of_alice, &trust, NOW).unwrap();
    assert_eq!((found.name.as_str(), found.directory_id.as_str()), ("alice", "S-1-5-21-1-2-3-1104"));
    assert_eq!(found.ceiling.max_level, Level::Two);
    assert_eq!(found.ceiling.customers, "contoso,fabrikam".parse::<Customers>().unwrap());
    assert_eq!(certificate::agent(&of_web01, &trust, NOW).unwrap().host.to_string(), "contoso/web01");
    assert_eq!(certificate::master(&of_m1, &trust, NOW).unwrap().name.as_str(), "m1");
    assert!(certificate::technician(&of_web01, &trust, NOW).is_err());
    assert!(certificate::agent(&of_alice, &trust, NOW).is_err());
}

#[test]
fn a_certificate_by_ssh_keygen_with_our_ca_key_is_taken_too() {
    let mut bench = Bench::new();
    let trust = bench.trust();
    let public = bench.path("bob.pub");
    std::fs::write(&public, line(&key()).to_string()).unwrap();
    let ca = Authority::Technicians.path(&bench.ca.folder);
    let (text, signed) = ssh_keygen(
        &[
            "-q",
            "-s",
            ca.to_str().unwrap(),
            "-P",
            "correct horse",
            "-I",
            "by hand",
            "-n",
            "tech:bob",
            "-V",
            "20270101000000:20270108000000",
            "-O",
            "clear",
            "-O",
            "extension:directory-id@reeve=S-1-5-21-7",
            "-O",
            "extension:max-level@reeve=1",
            "-O",
            "extension:customers@reeve=*",
            public.to_str().unwrap(),
        ],
        None,
    );
    assert!(signed, "{text}");

    let made = std::fs::read_to_string(bench.path("bob-cert.pub")).unwrap();
    let in_january = Millis(1_798_900_000_000);
    let found = certificate::technician(&Certificate::from_openssh(&made).unwrap(), &trust, in_january).unwrap();
    assert_eq!((found.name.as_str(), found.ceiling.max_level), ("bob", Level::One));
    assert_eq!(found.ceiling.customers, Customers::All);
}

#[test]
fn stock_openssh_verifies_the_trust_bundle() {
    let mut bench = Bench::new();
    let trust = bench.trust();
    let root = *bench.ca.register().unwrap().authority(Authority::Root).key().ed25519().unwrap();
    let mut blob = trust.signed().signature();
    let signature: ssh_key::SshSig = ssh_key::encoding::Decode::decode(&mut blob).unwrap();
    let pem = signature.to_pem(ssh_key::LineEnding::LF).unwrap();
    let root = ssh_key::PublicKey::from(ssh_key::public::KeyData::from(root)).to_openssh().unwrap();
    std::fs::write(bench.path("allowed"), format!("root namespaces=\"trust@reeve\" {root}\n")).unwrap();
    std::fs::write(bench.path("sig"), pem).unwrap();
    let verify = |document: &[u8]| {
        std::fs::write(bench.path("document"), document).unwrap();
        let (allowed, sig) = (bench.path("allowed"), bench.path("sig"));
        let [allowed, sig] = [allowed.to_str().unwrap(), sig.to_str().unwrap()];
        let arguments = ["-Y", "verify", "-n", "trust@reeve", "-I", "root", "-f", allowed, "-s", sig];
        ssh_keygen(&arguments, Some(&bench.path("document")))
    };

    let (text, good) = verify(trust.signed().json());
    assert!(good, "{text}");
    let (_, good) = verify(&[trust.signed().json(), b" "].concat());
    assert!(!good);
}

#[test]
fn bundles_are_numbered_and_list_what_was_added_since() {
    let mut bench = Bench::new();
    let first = bench.trust();
    assert_eq!((first.number, first.issued), (1, NOW));
    assert_eq!(first.refresh_by, NOW.plus(DAY * 30));
    assert!(first.masters.is_empty() && first.logs.is_empty() && first.library_signers.is_empty());

    let (log, signer, m1) = (ledger("m1"), key(), key());
    bench.issue(master("m0", None), &key()).unwrap();
    bench.issue(master("m1", Some(&log)), &m1).unwrap();
    bench.issue(master("m1", None), &m1).unwrap();
    bench.ca.add_library_signer(&line(&signer), NOW).unwrap();
    let second = bench.trust();
    assert_eq!(second.number, 2);
    assert_eq!(second.masters, ["m1".parse().unwrap()]);
    assert_eq!(second.logs.iter().map(|log| log.vkey.clone()).collect::<Vec<_>>(), [log.vkey().to_string()]);
    assert_eq!(second.library_signers, [line(&signer)]);
    assert!(first.replaced_by(second.signed().clone()).is_ok());
    assert!(second.replaced_by(first.signed().clone()).is_err());
}

#[test]
fn a_public_key_belongs_to_one_name_and_kind_for_ever() {
    let mut bench = Bench::new();
    let (mine, log) = (key(), ledger("m1"));
    bench.issue(technician("alice"), &mine).unwrap();
    bench.issue(technician("alice"), &mine).unwrap();
    for other in [technician("bob"), agent("contoso/web01"), master("m1", Some(&log))] {
        assert!(bench.refused(other, &mine).contains("belongs to tech:alice"));
    }
    assert!(bench.ca.add_library_signer(&line(&mine), NOW).unwrap_err().to_string().contains("belongs to tech:alice"));

    let signer = key();
    bench.ca.add_library_signer(&line(&signer), NOW).unwrap();
    assert!(bench.refused(agent("contoso/web01"), &signer).contains("belongs to a library signer"));
    for authority in Authority::ALL {
        let path = Authority::path(authority, &bench.ca.folder).with_extension("pub");
        let own = reeve_wire::keyfile::read_public_key(&path).unwrap();
        let order = Order { subject: technician("bob"), key: own, valid: None };
        let refused = bench.ca.issue(&order, &secret(), NOW).unwrap_err().to_string();
        assert!(refused.contains("belongs to this CA"), "{refused}");
    }
}

#[test]
fn a_machine_has_one_key_at_a_time() {
    let mut bench = Bench::new();
    let (first, second) = (key(), key());
    bench.issue(agent("contoso/web01"), &first).unwrap();
    bench.issue(agent("contoso/web01"), &first).unwrap();
    let refused = bench.refused(agent("contoso/web01"), &second);
    assert!(refused.contains("certificate 1 for another key until 2028-01-15"), "{refused}");
    bench.issue(agent("contoso/db01"), &second).unwrap();

    let expired = NOW.plus(DAY * 365);
    let order = Order { subject: agent("contoso/web01"), key: line(&key()), valid: None };
    assert_eq!(bench.ca.issue(&order, &secret(), expired).unwrap().1.serial, 4);

    bench.issue(technician("alice"), &key()).unwrap();
    bench.issue(technician("alice"), &key()).unwrap();
}

#[test]
fn a_ledger_has_its_masters_name_and_a_key_of_its_own_that_stays() {
    let mut bench = Bench::new();
    let (log, m1) = (ledger("m1"), key());
    assert!(bench.refused(master("m2", Some(&log)), &key()).contains("is called lab.reeve/m2"));
    bench.issue(master("m1", Some(&log)), &m1).unwrap();
    assert!(bench.refused(master("m1", Some(&ledger("m1"))), &m1).contains("another ledger key"));

    let seed: [u8; 32] = rand::random();
    let both = PrivateKey::from(ssh_key::private::Ed25519Keypair::from_seed(&seed));
    let log = LogSigner::from_seed("lab.reeve/m2", &seed).unwrap();
    assert!(bench.refused(master("m2", Some(&log)), &both).contains("belongs to master:m2"));
    bench.issue(agent("contoso/web01"), &both).unwrap();
    assert!(bench.refused(master("m2", Some(&log)), &key()).contains("belongs to host:contoso/web01"));

    let seed: [u8; 32] = rand::random();
    let log = LogSigner::from_seed("lab.reeve/m3", &seed).unwrap();
    bench.issue(master("m3", Some(&log)), &key()).unwrap();
    let of_log = PrivateKey::from(ssh_key::private::Ed25519Keypair::from_seed(&seed));
    assert!(bench.refused(technician("alice"), &of_log).contains("belongs to the ledger of master:m3"));
}

#[test]
fn an_order_outside_the_rules_is_refused_with_the_rule() {
    let mut bench = Bench::new();
    let mut order = |subject: Subject, valid: Option<Duration>| {
        bench.ca.issue(&Order { subject, key: line(&key()), valid }, &secret(), NOW)
    };
    for (days, taken) in [(0, false), (1, true), (30, true), (31, false)] {
        assert_eq!(order(technician("alice"), Some(DAY * days)).is_ok(), taken, "{days} days");
    }
    for (host, days, taken) in [("a/b", 365, true), ("a/c", 366, false)] {
        assert_eq!(order(agent(host), Some(DAY * days)).is_ok(), taken, "{days} days");
    }
    for id in ["", "a b", "a\nb", &"x".repeat(257)] {
        let ceiling = Ceiling { max_level: Level::One, customers: Customers::All };
        let subject = Subject::Technician { name: "bob".parse().unwrap(), ceiling, directory_id: id.to_owned() };
        assert!(matches!(order(subject, None), Err(CaError::Order(OrderError::DirectoryId))), "{id:?}");
    }
}

#[test]
fn a_hardware_key_is_for_people_only() {
    let mut bench = Bench::new();
    let token: KeyLine = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAICFo/k5LU8863u66YC9eUO2170QduohPURkQnbLa/dczAAAABHNzaDo="
        .parse()
        .unwrap();
    for (subject, taken) in [(technician("alice"), true), (agent("contoso/web01"), false), (master("m1", None), false)]
    {
        let order = Order { subject, key: token.clone(), valid: None };
        assert_eq!(bench.ca.issue(&order, &secret(), NOW).is_ok(), taken, "{:?}", order.subject);
    }
    assert!(bench.ca.add_library_signer(&token, NOW).is_err());
}

#[test]
fn a_key_that_anybody_could_sign_for_is_refused() {
    use ssh_key::public::{Ed25519PublicKey, KeyData, SkEd25519};
    let mut bench = Bench::new();
    let neutral = Ed25519PublicKey(std::array::from_fn(|at| u8::from(at == 0)));
    for key in [KeyData::Ed25519(neutral), KeyData::SkEd25519(SkEd25519::new(neutral, "ssh:"))] {
        let order = Order { subject: technician("alice"), key: KeyLine::new(key).unwrap(), valid: None };
        assert!(matches!(bench.ca.issue(&order, &secret(), NOW), Err(CaError::Order(OrderError::WeakKey))));
    }
    let neutral = KeyLine::new(KeyData::Ed25519(neutral)).unwrap();
    assert!(matches!(bench.ca.add_library_signer(&neutral, NOW), Err(CaError::Order(OrderError::WeakKey))));
}

#[test]
fn only_the_right_passphrase_and_the_founding_keys_open_the_ca() {
    let mut bench = Bench::new();
    let wrong = Passphrase::Given("wrong".to_owned().into());
    assert!(matches!(bench.ca.sign_trust(&wrong, NOW), Err(CaError::WrongPassphrase(_))));

    let path = Authority::Root.path(&bench.ca.folder);
    let good = std::fs::read(&path).unwrap();
    let other = key().to_openssh(ssh_key::LineEnding::LF).unwrap();
    reeve_wire::keyfile::write_secret(&path, other.as_bytes()).unwrap();
    assert!(matches!(bench.ca.sign_trust(&secret(), NOW), Err(CaError::OtherKey(_))));

    let open = PrivateKey::from_openssh(&good).unwrap().decrypt("correct horse").unwrap();
    let open = open.to_openssh(ssh_key::LineEnding::LF).unwrap();
    reeve_wire::keyfile::write_secret(&path, open.as_bytes()).unwrap();
    assert!(matches!(bench.ca.sign_trust(&secret(), NOW), Err(CaError::NotEncrypted(_))));
    assert_eq!(bench.ca.register().unwrap().next_bundle(), 1);
}

#[test]
fn a_ca_is_made_once_in_a_folder_of_its_own_that_only_its_owner_enters() {
    let Bench { ca, folder } = Bench::new();
    let path = ca.folder.clone();
    drop(ca);
    let site: Name = "lab".parse().unwrap();
    assert!(matches!(Ca::init(&path, &site, &secret(), NOW), Err(CaError::Exists(_))));
    std::fs::write(folder.path().join("letter"), "dear").unwrap();
    assert!(matches!(Ca::init(folder.path(), &site, &secret(), NOW), Err(CaError::NotEmpty(_))));
    assert!(matches!(Ca::open(folder.path()), Err(CaError::NoCa(_))));

    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&path), 0o700);
    for authority in Authority::ALL {
        let file = authority.path(&path);
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        assert!(PrivateKey::read_openssh_file(&file).unwrap().is_encrypted());
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(Ca::open(&path), Err(CaError::Folder { mode: 0o750, .. })));
}

#[test]
fn a_folder_with_nothing_but_its_configuration_takes_a_ca() {
    let folder = tempfile::tempdir().unwrap();
    reeve_wire::keyfile::write_secret(&folder.path().join("ca.toml"), b"passphrase-command = ['echo', 'pass']")
        .unwrap();
    let passphrase = Passphrase::for_ca(folder.path(), None).unwrap();
    let mut ca = Ca::init(folder.path(), &"lab".parse().unwrap(), &passphrase, NOW).unwrap();
    assert_eq!(ca.sign_trust(&Passphrase::Given("pass".to_owned().into()), NOW).unwrap().number, 1);
}

#[test]
fn nothing_is_issued_from_a_log_that_was_altered() {
    let mut bench = Bench::new();
    bench.issue(technician("alice"), &key()).unwrap();
    let Bench { ca, folder: _held } = bench;
    let path = ca.folder.clone();
    drop(ca);
    let log = std::fs::read_to_string(path.join(log::FILE)).unwrap();
    std::fs::write(path.join(log::FILE), log.replace("tech:alice", "tech:mallo")).unwrap();
    let refused = Ca::open(&path).unwrap_err().to_string();
    assert!(refused.contains("issued.log, line 2:"), "{refused}");
    assert!(crate::register::read(&path).is_err());
}

#[test]
fn two_at_once_never_take_one_serial() {
    let Bench { ca, folder: _held } = Bench::new();
    let path = ca.folder.clone();
    drop(ca);
    let issue = |number: u32| {
        let mut ca = Ca::open(&path).unwrap();
        let subject = agent(&format!("load/h{number}"));
        ca.issue(&Order { subject, key: line(&key()), valid: None }, &secret(), NOW).unwrap().1
    };
    let mut serials: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|number| scope.spawn(move || issue(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().serial).collect()
    });
    serials.sort_unstable();
    assert_eq!(serials, [1, 2, 3, 4, 5, 6]);
    let (entries, _) = crate::register::read(&path).unwrap();
    assert_eq!(Register::of(&entries).unwrap().certificates().count(), 6);
}

#[test]
fn only_a_signer_of_the_site_signs_its_library() {
    let mut bench = Bench::new();
    let signer = key();
    let record = |ca: &mut Ca, version| ca.record_library(version, Digest::of(b""), &line(&signer), NOW);
    assert!(matches!(record(&mut bench.ca, 1), Err(CaError::NotASigner(_))));
    bench.ca.add_library_signer(&line(&signer), NOW).unwrap();
    record(&mut bench.ca, 4).unwrap();
    assert_eq!(bench.ca.register().unwrap().library_version(), 4);
}
