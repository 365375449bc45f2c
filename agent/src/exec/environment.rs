//! The variables that a program sees: a fixed list, built afresh for each run.
//!
//! Nothing is taken over from the agent's own environment and nothing from a request, so neither `LD_PRELOAD` nor
//! `BASH_ENV` nor a service manager's credentials reach a program, and no technician can set them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use reeve_wire::id::OperationId;
use reeve_wire::name::{HostName, Name};

/// Where a program that is named without a slash is looked for, and its `PATH`.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The account that programs run as.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    /// Its name.
    pub name: OsString,
    /// Its home directory.
    pub home: OsString,
}

impl Account {
    /// The account that the agent itself runs as, by `/etc/passwd`; where that does not know it, its number for a
    /// name and `/` for a home.
    pub fn of_this_process() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        Self::find(&passwd, uid).unwrap_or_else(|| Self { name: uid.to_string().into(), home: "/".into() })
    }

    /// Finds `uid` in the text of a passwd(5) file.
    fn find(passwd: &[u8], uid: u32) -> Option<Self> {
        passwd.split(|&byte| byte == b'\n').find_map(|line| {
            let mut fields = line.split(|&byte| byte == b':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let number = std::str::from_utf8(fields.nth(1)?).ok()?.parse::<u32>().ok()?;
            let home = fields.nth(2)?;
            (number == uid && !name.contains(&0) && !home.contains(&0))
                .then(|| Self { name: OsString::from_vec(name.to_vec()), home: OsString::from_vec(home.to_vec()) })
        })
    }

    /// The home directory, or `/` when it does not exist: a place to start programs in.
    pub fn directory(&self) -> &Path {
        let home = Path::new(&self.home);
        if home.is_dir() { home } else { Path::new("/") }
    }
}

/// Every variable of one program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Environment {
    variables: Vec<(&'static str, OsString)>,
}

impl Environment {
    /// The environment of `operation`, which `technician` runs on `host` as `account`.
    pub fn new(account: &Account, operation: OperationId, technician: &Name, host: &HostName) -> Self {
        Self {
            variables: vec![
                ("PATH", PATH.into()),
                ("LANG", "C.UTF-8".into()),
                ("LC_ALL", "C.UTF-8".into()),
                ("HOME", account.home.clone()),
                ("USER", account.name.clone()),
                ("LOGNAME", account.name.clone()),
                ("REEVE_OPERATION", operation.to_string().into()),
                ("REEVE_TECHNICIAN", technician.to_string().into()),
                ("REEVE_HOST", host.to_string().into()),
            ],
        }
    }

    /// The variables, in a fixed order.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_os_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n\
        # a remark\n\
        broken:x:notanumber:0::/nowhere:\n\
        reeve:x:990:990:,,,:/var/lib/reeve:/usr/sbin/nologin\n";

    #[test]
    fn an_account_is_found_by_its_number() {
        let found = Account::find(PASSWD, 990).unwrap();

        assert_eq!((found.name.to_str(), found.home.to_str()), (Some("reeve"), Some("/var/lib/reeve")));
        assert_eq!(Account::find(PASSWD, 1000), None);
    }

    #[test]
    fn an_account_without_a_home_starts_at_the_root() {
        let account = Account { name: "x".into(), home: "/no/such/home".into() };

        assert_eq!(account.directory(), Path::new("/"));
    }
}
