//! Makes this server's key where it is used. It never leaves, and is never made twice.

use reeve_wire::keyfile;

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
    let made = keyfile::make_key(path, &config.host.to_string());
    let line = made.map_err(|error| Failure::config(format_args!("{} cannot be written: {error}", path.display())))?;
    Ok(line.to_string())
}
