//! A CA of the lab's own and a certificate for `localhost`, made with the `openssl` program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{OpenLdapError, While, program, run, write_secret};

/// Our own configuration, so that the distribution's cannot add to the certificates.
const CONFIGURATION: &str = "[req]
distinguished_name = name
prompt = no
[name]
CN = Reeve lab
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost
";

/// Makes `ca.pem` and `ca.key` below `dir`, and gives the path of the certificate.
///
/// # Errors
///
/// [`OpenLdapError`] when there is no `openssl`, or it fails.
pub fn make_authority(dir: &Path) -> Result<PathBuf, OpenLdapError> {
    fs::create_dir_all(dir).during(format!("creating {}", dir.display()))?;
    write_secret(&dir.join("openssl.cnf"), CONFIGURATION)?;
    key(dir, "ca.key")?;
    openssl(dir, "req -x509 -new -config openssl.cnf -extensions ca -days 3650 -sha256 -key ca.key -out ca.pem")?;
    Ok(dir.join("ca.pem"))
}

/// Makes the CA, and a certificate for `localhost` with it: `slapd.pem` and `slapd.key`.
pub(super) fn make(dir: &Path) -> Result<(), OpenLdapError> {
    make_authority(dir)?;
    key(dir, "slapd.key")?;
    openssl(dir, "req -new -config openssl.cnf -subj /CN=localhost -key slapd.key -out slapd.csr")?;
    openssl(
        dir,
        "x509 -req -in slapd.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 825 -sha256 \
         -extfile openssl.cnf -extensions server -out slapd.pem",
    )
}

fn key(dir: &Path, name: &str) -> Result<(), OpenLdapError> {
    write_secret(&dir.join(name), "")?;
    openssl(dir, &format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out {name}"))
}

fn openssl(dir: &Path, arguments: &str) -> Result<(), OpenLdapError> {
    let mut command = Command::new(program("openssl")?);
    command.args(arguments.split_whitespace()).current_dir(dir);
    run("openssl", &mut command, "").map(drop)
}
