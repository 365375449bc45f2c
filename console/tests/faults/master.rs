//! A master of one's own: honest, or with one fault. It verifies what the console signs with the code that everyone
//! verifies with.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use reeve_link::parts::{self, Inbound, Item};
use reeve_link::ssh::{HostIdentity, ServerCarrier, serve, server_config};
use reeve_link::tasks::Tasks;
use reeve_link::{Content, Link, Sender, Stream, Why};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::delegation;
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::level::Level;
use reeve_wire::library::{Index, Input, Package, Parameter, ParameterKind};
use reeve_wire::message::{Answer, Ask, Ended, HostRow, Part, PartKind, Whoami};
use reeve_wire::name::HostName;
use reeve_wire::receipt::Outcome;
use reeve_wire::request::{Authored, Header, ItemRef, TargetPath};
use reeve_wire::selector::Selector;
use reeve_wire::signed::Signed;
use reeve_wire::strict::V1;
use reeve_wire::time::{Clock, Millis};
use russh::keys::Certificate;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, MethodKind, MethodSet};
use ssh_key::public::KeyData;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::papers::{Papers, key};

pub(crate) const PASSWORD: &str = "correct horse";

/// What is wrong with the master.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Its certificate is of another authority.
    OtherAuthority,
    /// Its trust bundle is of another root.
    OtherRoot,
    /// Its trust bundle is older than what it gave before.
    OlderBundle,
    /// It answers a resolve with bytes that are no part.
    GarbageAnswer,
    /// It answers a resolve with a server that was not typed.
    OtherHost,
    /// Its library index is signed by somebody else.
    OtherSigner,
    /// It sends another package than the index names.
    OtherPackage,
    /// It refuses every submission.
    RefusesSubmission,
    /// It refuses the second server's run.
    RefusesOne,
    /// It sends bytes that are no part in the middle of a run.
    GarbageRun,
    /// It sends output of what it never said it had started.
    OutputBeforeStart,
    /// It hangs up in the middle of a run.
    HangsUp,
    /// What runs does not end before it is cancelled.
    RunsOn,
    /// What runs does not end, and a cancel is not answered.
    Deaf,
    /// What runs prints without end until it is cancelled.
    Endless,
    /// What runs prints what a terminal must not see, and no text.
    Hostile,
}

/// What the master has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) passwords: AtomicUsize,
    pub(crate) keys: AtomicUsize,
    pub(crate) cancels: AtomicUsize,
    pub(crate) requests: Mutex<Vec<Header>>,
    pub(crate) stdin: Mutex<Vec<u8>>,
}

impl Seen {
    pub(crate) fn count(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<Header> {
        self.requests.lock().unwrap().clone()
    }
}

/// A running master.
#[derive(Clone)]
pub(crate) struct Master {
    pub(crate) address: SocketAddr,
    pub(crate) papers: Arc<Papers>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    fault: Arc<Mutex<Fault>>,
    sessions: Arc<Mutex<Vec<KeyData>>>,
}

impl Master {
    pub(crate) async fn start(fault: Fault) -> Self {
        Self::start_at(fault, Clock::system()).await
    }

