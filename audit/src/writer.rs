//! The one thread that writes: everything that waits goes into one transaction, and then all of it is answered.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use reeve_wire::merkle::{Hash, Tree, leaf_hash};
use reeve_wire::note::{Checkpoint, LogSigner, SignedCheckpoint};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::DatabaseError;
use crate::database;
use crate::index::{self, Placed, Unfit};
use crate::ledger::{Appended, Class, Group, Health, LedgerError, Settings, Shown};
use crate::nodes::Nodes;
use crate::record::{Draft, MAX_RECORD};
use crate::reserve::Reserve;

mod tail;

/// The most records in one transaction, but for a group that is larger by itself.
const BATCH: usize = 256;

type Answer = Result<Vec<Appended>, LedgerError>;

/// The writer's thread. Wait for it after the last [`Ledger`](crate::Ledger) is gone.
#[derive(Debug)]
pub struct WriterThread {
    thread: JoinHandle<()>,
}

impl WriterThread {
    /// Blocks until everything that was queued is written and the file is closed.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("The ledger's writer panicked");
        }
    }
}

/// The owner of the file.
pub(crate) struct Writer {
    database: Connection,
    settings: Settings,
    shown: Arc<Shown>,
    reserve: Reserve,
    head: Head,
    signed_at: Instant,
    failed: bool,
    /// Held while the file is open: a ledger has one writer.
    _lock: File,
}

/// What the durable records add up to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    tree: Tree,
    signed: u64,
    customers: HashMap<String, u64>,
}

impl Head {
    fn records_of(&self, customer: &str) -> u64 {
        self.customers.get(customer).copied().unwrap_or(0)
    }
}

/// What one transaction adds, kept apart until it is durable.
struct Staged<'a> {
    before: &'a Head,
    tree: Tree,
    leaves: Vec<Hash>,
    customers: HashMap<String, u64>,
    checkpoint: Option<SignedCheckpoint>,
}

impl<'a> Staged<'a> {
    fn after(before: &'a Head) -> Self {
        let tree = before.tree.clone();
        Self { before, tree, leaves: Vec::new(), customers: HashMap::new(), checkpoint: None }
    }

    /// The number of the customer's next record.
    fn next_of(&self, customer: &str) -> u64 {
        self.customers.get(customer).copied().unwrap_or_else(|| self.before.records_of(customer))
    }

    const fn unsigned(&self) -> u64 {
        self.tree.size().saturating_sub(self.before.signed)
    }
}

impl Writer {
    /// Opens the file, checks its end and signs a checkpoint when the newest one is behind.
    pub(crate) fn open(settings: Settings) -> Result<Self, DatabaseError> {
        let lock = lock(&settings.path)?;
        let mut database = database::open_writer(&settings.path)?;
        let reserve = Reserve::new(&settings.path, settings.reserve, settings.limit);
        let mut nodes = Nodes::default();
        let (head, newest) = tail::read(&mut database, &settings.log_key, &mut nodes)?;
        database::lock_down(&mut database)?;
        let health = match reserve.set_aside(&database) {
            Ok(()) => Health::Open,
            Err(error) => {
                tracing::error!(%error, "The ledger's disk is full; nothing new is begun");
                Health::Full
            }
        };
        let shown = Arc::new(Shown {
            nodes: RwLock::new(nodes),
            health: watch::Sender::new(health),
            checkpoint: watch::Sender::new(newest),
        });
        Ok(Self { database, settings, shown, reserve, head, signed_at: Instant::now(), failed: false, _lock: lock })
    }

