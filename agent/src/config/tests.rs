use std::os::unix::fs::PermissionsExt as _;

use super::*;

const GOOD: &str = r#"
site = "lab"
host = "contoso/web01"
root = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
trust = "/var/lib/reeve/trust"
masters = ["noc.example", "192.0.2.7:8443", "[2001:db8::1]", "[2001:db8::2]:2222"]
key = "/etc/reeve/host-key"
certificate = "/etc/reeve/host-key-cert.pub"
state = "/var/lib/reeve"
"#;

fn problems(text: &str) -> Vec<String> {
    Config::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = Config::parse(GOOD).unwrap();

    assert_eq!(config.max_output, 256 * 1024 * 1024);
    assert_eq!(config.service_manager, Path::new("/usr/bin/systemctl"));
    assert_eq!(config.masters, ["noc.example:443", "192.0.2.7:8443", "[2001:db8::1]:443", "[2001:db8::2]:2222"]);
}

#[test]
fn the_example_is_good_and_names_every_default() {
    let example = include_str!("../../agent.example.toml");
    let config = Config::parse(example).unwrap();

    let defaults =
        [("max-output", default_max_output().to_string()), ("service-manager", DEFAULT_SERVICE_MANAGER.into())];
    for (key, default) in defaults {
        assert!(example.contains(&format!("{key} = ")) && example.contains(&default), "{key} = {default}");
        let without: String =
            example.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n")).collect();
        assert_eq!(Config::parse(&without).unwrap(), config, "{key}");
    }
    assert_eq!(config.masters, ["noc1.example.net:443", "noc2.example.net:8443"]);
}

#[test]
fn all_problems_are_reported_together() {
    let text = r#"
        site = "The Lab"
        host = "web01"
        root = "MD5:00"
        trust = "trust"
        masters = []
        key = "key"
        certificate = "certificate"
        state = "state"
        max-output = 0
        service-manager = "systemctl"
    "#;
    let found = problems(text);

    assert_eq!(found.len(), 10, "{found:#?}");
    for (start, count) in
        [("site:", 1), ("host:", 1), ("root:", 1), ("masters:", 1), ("max-output:", 1), ("service-manager must be", 1)]
    {
        assert_eq!(found.iter().filter(|problem| problem.starts_with(start)).count(), count, "{start} {found:#?}");
    }
}

#[test]
fn a_misspelt_key_is_an_error() {
    let found = problems(&format!("{GOOD}\nmax-ouput = 1"));

    assert!(found[0].contains("unknown field `max-ouput`"), "{found:?}");
}

#[test]
fn an_address_that_is_none_is_refused() {
    for bad in ["", ":443", "noc:", "noc:0", "noc:70000", "noc:443:443", "2001:db8::1", "[::1", "[x]:1", "a b", "a/b"] {
        assert_eq!(address(bad), None, "{bad:?}");
    }
}

#[test]
fn a_file_that_others_could_change_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, GOOD).unwrap();
    for mode in [0o660, 0o646, 0o777] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();

        let refused = Config::load(&path).unwrap_err()[0].to_string();

        assert!(refused.contains("chmod go-w"), "{mode:o}: {refused}");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Config::load(&path).is_ok());
}

#[test]
fn a_service_manager_that_others_could_change_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, manager) = (dir.path().join("agent.toml"), dir.path().join("stand-in"));
    std::fs::write(&path, format!("{GOOD}\nservice-manager = {manager:?}")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Config::load(&path).unwrap_err()[0].to_string().contains("cannot be read"));

    std::fs::write(&manager, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&manager, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(Config::load(&path).unwrap_err()[0].to_string().contains("chmod go-w"));

    std::fs::set_permissions(&manager, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(Config::load(&path).unwrap().service_manager, manager);
}
