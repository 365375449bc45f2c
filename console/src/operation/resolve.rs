//! Which servers and which item: the master's answer, checked against what was typed and what the library's signer
//! signed.

use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::OperationId;
use reeve_wire::library::{Input, Package, SignedIndex};
use reeve_wire::message::{Answer, Ask, Part, PartKind};
use reeve_wire::name::HostName;
use reeve_wire::request::ItemRef;
use reeve_wire::selector::Selector;
use reeve_wire::signed::Signed;

use super::ask;
use super::order::{Order, Work};
use crate::desk::Connection;
use crate::failure::Failure;

/// Servers and item of an operation, checked.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The servers, sorted and unique.
    pub hosts: Vec<HostName>,
    /// The item, for an item.
    pub item: Option<(ItemRef, Package)>,
}

/// Opens `operation` at the master and checks what it answers.
///
/// # Errors
/// A refusal, or an answer that must not be believed.
pub async fn resolve(connection: &Connection, operation: OperationId, order: &Order) -> Result<Resolved, Failure> {
    let wanted = order.work.item_name().cloned();
    let question = Ask::Resolve { operation, selector: order.selector.as_str().to_owned(), item: wanted };
    let question = [Part::json(PartKind::Ask, &question)?];
    let before = [PartKind::Index, PartKind::Package];
    let (papers, answer) = ask::answer_with(&connection.link, &question, &before).await?;
    let Answer::Resolved { hosts, item } = answer else {
        return Err(Code::Protocol.into());
    };
    let hosts = meant(&order.selector, hosts)?;
    let item = match &order.work {
        Work::Raw(_) => None,
        Work::Item { name, args } => {
            let item = item.filter(|item| item.name == *name).ok_or(Code::ItemMismatch)?;
            let package = package(connection, &item, &papers)?;
            package.values(args)?;
            takes_input(&package, order.stdin.is_some())?;
            Some((item, package))
        }
    };
    Ok(Resolved { hosts, item })
}

/// Refuses servers that the selector does not mean.
///
/// # Errors
/// [`Code::TargetMismatch`] for the first such server, [`Code::NothingMatched`] for none at all.
pub(crate) fn meant(selector: &Selector, mut hosts: Vec<HostName>) -> Result<Vec<HostName>, Failure> {
    if let Some(stranger) = hosts.iter().find(|host| !selector.matches(host)) {
        let sentence = format!(
            "the master resolved {} to {stranger}, which it does not mean; nothing was sent",
            selector.as_str()
        );
        return Err(Failure::saying(Code::TargetMismatch, sentence)
            .hint("tell a security admin: the master does not do what it should"));
    }
    hosts.sort();
    hosts.dedup();
    if hosts.is_empty() { Err(Code::NothingMatched.into()) } else { Ok(hosts) }
}

/// The package, as the index of a library signer of our own bundle names it.
fn package(connection: &Connection, item: &ItemRef, papers: &[Part]) -> Result<Package, Failure> {
    let bytes = |kind| papers.iter().find(|part| part.kind == kind).map(|part| part.bytes.as_slice());
    let missing = || Failure::because(Code::ItemMismatch, "the master did not send it");
    let index = Signed::from_wire(bytes(PartKind::Index).ok_or_else(missing)?)
        .and_then(|signed| SignedIndex::open(signed, &connection.trust))
        .map_err(|error| {
            Failure::because(Code::ItemMismatch, format_args!("the index: {error}"))
                .hint("run `reeve login` to take a newer trust bundle, and try again")
        })?;
    Ok(index.package(item, bytes(PartKind::Package).ok_or_else(missing)?)?)
}

fn takes_input(package: &Package, given: bool) -> Result<(), Refusal> {
    match (package.stdin, given) {
        (Input::None, true) => {
            let reason = format!("{} takes no input; leave --stdin out", package.name);
            Err(Refusal { code: Code::StdinMismatch, reason })
        }
        (Input::Signed, false) => {
            let reason = format!("{} takes its input from --stdin FILE", package.name);
            Err(Refusal { code: Code::ArgumentsInvalid, reason })
        }
        (Input::None, false) | (Input::Signed, true) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Vec<HostName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_server_that_was_not_typed_ends_the_operation() {
        for (selector, answered, accepted) in [
            ("contoso/web01", &["contoso/web01"][..], true),
            ("contoso/web01", &["contoso/db01"], false),
            ("contoso/*", &["contoso/web01", "contoso/db01"], true),
            ("contoso/*", &["contoso/web01", "fabrikam/mail01"], false),
            ("contoso/*,!contoso/db*", &["contoso/db01"], false),
        ] {
            let selector: Selector = selector.parse().unwrap();
            let checked = meant(&selector, hosts(answered));
            assert_eq!(checked.is_ok(), accepted, "{} {answered:?}", selector.as_str());
        }
    }

    #[test]
    fn an_answer_without_servers_is_nothing_matched() {
        let failure = meant(&"contoso/*".parse().unwrap(), vec![]).unwrap_err();
        assert_eq!(failure.exit_status(), 65);
    }

    #[test]
    fn servers_are_sorted_and_unique_whatever_the_master_says() {
        let checked = meant(&"*/*".parse().unwrap(), hosts(&["b/x", "a/x", "b/x"])).unwrap();
        assert_eq!(checked, hosts(&["a/x", "b/x"]));
    }
}
