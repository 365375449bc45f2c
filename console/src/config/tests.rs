use std::os::unix::fs::PermissionsExt as _;

use super::*;

const ROOT: &str = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";

fn whole() -> String {
    format!(
        r#"
        site = "noc"
        root = "{ROOT}"
        trust = "trust-bundle"
        masters = ["noc.example:443", "[2001:db8::1]:4443"]
        name = "alice"
        key = "~/.ssh/id_ed25519"
        certificate = "/keys/id_ed25519-cert.pub"
        password-command = ["pass", "show", "noc"]
        runtime-dir = "/run/alice"
        "#
    )
}

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    Config::parse(text, Path::new("/etc/reeve"), Some(Path::new("/home/alice")))
}

fn problems(text: &str) -> String {
    parse(text).unwrap_err().iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn every_field_is_read_and_paths_are_made_whole() {
    let config = parse(&whole()).unwrap();

    assert_eq!(config.principal(), "tech:alice");
    assert_eq!(config.trust, Path::new("/etc/reeve/trust-bundle"));
    assert_eq!(config.key, Path::new("/home/alice/.ssh/id_ed25519"));
    assert_eq!(config.certificate, Path::new("/keys/id_ed25519-cert.pub"));
    assert_eq!(config.masters, ["noc.example:443", "[2001:db8::1]:4443"]);
    let command = config.password_command.unwrap();
    assert_eq!((command.program.as_str(), command.arguments.len()), ("pass", 2));
    assert_eq!(config.runtime_dir.as_deref(), Some(Path::new("/run/alice")));
}

#[test]
fn all_problems_are_reported_together() {
    let text = "site = 'N O C'\nroot = 'MD5:00'\nmasters = ['noc.example', ':443', 'x:0']\nkey = ''\n\
                password-command = []\nname = 'alice'\ncertificate = 'c'";
    let found = problems(text);

    for expected in [
        "site: \"N O C\" is not a name",
        "root: it is no SHA-256 fingerprint",
        "trust is missing",
        "masters: \"noc.example\" is no address",
        "masters: \":443\"",
        "masters: \"x:0\"",
        "key: it is empty",
        "password-command: it names no program",
    ] {
        assert!(found.contains(expected), "{expected:?} is not in\n{found}");
    }
}

#[test]
fn an_empty_file_is_told_everything_that_belongs_there() {
    let found = problems("");

    for field in ["site", "root", "trust", "masters", "name", "key", "certificate"] {
        assert!(found.contains(&format!("{field} is missing")), "{field} is not in\n{found}");
    }
}

#[test]
fn a_misspelt_key_is_an_error() {
    let found = problems(&whole().replace("runtime-dir", "runtime-dri"));

    assert!(found.contains("unknown field `runtime-dri`"), "{found}");
}

#[test]
fn a_file_that_others_can_write_is_refused_with_the_way_to_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reeve.toml");
    std::fs::write(&path, whole()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();

    let refused = Config::load(&path, None).unwrap_err();
    assert_eq!(refused.exit_status(), 78);
    assert!(refused.to_string().contains("chmod go-w"), "{refused}");

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Config::load(&path, Some(Path::new("/home/alice"))).is_ok());
}

#[test]
fn a_missing_file_says_how_to_name_another() {
    let Failure::Told { refusal, hint, .. } = Config::load(Path::new("/nowhere/reeve.toml"), None).unwrap_err() else {
        panic!("nothing was told");
    };

    assert_eq!(refusal.code, Code::PolicyConfig);
    assert!(refusal.reason.contains("/nowhere/reeve.toml"), "{}", refusal.reason);
    assert!(hint.unwrap().contains("--config"));
}
