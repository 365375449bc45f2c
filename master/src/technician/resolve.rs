//! Which servers does a selector mean? Opens every operation.
//!
//! A name that is unknown and a name that is not yours get the same refusal and one record under the operation's id.

use reeve_audit::record::Order;
use reeve_link::Sender;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::OperationId;
use reeve_wire::message::{Answer, Part, PartKind};
use reeve_wire::name::{HostName, Name};
use reeve_wire::selector::Selector;

use super::{Visit, finish, finish_with};
use crate::policy::Work;

impl Visit {
    pub(super) async fn resolve(&self, sender: Sender, operation: OperationId, selector: &str, item: Option<Name>) {
        let (hosts, work) = match self.try_resolve(selector, item.as_ref()).await {
            Ok(resolved) => resolved,
            Err(refusal) => {
                let literal = selector.parse::<HostName>().ok();
                let order = Order { selector: Some(selector.into()), host: literal, ..self.order(operation) };
                let answer = self.refuse(order, refusal).await;
                return finish(sender, &answer).await;
            }
        };
        let mut said = Vec::new();
        let item = match work {
            Work::Raw => None,
            Work::Item { item, bytes, .. } => {
                if let Some(index) = self.master.trusted.library() {
                    said.push(Part::new(PartKind::Index, index.signed().to_wire()));
                }
                said.push(Part::new(PartKind::Package, bytes.to_vec()));
                Some(item)
            }
        };
        if let Ok(answer) = Part::json(PartKind::Answer, &Answer::Resolved { hosts, item }) {
            said.push(answer);
            finish_with(sender, &said).await;
        }
    }

    async fn try_resolve(&self, selector: &str, item: Option<&Name>) -> Result<(Vec<HostName>, Work), Refusal> {
        let selector: Selector = selector.parse().map_err(|error| Refusal::because(Code::SelectorInvalid, error))?;
        let answer = self.master.directory.standing(&self.technician.name).await;
        let mine = self.mine(&answer)?;
        let hosts: Vec<_> = mine.into_iter().map(|row| row.host).filter(|host| selector.matches(host)).collect();
        if hosts.is_empty() {
            let code = if selector.literal().is_some() { Code::NotYours } else { Code::NothingMatched };
            return Err(code.into());
        }
        let work = item.map_or(Ok(Work::Raw), |name| self.master.trusted.item(name))?;
        Ok((hosts, work))
    }
}
