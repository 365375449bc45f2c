//! What SSH can do and Reeve does not serve, asked for by those who are let in.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use reeve_wire::message::Answer;
use russh::ChannelMsg;
use russh::client::{AuthResult, Handle, Msg};
use russh::{Channel, Error};

use super::clients::{Anyone, PATIENCE};
use super::papers::Held;
use super::stage::Stage;
use super::technician::run;

type Session = Handle<Anyone>;

/// Whom the door lets in.
#[derive(Clone, Copy, Debug)]
enum Guest {
    /// With key and password.
    Bob,
    /// With a host's certificate.
    Web01,
}

impl Guest {
    async fn enter(self, stage: &Stage, source: Ipv4Addr) -> Session {
        let mut session = stage.bare(source).await;
        let (user, (key, certificate)) = match self {
            Self::Bob => ("tech:bob", stage.technician("bob")),
            Self::Web01 => ("host:contoso/web01", stage.agent("contoso/web01")),
        };
        let shown = session.authenticate_openssh_cert(user, Arc::new(key), certificate).await.unwrap();
        match self {
            Self::Web01 => assert!(shown.success(), "{shown:?}"),
            Self::Bob => {
                assert!(matches!(shown, AuthResult::Failure { partial_success: true, .. }), "{shown:?}");
                assert!(session.authenticate_password(user, stage.password("bob")).await.unwrap().success());
            }
        }
        session
    }
}

async fn open(session: &Session) -> Channel<Msg> {
    tokio::time::timeout(PATIENCE, session.channel_open_session()).await.unwrap().unwrap()
}

/// Whether the request that was just made on `channel` is answered with a failure.
async fn failed(mut channel: Channel<Msg>) -> bool {
    loop {
        match tokio::time::timeout(PATIENCE, channel.wait()).await.unwrap() {
            Some(ChannelMsg::Failure) => return true,
            Some(ChannelMsg::Success | ChannelMsg::Data { .. }) | None => return false,
            Some(_) => {}
        }
    }
}

const REQUESTS: [&str; 8] =
    ["exec", "shell", "pty", "x11", "agent forwarding", "sftp", "another name of ours", "a variable"];

async fn request(channel: Channel<Msg>, what: &str) -> bool {
    match what {
        "exec" => channel.exec(true, "/bin/true").await,
        "shell" => channel.request_shell(true).await,
        "pty" => channel.request_pty(true, "xterm", 80, 24, 0, 0, &[]).await,
        "x11" => channel.request_x11(true, false, "MIT-MAGIC-COOKIE-1", "00", 0).await,
        "agent forwarding" => channel.agent_forward(true).await,
        "sftp" => channel.request_subsystem(true, "sftp").await,
        "another name of ours" => channel.request_subsystem(true, "reeve-raw").await,
        _ => channel.set_env(true, "LD_PRELOAD", "/tmp/x.so").await,
    }
    .unwrap();
    failed(channel).await
}

const FORWARDS: [&str; 6] =
    ["direct-tcpip", "direct-streamlocal", "x11", "tcpip-forward", "streamlocal-forward", "a second channel"];

