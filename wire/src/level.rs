//! The three access levels.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How much a technician may change on a host. The order is the meaning: each level contains the one below it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Level {
    /// Diagnose: look, but change nothing.
    One = 1,
    /// Maintain: routine work that cannot do permanent damage.
    Two = 2,
    /// Administer: anything an administrator could do at the host's own console.
    Three = 3,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Self; 3] = [Self::One, Self::Two, Self::Three];

    /// The level as its number, 1 to 3.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// A number that is no level.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} is no access level: use 1 (diagnose), 2 (maintain) or 3 (administer)")]
pub struct NoSuchLevel(pub u64);

impl TryFrom<u64> for Level {
    type Error = NoSuchLevel;

    fn try_from(number: u64) -> Result<Self, NoSuchLevel> {
        match number {
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            3 => Ok(Self::Three),
            other => Err(NoSuchLevel(other)),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(u64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
