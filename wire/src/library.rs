//! The prescriptive library: items with a level of their own and typed parameters that become arguments, never shell
//! text.
//!
//! An item travels as its [`Package`], whose SHA-256 stands in the [`Index`] that a library signer of the trust
//! bundle signed. The level of a request is the package's, at the master and again at the agent.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bundle::Trust;
use crate::code::{Code, Refusal};
use crate::id::Digest;
use crate::level::Level;
use crate::name::Name;
use crate::request::{ItemRef, Text};
use crate::signed::{Document, MAX_LARGE, Signed, SignedError, Verified};
use crate::sshsig::{self, BadSignature, Namespace};
use crate::strict::{self, V1, present};
use crate::time::Millis;

/// The largest package, in bytes.
pub const MAX_PACKAGE: usize = 256 * 1024;
/// The longest value of a parameter, in bytes.
pub const MAX_VALUE: usize = 4096;

/// What the library signer signs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Format version.
    pub v: V1,
    /// The site.
    pub site: Name,
    /// Rising number; a higher one replaces a lower one.
    pub version: u64,
    /// When it was signed.
    pub issued: Millis,
    /// The items, one version each.
    pub items: Vec<ItemRef>,
}

impl Document for Index {
    const NAMESPACE: Namespace = Namespace::Library;
    const LIMIT: usize = MAX_LARGE;
}

/// Whether an item takes standard input.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// None: `/dev/null`.
    None,
    /// The bytes whose digest the request signs, run as a script of the item's interpreter or read by it.
    Signed,
}

/// One item, as it travels.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Format version.
    pub v: V1,
    /// Name, the same as in the index.
    pub name: Name,
    /// Version, the same as in the index.
    pub version: u64,
    /// One line for lists.
    pub summary: String,
    /// The level that running it needs.
    pub level: Level,
    /// `linux` for now.
    pub platforms: Vec<String>,
    /// The longest run, in ms.
    pub timeout_ms: u64,
    /// Typed parameters.
    pub parameters: Vec<Parameter>,
    /// The command line. An element `{NAME}` is the value of that parameter, whole; an element `@service-manager@` is
    /// the adapter that the agent's configuration names; `{script}` is the path of [`script`](Self::script).
    pub argv: Vec<String>,
    /// Whether the request brings standard input.
    pub stdin: Input,
    /// A script that the agent makes available while the item runs.
    #[serde(deserialize_with = "present")]
    pub script: Option<String>,
}

/// One typed parameter.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Upper-case name as it stands in `argv`.
    pub name: String,
    /// For the reader.
    pub summary: String,
    /// Whether it must be given.
    pub required: bool,
    /// Used when it is not given.
    #[serde(deserialize_with = "present")]
    pub default: Option<String>,
    /// What values it takes.
    #[serde(rename = "type")]
    pub kind: ParameterKind,
}

/// What values a parameter takes. Every kind refuses control characters and values over [`MAX_VALUE`] bytes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ParameterKind {
    /// `[A-Za-z0-9][A-Za-z0-9@._:-]{0,127}`: a unit or service name.
    ServiceName,
    /// A whole number within bounds.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// One of these.
    Choice(Vec<String>),
    /// Text of at most this many bytes that does not begin with `-`.
    Text {
        /// Longest, in bytes.
        max: u32,
    },
}

impl ParameterKind {
    fn accepts(&self, value: &str) -> Result<(), String> {
        if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
            return Err("it is too long or contains control characters".into());
        }
        match self {
            Self::ServiceName => {
                let inner = |b: u8| b.is_ascii_alphanumeric() || b"@._:-".contains(&b);
                let first = value.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
                if first && value.len() <= 128 && value.bytes().all(inner) {
                    Ok(())
                } else {
                    Err("a service name is letters, digits and @ . _ : - and begins with a letter or digit".into())
                }
            }
            Self::Integer { min, max } => match value.parse::<i64>() {
                Ok(number) if (*min..=*max).contains(&number) && number.to_string() == value => Ok(()),
                _ => Err(format!("it must be a whole number from {min} to {max}")),
            },
            Self::Choice(choices) if choices.iter().any(|choice| choice == value) => Ok(()),
            Self::Choice(choices) => Err(format!("it must be one of {}", choices.join(", "))),
            Self::Text { max } if value.len() <= usize::try_from(*max).unwrap_or(usize::MAX) => {
                if value.starts_with('-') { Err("it must not begin with -".into()) } else { Ok(()) }
            }
            Self::Text { max } => Err(format!("it must have at most {max} bytes")),
        }
    }
}

/// The signed index of a site's library.
#[derive(Clone, Debug)]
pub struct SignedIndex(Verified<Index>);

