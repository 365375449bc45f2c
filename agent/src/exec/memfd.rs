//! Bytes for one program, in a file that exists only in memory and that nobody can change any more.
//!
//! A temporary file could be swapped between the check of its digest and the interpreter's open. A sealed memory
//! file has no name and refuses every write, also through the descriptor that the program itself holds.
//!
//! The program gets the file as its standard input and as nothing else. That is the one descriptor that a spawn
//! hands over without lifting close-on-exec in the agent, so no other program started at that moment inherits it.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

/// The path under which an interpreter finds its [`script`].
pub const SCRIPT_PATH: &str = "/proc/self/fd/0";

/// A program's standard input: `bytes`, from their beginning.
///
/// # Errors
///
/// The kernel's, such as no memory.
pub fn input(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = sealed("reeve-stdin", bytes)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file.into())
}

/// A script for an interpreter that opens [`SCRIPT_PATH`] and has this descriptor as its standard input.
///
/// Opening the path gives the interpreter a position of its own, at the beginning. The descriptor itself stands at
/// the end of the file: what the script's commands read is empty, never the rest of the script.
///
/// # Errors
///
/// The kernel's, such as no memory.
pub fn script(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = sealed("reeve-script", bytes)?;
    file.seek(SeekFrom::End(0))?;
    Ok(file.into())
}

fn sealed(name: &str, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(create(name)?);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

/// Linux 6.3 and later can forbid that the file is ever executed itself; an older kernel does not know the flag.
fn create(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?),
        created => Ok(created?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_sealed_file_refuses_every_change() {
        let mut file = File::from(input(b"echo approved").unwrap());

        assert!(file.write_all(b"echo swapped!").is_err());
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(1 << 20).is_err());
        assert!(fcntl_add_seals(&file, SealFlags::FUTURE_WRITE).is_err());

        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "echo approved");
    }

    #[test]
    fn input_begins_at_the_beginning_and_a_script_at_its_end() {
        let (mut from_input, mut from_script) = (String::new(), String::new());

        File::from(input(b"abc").unwrap()).read_to_string(&mut from_input).unwrap();
        File::from(script(b"abc").unwrap()).read_to_string(&mut from_script).unwrap();

        assert_eq!((from_input.as_str(), from_script.as_str()), ("abc", ""));
    }

    #[test]
    fn the_descriptor_is_closed_in_every_program_that_is_not_given_it() {
        let file = script(b"abc").unwrap();

        let flags = rustix::io::fcntl_getfd(&file).unwrap();

        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}
