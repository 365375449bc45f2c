//! Makes this server's key where it is used. It never leaves, and is never made twice.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use reeve_wire::keyfile::{KeyLine, write_secret};
use reeve_wire::sshsig;
use ssh_key::LineEnding;

use crate::config::Config;
use crate::failure::Failure;

/// Makes the key that the configuration names, with its public half beside it, and gives the public line.
///
/// # Errors
/// When there is a key already, or the files cannot be written.
pub fn make(config: &Config) -> Result<String, Failure> {
    let path = &config.key;
    if path.symlink_metadata().is_ok() {
        return Err(Failure::config(format_args!("{} is there already, and is not overwritten", path.display()))
            .hint("a key belongs to one server for as long as it lives; move the old one away to begin a new chain"));
    }
    let internal = |error: &dyn std::fmt::Display| Failure::internal(format_args!("no key could be made: {error}"));
    let key = sshsig::generate(&config.host.to_string()).map_err(|error| internal(&error))?;
    let text = key.to_openssh(LineEnding::LF).map_err(|error| internal(&error))?;
    let line = KeyLine::new(key.public_key().key_data().clone()).map_err(|error| internal(&error))?.to_string();
    write_public(&public_path(path), &line)
        .and_then(|()| write_secret(path, text.as_bytes()))
        .map_err(|error| Failure::config(format_args!("{} cannot be written: {error}", path.display())))?;
    Ok(line)
}

/// Where the public half stands: `KEY.pub`.
pub fn public_path(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

fn write_public(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(line.as_bytes())?;
    file.write_all(b"\n")
}