    pub(crate) async fn start_at(fault: Fault, clock: Clock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let master = Self {
            address: listener.local_addr().unwrap(),
            papers: Arc::new(Papers::new()),
            seen: Arc::default(),
            clock,
            tasks: Tasks::new(),
            fault: Arc::new(Mutex::new(fault)),
            sessions: Arc::default(),
        };
        master.tasks.spawn("listener", master.clone().listen(listener));
        master
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub(crate) fn forget_sessions(&self) {
        self.sessions.lock().unwrap().clear();
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.lock().unwrap().len()
    }

    fn has(&self, fault: Fault) -> bool {
        *self.fault.lock().unwrap() == fault
    }

    async fn listen(self, listener: TcpListener) {
        while let Ok((socket, _)) = listener.accept().await {
            let authority =
                if self.has(Fault::OtherAuthority) { &self.papers.technicians } else { &self.papers.masters };
            let identity = HostIdentity {
                key: self.papers.master.clone(),
                certificate: self.papers.master_certificate(authority),
            };
            let kill = CancellationToken::new();
            let carrier = ServerCarrier::new(&self.tasks, kill.clone());
            let visitor = Visitor { master: self.clone(), carrier, user: String::new() };
            let config = Arc::new(server_config(identity));
            self.tasks.spawn("connection", async move {
                let _how_it_ended = serve(config, socket, visitor, &kill).await;
            });
        }
    }

    async fn serve(self, user: String, link: Link) {
        if user == "enroll" {
            return self.enroll(&link).await;
        }
        let requests = Arc::new(Mutex::new(HashMap::new()));
        while let Some(stream) = link.accept().await {
            let (master, link, requests) = (self.clone(), link.clone(), Arc::clone(&requests));
            self.tasks.spawn("ask", async move { master.answer(&link, stream, &requests).await });
        }
    }

    async fn enroll(&self, link: &Link) {
        let bundle = if self.has(Fault::OtherRoot) {
            self.papers.bundle_of("noc", 9, &key(99))
        } else {
            self.papers.bundle(if self.has(Fault::OlderBundle) { 1 } else { 2 })
        };
        let (mut sender, _receiver) = link.open().unwrap().split();
        let said = [Part::new(PartKind::Bundle, bundle.to_wire()), Part::new(PartKind::Go, [])];
        let _the_visitor_may_leave = parts::send(&mut sender, &said).await;
        let _it_may_have_left = sender.finish();
        link.closed().await;
    }

    async fn answer(&self, link: &Link, stream: Stream, requests: &Requests) {
        let (mut sender, receiver) = stream.split();
        let mut inbound = Inbound::new(receiver);
        let Ok(part) = inbound.part().await else {
            return;
        };
        let said = match part.read::<Ask>(PartKind::Ask).unwrap() {
            Ask::Whoami {} => vec![answer(&self.whoami())],
            Ask::Hosts { selector } => vec![answer(&hosts(selector.as_deref()))],
            Ask::Why { .. } => vec![answer(&refused(Code::NotYours))],
            Ask::Register {} => vec![answer(&self.register(&mut inbound).await)],
            Ask::Logout {} => {
                self.forget_sessions();
                vec![answer(&Answer::LoggedOut {})]
            }
            Ask::Resolve { selector, item, .. } => {
                if self.has(Fault::GarbageAnswer) {
                    let _it_is_garbage = sender.send(Content::Message, Bytes::from_static(&[0xff; 40])).await;
                    let _the_console_hangs_up = link.closed().await;
                    return;
                }
                self.resolve(&selector, item.is_some())
            }
            Ask::Submit { operation } => return self.submit(sender, inbound, operation, requests).await,
            Ask::Run { operation, host } => {
                let request = requests.lock().unwrap().get(&operation).cloned();
                return self.run(link, sender, inbound, request, &host).await;
            }
        };
        if parts::send(&mut sender, &said).await.is_ok() {
            let _it_may_have_left = sender.finish();
        }
    }

    fn whoami(&self) -> Answer {
        let me = self.papers.alice(Clock::system().now());
        Answer::Whoami(Whoami {
            name: me.name,
            directory_id: me.directory_id,
            max_level: me.ceiling.max_level,
            customers: me.ceiling.customers.to_string(),
            until: Some(Millis(1)),
            site: "noc".parse().unwrap(),
            master: "m1".parse().unwrap(),
        })
    }

    async fn register(&self, inbound: &mut Inbound) -> Answer {
        let part = inbound.part().await.unwrap();
        let signed = Signed::from_wire(&part.bytes).unwrap();
        let now = self.clock.now();
        let checked = delegation::verify(signed, &self.papers.alice(now), &"noc".parse().unwrap(), now).unwrap();
        self.sessions.lock().unwrap().push(checked.session_key.key().clone());
        Answer::Registered { until: checked.not_after }
    }

    fn resolve(&self, selector: &str, item: bool) -> Vec<Part> {
        let meant: Selector = selector.parse().unwrap();
        let mut hosts: Vec<_> = names().into_iter().filter(|host| meant.matches(host)).collect();
        if self.has(Fault::OtherHost) {
            hosts.push("fabrikam/mail01".parse().unwrap());
        }
        if hosts.is_empty() {
            return vec![answer(&refused(if meant.literal().is_some() {
                Code::NotYours
            } else {
                Code::NothingMatched
            }))];
        }
        if !item {
            return vec![answer(&Answer::Resolved { hosts, item: None })];
        }
        let (item, package) = package();
        let signer = if self.has(Fault::OtherSigner) { &self.papers.master } else { &self.papers.library };
        let index =
            Index { v: V1, site: "noc".parse().unwrap(), version: 1, issued: Millis(1), items: vec![item.clone()] };
        let index = Signed::make(&index, signer).unwrap();
        let package = if self.has(Fault::OtherPackage) { b"{}".to_vec() } else { package };
        vec![
            Part::new(PartKind::Index, index.to_wire()),
            Part::new(PartKind::Package, package),
            answer(&Answer::Resolved { hosts, item: Some(item) }),
        ]
    }

    async fn submit(&self, mut sender: Sender, mut inbound: Inbound, operation: OperationId, requests: &Requests) {
        let mut papers = HashMap::new();
        loop {
            let part = inbound.part().await.unwrap();
            if part.kind == PartKind::Go {
                break;
            }
            papers.insert(part.kind, part.bytes);
        }
        if self.has(Fault::RefusesSubmission) {
            parts::send(&mut sender, &[answer(&refused(Code::DelegationLevel))]).await.unwrap();
            return sender.finish().unwrap();
        }
        let signed = |kind| Signed::from_wire(&papers[&kind]).unwrap();
        let delegated = papers.contains_key(&PartKind::Delegation);
        let authored = reeve_wire::request::Papers {
            header: signed(PartKind::Request),
            delegation: delegated.then(|| signed(PartKind::Delegation)),
            certificate: papers[&PartKind::Certificate].clone(),
        };
        let authored = authored.verify(&self.papers.trust(2), &"noc".parse().unwrap(), self.clock.now()).unwrap();
        let stdin = papers.get(&PartKind::Stdin);
        assert_eq!(authored.header().stdin, stdin.map(|input| Digest::of(input)));
        assert_eq!(authored.header().operation, operation);
        self.seen.requests.lock().unwrap().push(authored.header().clone());
        *self.seen.stdin.lock().unwrap() = stdin.cloned().unwrap_or_default();
        requests.lock().unwrap().insert(operation, Arc::new(authored));
        parts::send(&mut sender, &[answer(&Answer::Submitted {})]).await.unwrap();
        gone(&mut inbound).await;
        requests.lock().unwrap().remove(&operation);
    }

    async fn run(
        &self,
        link: &Link,
        mut sender: Sender,
        mut inbound: Inbound,
        request: Option<Arc<Authored>>,
        host: &HostName,
    ) {
        let leaf = inbound.part().await.unwrap();
        let path: TargetPath = inbound.part().await.unwrap().read(PartKind::Path).unwrap();
        assert_eq!(inbound.part().await.unwrap().kind, PartKind::Go);
        assert_eq!(request.unwrap().target(&leaf.bytes, &path).unwrap().host, *host);

        if self.has(Fault::RefusesOne) && host.host.as_str() == "web01" {
            let said = [answer(&Answer::Refused { refusal: Code::LevelTooLow.into(), record: Some(41) })];
            parts::send(&mut sender, &said).await.unwrap();
            return sender.finish().unwrap();
        }
        if self.has(Fault::OutputBeforeStart) {
            sender.send(Content::Stdout, Bytes::from_static(b"early")).await.unwrap();
            return gone(&mut inbound).await;
        }
        let _it_may_be_cut = parts::send(&mut sender, &[answer(&Answer::Started { record: 1 })]).await;
        if let Some(ended) = self.work(link, &mut sender, &mut inbound, host).await {
            let _it_may_be_cut = parts::send(&mut sender, &[answer(&Answer::Ended(ended))]).await;
            let _it_may_have_left = sender.finish();
        }
    }

    /// What a server does. `None`: there is no end to tell.
    async fn work(&self, link: &Link, sender: &mut Sender, inbound: &mut Inbound, host: &HostName) -> Option<Ended> {
        let fault = *self.fault.lock().unwrap();
        if fault == Fault::Hostile {
            sender.send(Content::Stdout, Bytes::from_static(b"\x1b[2J\xff\n")).await.ok()?;
            return Some(exited(0));
        }
        sender.send(Content::Stdout, format!("out of {host}\n").into()).await.ok()?;
        sender.send(Content::Stderr, format!("err of {host}\n").into()).await.ok()?;
        match fault {
            Fault::GarbageRun => {
                sender.send(Content::Message, Bytes::from_static(&[0xff; 40])).await.ok()?;
                gone(inbound).await;
                None
            }
            Fault::HangsUp => {
                // What was said is on its way before the socket is cut.
                sender.send(Content::Stdout, Bytes::from_static(b"last words\n")).await.ok()?;
                while self.seen.cancels.load(Ordering::SeqCst) == 0 {
                    tokio::task::yield_now().await;
                }
                link.kill(Why::Killed);
                None
            }
            Fault::RunsOn => {
                self.cancelled(inbound).await?;
                Some(Ended { outcome: Outcome::Cancelled, code: Some(Code::Cancelled), exit_status: None, ..exited(0) })
            }
            Fault::Deaf => {
                self.cancelled(inbound).await?;
                std::future::pending().await
            }
            Fault::Endless => {
                let printing = async { while sender.send(Content::Stdout, vec![b'y'; 9000].into()).await.is_ok() {} };
                tokio::select! {
                    () = printing => None,
                    cancelled = self.cancelled(inbound) => {
                        cancelled?;
                        Some(Ended { outcome: Outcome::Cancelled, exit_status: None, ..exited(0) })
                    }
                }
            }
            _ if host.host.as_str() == "db01" => Some(exited(3)),
            _ => Some(exited(0)),
        }
    }

    async fn cancelled(&self, inbound: &mut Inbound) -> Option<()> {
        match inbound.next().await {
            Ok(Some(Item::Part(part))) => {
                assert_eq!(part.read::<Refusal>(PartKind::Cancel).unwrap().code, Code::Cancelled);
                self.seen.cancels.fetch_add(1, Ordering::SeqCst);
                Some(())
            }
            _ => None,
        }
    }
}

/// Waits until the console wants no more of a stream.
async fn gone(inbound: &mut Inbound) {
    while let Ok(Some(_)) = inbound.next().await {}
}

type Requests = Mutex<HashMap<OperationId, Arc<Authored>>>;

fn answer(answer: &Answer) -> Part {
    Part::json(PartKind::Answer, answer).unwrap()
}

fn refused(code: Code) -> Answer {
    Answer::Refused { refusal: code.into(), record: Some(40) }
}

fn exited(status: i32) -> Ended {
    Ended {
        outcome: Outcome::Exited,
        exit_status: Some(status),
        signal: None,
        code: None,
        reason: None,
        truncated: false,
        record: Some(2),
    }
}

/// Two of contoso's, and seventy that are alike.
fn names() -> Vec<HostName> {
    let alike = (1..=70).map(|number| format!("load/h{number:04}"));
    ["contoso/db01".into(), "contoso/web01".into()].into_iter().chain(alike).map(|name| name.parse().unwrap()).collect()
}

fn hosts(selector: Option<&str>) -> Answer {
    let selector: Option<Selector> = selector.map(|text| text.parse().unwrap());
    let rows = names().into_iter().filter(|host| selector.as_ref().is_none_or(|selector| selector.matches(host)));
    let row = |host| HostRow {
        host,
        level: Level::Three,
        via_group: "l3".into(),
        connected: true,
        since: Some(Millis(1)),
        platform: Some("linux".into()),
        version: Some("0.1.0".into()),
    };
    Answer::Hosts { hosts: rows.map(row).collect() }
}

fn package() -> (ItemRef, Vec<u8>) {
    let package = Package {
        v: V1,
        name: "service-restart".parse().unwrap(),
        version: 4,
        summary: "Restart a service".into(),
        level: Level::Two,
        platforms: vec!["linux".into()],
        timeout_ms: 30_000,
        parameters: vec![Parameter {
            name: "NAME".into(),
            summary: "the service".into(),
            required: true,
            default: None,
            kind: ParameterKind::ServiceName,
        }],
        argv: vec!["@service-manager@".into(), "restart".into(), "{NAME}".into()],
        stdin: Input::None,
        script: None,
    };
    let bytes = serde_json::to_vec(&package).unwrap();
    (ItemRef { name: package.name, version: 4, digest: Digest::of(&bytes) }, bytes)
}

struct Visitor {
    master: Master,
    carrier: ServerCarrier,
    user: String,
}

#[derive(Debug, thiserror::Error)]
enum VisitorError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error(transparent)]
    Link(#[from] Why),
}

impl Handler for Visitor {
    type Error = VisitorError;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, VisitorError> {
        self.user = user.to_owned();
        Ok(if user == "enroll" { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, user: &str, shown: VerifiedPublicKey<'_>) -> Result<Auth, VisitorError> {
        self.user = user.to_owned();
        self.master.seen.keys.fetch_add(1, Ordering::SeqCst);
        let known = self.master.sessions.lock().unwrap().contains(shown.public_key.key_data());
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_openssh_certificate(&mut self, user: &str, shown: &Certificate) -> Result<Auth, VisitorError> {
        self.user = user.to_owned();
        self.master.seen.keys.fetch_add(1, Ordering::SeqCst);
        let now = self.master.clock.now();
        let known = reeve_wire::certificate::technician(shown, &self.master.papers.trust(2), now);
        Ok(match known {
            Err(_) => Auth::reject(),
            Ok(_) => Auth::Reject {
                proceed_with_methods: Some(MethodSet::from(&[MethodKind::Password][..])),
                partial_success: true,
            },
        })
    }

    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, VisitorError> {
        self.master.seen.passwords.fetch_add(1, Ordering::SeqCst);
        Ok(if password == PASSWORD { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), VisitorError> {
        self.carrier.open(channel, reply).await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), VisitorError> {
        if let Some(link) = self.carrier.subsystem(channel, name, session)? {
            let (master, user) = (self.master.clone(), self.user.clone());
            self.master.tasks.spawn("visitor", master.serve(user, link));
        }
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, bytes: &[u8], _: &mut Session) -> Result<(), VisitorError> {
        Ok(self.carrier.data(channel, bytes)?)
    }

    async fn channel_eof(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), VisitorError> {
        self.carrier.ended(channel);
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), VisitorError> {
        self.carrier.ended(channel);
        Ok(())
    }

    fn adjust_window(&mut self, _: ChannelId, current: u32) -> u32 {
        self.carrier.adjust_window(current)
    }
}
