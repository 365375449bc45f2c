//! The fixed cast: who is in the lab, with which certificate and which rights.

use std::fmt::Write as _;

/// The servers of the two customers.
pub const HOSTS: [&str; 3] = ["contoso/db01", "contoso/web01", "fabrikam/mail01"];

/// A technician's certificate.
#[derive(Clone, Copy, Debug)]
pub struct Technician {
    /// Name.
    pub name: &'static str,
    /// The highest level of the certificate.
    pub max_level: u8,
    /// The customers of the certificate.
    pub customers: &'static str,
}

const fn technician(name: &'static str, max_level: u8, customers: &'static str) -> Technician {
    Technician { name, max_level, customers }
}

/// Everybody, with ceilings that match their rights; those without rights have wide ones, so that the directory is what
/// refuses them. alice's covers the customer `load` too, which is there only when the lab has load agents.
pub const TECHNICIANS: [Technician; 9] = [
    technician("alice", 3, "contoso,load"),
    technician("bob", 2, "contoso"),
    technician("carol", 1, "contoso"),
    technician("dave", 3, "*"),
    technician("mallory", 3, "*"),
    technician("frank", 3, "fabrikam"),
    technician("oscar", 3, "*"),
    technician("sam", 3, "*"),
    technician("erin", 3, "*"),
];

/// The load customer's servers.
pub fn load_hosts(count: u32) -> impl Iterator<Item = String> {
    (1..=count).map(|number| format!("load/h{number:04}"))
}

/// One person of the file directory.
#[derive(Clone, Debug)]
pub struct FilePerson {
    /// Name.
    pub name: String,
    /// Directory id.
    pub id: String,
    /// Argon2id hash of the password.
    pub hash: String,
}

/// The same rights as in OpenLDAP, as the file directory writes them: nested groups, a loop, a disabled account.
pub fn directory_file(people: &[FilePerson], load: u32) -> String {
    let mut toml = String::from(
        "staff = [\"alice\", \"bob\", \"carol\", \"dave\", \"frank\", \"oscar\", \"sam\", \"erin\"]\n\n\
         [groups]\n\
         contoso-administrators = [\"alice\"]\n\
         contoso-help-desk = [\"carol\"]\n\
         fabrikam-engineers = [\"group:fabrikam-engineers-eu\"]\n\
         fabrikam-engineers-eu = [\"frank\"]\n\
         loop-a = [\"group:loop-b\", \"dave\"]\n\
         loop-b = [\"group:loop-a\"]\n\n",
    );
    for FilePerson { name, id, hash } in people {
        let disabled = name == "oscar";
        write!(toml, "[people.{name}]\nid = \"{id}\"\npassword = \"{hash}\"\ndisabled = {disabled}\n\n")
            .unwrap_or_default();
    }
    toml.push_str(
        "[hosts.\"contoso/web01\"]\n\
         l1 = [\"group:contoso-help-desk\"]\n\
         l2 = [\"bob\"]\n\
         l3 = [\"group:contoso-administrators\", \"mallory\", \"oscar\"]\n\n\
         [hosts.\"contoso/db01\"]\n\
         l1 = [\"group:contoso-help-desk\", \"bob\"]\n\
         l3 = [\"group:contoso-administrators\", \"mallory\", \"oscar\"]\n\n\
         [hosts.\"fabrikam/mail01\"]\n\
         l3 = [\"group:fabrikam-engineers\"]\n\n",
    );
    for host in load_hosts(load) {
        write!(toml, "[hosts.\"{host}\"]\nl3 = [\"alice\"]\n\n").unwrap_or_default();
    }
    toml
}
