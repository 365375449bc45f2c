//! What is asked of a directory like OpenLDAP, and how its answers are read.
//!
//! Nested groups are walked: no server of this kind says by itself how it computes `memberOf`, and the walk is right
//! on all of them. A level is read off the place of its group in the tree, `cn=L3,ou=HOST,ou=CUSTOMER,SERVERS-OU`;
//! no name that comes from outside is ever built into a DN.

use std::collections::BTreeMap;

use ldap3::{Scope, SearchEntry, dn_escape, ldap_escape};
use reeve_wire::level::Level;
use reeve_wire::name::{HostName, Name};

use super::link::{Link, Question};
use crate::directory::config::{LdapConfig, Problem};
use crate::directory::dn::Dn;
use crate::directory::walk::{self, DEEPEST, Groups, MOST_GROUPS, WalkError};
use crate::directory::{Person, Right, State, Unavailable};

/// How many members are asked about in one question, so that no filter grows past what servers take.
const MEMBERS_AT_ONCE: usize = 400;

/// An account that an administrator has shut for good carries this lock time (draft-behera-ldap-password-policy).
const SHUT_FOR_GOOD: &str = "000001010000Z";

/// The part of the tree that is ours.
#[derive(Debug)]
pub(super) struct Tree {
    base: Dn,
    staff: Dn,
    servers: Dn,
    nobody: String,
}

/// Where a group stands in the tree, and so what it gives.
#[derive(Debug, Eq, PartialEq)]
enum Place {
    Staff,
    Rung(HostName, Level),
    Elsewhere,
}

impl Tree {
    /// # Errors
    ///
    /// The DNs of the configuration that are none, or are outside its base.
    pub(super) fn open(config: &LdapConfig) -> Result<Self, Vec<Problem>> {
        let wrong = |key, e: crate::directory::dn::DnError| Problem::Dn { key, why: e.to_string() };
        let base = Dn::parse(&config.base).map_err(|e| vec![wrong("base", e)])?;
        let below_base = |key, kind, value: &str| {
            let text =
                if value.contains('=') { value.to_owned() } else { format!("{kind}={},{base}", dn_escape(value)) };
            let dn = Dn::parse(&text).map_err(|e| wrong(key, e))?;
            match dn.below(&base) {
                Some(path) if !path.is_empty() => Ok(dn),
                _ => Err(Problem::OutsideBase { key, dn: text }),
            }
        };
        let staff = below_base("staff-group", "cn", &config.staff_group);
        let servers = below_base("servers-ou", "ou", &config.servers_ou);
        match (staff, servers) {
            (Ok(staff), Ok(servers)) => {
                Ok(Self { nobody: format!("cn=reeve asks for nobody,{base}"), base, staff, servers })
            }
            (staff, servers) => Err(staff.err().into_iter().chain(servers.err()).collect()),
        }
    }

    /// A DN that no account has.
    pub(super) fn nobody(&self) -> &str {
        &self.nobody
    }

    /// The account of `name`, with its DN.
    pub(super) async fn person(&self, link: &Link, name: &Name) -> Result<Option<(Person, String)>, Unavailable> {
        let question = Question {
            base: self.base.as_str(),
            scope: Scope::Subtree,
            filter: &account_filter(name.as_str()),
            attributes: &["uid", "entryUUID", "pwdAccountLockedTime", "pwdReset"],
            most: 10,
        };
        let entries = link.ask(&question).await?;
        let entry = match entries.as_slice() {
            [] => return Ok(None),
            [entry] => entry,
            _ => return Err(Unavailable::AmbiguousIdentity { name: name.to_string() }),
        };
        if !has_name(entry, name) {
            return Ok(None);
        }
        let bad = |why: String| Unavailable::BadAnswer { server: link.server().to_owned(), why };
        let id = one_value(entry, "entryUUID").ok_or_else(|| bad(format!("{name} has no readable entryUUID")))?;
        let dn = Dn::parse(&entry.dn).map_err(|e| bad(e.to_string()))?;
        let groups = walk::groups_of(&Asked { link, base: &self.base }, &dn).await.map_err(|e| match e {
            WalkError::TooDeep => Unavailable::NestedTooDeep { limit: DEEPEST },
            WalkError::TooMany => Unavailable::TooMany { server: link.server().to_owned(), limit: MOST_GROUPS },
            WalkError::Lookup(why) => why,
        })?;
        let mut staff = false;
        let mut held = vec![];
        for group in &groups {
            match self.place(group) {
                Place::Staff => staff = true,
                Place::Rung(host, level) => held.push((host, Right { level, via_group: group.as_str().to_owned() })),
                Place::Elsewhere => {}
            }
        }
        let rights: BTreeMap<HostName, Right> = walk::highest(held);
        let person = Person { name: name.clone(), id: id.to_owned(), state: state(entry), staff, rights };

        Ok(Some((person, entry.dn.clone())))
    }

