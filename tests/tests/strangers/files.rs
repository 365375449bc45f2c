//! Key files that others could use: no program of Reeve works with one, and each says which command mends it.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use reeve_wire::code::exit;

use super::stage::Stage;

/// Runs `command`, which must not start, and gives what it says.
fn refused(mut command: Command, what: &str) -> String {
    let done = command.env_remove("SSH_AUTH_SOCK").output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(i32::from(exit::CONFIG)), "{what}: {said}");
    assert!(done.stdout.is_empty(), "{what}");
    said
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_program_starts_with_a_key_that_others_can_use() {
    let mut stage = Stage::new();
    let lab = stage.site.lab().clone();
    let web01 = "contoso/web01";
    stage.site.stop(&format!("agent:{web01}")).unwrap();
    let run = |program: &str, config: &Path| {
        let mut command = Command::new(&lab.binaries[program]);
        command.arg("--config").arg(config).arg("run");
        command
    };
    let console = || stage.site.console("bob", ["login"]);
    let agent = || run("reeve-agent", &lab.agents[web01].config);
    let master = || run("reeve-master", &lab.master.config);
    bad_keys("reeve", &lab.technicians["bob"].key, &console);
    bad_keys("reeve-agent", &lab.agents[web01].key, &agent);
    stage.site.stop("master").unwrap();
    for key in ["host.key", "log.key"] {
        bad_keys("reeve-master", &lab.master.config.with_file_name(key), &master);
    }

    // As they were, everything starts again.
    stage.site.start("master").unwrap();
    stage.site.start(&format!("agent:{web01}")).unwrap();
    let done = stage.site.reeve("bob", ["run", web01, "uptime"]).unwrap();
    assert_eq!(done.status, 0, "{done:?}");
}

/// Tries `start` with its key in every bad state.
fn bad_keys(program: &str, key: &Path, start: &dyn Fn() -> Command) {
    for bad in [0o644, 0o640, 0o604, 0o620, 0o660, 0o666] {
        mode(key, bad);
        let said = refused(start(), program);
        assert!(said.contains(&format!("chmod 600 '{}'", key.display())), "{program} {bad:04o}: {said}");
    }
    mode(key, 0o600);
    let real = key.with_extension("real");
    std::fs::rename(key, &real).unwrap();
    symlink(&real, key).unwrap();
    let said = refused(start(), program);
    assert!(said.contains("symbolic link") && said.contains(&key.display().to_string()), "{program}: {said}");
    std::fs::remove_file(key).unwrap();
    std::fs::rename(&real, key).unwrap();
}
