//! The program as people and scripts use it: what it prints, what it writes, and how it ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use reeve_wire::bundle::Trust;
use reeve_wire::library::SignedIndex;
use reeve_wire::note::LogSigner;
use reeve_wire::signed::Signed;
use serde_json::Value;

/// A folder with a CA called `ca`, whose passphrase its own configuration gives.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn without_ca() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn new() -> Self {
        let desk = Self::without_ca();
        desk.secret("passphrase", "correct horse\n");
        desk.good(&["init", "--site", "lab", "--passphrase-file", "passphrase", "--ca", "ca"]);
        let passphrase = desk.path("passphrase");
        desk.secret("ca/ca.toml", &format!("passphrase-command = [\"cat\", {:?}]\n", passphrase));
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn secret(&self, name: &str, text: &str) {
        reeve_wire::keyfile::write_secret(&self.path(name), text.as_bytes()).unwrap();
    }

    /// Makes `NAME` and `NAME.pub` as a technician does.
    fn key(&self, name: &str) {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f"])
            .arg(self.path(name))
            .status();
        assert!(made.unwrap().success());
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_reeve-pki"))
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .env_remove("REEVE_CA")
            .env_remove("REEVE_CA_PASSPHRASE_FILE")
            .env_remove("REEVE_LIBRARY_KEY")
            .output()
            .unwrap()
    }

    /// Runs it and gives what it printed; it must end well.
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let printed = self.good(&[arguments, &["--json", "--ca", "ca"]].concat());
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Runs it and gives the exit status and what it complained of.
    fn bad(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert!(output.stdout.is_empty(), "{arguments:?} printed {}", String::from_utf8_lossy(&output.stdout));
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn bounds(&self, name: &str) -> Vec<String> {
        let words = format!(
            "issue technician {name} --public-key {name}.pub -o {name}-cert.pub --max-level 3 --customers contoso,load \
             --directory-id person-1 --ca ca"
        );
        words.split(' ').map(str::to_owned).collect()
    }
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn a_whole_site_is_stood_up_with_one_line_a_step() {
    let desk = Desk::new();
    let vkey = LogSigner::generate("lab.reeve/m1").unwrap().vkey().to_string();
    std::fs::write(desk.path("vkey"), format!("{vkey}\n")).unwrap();
    for name in ["alice", "web01", "m1", "signer"] {
        desk.key(name);
    }
    desk.good(&["issue", "master", "m1", "--public-key", "m1.pub", "--log", "vkey", "-o", "m1-cert.pub", "--ca", "ca"]);
    desk.good(&["issue", "--ca", "ca", "agent", "contoso/web01", "--public-key", "web01.pub", "-o", "web01-cert.pub"]);
    desk.good(&strs(&desk.bounds("alice")));
    desk.good(&["signer", "library", "--public-key", "signer.pub", "--ca", "ca"]);
    std::fs::create_dir_all(desk.path("library/uptime")).unwrap();
    let manifest = "name = \"uptime\"\nversion = 1\nsummary = \"Load\"\nlevel = 1\nplatforms = [\"linux\"]\ntimeout = \"10s\"\nargv = [\"uptime\"]\n";
    std::fs::write(desk.path("library/uptime/manifest.toml"), manifest).unwrap();
    let listing = desk.good(&["sign-library", "library", "--key", "signer", "--ca", "ca"]);
    assert!(listing.contains("uptime  1        1      Load"), "{listing}");
    desk.good(&["trust", "-o", "bundle", "--ca", "ca"]);

    let root = std::fs::read_to_string(desk.path("ca/root.pub")).unwrap();
    let root = root.parse::<reeve_wire::keyfile::KeyLine>().unwrap().fingerprint();
    let trust = Trust::open(signed(&desk.path("bundle")), &root).unwrap();
    assert_eq!((trust.number, trust.site.as_str(), trust.logs[0].vkey.as_str()), (1, "lab", vkey.as_str()));
    let index = SignedIndex::open(signed(&desk.path("library/signed/index")), &trust).unwrap();
    assert_eq!(index.items.len(), 1);

    let serials: Vec<_> = desk.json(&["list"]).iter().map(|facts| facts["serial"].as_u64().unwrap()).collect();
    assert_eq!(serials, [1, 2, 3]);
}

fn signed(path: &Path) -> Signed {
    Signed::from_wire(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn init_prints_the_root_and_what_to_do_next() {
    let desk = Desk::without_ca();
    desk.secret("passphrase", "correct horse\n");
    let said = desk.good(&["init", "--site", "lab", "--passphrase-file", "passphrase", "--ca", "ca"]);
    let (shown, read) =
        (Command::new("ssh-keygen").args(["-l", "-f"]).arg(desk.path("ca/root.pub")).output().unwrap(), &said);
    let fingerprint = String::from_utf8(shown.stdout).unwrap().split(' ').nth(1).unwrap().to_owned();
    assert!(read.starts_with(&format!("root {fingerprint}\n")), "{read}");
    assert!(said.contains("reeve-pki issue --ca ca master"), "{said}");
}

#[test]
fn json_has_one_object_a_certificate_with_every_field() {
    let desk = Desk::new();
    desk.key("alice");
    let mut order = desk.bounds("alice");
    order.truncate(order.len() - 2);
    let issued = desk.json(&strs(&order));
    assert_eq!(issued, desk.json(&["list"]));
    assert_eq!(issued, desk.json(&["show", "alice"]));
    assert_eq!(issued, desk.json(&["show", "tech:alice"]));
    assert_eq!(issued, desk.json(&["show", "1"]));
    let facts = issued[0].as_object().unwrap();
    for (field, value) in [("kind", "technician"), ("name", "alice"), ("state", "valid"), ("customers", "contoso,load")]
    {
        assert_eq!(facts[field], value);
    }
    assert_eq!((&facts["max_level"], &facts["log"]), (&Value::from(3), &Value::Null));
    assert_eq!(facts["certificate"].as_str().unwrap().len(), 64);
}

#[test]
fn exit_statuses_say_whose_turn_it_is() {
    let desk = Desk::new();
    desk.key("alice");
    desk.key("web01");
    desk.secret("open", "x\n");
    let run = |line: &str| desk.bad(&line.split(' ').collect::<Vec<_>>());
    for (line, status, says) in [
        ("frobnicate", 64, "unrecognized subcommand"),
        ("list", 64, "--ca DIR or REEVE_CA"),
        ("issue technician alice --public-key alice.pub -o c --ca ca", 64, "--max-level"),
        ("issue agent contoso/web01 --public-key web01.pub -o c --max-level 3 --ca ca", 64, "--max-level"),
        ("issue agent web01 --public-key web01.pub -o c --ca ca", 64, "write CUSTOMER/HOST"),
        ("issue agent Contoso/web01 --public-key web01.pub -o c --ca ca", 64, "write CUSTOMER/HOST"),
        ("issue master m1 --public-key m1.pub -o c --ca ca", 65, "m1.pub: No such file"),
        ("issue agent a/b --public-key web01 -o c --ca ca", 65, "private key, which never leaves its machine"),
        ("issue agent a/b --public-key ca/issued.log -o c --ca ca", 65, "not an OpenSSH public key line"),
        ("issue agent a/b --public-key web01.pub -o web01.pub --ca ca", 65, "holds something else already"),
        ("issue agent a/b --public-key web01.pub -o no/such/folder --ca ca", 65, "cannot be written"),
        ("issue agent a/b --public-key web01.pub -o c --valid 400d --ca ca", 65, "at most 365 days"),
        ("issue master m1 --public-key web01.pub -o c --log nonsense --ca ca", 65, "--log \"nonsense\""),
        ("trust -o bundle --passphrase-file open --ca ca", 65, "does not open with this passphrase"),
        ("init --site lab --ca ca", 65, "holds a CA already"),
        ("show nobody --ca ca", 65, "`reeve-pki list` shows them all"),
        ("sign-library nowhere --site lab --key open", 65, "nowhere: No such file"),
        ("sign-library nowhere --key open", 64, "--site NAME"),
        ("sign-library nowhere --key open --site other --ca ca", 64, "that of site lab"),
        ("list --ca nowhere", 78, "reeve-pki init --ca nowhere"),
        ("trust -o bundle --passphrase-file gone --ca ca", 78, "gone cannot be read"),
    ] {
        let (found, said) = run(line);
        assert_eq!(found, status, "{line}: {said}");
        assert!(said.contains(says), "{line}: {said}");
        assert!(!desk.path("c").exists(), "{line}");
    }
}

#[test]
fn what_is_no_ed25519_public_key_is_refused_with_what_to_give() {
    let desk = Desk::new();
    for (kind, name) in [("rsa", "rsa"), ("ecdsa", "ecdsa")] {
        let made = Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f"]).arg(desk.path(name)).status();
        assert!(made.unwrap().success());
    }
    desk.key("alice");
    desk.good(&strs(&desk.bounds("alice")));
    for (file, says) in [
        ("rsa.pub", "ssh-rsa keys are not accepted; make one with `ssh-keygen -t ed25519`"),
        ("ecdsa.pub", "ecdsa-sha2-nistp256 keys are not accepted; make one with `ssh-keygen -t ed25519`"),
        ("alice-cert.pub", "this is a certificate; name the public key"),
    ] {
        let (status, said) = desk.bad(&["issue", "agent", "a/b", "--public-key", file, "-o", "c", "--ca", "ca"]);
        assert_eq!(status, 65, "{said}");
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn an_empty_passphrase_or_one_that_others_can_read_makes_no_ca() {
    use std::os::unix::fs::PermissionsExt as _;
    let desk = Desk::without_ca();
    desk.secret("empty", "\n");
    desk.secret("known", "correct horse\n");
    std::fs::set_permissions(desk.path("known"), std::fs::Permissions::from_mode(0o644)).unwrap();
    for (file, status, says) in [("empty", 65, "is empty"), ("known", 78, "chmod 600")] {
        let (found, said) = desk.bad(&["init", "--site", "lab", "--passphrase-file", file, "--ca", "ca"]);
        assert_eq!(found, status, "{said}");
        assert!(said.contains(says), "{said}");
        assert!(!desk.path("ca/root").exists());
    }
    desk.secret("good", "correct horse\n");
    desk.good(&["init", "--site", "lab", "--passphrase-file", "good", "--ca", "ca"]);
}

#[test]
fn the_environment_names_the_folder_and_the_passphrase() {
    let desk = Desk::new();
    std::fs::remove_file(desk.path("ca/ca.toml")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_reeve-pki"))
        .args(["trust", "-o"])
        .arg(desk.path("bundle"))
        .env("REEVE_CA", desk.path("ca"))
        .env("REEVE_CA_PASSPHRASE_FILE", desk.path("passphrase"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no master is in it"));
    assert!(desk.path("bundle").exists());
}

#[test]
fn errors_are_plain_text_when_nobody_looks() {
    let (_, said) = Desk::without_ca().bad(&["list"]);
    assert_eq!(said, "reeve-pki: name the CA's folder with --ca DIR or REEVE_CA\n");
}

#[test]
fn completions_and_the_manual_page_are_there() {
    let desk = Desk::without_ca();
    assert!(desk.good(&["completions", "bash"]).contains("sign-library"));
    assert!(desk.good(&["man"]).contains(".TH reeve-pki"));
}
