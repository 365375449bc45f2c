//! The program itself: its verbs, its exit statuses, and what it leaves behind when it is killed.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use reeve_wire::code::Code;
use reeve_wire::keyfile::{KeyLine, read_private_key, read_public_key};
use reeve_wire::message::JournalState;
use reeve_wire::receipt::{Event, Outcome};
use reeve_wire::time::Clock;

use crate::master::{Greeted, Master};
use crate::server::{Server, wait_for};
use crate::site::{HOST, Site, line, parts};

/// Writes the configuration of a server as its administrator would.
fn written(server: &Server) -> std::path::PathBuf {
    let config = &server.config;
    let path = server.dir.path().join("agent.toml");
    let text = format!(
        "site = \"lab\"\nhost = \"{HOST}\"\nroot = \"{}\"\ntrust = {:?}\nmasters = {:?}\nkey = {:?}\n\
         certificate = {:?}\nstate = {:?}\nmax-output = {}\nservice-manager = {:?}\n",
        config.root,
        config.trust,
        config.masters,
        config.key,
        config.certificate,
        config.state,
        config.max_output,
        config.service_manager
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn agent(config: &Path, arguments: &[&str]) -> Output {
    command(config, arguments).output().unwrap()
}

fn command(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reeve-agent"));
    command.env("REEVE_CONFIG", config).env_remove("REEVE_LOG").args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn site() -> Site {
    Site::at(Clock::system().now())
}

/// The program, ended when the test is.
struct Program(Child);

impl Program {
    fn run(config: &Path) -> Self {
        Self(command(config, &["run"]).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// What SIGTERM makes of it: the exit status and the log.
    async fn terminate(mut self) -> (Option<i32>, String) {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let mut status = None;
        wait_for("the program ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        })
        .await;
        let mut log = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status.unwrap().code(), log)
    }

    /// Sockets of the program that wait for others to come.
    fn listening(&self) -> Vec<String> {
        let own: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", self.0.id()))
            .unwrap()
            .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        assert!(!own.is_empty(), "the program has at least its connection");
        let table =
            |name: &str| std::fs::read_to_string(format!("/proc/{}/net/{name}", self.0.id())).unwrap_or_default();
        ["tcp", "tcp6", "udp", "udp6"]
            .into_iter()
            .flat_map(|name| table(name).lines().skip(1).map(str::to_owned).collect::<Vec<_>>())
            .filter(|row| {
                let fields: Vec<_> = row.split_whitespace().collect();
                // 0A is LISTEN; an unconnected UDP socket is 07.
                own.iter().any(|inode| inode == fields[9]) && (fields[3] == "0A" || fields[3] == "07")
            })
            .collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn the_key_is_made_where_it_is_used_and_never_made_over() {
    let server = Server::of(&site(), &["127.0.0.1:1".into()]);
    let config = written(&server);
    std::fs::remove_file(&server.config.key).unwrap();

    let made = agent(&config, &["keys"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let printed: KeyLine = text(&made.stdout).parse().unwrap();
    let key = read_private_key(&server.config.key).unwrap();
    assert_eq!(printed, line(&key));
    assert_eq!(read_public_key(&server.dir.path().join("host.key.pub")).unwrap(), printed);
    assert_eq!(std::fs::metadata(&server.config.key).unwrap().permissions().mode() & 0o7777, 0o600);

    let again = agent(&config, &["keys"]);
    assert_eq!(again.status.code(), Some(78));
    assert!(text(&again.stderr).contains("not overwritten"));
    assert_eq!(line(&read_private_key(&server.config.key).unwrap()), printed);
}

#[test]
fn a_key_that_others_could_use_keeps_the_agent_from_starting_and_the_way_out_is_said() {
    let server = Server::of(&site(), &["127.0.0.1:1".into()]);
    let config = written(&server);
    let refused = |expected: &str| {
        for verb in ["run", "check-config"] {
            let done = agent(&config, &[verb]);
            assert_eq!(done.status.code(), Some(78), "{verb}");
            assert!(text(&done.stderr).contains(expected), "{verb}: {}", text(&done.stderr));
        }
    };
    std::fs::set_permissions(&server.config.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(&format!("chmod 600 '{}'", server.config.key.display()));

    std::fs::set_permissions(&server.config.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let elsewhere = server.dir.path().join("elsewhere");
    std::fs::rename(&server.config.key, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &server.config.key).unwrap();
    refused("is a symbolic link");
    assert!(!server.config.state.exists(), "a refused start leaves nothing behind");

    std::fs::remove_file(&server.config.key).unwrap();
    std::fs::rename(&elsewhere, &server.config.key).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&server.config.key, Some(12_345), None).unwrap();
        refused("chown 0");
        std::os::unix::fs::chown(&server.config.key, Some(0), None).unwrap();
    }
    let good = agent(&config, &["check-config"]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stderr));
    assert!(text(&good.stdout).starts_with("contoso/web01: the configuration is in order; no trust bundle yet"));
}

#[test]
fn a_certificate_of_somebody_else_is_refused() {
    let site = site();
    let server = Server::of(&site, &["127.0.0.1:1".into()]);
    let config = written(&server);
    for (certificate, expected) in [
        (site.technician_certificate("3", "*"), "the configuration says host:contoso/web01"),
        (site.master_certificate(), "it is no user certificate"),
        (Site { host: crate::site::key(55), ..site.clone() }.host_certificate(), "it is for another key"),
    ] {
        std::fs::write(&server.config.certificate, certificate.to_openssh().unwrap()).unwrap();
        let done = agent(&config, &["check-config"]);
        assert_eq!(done.status.code(), Some(78));
        assert!(text(&done.stderr).contains(expected), "{}", text(&done.stderr));
    }
    let other_ca = Site { agents_ca: crate::site::key(56), ..site.clone() }.host_certificate();
    std::fs::write(&server.config.certificate, other_ca.to_openssh().unwrap()).unwrap();
    std::fs::write(&server.config.trust, site.trust.signed().to_wire()).unwrap();
    let done = agent(&config, &["check-config"]);
    assert_eq!(done.status.code(), Some(78));
    assert!(text(&done.stderr).contains(Code::CertificateUntrusted.sentence()), "{}", text(&done.stderr));
}

#[test]
fn a_wrong_command_line_is_64_and_a_wrong_configuration_78_with_all_problems() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("agent.toml");
    std::fs::write(&config, "site = 'X'\nhost = 'web01'\nroot = ''\nmasters = []\n").unwrap();
    for wrong in [&["fly"][..], &["run", "--loud"], &[]] {
        assert_eq!(agent(&config, wrong).status.code(), Some(64), "{wrong:?}");
    }
    for asked in [&["--help"][..], &["--version"], &["log", "--help"]] {
        assert_eq!(agent(&config, asked).status.code(), Some(0), "{asked:?}");
    }
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    let done = agent(&config, &["check-config"]);
    assert_eq!(done.status.code(), Some(78));
    assert!(text(&done.stderr).contains("missing field `trust`"), "{}", text(&done.stderr));
    assert_eq!(agent(Path::new("/no/such/agent.toml"), &["status"]).status.code(), Some(78));
}

async fn up() -> (Master, Server, std::path::PathBuf, Program, Greeted) {
    let mut master = Master::of(&site()).await;
    let server = Server::of(&master.site, &[master.address.to_string()]);
    let config = written(&server);
    let program = Program::run(&config);
    let greeted = master.greet().await;
    (master, server, config, program, greeted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_listens_on_nothing_and_ends_cleanly() {
    let (master, server, config, program, greeted) = up().await;
    let said = master.site.raw(&["/bin/echo", "a-secret-word"]);
    assert_eq!(greeted.run(&parts(&said.handed())).await.stdout, b"a-secret-word\n");
    assert_eq!(program.listening(), Vec::<String>::new());
    wait_for("the status says so", || server.status().connected).await;

    let status = agent(&config, &["status"]);
    let shown = text(&status.stdout);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status.stderr));
    for expected in ["agent: running since", "connection: noc1 at", "trust bundle: 7", "fresh", "library: version 4"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(shown.contains("programs started: 1"), "{shown}");

    let (status, log) = program.terminate().await;
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("Connected") && log.contains("Stopping"), "{log}");
    assert!(!log.contains("secret-word"), "{log}");
    let json = agent(&config, &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["running"], &json["connection"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!(json["last_connection"]["why"], "the agent is being stopped");
    assert_eq!((&json["bundle"]["number"], &json["checkpoints"][0]["size"]), (&7.into(), &3.into()));
    assert_eq!(json["journal"]["seq"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_comes_back_and_says_what_it_does_not_know() {
    let (mut master, server, config, mut program, greeted) = up().await;
    let site = master.site.clone();
    let done = site.raw(&["/bin/true"]);
    greeted.run(&parts(&done.handed())).await;
    let cut_off = site.raw(&["/bin/sleep", "8"]);
    let said = parts(&cut_off.handed());
    let mut operation = greeted.begin(&said).await;
    operation.receipts(1).await;
    program.kill();
    drop(greeted);

    let program = Program::run(&config);
    let mut again = master.greet().await;

    let (receipts, found) = again.ask(&[cut_off.operation()]).await;
    let events: Vec<_> = receipts.iter().map(|receipt| (receipt.event, receipt.outcome)).collect();
    assert_eq!(events, [(Event::Accepted, None), (Event::Ended, Some(Outcome::Unknown))]);
    assert_eq!(found.state, JournalState::Ended);
    let replayed = again.run(&said).await;
    assert_eq!(replayed.last().code, Some(Code::RequestReplayed), "at most once, over a crash as well");
    assert_eq!(again.ask(&[done.operation()]).await.1.state, JournalState::Ended);

    let log = agent(&config, &["log", "--json"]);
    let lines: Vec<serde_json::Value> =
        text(&log.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["restarted", "accepted", "ended", "accepted", "restarted", "ended", "refused"]);
    let people = text(&agent(&config, &["log"]).stdout);
    let unknown = people.lines().nth(5).unwrap();
    let expected = format!("1.6 ended     {} outcome=unknown code=outcome-unknown", cut_off.operation());
    assert!(unknown.contains(&expected), "{unknown}");
    assert_eq!(server.journal().len(), 7);
    assert_eq!(program.terminate().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_on_the_same_state_is_refused() {
    let (_master, server, config, program, _greeted) = up().await;
    let second = agent(&config, &["run"]);

    assert_eq!(second.status.code(), Some(78));
    assert!(text(&second.stderr).contains("another agent runs on it"), "{}", text(&second.stderr));
    assert_eq!(server.journal().len(), 1);
    drop(program);
}
