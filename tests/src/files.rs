//! Where things are below a site's folder.

use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use reeve_wire::id::Digest;

use crate::failure::{During as _, Failure};

/// The folders of one site.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) dir: PathBuf,
}

impl Files {
    pub(crate) fn lab(&self) -> PathBuf {
        self.dir.join("lab.json")
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca")
    }

    pub(crate) fn trust(&self) -> PathBuf {
        self.dir.join("trust").join("bundle")
    }

    pub(crate) fn library(&self) -> PathBuf {
        self.dir.join("library")
    }

    pub(crate) fn master(&self, name: &str) -> PathBuf {
        self.dir.join("master").join(name)
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.dir.join("directory")
    }

    pub(crate) fn technician(&self, name: &str) -> PathBuf {
        self.dir.join("technicians").join(name)
    }

    /// Where session keys live: never under a home folder, which may be backed up or shared.
    pub(crate) fn runtime(&self) -> PathBuf {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        if home.is_some_and(|home| home.parent().is_some() && self.dir.starts_with(home)) {
            let name = Digest::of(self.dir.as_os_str().as_encoded_bytes()).to_string();
            return std::env::temp_dir().join(format!("reeve-lab-{}", name.get(..16).unwrap_or(&name)));
        }
        self.dir.join("sessions")
    }

    pub(crate) fn agent(&self, host: &str) -> PathBuf {
        self.dir.join("agents").join(host)
    }

    pub(crate) fn pid(&self, part: &str) -> PathBuf {
        self.dir.join("run").join(part.replace(['/', ':'], "_")).with_extension("pid")
    }

    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.dir.join("logs").join(part.replace(['/', ':'], "_")).with_extension("log")
    }
}

/// Makes a folder, and those above it, that nobody else can enter.
pub(crate) fn private_folder(path: &Path) -> Result<(), Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .during(format_args!("making {}", path.display()))
}

/// Writes a file that nobody else can read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    write_mode(path, text, 0o600)
}

/// Writes a file with this mode.
pub(crate) fn write_mode(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    use std::io::Write as _;
    if let Some(folder) = path.parent() {
        private_folder(folder)?;
    }
    let open = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
    let mut file = open.during(format_args!("writing {}", path.display()))?;
    file.write_all(text.as_bytes()).during(format_args!("writing {}", path.display()))
}

/// Copies a folder with all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<(), Failure> {
    private_folder(to)?;
    for entry in std::fs::read_dir(from).during(format_args!("reading {}", from.display()))? {
        let entry = entry.during("reading a folder")?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_folder(&source, &target)?;
        } else {
            std::fs::copy(&source, &target).during(format_args!("copying {}", source.display()))?;
        }
    }
    Ok(())
}