impl SignedIndex {
    /// Checks that a library signer of the bundle signed it, for the bundle's site.
    ///
    /// # Errors
    /// When none did, or it cannot be read.
    pub fn open(signed: Signed, trust: &Trust) -> Result<Self, SignedError> {
        let signer = sshsig::claimed_signer(signed.signature())?;
        let trusted = trust.library_signers.iter().find(|trusted| *trusted.key() == signer);
        let trusted = trusted.ok_or(SignedError::Signature(BadSignature::OtherKey))?;
        let index = signed.verify::<Index>(trusted.key())?;
        if index.site != trust.site {
            return Err(SignedError::Signature(BadSignature::OtherKey));
        }
        Ok(Self(index))
    }

    /// The item of that name.
    pub fn item(&self, name: &Name) -> Option<&ItemRef> {
        self.0.items.iter().find(|item| item.name == *name)
    }

    /// The signed document, to hand on.
    pub const fn signed(&self) -> &Signed {
        self.0.signed()
    }

    /// SHA-256 of the signed bytes.
    pub const fn digest(&self) -> Digest {
        self.0.digest()
    }

    /// Reads the package of `wanted` and checks it against the index.
    ///
    /// # Errors
    /// [`Code::ItemUnknown`] or [`Code::ItemMismatch`].
    pub fn package(&self, wanted: &ItemRef, bytes: &[u8]) -> Result<Package, Refusal> {
        let listed = self.item(&wanted.name).ok_or_else(|| Refusal::from(Code::ItemUnknown))?;
        if listed != wanted || bytes.len() > MAX_PACKAGE || Digest::of(bytes) != wanted.digest {
            return Err(Code::ItemMismatch.into());
        }
        let package: Package = strict::from_slice(bytes).map_err(|_| Refusal::from(Code::ItemMismatch))?;
        if package.name != wanted.name || package.version != wanted.version {
            return Err(Code::ItemMismatch.into());
        }
        Ok(package)
    }
}

impl std::ops::Deref for SignedIndex {
    type Target = Index;

    fn deref(&self) -> &Index {
        self.0.value()
    }
}

impl Package {
    /// The longest run.
    pub const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Checks arguments and gives each parameter's value: what was given, else the default.
    ///
    /// # Errors
    /// [`Code::ParameterInvalid`], naming the parameter.
    pub fn values(&self, args: &[(String, Text)]) -> Result<Vec<(&str, String)>, Refusal> {
        let bad = |name: &str, why: &dyn std::fmt::Display| {
            Refusal::because(Code::ParameterInvalid, format_args!("{}: {why}", crate::output::visible_line(name)))
        };
        let mut given = BTreeSet::new();
        for (name, _) in args {
            if !given.insert(name) {
                return Err(bad(name, &"it is given twice"));
            }
            if !self.parameters.iter().any(|parameter| parameter.name == *name) {
                return Err(bad(name, &format_args!("{} has no such parameter", self.name)));
            }
        }
        let mut values = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            let value = match args.iter().find(|(name, _)| *name == parameter.name) {
                Some((_, text)) => {
                    String::from_utf8(text.0.clone()).map_err(|_| bad(&parameter.name, &"it is not UTF-8"))?
                }
                None => match &parameter.default {
                    Some(default) => default.clone(),
                    None if parameter.required => return Err(bad(&parameter.name, &"it must be given")),
                    None => continue,
                },
            };
            parameter.kind.accepts(&value).map_err(|why| bad(&parameter.name, &why))?;
            values.push((parameter.name.as_str(), value));
        }
        Ok(values)
    }

    /// The command line for `args`. `adapter` gives what an element `@NAME@` stands for, and the script's path for
    /// `{script}`. An element of an optional parameter that is not given is left out.
    ///
    /// # Errors
    /// [`Code::ParameterInvalid`] for the arguments, [`Code::ItemMismatch`] for a template that names what is not there.
    pub fn command(
        &self,
        args: &[(String, Text)],
        adapter: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<Text>, Refusal> {
        let values = self.values(args)?;
        let mut argv = Vec::with_capacity(self.argv.len());
        for element in &self.argv {
            let inner = |open: char, close: char| element.strip_prefix(open)?.strip_suffix(close);
            if let Some(name) = inner('{', '}') {
                match values.iter().find(|(parameter, _)| *parameter == name) {
                    Some((_, value)) => argv.push(Text::from(value.as_str())),
                    None if self.parameters.iter().any(|parameter| parameter.name == name) => {}
                    None => argv.push(Text(adapter(name).ok_or(Code::ItemMismatch)?.into_bytes())),
                }
            } else if let Some(name) = inner('@', '@') {
                argv.push(Text(adapter(name).ok_or(Code::ItemMismatch)?.into_bytes()));
            } else {
                argv.push(Text::from(element.as_str()));
            }
        }
        Ok(argv)
    }
}

#[cfg(test)]
mod tests;