    pub(crate) fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown)
    }

    /// Starts the thread.
    pub(crate) fn start(self, groups: mpsc::Receiver<Group>) -> Result<WriterThread, DatabaseError> {
        let path = self.settings.path.clone();
        let io = |source| DatabaseError::Io { path: path.clone(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(io)?;
        let thread = std::thread::Builder::new().name("ledger".into());
        let thread = thread.spawn(move || runtime.block_on(self.write_all(groups))).map_err(io)?;
        Ok(WriterThread { thread })
    }

    async fn write_all(mut self, mut groups: mpsc::Receiver<Group>) {
        loop {
            let next = match self.due() {
                Some(due) => timeout_at(due, groups.recv()).await,
                None => Ok(groups.recv().await),
            };
            match next {
                Ok(Some(first)) => {
                    let batch = collect(first, &mut groups);
                    self.write(batch);
                }
                Ok(None) => break,
                Err(_) => self.tick(),
            }
        }
        if self.unsigned() > 0 {
            self.write(Vec::new());
        }
    }

    /// When there is something to do that no record brings: a checkpoint, or another try for the reserve.
    fn due(&self) -> Option<Instant> {
        let waits = self.unsigned() > 0 || *self.shown.health.borrow() == Health::Full;
        (waits && !self.failed).then(|| self.signed_at + self.settings.checkpoint_every)
    }

    fn unsigned(&self) -> u64 {
        self.head.tree.size().saturating_sub(self.head.signed)
    }

    fn tick(&mut self) {
        if *self.shown.health.borrow() == Health::Full && self.reserve.set_aside(&self.database).is_ok() {
            tracing::info!("There is room for the ledger's reserve again");
            self.shown.health.send_replace(Health::Open);
        }
        self.signed_at = Instant::now();
        if self.unsigned() > 0 {
            self.write(Vec::new());
        }
    }

    /// Writes a batch and answers all of it; an empty batch is a checkpoint.
    fn write(&mut self, batch: Vec<Group>) {
        if self.failed {
            batch.into_iter().for_each(|group| answer(group.answer, Err(LedgerError::Closed)));
            return;
        }
        let batch = if *self.shown.health.borrow() == Health::Full { refuse_intents(batch) } else { batch };
        match self.commit(&batch) {
            Ok(answers) => deliver(batch, answers),
            Err(error) if is_full(&error) && *self.shown.health.borrow() == Health::Open => {
                tracing::error!(%error, "The ledger's disk is full; nothing new is begun");
                self.shown.health.send_replace(Health::Full);
                let batch = refuse_intents(batch);
                let released = self.reserve.release(&self.database);
                match released.and_then(|()| self.commit(&batch)) {
                    Ok(answers) => deliver(batch, answers),
                    Err(error) => self.fail(&error, batch),
                }
            }
            Err(error) => self.fail(&error, batch),
        }
    }

    fn fail(&mut self, error: &rusqlite::Error, batch: Vec<Group>) {
        tracing::error!(%error, "A write to the ledger failed; everything is refused from here on");
        self.failed = true;
        // Closing the file would copy the write-ahead log into it: after an I/O error that is left to the next start.
        if let Err(error) = self.database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
            tracing::warn!(%error, "The ledger's write-ahead log may be copied when it closes");
        }
        self.shown.health.send_replace(Health::Closed);
        batch.into_iter().for_each(|group| answer(group.answer, Err(LedgerError::Closed)));
    }

    /// Writes the groups in one transaction; on an error nothing of it remains, in the file or in memory.
    fn commit(&mut self, batch: &[Group]) -> rusqlite::Result<Vec<Answer>> {
        let transaction = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut staged = Staged::after(&self.head);
        let answers = batch
            .iter()
            .map(|group| append_group(&transaction, &mut staged, &group.drafts))
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let due = batch.is_empty() || self.signed_at.elapsed() >= self.settings.checkpoint_every;
        let unsigned = staged.unsigned();
        if unsigned > 0 && (due || unsigned >= self.settings.checkpoint_records) {
            staged.checkpoint = Some(append_checkpoint(&transaction, &self.settings.log_key, &staged.tree)?);
        }
        transaction.commit()?;
        let Staged { tree, leaves, customers, checkpoint, .. } = staged;
        self.head.tree = tree;
        self.head.customers.extend(customers);
        let mut nodes = self.shown.nodes.write().unwrap_or_else(PoisonError::into_inner);
        leaves.into_iter().for_each(|leaf| nodes.append(leaf));
        drop(nodes);
        if let Some(signed) = checkpoint {
            self.head.signed = signed.checkpoint.size;
            self.signed_at = Instant::now();
            self.shown.checkpoint.send_replace(signed);
        }
        Ok(answers)
    }
}

/// Signs the head of what the transaction makes durable. Nobody sees it before the commit.
fn append_checkpoint(database: &Connection, signer: &LogSigner, tree: &Tree) -> rusqlite::Result<SignedCheckpoint> {
    let origin = signer.vkey().name().to_owned();
    let checkpoint = Checkpoint { origin, size: tree.size(), root: tree.root() };
    let signed = checkpoint.sign(signer).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let insert = "INSERT INTO checkpoint (size, note) VALUES (?1, ?2)";
    database.prepare_cached(insert)?.execute(params![signed.checkpoint.size, signed.note])?;
    Ok(signed)
}

