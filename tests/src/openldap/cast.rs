//! The people, groups and hosts of the lab, as LDIF.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{BASE, BIND_DN, OpenLdapError};

/// Everybody in the lab.
pub const PEOPLE: [&str; 9] = ["alice", "bob", "carol", "dave", "mallory", "frank", "oscar", "sam", "erin"];

/// Who is in the NOC staff group: all but mallory.
const STAFF: [&str; 8] = ["alice", "bob", "carol", "dave", "frank", "oscar", "sam", "erin"];

/// A group may not be empty; this one is in those that nobody is in.
const NOBODY: &str = "cn=nobody,dc=noc,dc=example";

/// What differs from site to site.
#[derive(Clone, Debug, Default)]
pub struct Cast {
    /// The password of each of [`PEOPLE`], in printable ASCII.
    pub passwords: BTreeMap<String, String>,
    /// How many hosts the customer `load` has: `h0001` and on. With none there is no such customer; with some,
    /// alice holds level 3 on all of them besides contoso's.
    pub load_hosts: u32,
}

/// The DN of a person.
pub fn person_dn(name: &str) -> String {
    format!("uid={name},ou=people,{BASE}")
}

/// The DN of a group of people, such as `Fabrikam Engineers`; `NOC Staff` is right below the base.
pub fn group_dn(name: &str) -> String {
    if name == "NOC Staff" { format!("cn={name},{BASE}") } else { format!("cn={name},ou=roles,{BASE}") }
}

/// The DN of the group that gives `level`, 1 to 3, on a host.
pub fn rung_dn(customer: &str, host: &str, level: u8) -> String {
    format!("cn=L{level},ou={host},ou={customer},ou=Managed Servers,{BASE}")
}

impl Cast {
    /// The whole tree.
    ///
    /// # Errors
    ///
    /// [`OpenLdapError::Cast`] when somebody has no password, or one that LDIF would change.
    pub(super) fn ldif(&self, bind_password: &str) -> Result<String, OpenLdapError> {
        let mut tree = Tree::default();
        tree.frame(bind_password);
        for name in PEOPLE {
            let password = self.passwords.get(name);
            let password = password.filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()));
            let password = password.filter(|text| !text.starts_with([':', '<', '{']));
            let password =
                password.ok_or_else(|| OpenLdapError::Cast(format!("{name} needs a password in printable ASCII")))?;
            tree.person(name, password);
        }
        tree.roles();
        tree.servers();
        tree.load(self.load_hosts);

        Ok(tree.ldif)
    }
}

#[derive(Default)]
struct Tree {
    ldif: String,
}

impl Tree {
    /// One entry; the first part of its DN is one of its attributes.
    fn entry(&mut self, dn: &str, attributes: &[(&str, &str)]) {
        let lines: String = attributes.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        writeln!(self.ldif, "dn: {dn}\n{lines}").unwrap_or_default();
    }

    fn unit(&mut self, dn: &str, name: &str) {
        self.entry(dn, &[("objectClass", "organizationalUnit"), ("ou", name)]);
    }

    fn group(&mut self, dn: &str, members: &[String]) {
        let members: Vec<_> = members.iter().map(|member| ("member", member.as_str())).collect();
        let members = if members.is_empty() { vec![("member", NOBODY)] } else { members };
        self.entry(dn, &[&[("objectClass", "groupOfNames")], members.as_slice()].concat());
    }

    fn frame(&mut self, bind_password: &str) {
        let organisation = [("objectClass", "dcObject"), ("objectClass", "organization"), ("o", "NOC"), ("dc", "noc")];
        self.entry(BASE, &organisation);
        for name in ["people", "services", "policies", "roles", "Managed Servers"] {
            self.unit(&format!("ou={name},{BASE}"), name);
        }
        self.entry(NOBODY, &[("objectClass", "organizationalRole"), ("cn", "nobody")]);
        self.entry(
            BIND_DN,
            &[
                ("objectClass", "organizationalRole"),
                ("objectClass", "simpleSecurityObject"),
                ("cn", "reeve"),
                ("userPassword", bind_password),
            ],
        );
        self.entry(
            &format!("cn=default,ou=policies,{BASE}"),
            &[
                ("objectClass", "device"),
                ("objectClass", "pwdPolicy"),
                ("cn", "default"),
                ("pwdAttribute", "userPassword"),
                ("pwdLockout", "TRUE"),
                ("pwdMaxFailure", "10"),
                ("pwdFailureCountInterval", "300"),
            ],
        );
    }

