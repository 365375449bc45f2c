//! Who gets in, and whom a dialler believes.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use reeve_link::dial::{DialError, Identity, Options, SigningKey, dial};
use reeve_link::ssh::client_config;
use reeve_link::{Limits, Why};
use russh::client;
use russh::keys::PublicKeyOrCertificate;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::certificate::CertType;
use tokio::net::TcpListener;

use crate::site::{Keys, PASSWORD, Site, certificate, key, soon};

/// A site whose master shows what it should not.
async fn site_with(change: impl FnOnce(&Keys, &mut russh::server::Config)) -> Site {
    let keys = Keys::new();
    let mut config = keys.master();
    change(&keys, &mut config);
    Site::with(keys, config).await
}

#[tokio::test]
async fn a_bare_host_key_is_refused_whoever_trusts_it() {
    let site = site_with(|_, config| config.certificates.clear()).await;

    let refused = dial(
        &site.address.to_string(),
        site.keys.agent(),
        Arc::new(|_: &russh::keys::Certificate| Ok(())),
        &Options::CONTROL,
        &site.tasks,
    )
    .await;

    assert!(matches!(refused, Err(DialError::NoHostCertificate)), "{refused:?}");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_with_its_reason() {
    let site = site_with(|keys, config| {
        config.certificates = vec![certificate(&key(99), &keys.host, CertType::Host, "master:noc1")];
    })
    .await;

    let refused = site.dial(site.keys.agent()).await;

    assert!(matches!(&refused, Err(DialError::Untrusted(why)) if why.contains("authority")), "{refused:?}");
}

#[tokio::test]
async fn a_user_certificate_does_not_pass_for_a_host() {
    let site = site_with(|keys, config| {
        config.certificates = vec![certificate(&keys.masters_ca, &keys.host, CertType::User, "master:noc1")];
    })
    .await;

    assert!(matches!(site.dial(site.keys.agent()).await, Err(DialError::Untrusted(_))));
}

#[tokio::test]
async fn a_technician_comes_in_with_key_and_password() {
    let mut site = Site::new().await;

    let connected = site.dial(site.keys.technician(PASSWORD)).await.unwrap();

    let served = site.served().await;
    connected.link.control_send(bytes::Bytes::from_static(b"resolve")).await.unwrap();
    assert!(soon(served.link.control_next()).await.is_some());
}

#[tokio::test]
async fn a_refused_key_and_a_refused_password_are_told_apart() {
    let site = Site::new().await;
    let mut strange = site.keys.technician(PASSWORD);
    if let Identity::CertificateThenPassword { key: shown, certificate: by, .. } = &mut strange {
        *shown = key(42).into();
        *by = certificate(&key(43), &key(42), CertType::User, "tech:alice");
    }

    let wrong_password = site.dial(site.keys.technician("wrong")).await;
    let wrong_key = site.dial(strange).await;

    assert!(matches!(wrong_password, Err(DialError::PasswordRefused { .. })), "{wrong_password:?}");
    assert!(matches!(wrong_key, Err(DialError::KeyRefused { .. })), "{wrong_key:?}");
}

#[tokio::test]
async fn an_empty_password_is_refused_before_anything_is_sent() {
    let site = Site::new().await;
    let nobody_listens = "127.0.0.1:1";

    let refused =
        dial(nobody_listens, site.keys.technician(""), site.keys.trust(), &Options::CONTROL, &site.tasks).await;

    assert!(matches!(refused, Err(DialError::EmptyPassword)), "{refused:?}");
}

#[tokio::test]
async fn a_master_that_forgets_the_second_factor_is_noticed() {
    let site = Site::new().await;
    let mut careless = site.keys.technician(PASSWORD);
    if let Identity::CertificateThenPassword { user, certificate: by, .. } = &mut careless {
        // The test's master asks technicians alone for a password.
        *user = "host:contoso/web01".to_owned();
        *by = certificate(&site.keys.users_ca, &site.keys.user, CertType::User, user);
    }

    let refused = site.dial(careless).await;

    assert!(matches!(refused, Err(DialError::PasswordNotAsked)), "{refused:?}");
}

#[tokio::test]
async fn a_session_key_comes_in_without_a_certificate_and_a_strange_one_does_not() {
    let site = Site::new().await;
    let with = |key: SigningKey| Identity::SessionKey { user: "tech:alice".to_owned(), key };

    assert!(site.dial(with(site.keys.session.clone().into())).await.is_ok());
    let strange = site.dial(with(key(66).into())).await;
    assert!(matches!(strange, Err(DialError::KeyRefused { .. })), "{strange:?}");
}

#[tokio::test]
async fn only_who_enrols_comes_in_without_a_key() {
    let site = Site::new().await;
    let nobody = |user: &str| Identity::None { user: user.to_owned() };

    assert!(site.dial(nobody("enroll")).await.is_ok());
    assert!(matches!(site.dial(nobody("tech:alice")).await, Err(DialError::KeyRefused { .. })));
}

#[cfg(unix)]
#[tokio::test]
async fn a_key_in_an_ssh_agent_signs_for_its_certificate() {
    let site = Site::new().await;
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("agent");
    // OpenSSH's own, in the foreground.
    let mut running = tokio::process::Command::new("ssh-agent");
    let _running = running.args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut agent = soon(async {
        loop {
            match AgentClient::connect_uds(&socket).await {
                Ok(agent) => break agent,
                Err(_not_yet) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    agent.add_identity(&site.keys.user, &[]).await.unwrap();
    let in_agent = |public: &russh::keys::PublicKey| {
        let mut identity = site.keys.agent();
        if let Identity::Certificate { key, .. } = &mut identity {
            *key = SigningKey::Agent { socket: socket.clone(), public: public.clone() };
        }
        identity
    };

    let held = in_agent(site.keys.user.public_key());
    let strange = in_agent(key(77).public_key());

    assert!(site.dial(held).await.is_ok());
    let refused = site.dial(strange).await;
    assert!(matches!(refused, Err(DialError::KeyUnusable(_))), "{refused:?}");
}

#[tokio::test]
async fn nobody_there_and_somebody_mute_are_told_apart() {
    let site = Site::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = listener.local_addr().unwrap().to_string();
    let hasty = Options { handshake: Duration::from_millis(100), ..Options::CONTROL };

    let nobody = dial("127.0.0.1:1", site.keys.agent(), site.keys.trust(), &hasty, &site.tasks).await;
    let waited = dial(&mute, site.keys.agent(), site.keys.trust(), &hasty, &site.tasks).await;

    assert!(matches!(nobody, Err(DialError::Unreachable { .. })), "{nobody:?}");
    assert!(matches!(waited, Err(DialError::TooSlow { step: "handshake", .. })), "{waited:?}");
}

#[tokio::test]
async fn a_master_that_hangs_up_in_the_middle_of_a_login_has_not_refused_the_key() {
    let site = Site::new().await;
    let dialled = site.dial(site.keys.agent_called("host:contoso/gone")).await;

    assert!(matches!(dialled, Err(DialError::HungUp)), "{dialled:?}");
}

#[tokio::test]
async fn a_dialler_opens_nothing_that_a_server_asks_for() {
    let mut site = Site::new().await;
    let connected = site.dial(site.keys.agent()).await.unwrap();
    let served = site.served().await;
    let to_client = &served.session;

    assert!(soon(to_client.channel_open_session()).await.is_err());
    assert!(soon(to_client.channel_open_agent()).await.is_err());
    assert!(soon(to_client.channel_open_x11("127.0.0.1", 1)).await.is_err());
    assert!(soon(to_client.channel_open_direct_tcpip("127.0.0.1", 22, "127.0.0.1", 1)).await.is_err());
    assert!(soon(to_client.channel_open_direct_streamlocal("/run/docker.sock")).await.is_err());
    assert!(soon(to_client.channel_open_forwarded_tcpip("127.0.0.1", 22, "127.0.0.1", 1)).await.is_err());
    assert!(soon(to_client.channel_open_forwarded_streamlocal("/run/docker.sock")).await.is_err());

    connected.link.control_send(bytes::Bytes::from_static(b"still here")).await.unwrap();
    assert!(soon(served.link.control_next()).await.is_some());
}

/// A client that asks for what no dialler of ours does.
struct Curious;

impl client::Handler for Curious {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

#[tokio::test]
async fn a_second_channel_and_other_subsystems_are_refused() {
    let site = Site::new().await;
    let config = Arc::new(client_config(&Limits::CONTROL));
    let mut session = client::connect(config, site.address, Curious).await.unwrap();
    assert!(session.authenticate_none("enroll").await.unwrap().success());

    let mut first = soon(session.channel_open_session()).await.unwrap();
    first.request_subsystem(true, "sftp").await.unwrap();
    let answer = soon(async {
        loop {
            match first.wait().await {
                Some(russh::ChannelMsg::WindowAdjusted { .. }) => {}
                other => break other,
            }
        }
    })
    .await;

    assert!(matches!(answer, Some(russh::ChannelMsg::Failure)), "{answer:?}");
    assert!(soon(session.channel_open_session()).await.is_err());
    assert!(soon(session.channel_open_direct_tcpip("127.0.0.1", 22, "127.0.0.1", 1)).await.is_err());
    assert_eq!(*site.refused.lock().unwrap(), ["direct-tcpip"]);
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_loses_its_connection() {
    let mut site = Site::new().await;
    let config = Arc::new(client_config(&Limits::CONTROL));
    let mut session = client::connect(config, site.address, Curious).await.unwrap();
    assert!(session.authenticate_none("enroll").await.unwrap().success());
    let channel = soon(session.channel_open_session()).await.unwrap();
    channel.request_subsystem(true, "reeve").await.unwrap();
    let served = site.served().await;

    channel.data_bytes(&b"GET / HTTP/1.1\r\n\r\n"[..]).await.unwrap();

    assert_eq!(soon(served.link.closed()).await, Why::Protocol("a frame is too long"));
    assert!(soon(session).await.is_err());
}