fn append_group(database: &Connection, staged: &mut Staged<'_>, drafts: &[Draft]) -> rusqlite::Result<Answer> {
    let mut customers = HashMap::new();
    let mut entries = Vec::with_capacity(drafts.len());
    for draft in drafts {
        if let Err(unfit) = index::check(database, draft.body())? {
            return Ok(Err(match unfit {
                Unfit::NoIntent => LedgerError::NoIntent,
                Unfit::Ended => LedgerError::Ended,
            }));
        }
        let number = draft.customer().map(|customer| {
            let known = staged.next_of(customer.as_str());
            let next = customers.entry(customer.as_str().to_owned()).or_insert(known);
            let number = *next;
            *next = next.saturating_add(1);
            number
        });
        match draft.to_bytes(number) {
            Ok(bytes) if bytes.len() <= MAX_RECORD => entries.push(bytes),
            Ok(_) | Err(_) => return Ok(Err(LedgerError::TooLarge)),
        }
    }
    let mut appended = Vec::with_capacity(drafts.len());
    for (draft, bytes) in drafts.iter().zip(&entries) {
        appended.push(append_one(database, staged, draft, bytes)?);
    }
    staged.customers.extend(customers);
    Ok(Ok(appended))
}

fn append_one(
    database: &Connection,
    staged: &mut Staged<'_>,
    draft: &Draft,
    bytes: &[u8],
) -> rusqlite::Result<Appended> {
    let (index, leaf) = (staged.tree.size(), leaf_hash(bytes));
    for content in draft.contents() {
        let address = content.pointer().blob.0;
        let mut store = database.prepare_cached(
            "INSERT INTO blob (address, key, bytes)
             SELECT ?1, NULL, ?2 WHERE NOT EXISTS (SELECT 1 FROM blob WHERE address = ?1)",
        )?;
        store.execute(params![address, content.packed()])?;
    }
    database.prepare_cached("INSERT INTO leaf (idx, hash) VALUES (?1, ?2)")?.execute(params![index, leaf])?;
    database.prepare_cached("INSERT INTO entry (idx, bytes) VALUES (?1, ?2)")?.execute(params![index, bytes])?;
    let customer = draft.customer().map(|name| name.as_str());
    let placed = Placed { index, time_us: draft.stamp().time_us, customer, body: draft.body() };
    index::enter(database, &placed)?;
    staged.tree.append(leaf);
    staged.leaves.push(leaf);
    Ok(Appended { index, leaf_hash: leaf })
}

/// Everything that waits already, up to one batch.
fn collect(first: Group, groups: &mut mpsc::Receiver<Group>) -> Vec<Group> {
    let mut records = first.drafts.len();
    let mut batch = vec![first];
    while records < BATCH {
        let Ok(group) = groups.try_recv() else { break };
        records = records.saturating_add(group.drafts.len());
        batch.push(group);
    }
    batch
}

fn refuse_intents(batch: Vec<Group>) -> Vec<Group> {
    let (intents, rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(|group| group.class == Class::Intent);
    intents.into_iter().for_each(|group| answer(group.answer, Err(LedgerError::Full)));
    rest
}

fn deliver(batch: Vec<Group>, answers: Vec<Answer>) {
    batch.into_iter().zip(answers).for_each(|(group, appended)| answer(group.answer, appended));
}

fn answer(caller: oneshot::Sender<Answer>, appended: Answer) {
    // The caller may have hung up; the record stays, which is what we want.
    drop(caller.send(appended));
}

/// No room on the disk, or none below the limit. The shared-memory file cannot grow on a full disk either.
fn is_full(error: &rusqlite::Error) -> bool {
    let shared_memory = |error: &rusqlite::ffi::Error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
    error.sqlite_error_code() == Some(ErrorCode::DiskFull) || error.sqlite_error().is_some_and(shared_memory)
}

fn lock(path: &Path) -> Result<File, DatabaseError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let io = |source| DatabaseError::Io { path: beside.clone().into(), source };
    let file = File::options().write(true).create(true).truncate(false).open(&beside).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(DatabaseError::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(DatabaseError::Io { path: beside.into(), source }),
    }
}
