//! Answers shared: a thousand callers who ask of one person make one question.
//!
//! A question belongs to nobody who asked it, so that a caller who leaves neither loses it for the others nor breaks
//! off half-way. The epoch at which it was begun is kept with it: whoever asks after a change was seen never joins a
//! question from before.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reeve_wire::name::Name;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Unavailable;

/// How long the reason why there is no answer is shared.
const ERROR_SHARED: Duration = Duration::from_millis(250);

/// The most people that are kept or asked of at once.
const MOST_PEOPLE: usize = 4096;

/// Something that was true when it was asked.
pub(super) trait Dated: Send + Sync + 'static {
    /// The moment its question was sent.
    fn asked_at(&self) -> Instant;
}

/// The answers of the present epoch that are young enough, and the questions on their way.
#[derive(Debug)]
pub(super) struct Answers<A> {
    max_age: Duration,
    epoch: watch::Receiver<u64>,
    open: Mutex<Open<A>>,
}

#[derive(Debug)]
struct Open<A> {
    questions: HashMap<Name, Question<A>>,
    /// Ends the questions when the directory goes.
    asking: JoinSet<()>,
}

#[derive(Debug)]
struct Question<A> {
    epoch: u64,
    reply: watch::Receiver<Option<Reply<A>>>,
}

#[derive(Debug)]
struct Reply<A> {
    at: Instant,
    outcome: Result<Arc<A>, Unavailable>,
}

impl<A: Dated> Answers<A> {
    pub(super) fn new(max_age: Duration, epoch: watch::Receiver<u64>) -> Self {
        let open = Mutex::new(Open { questions: HashMap::new(), asking: JoinSet::new() });
        Self { max_age, epoch, open }
    }

    /// The answer of `name`: one that is there (unless `fresh`), one that is on its way, or `lookup`'s.
    ///
    /// # Errors
    ///
    /// The reason why the look-up had none.
    pub(super) async fn ask<F>(&self, name: &Name, fresh: bool, lookup: F) -> Result<Arc<A>, Unavailable>
    where
        F: Future<Output = Result<A, Unavailable>> + Send + 'static,
    {
        let mut reply = self.join_or_begin(name, fresh, lookup)?;
        // The sender goes without a word only when the look-up panicked or the directory was closed.
        let reply = reply.wait_for(Option::is_some).await.map_err(|_| Unavailable::Interrupted)?;

        reply.as_ref().map_or(Err(Unavailable::Interrupted), |reply| reply.outcome.clone())
    }

    fn join_or_begin<F>(
        &self,
        name: &Name,
        fresh: bool,
        lookup: F,
    ) -> Result<watch::Receiver<Option<Reply<A>>>, Unavailable>
    where
        F: Future<Output = Result<A, Unavailable>> + Send + 'static,
    {
        let mut open = self.lock();
        let epoch = *self.epoch.borrow();
        if let Some(question) = open.questions.get(name)
            && question.epoch == epoch
            && self.serves(question, fresh)
        {
            return Ok(question.reply.clone());
        }
        while open.asking.try_join_next().is_some() {}
        open.questions.retain(|_, question| question.epoch == epoch && self.serves(question, false));
        if open.questions.len() >= MOST_PEOPLE || open.asking.len() >= MOST_PEOPLE {
            return Err(Unavailable::Busy);
        }
        let (landed, reply) = watch::channel(None);
        open.questions.insert(name.clone(), Question { epoch, reply: reply.clone() });
        open.asking.spawn(async move {
            let outcome = lookup.await.map(Arc::new);
            landed.send_replace(Some(Reply { at: Instant::now(), outcome }));
        });
        Ok(reply)
    }