    fn person(&mut self, name: &str, password: &str) {
        let mail = format!("{name}@noc.example");
        let mut attributes = vec![
            ("objectClass", "inetOrgPerson"),
            ("uid", name),
            ("cn", name),
            ("sn", name),
            ("mail", mail.as_str()),
            ("userPassword", password),
        ];
        if name == "oscar" {
            attributes.push(("pwdAccountLockedTime", "000001010000Z"));
        }
        self.entry(&person_dn(name), &attributes);
    }

    fn roles(&mut self) {
        self.group(&group_dn("NOC Staff"), &STAFF.map(person_dn));
        self.group(&group_dn("Contoso Administrators"), &[person_dn("alice")]);
        self.group(&group_dn("Contoso Help Desk"), &[person_dn("carol")]);
        self.group(&group_dn("Fabrikam Engineers EU"), &[person_dn("frank")]);
        // The other kind of group, in the middle of a chain.
        self.entry(
            &group_dn("Fabrikam Engineers"),
            &[("objectClass", "groupOfUniqueNames"), ("uniqueMember", &group_dn("Fabrikam Engineers EU"))],
        );
        // A loop of memberships, on purpose, with dave in it.
        self.group(&group_dn("Loop A"), &[group_dn("Loop B"), person_dn("dave")]);
        self.group(&group_dn("Loop B"), &[group_dn("Loop A")]);
    }

    fn servers(&mut self) {
        self.customer("contoso");
        self.customer("fabrikam");
        let (administrators, help_desk) = (group_dn("Contoso Administrators"), group_dn("Contoso Help Desk"));
        let intruders = [administrators, person_dn("mallory"), person_dn("oscar")];
        self.host("contoso", "web01", [std::slice::from_ref(&help_desk), &[person_dn("bob")], &intruders]);
        self.host("contoso", "db01", [&[help_desk, person_dn("bob")], &[], &intruders]);
        self.host("fabrikam", "mail01", [&[], &[], &[group_dn("Fabrikam Engineers")]]);
    }

    fn load(&mut self, hosts: u32) {
        if hosts == 0 {
            return;
        }
        self.group(&group_dn("Load Administrators"), &[person_dn("alice")]);
        self.customer("load");
        for number in 1..=hosts {
            self.host("load", &format!("h{number:04}"), [&[], &[], &[group_dn("Load Administrators")]]);
        }
    }

    fn customer(&mut self, name: &str) {
        self.unit(&format!("ou={name},ou=Managed Servers,{BASE}"), name);
    }

    fn host(&mut self, customer: &str, host: &str, members: [&[String]; 3]) {
        self.unit(&format!("ou={host},ou={customer},ou=Managed Servers,{BASE}"), host);
        for (level, members) in (1..).zip(members) {
            self.group(&rung_dn(customer, host, level), members);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cast() -> Cast {
        Cast { passwords: PEOPLE.map(|name| (name.to_owned(), format!("{name}-pw"))).into(), load_hosts: 2 }
    }

    #[test]
    fn the_tree_has_every_person_and_three_groups_a_host() {
        let ldif = cast().ldif("service-pw").unwrap();

        for name in PEOPLE {
            assert!(ldif.contains(&format!("dn: {}\n", person_dn(name))), "{name}");
        }
        for level in 1..=3 {
            assert_eq!(ldif.matches(&format!("dn: cn=L{level},ou=")).count(), 5, "one for each host");
        }
        assert!(ldif.contains(&format!("dn: {}\n", rung_dn("load", "h0002", 3))));
        assert!(!Cast { load_hosts: 0, ..cast() }.ldif("service-pw").unwrap().contains("load"));
    }

    #[test]
    fn a_password_that_ldif_would_change_is_refused() {
        for bad in ["", " x", ":x", "<x", "{SSHA}x", "a\nb", "pässwörd"] {
            let mut cast = cast();
            cast.passwords.insert("bob".to_owned(), bad.to_owned());
            assert!(cast.ldif("x").unwrap_err().to_string().contains("bob needs a password"), "{bad:?}");
        }
    }
}