/// Whether a way beside the one channel is refused.
async fn forward(session: &Session, canary: u16, what: &str) -> bool {
    let refused = |opened: Result<Channel<Msg>, Error>| matches!(opened, Err(Error::ChannelOpenFailure(_)));
    match what {
        "direct-tcpip" => {
            refused(session.channel_open_direct_tcpip("127.0.0.1", u32::from(canary), "127.0.0.1", 1).await)
        }
        "direct-streamlocal" => refused(session.channel_open_direct_streamlocal("/run/dbus/system_bus_socket").await),
        "x11" => refused(session.channel_open_x11("127.0.0.1", 6000).await),
        "tcpip-forward" => matches!(session.tcpip_forward("127.0.0.1", 0).await, Err(Error::RequestDenied)),
        "streamlocal-forward" => {
            matches!(session.streamlocal_forward("/tmp/stranger.sock").await, Err(Error::RequestDenied))
        }
        _ => refused(session.channel_open_session().await),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_let_in_gets_the_one_channel_and_none_of_the_rest_of_ssh() {
    let stage = Stage::new();
    let canary = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    canary.set_nonblocking(true).unwrap();
    let port = canary.local_addr().unwrap().port();

    for guest in [Guest::Bob, Guest::Web01] {
        for what in REQUESTS {
            let source = stage.source();
            let session = guest.enter(&stage, source).await;
            assert!(request(open(&session).await, what).await, "{guest:?}: {what}");
            noted(&stage, source, guest, what).await;
        }
        for what in FORWARDS {
            let source = stage.source();
            let session = guest.enter(&stage, source).await;
            let channel = open(&session).await;
            channel.request_subsystem(true, "reeve").await.unwrap();
            let refused = tokio::time::timeout(PATIENCE, forward(&session, port, what)).await;
            assert_eq!(refused, Ok(true), "{guest:?}: {what}");
            noted(&stage, source, guest, what).await;
        }
    }
    stock_ssh_gets_no_command_and_no_forward(&stage, port);
    assert!(canary.accept().is_err(), "something was forwarded");
    assert!(!std::path::Path::new("/tmp/stranger.sock").exists());

    // The agent that was there all along does its work.
    let (hand, pen) = (stage.hand("bob").await, stage.pen("bob"));
    let paper = stage.paper(&pen, &["contoso/web01"], |_| ());
    let _handed_in = hand.submit(&paper, &pen).await;
    let answers = hand.ask(&run(&paper, 0, "contoso/web01")).await.answers();
    assert!(matches!(answers.last(), Some(Answer::Ended(ended)) if ended.exit_status == Some(0)), "{answers:?}");
    reeve_lab::desk::wait_for("one program was started", Duration::from_secs(5), || stage.started() == 1);
    stage.verify();
}

/// One record a connection; that stock clients send their language is no anomaly.
async fn noted(stage: &Stage, source: Ipv4Addr, guest: Guest, what: &str) {
    if what == "a variable" {
        assert_eq!(stage.noted(source).len(), 0, "{guest:?}: {what}");
        return;
    }
    let note = stage.note(source, "protocol", what).await;
    assert_eq!(note.text("kind"), "anomaly", "{guest:?}: {what}");
    match guest {
        Guest::Bob => assert_eq!(note.text("user"), "bob", "{what}"),
        Guest::Web01 => assert_eq!(note.text("host"), "contoso/web01", "{what}"),
    }
}

fn stock_ssh_gets_no_command_and_no_forward(stage: &Stage, canary: u16) {
    let agent = &stage.site.lab().agents["contoso/web01"];
    let (key, certificate) = stage.agent("contoso/web01");
    let certificate_file = agent.key.with_file_name("host.key-cert.pub");
    let held = Held { key, certificate, key_file: agent.key.clone(), certificate_file };
    let master = stage.master();
    let (port, address) = (master.port().to_string(), master.ip().to_string());
    let forward = format!("127.0.0.1:{canary}");
    let back = format!("0:127.0.0.1:{canary}");
    for (arguments, said_by_ssh) in [
        (vec![address.as_str(), "id"], "exec request failed"),
        (vec![address.as_str(), "-s", "sftp"], "subsystem request failed"),
        (vec!["-W", &forward, &address], "stdio forwarding failed"),
        (vec!["-N", "-o", "ExitOnForwardFailure=yes", "-R", &back, &address], "remote port forwarding failed"),
    ] {
        let mut ssh = stage.ssh(stage.source(), "host:contoso/web01", &held);
        let done = ssh.args(["-p", &port]).args(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(255), "{arguments:?}: {said}");
        assert!(said.contains(said_by_ssh), "{arguments:?}: {said}");
        assert!(done.stdout.is_empty(), "{arguments:?}");
    }
}