    fn serves(&self, question: &Question<A>, fresh: bool) -> bool {
        match &*question.reply.borrow() {
            None => question.reply.has_changed().is_ok(),
            Some(Reply { outcome: Ok(answer), .. }) => !fresh && answer.asked_at().elapsed() < self.max_age,
            Some(Reply { at, outcome: Err(_) }) => at.elapsed() < ERROR_SHARED,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open<A>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    struct Dig {
        answers: Answers<Instant>,
        bell: watch::Sender<u64>,
        asked: Arc<AtomicUsize>,
        hold: Arc<Notify>,
    }

    impl Dated for Instant {
        fn asked_at(&self) -> Instant {
            *self
        }
    }

    impl Dig {
        fn new(max_age: Duration) -> Self {
            let (bell, epoch) = watch::channel(0);
            Self { answers: Answers::new(max_age, epoch), bell, asked: Arc::default(), hold: Arc::default() }
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        async fn ask(&self, name: &str, fresh: bool) -> Result<Arc<Instant>, Unavailable> {
            let asked = Arc::clone(&self.asked);
            let lookup = async move {
                asked.fetch_add(1, Ordering::SeqCst);
                Ok(Instant::now())
            };
            self.answers.ask(&name.parse().unwrap(), fresh, lookup).await
        }

        /// Asks with a look-up that answers only when `hold` is notified.
        async fn ask_slowly(&self, name: &str) -> Result<Arc<Instant>, Unavailable> {
            let (asked, hold) = (Arc::clone(&self.asked), Arc::clone(&self.hold));
            let lookup = async move {
                let sent = Instant::now();
                asked.fetch_add(1, Ordering::SeqCst);
                hold.notified().await;
                Ok(sent)
            };
            self.answers.ask(&name.parse().unwrap(), false, lookup).await
        }

        async fn ask_in_vain(&self, name: &str) -> Unavailable {
            let asked = Arc::clone(&self.asked);
            let lookup = async move {
                asked.fetch_add(1, Ordering::SeqCst);
                Err(Unavailable::Busy)
            };
            self.answers.ask(&name.parse().unwrap(), false, lookup).await.unwrap_err()
        }
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn an_answer_is_reused_for_its_person_alone() {
        let dig = Dig::new(LONG);

        let first = dig.ask("alice", false).await.unwrap();
        assert_eq!(dig.ask("alice", false).await.unwrap(), first);
        assert_eq!(dig.asked(), 1);

        dig.ask("bob", false).await.unwrap();
        assert_eq!(dig.asked(), 2);
    }

    #[tokio::test]
    async fn a_fresh_answer_is_asked_again_and_an_old_one_too() {
        let dig = Dig::new(LONG);
        let first = dig.ask("alice", false).await.unwrap();
        let second = dig.ask("alice", true).await.unwrap();
        assert!(second > first);
        assert_eq!(dig.ask("alice", false).await.unwrap(), second, "the younger one is kept");

        let none_kept = Dig::new(Duration::ZERO);
        none_kept.ask("alice", false).await.unwrap();
        none_kept.ask("alice", false).await.unwrap();
        assert_eq!(none_kept.asked(), 2);
    }

    #[tokio::test]
    async fn a_change_ends_what_was_known_before_it() {
        let dig = Dig::new(LONG);
        dig.ask("alice", false).await.unwrap();

        dig.bell.send_modify(|epoch| *epoch += 1);

        dig.ask("alice", false).await.unwrap();
        assert_eq!(dig.asked(), 2);
    }

    #[tokio::test]
    async fn nobody_joins_a_question_from_before_a_change() {
        let dig = Dig::new(LONG);
        let before = dig.ask_slowly("alice");
        let after = async {
            while dig.asked() == 0 {
                tokio::task::yield_now().await;
            }
            dig.bell.send_modify(|epoch| *epoch += 1);
            let rung_at = Instant::now();
            let answer = dig.ask("alice", false).await.unwrap();
            assert!(*answer > rung_at);
            dig.hold.notify_one();
        };

        let (before, ()) = tokio::join!(before, after);

        assert!(before.is_ok(), "who asked before is answered too");
        assert_eq!(dig.asked(), 2);
        dig.ask("alice", false).await.unwrap();
        assert_eq!(dig.asked(), 2, "the late answer of the old question replaces nothing");
    }

    #[tokio::test]
    async fn a_caller_who_leaves_takes_nothing_from_the_others() {
        let dig = Dig::new(LONG);
        let mut leaves = Box::pin(dig.ask_slowly("alice"));
        tokio::select! {
            biased;
            _answer = &mut leaves => unreachable!("nobody has answered"),
            () = async { while dig.asked() == 0 { tokio::task::yield_now().await } } => {}
        }
        drop(leaves);

        let (stays, ()) = tokio::join!(dig.ask_slowly("alice"), async { dig.hold.notify_one() });

        assert!(stays.is_ok());
        assert_eq!(dig.asked(), 1);
    }

    #[tokio::test]
    async fn a_failure_is_shared_for_a_moment_and_then_forgotten() {
        let dig = Dig::new(LONG);
        assert_eq!(dig.ask_in_vain("alice").await, Unavailable::Busy);
        assert_eq!(dig.ask_in_vain("alice").await, Unavailable::Busy);
        assert_eq!(dig.ask("alice", true).await.unwrap_err(), Unavailable::Busy);
        assert_eq!(dig.asked(), 1);

        let deadline = Instant::now() + 20 * ERROR_SHARED;
        while dig.ask("alice", false).await.is_err() {
            assert!(Instant::now() < deadline, "the failure is still shared");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_look_up_that_panics_is_no_answer_and_the_next_one_is_asked() {
        let dig = Dig::new(LONG);
        let lookup = async { panic!("on purpose") };

        let lost = dig.answers.ask(&"alice".parse().unwrap(), false, lookup).await;

        assert_eq!(lost.unwrap_err(), Unavailable::Interrupted);
        assert!(dig.ask("alice", false).await.is_ok());
    }
}