    /// Whether the base, the staff group and the OU of the managed servers are there to be read.
    pub(super) async fn check(&self, link: &Link) -> Result<(), Unavailable> {
        for dn in [&self.base, &self.staff, &self.servers] {
            let entry = self.entry(link, dn, &["1.1"]).await;
            let missing = |why| Unavailable::BadAnswer { server: link.server().to_owned(), why };
            match entry {
                Ok(Some(_)) => {}
                Ok(None) => return Err(missing(format!("{dn} is not there, or not for Reeve to see"))),
                Err(Unavailable::BadAnswer { why, .. }) => return Err(missing(format!("{dn}: {why}"))),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// A text that differs after any change in the tree; empty when the server keeps none.
    pub(super) async fn marker(&self, link: &Link) -> Result<Vec<String>, Unavailable> {
        let mut marker = match self.entry(link, &self.base, &["contextCSN"]).await? {
            Some(entry) => values(&entry, "contextCSN").to_vec(),
            None => vec![],
        };
        marker.sort();
        Ok(marker)
    }

    async fn entry(&self, link: &Link, dn: &Dn, attributes: &[&str]) -> Result<Option<SearchEntry>, Unavailable> {
        let filter = "(objectClass=*)";
        let question = Question { base: dn.as_str(), scope: Scope::Base, filter, attributes, most: 1 };
        Ok(link.ask(&question).await?.into_iter().next())
    }

    fn place(&self, group: &Dn) -> Place {
        if *group == self.staff {
            return Place::Staff;
        }
        let rung = || match group.below(&self.servers)?.as_slice() {
            [("cn", rung), ("ou", host), ("ou", customer)] => {
                let host = HostName { customer: customer.parse().ok()?, host: host.parse().ok()? };
                Some(Place::Rung(host, walk::level_named(rung)?))
            }
            _ => None,
        };
        rung().unwrap_or(Place::Elsewhere)
    }
}

/// Groups as the server tells of them.
struct Asked<'a> {
    link: &'a Link,
    base: &'a Dn,
}

impl Groups for Asked<'_> {
    type Node = Dn;
    type Error = Unavailable;

    async fn holding(&self, members: &[Dn]) -> Result<Vec<Dn>, Unavailable> {
        let mut groups = vec![];
        for members in members.chunks(MEMBERS_AT_ONCE) {
            let question = Question {
                base: self.base.as_str(),
                scope: Scope::Subtree,
                filter: &membership_filter(members),
                attributes: &["1.1"],
                most: MOST_GROUPS,
            };
            for entry in self.link.ask(&question).await? {
                let unreadable = |why| Unavailable::BadAnswer { server: self.link.server().to_owned(), why };
                groups.push(Dn::parse(&entry.dn).map_err(|e| unreadable(e.to_string()))?);
            }
        }
        Ok(groups)
    }
}

fn account_filter(name: &str) -> String {
    format!("(&(objectClass=inetOrgPerson)(uid={}))", ldap_escape(name))
}

fn membership_filter(members: &[Dn]) -> String {
    let any: String = members
        .iter()
        .map(|dn| {
            let dn = ldap_escape(dn.as_str());
            format!("(member={dn})(uniqueMember={dn})")
        })
        .collect();
    format!("(&(|(objectClass=groupOfNames)(objectClass=groupOfUniqueNames))(|{any}))")
}

/// Servers match names more loosely than people read them: an account that only looks like `name` is another's.
fn has_name(entry: &SearchEntry, name: &Name) -> bool {
    values(entry, "uid").iter().any(|uid| uid.eq_ignore_ascii_case(name.as_str()))
}

fn state(entry: &SearchEntry) -> State {
    let locked = values(entry, "pwdAccountLockedTime");
    if locked.iter().any(|time| time == SHUT_FOR_GOOD) {
        State::Disabled
    } else if !locked.is_empty() {
        State::Locked
    } else if values(entry, "pwdReset").iter().any(|reset| reset != "FALSE") {
        State::MustChange
    } else {
        State::Good
    }
}

/// The values of an attribute whose name servers may write in any case.
fn values<'a>(entry: &'a SearchEntry, attribute: &str) -> &'a [String] {
    let found = entry.attrs.iter().find(|(name, _)| name.eq_ignore_ascii_case(attribute));
    found.map_or(&[], |(_, values)| values.as_slice())
}

