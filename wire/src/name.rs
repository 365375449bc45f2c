//! Names of customers, hosts, people, sites and masters, and the SSH principals made from them.
//!
//! A [`Name`] is `[a-z0-9][a-z0-9._-]{0,62}`: it is safe in a path, a certificate principal, a table and a log
//! without escaping, and two names are the same person or host only when their bytes are the same.

use std::fmt;
use std::str::FromStr;

/// The longest name, in bytes.
pub const MAX_NAME: usize = 63;

/// A customer, a host, a person, a site or a master.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is not a name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameError {
    /// Not `[a-z0-9][a-z0-9._-]{0,62}`.
    #[error("{0:?} is not a name: use 1 to 63 of a-z 0-9 . _ - and begin with a letter or a digit")]
    NotAName(String),
    /// Not `CUSTOMER/HOST`.
    #[error("{0:?} is not a host: write CUSTOMER/HOST, such as contoso/web01")]
    NotAHost(String),
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let rest = |b: u8| first(b) || matches!(b, b'.' | b'_' | b'-');
        let good = text.len() <= MAX_NAME && text.bytes().next().is_some_and(first) && text.bytes().all(rest);
        if !good {
            return Err(NameError::NotAName(text.chars().take(MAX_NAME + 1).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A managed server: the customer it belongs to, and its own name there. Written `contoso/web01`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostName {
    /// Whose server it is.
    pub customer: Name,
    /// Its name at that customer.
    pub host: Name,
}

impl FromStr for HostName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::NotAHost(text.chars().take(2 * MAX_NAME + 2).collect());
        let (customer, host) = text.split_once('/').ok_or_else(bad)?;
        Ok(Self { customer: customer.parse().map_err(|_| bad())?, host: host.parse().map_err(|_| bad())? })
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.customer, self.host)
    }
}

/// Who presents a certificate, as its one principal says: the SSH user name or the host certificate's name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Principal {
    /// `tech:NAME`
    Technician(Name),
    /// `host:CUSTOMER/HOST`
    Host(HostName),
    /// `master:NAME`
    Master(Name),
}

impl FromStr for Principal {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once(':') {
            Some(("tech", name)) => Ok(Self::Technician(name.parse()?)),
            Some(("host", name)) => Ok(Self::Host(name.parse()?)),
            Some(("master", name)) => Ok(Self::Master(name.parse()?)),
            _ => Err(NameError::NotAName(text.chars().take(2 * MAX_NAME).collect())),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Technician(name) => write!(f, "tech:{name}"),
            Self::Host(name) => write!(f, "host:{name}"),
            Self::Master(name) => write!(f, "master:{name}"),
        }
    }
}

macro_rules! as_json_text {
    ($($kind:ty),*) => {$(
        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $kind {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
pub(crate) use as_json_text;

as_json_text!(Name, HostName, Principal);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_closed_alphabet() {
        for good in ["a", "0", "web01", "a.b_c-d", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "é", "a b", "a/b", "a\n", "a\0", "*)(uid=*", "noc1$", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_host_is_a_customer_and_a_name() {
        assert_eq!("contoso/web01".parse::<HostName>().unwrap().to_string(), "contoso/web01");
        for bad in ["web01", "contoso/", "/web01", "a/b/c", "contoso/web01\n", "../x"] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_principal_names_exactly_one_kind() {
        assert_eq!("tech:alice".parse(), Ok(Principal::Technician("alice".parse().unwrap())));
        for bad in ["alice", "root:alice", "tech:alice,bob", "tech:", "host:web01", "tech:a\n"] {
            assert!(bad.parse::<Principal>().is_err(), "{bad:?}");
        }
    }
}
