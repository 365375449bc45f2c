//! Reads go through the same decision as work does: my servers, and why I may or may not.

use reeve_wire::code::{Code, Refusal};
use reeve_wire::level::Level;
use reeve_wire::message::{Answer, HostRow, Why};
use reeve_wire::name::{HostName, Name};
use reeve_wire::selector::Selector;

use super::{Visit, both_clocks, refused};
use crate::directory::{Answer as Directory, Unavailable};
use crate::policy::{self, Question, Work};

impl Visit {
    pub(super) async fn hosts(&self, selector: Option<&str>) -> Answer {
        let selector = match selector.map(str::parse::<Selector>).transpose() {
            Ok(selector) => selector,
            Err(error) => return refused(Refusal::because(Code::SelectorInvalid, error)),
        };
        let answer = self.master.directory.standing(&self.technician.name).await;
        match self.mine(&answer) {
            Ok(mine) => {
                let meant = |row: &HostRow| selector.as_ref().is_none_or(|selector| selector.matches(&row.host));
                Answer::Hosts { hosts: mine.into_iter().filter(meant).collect() }
            }
            Err(refusal) => refused(refusal),
        }
    }

    /// The servers that are mine: level 1 or more, inside my certificate's ceiling.
    pub(super) fn mine(&self, answer: &Result<Directory, Unavailable>) -> Result<Vec<HostRow>, Refusal> {
        let person = policy::admit(&self.technician, answer)?;
        let ceiling = &self.technician.ceiling;
        let covered = |host: &HostName| ceiling.covers(&host.customer, Level::One).is_ok();
        let rows = person.rights.iter().filter(|(host, _)| covered(host)).map(|(host, right)| {
            let agent = self.master.fleet.agent(host);
            HostRow {
                host: host.clone(),
                level: right.level.min(ceiling.max_level),
                via_group: right.via_group.clone(),
                connected: agent.is_some(),
                since: agent.as_ref().map(|agent| agent.since),
                platform: agent.as_ref().map(|agent| agent.hello.platform.clone()),
                version: agent.as_ref().map(|agent| agent.hello.version.clone()),
            }
        });
        Ok(rows.collect())
    }

    pub(super) async fn why(&self, host: HostName, item: Option<Name>) -> Answer {
        match self.try_why(host, item).await {
            Ok(why) => Answer::Why(why),
            Err(refusal) => refused(refusal),
        }
    }

    async fn try_why(&self, host: HostName, item: Option<Name>) -> Result<Why, Refusal> {
        let answer = self.master.directory.standing(&self.technician.name).await;
        if !self.mine(&answer)?.iter().any(|row| row.host == host) {
            return Err(Code::NotYours.into());
        }
        let work = item.as_ref().map_or(Ok(Work::Raw), |name| self.master.trusted.item(name))?;
        let question = Question {
            technician: &self.technician,
            session_level: self.session_level(),
            host: &host,
            needs: work.needs(),
        };
        let trust = self.master.trusted.bundle();
        let (grounds, verdict) = policy::decide(question, &answer, &trust, both_clocks(&self.master));
        let held = grounds.held.ok_or_else(|| Refusal::from(Code::NotYours))?;
        let via_group = grounds.via_group.unwrap_or_default();
        let reason = match &verdict {
            Ok(()) => format!("it needs level {}, and you hold level {held} through {via_group}", work.needs()),
            Err(refusal) => refusal.reason.clone(),
        };
        Ok(Why {
            host,
            item,
            needs: work.needs(),
            held,
            via_group,
            ceiling: self.technician.ceiling.max_level,
            allowed: verdict.is_ok(),
            code: verdict.err().map(|refusal| refusal.code),
            reason,
            directory: grounds.directory.unwrap_or_default(),
            directory_age_ms: u64::try_from(grounds.age.as_millis()).unwrap_or(u64::MAX),
        })
    }
}