fn one_value<'a>(entry: &'a SearchEntry, attribute: &str) -> Option<&'a str> {
    match values(entry, attribute) {
        [value] if !value.is_empty() => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    fn config() -> LdapConfig {
        LdapConfig {
            url: "ldaps://ldap.noc.example".to_owned(),
            ca: PathBuf::new(),
            base: "dc=noc,dc=example".to_owned(),
            bind_dn: "cn=reeve,dc=noc,dc=example".to_owned(),
            password_file: PathBuf::new(),
            staff_group: "NOC Staff".to_owned(),
            servers_ou: "Managed Servers".to_owned(),
            max_age: Duration::from_secs(5),
        }
    }

    fn entry(attributes: &[(&str, &str)]) -> SearchEntry {
        let attrs = attributes.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect();
        SearchEntry { dn: "uid=alice,dc=noc,dc=example".to_owned(), attrs, bin_attrs: HashMap::new() }
    }

    #[test]
    fn a_name_cannot_widen_the_filter() {
        for (name, escaped) in [
            ("*)(uid=*", r"\2a\29\28uid=\2a"),
            (r"\2a", r"\5c2a"),
            ("a)(|(memberOf=*", r"a\29\28|\28memberOf=\2a"),
            ("a\0b", r"a\00b"),
        ] {
            let filter = account_filter(name);
            assert_eq!(filter, format!("(&(objectClass=inetOrgPerson)(uid={escaped}))"));
            assert!(ldap3::parse_filter(&filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn a_dn_cannot_widen_the_filter() {
        let odd = Dn::parse(r"cn=a\2b)(cn=\*,dc=noc").unwrap_err();
        assert!(odd.to_string().contains("needs none"));

        let filter = membership_filter(&[Dn::parse("cn=a)(cn=*,dc=noc").unwrap(), Dn::parse("cn=b,dc=noc").unwrap()]);
        let (a, b) = (r"cn=a\29\28cn=\2a,dc=noc", "cn=b,dc=noc");
        assert!(filter.ends_with(&format!("(|(member={a})(uniqueMember={a})(member={b})(uniqueMember={b})))")));
        assert!(ldap3::parse_filter(&filter).is_ok());
    }

    #[test]
    fn only_a_group_in_its_place_gives_a_level() {
        let tree = Tree::open(&config()).unwrap();
        let place = |dn: &str| tree.place(&Dn::parse(dn).unwrap());

        let rung = Place::Rung("contoso/web01".parse().unwrap(), Level::Three);
        assert_eq!(place("cn=L3,ou=web01,ou=contoso,ou=Managed Servers,dc=noc,dc=example"), rung);
        assert_eq!(place("CN=l3, OU=WEB01,ou=Contoso,ou=managed  servers,dc=noc,dc=example"), rung);
        assert_eq!(place("cn=NOC staff,dc=noc,dc=example"), Place::Staff);

        for elsewhere in [
            "cn=L3,ou=web01,ou=contoso,ou=Managed Servers,ou=x,dc=noc,dc=example",
            "cn=L3,ou=web01,ou=contoso,ou=Managed Servers,dc=other,dc=example",
            "cn=L3,ou=x,ou=web01,ou=contoso,ou=Managed Servers,dc=noc,dc=example",
            "cn=L4,ou=web01,ou=contoso,ou=Managed Servers,dc=noc,dc=example",
            "cn=L3+sn=x,ou=web01,ou=contoso,ou=Managed Servers,dc=noc,dc=example",
            "cn=L3,cn=web01,ou=contoso,ou=Managed Servers,dc=noc,dc=example",
            "cn=L3,ou=web 01,ou=contoso,ou=Managed Servers,dc=noc,dc=example",
            "cn=L3\\,ou=web01,ou=contoso,ou=Managed Servers,dc=noc,dc=example",
            "cn=NOC Staff,ou=Managed Servers,dc=noc,dc=example",
        ] {
            assert_eq!(place(elsewhere), Place::Elsewhere, "{elsewhere}");
        }
    }

    #[test]
    fn the_places_may_be_given_as_dns_below_the_base() {
        let mut other = config();
        other.staff_group = "cn=Staff,ou=roles,dc=noc,dc=example".to_owned();
        assert_eq!(Tree::open(&other).unwrap().staff, Dn::parse("cn=Staff,ou=roles,dc=noc,dc=example").unwrap());

        other.servers_ou = "ou=Servers,dc=elsewhere".to_owned();
        other.staff_group = "=".to_owned();
        let problems = Tree::open(&other).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[1].to_string().contains("not below directory.base"));
    }

    #[test]
    fn the_state_of_an_account_follows_the_table() {
        for (attributes, expected) in [
            (vec![], State::Good),
            (vec![("pwdAccountLockedTime", "000001010000Z")], State::Disabled),
            (vec![("pwdAccountLockedTime", "20261124160000Z")], State::Locked),
            (vec![("pwdaccountlockedtime", "20261124160000Z")], State::Locked),
            (vec![("pwdReset", "TRUE")], State::MustChange),
            (vec![("pwdReset", "FALSE")], State::Good),
            (vec![("pwdReset", "TRUE"), ("pwdAccountLockedTime", "000001010000Z")], State::Disabled),
        ] {
            assert_eq!(state(&entry(&attributes)), expected, "{attributes:?}");
        }
    }

    #[test]
    fn an_account_that_only_looks_like_the_name_is_another() {
        let name = "alice".parse().unwrap();

        assert!(has_name(&entry(&[("uid", "alice")]), &name));
        assert!(has_name(&entry(&[("uid", "Alice")]), &name));
        for other in ["аlice", "ａｌｉｃｅ", "alice ", "alıce", "alice$"] {
            assert!(!has_name(&entry(&[("uid", other)]), &name), "{other}");
        }
    }
}
