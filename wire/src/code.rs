//! The one table of stable codes: what a refusal or failure is called, what it says, and which exit status it gives.
//!
//! Scripts and records rely on the code; the sentence is for the reader. A code never changes its meaning.

use std::fmt;
use std::str::FromStr;

use crate::name::as_json_text;

/// Exit statuses beside a command's own (design: command line; numbers from `sysexits.h` where one fits).
pub mod exit {
    /// Some hosts of a fan-out did not end in status 0.
    pub const SOME_FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// Bad data, or nothing matched.
    pub const DATA: u8 = 65;
    /// The other side cannot be reached.
    pub const UNREACHABLE: u8 = 69;
    /// A fault of Reeve itself.
    pub const INTERNAL: u8 = 70;
    /// Whether it ran, or how it ended, is not known.
    pub const UNKNOWN: u8 = 75;
    /// Refused by the master, or vetoed by the host.
    pub const REFUSED: u8 = 77;
    /// The configuration is wrong.
    pub const CONFIG: u8 = 78;
    /// The command ran out of time.
    pub const TIMED_OUT: u8 = 124;
    /// The command was found, but could not be started.
    pub const CANNOT_START: u8 = 126;
    /// The command was not found.
    pub const NOT_FOUND: u8 = 127;
    /// The command was cancelled.
    pub const CANCELLED: u8 = 130;
}

/// A text that is no code of this table.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an unknown code")]
pub struct UnknownCode;

macro_rules! codes {
    ($($variant:ident, $code:literal, $exit:ident, $sentence:literal;)*) => {
        /// Why something was refused or failed.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Code {
            $(#[doc = $sentence] $variant,)*
        }

        impl Code {
            /// Every code, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),* }
            }

            /// The sentence for the reader: cause and next step, nothing internal.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence),* }
            }

            /// The exit status that it gives when it is the answer to the whole command.
            pub const fn exit_status(self) -> u8 {
                match self { $(Self::$variant => exit::$exit),* }
            }
        }
    };
}

codes! {
    NotYours, "not-yours", REFUSED, "no such server, or none that you may use; `reeve hosts` lists yours";
    LevelTooLow, "level-too-low", REFUSED, "this needs a higher level on that server than you hold; `reeve why HOST` says what you hold and through which group";
    NotStaff, "not-staff", REFUSED, "you are not a member of the NOC staff group; ask a security admin";
    AccountDisabled, "account-disabled", REFUSED, "your account is disabled in the directory; ask a security admin";
    AccountLocked, "account-locked", REFUSED, "your account is locked in the directory; ask a security admin";
    AccountExpired, "account-expired", REFUSED, "your account has expired in the directory; ask a security admin";
    PasswordMustChange, "password-must-change", REFUSED, "your password must be changed in the directory first";
    PersonUnknown, "person-unknown", REFUSED, "the directory does not know you under this name; ask a security admin";
    AmbiguousIdentity, "ambiguous-identity", REFUSED, "the directory has more than one entry of your name; ask a security admin";
    IdentityChanged, "identity-changed", REFUSED, "your name now belongs to another directory entry than your certificate says; ask for a new certificate";
    DirectoryUnavailable, "directory-unavailable", REFUSED, "the directory did not answer, so access cannot be checked and nothing runs; try again shortly";
    CeilingLevel, "ceiling-level", REFUSED, "your certificate does not reach that level; ask a security admin for one that does";
    CeilingCustomer, "ceiling-customer", REFUSED, "your certificate does not cover that customer; ask a security admin for one that does";
    LoginFailed, "login-failed", REFUSED, "login refused: the key, the name or the password is not accepted";
    CertificateUntrusted, "certificate-untrusted", REFUSED, "the certificate is not of a CA in the trust bundle";
    CertificateExpired, "certificate-expired", REFUSED, "the certificate has expired or is not valid yet; ask for a renewed one";
    CertificateKind, "certificate-kind", REFUSED, "the certificate is of another kind than this role takes";
    CertificatePrincipal, "certificate-principal", REFUSED, "the certificate does not name exactly the one who presents it";
    CertificateOption, "certificate-option", REFUSED, "the certificate carries a critical option that is not understood";
    CertificateAlgorithm, "certificate-algorithm", REFUSED, "the certificate uses an algorithm that is not accepted";
    CertificateCeiling, "certificate-ceiling", REFUSED, "the technician's certificate lacks a readable ceiling or directory id; ask for a new one";
    CertificateLifetime, "certificate-lifetime", REFUSED, "the technician's certificate is valid for longer than 30 days; ask for a new one";
    SessionUnknown, "session-unknown", REFUSED, "this session is not registered with the master; run `reeve login`";
    SessionExpired, "session-expired", REFUSED, "this session has ended; run `reeve login`";
    DelegationInvalid, "delegation-invalid", REFUSED, "the session key's delegation does not hold; run `reeve login`";
    DelegationLevel, "delegation-level", REFUSED, "this session was opened for a lower level; run `reeve login` again";
    RequestSignature, "request-signature", REFUSED, "the request is not signed by the one it names";
    RequestMalformed, "request-malformed", REFUSED, "the request is not one that this version reads; update the console or the master";
    RequestExpired, "request-expired", REFUSED, "the request is too old or not valid yet; check this machine's clock and try again";
    RequestReplayed, "request-replayed", REFUSED, "this request was used before; every operation runs at most once";
    RequestUnknown, "request-unknown", REFUSED, "no request of this operation was handed in on this connection";
    WrongSite, "wrong-site", REFUSED, "the request is for another site";
    WrongHost, "wrong-host", REFUSED, "the request names another server than this one";
    TargetMismatch, "target-mismatch", REFUSED, "the server is not among those that the technician signed";
    LevelMismatch, "level-mismatch", REFUSED, "the level stated is not the one that the command needs";
    ItemUnknown, "item-unknown", DATA, "the library has no such item; `reeve hosts` and the library's index show what there is";
    ItemMismatch, "item-mismatch", REFUSED, "the item is not the version that the signed library index names";
    ParameterInvalid, "parameter-invalid", DATA, "a parameter is missing, unknown or outside its limits";
    ArgumentsInvalid, "arguments-invalid", DATA, "the command is empty, too long or contains a NUL byte";
    StdinMismatch, "stdin-mismatch", REFUSED, "the input is not the one that was signed, or larger than 1 MiB";
    GrantInvalid, "grant-invalid", REFUSED, "the master's grant does not hold for this request on this server";
    GrantStale, "grant-stale", REFUSED, "the master's grant is too old, or older than this agent's start";
    TrustStale, "trust-stale", REFUSED, "the trust bundle is past its date; a security admin must publish a new one";
    TrustUnanswered, "trust-unanswered", REFUSED, "the trust bundle has not been compared on this connection yet; try again";
    ClockApart, "clock-apart", REFUSED, "the clocks of master and server are more than 5 minutes apart; correct them";
    HistoryRefused, "history-refused", REFUSED, "the master shows a shorter or different history than the server has seen; nothing runs until the customer's administrator has looked";
    Vetoed, "vetoed", REFUSED, "the customer's own policy on that server does not allow it";
    LedgerUnavailable, "ledger-unavailable", REFUSED, "the record cannot be written, so nothing runs; the NOC's administrator must look at the master";
    Busy, "busy", REFUSED, "too much is waiting at the moment; try again shortly";
    NothingMatched, "nothing-matched", DATA, "no server of yours matches; `reeve hosts` lists yours";
    SelectorInvalid, "selector-invalid", USAGE, "the selector is not understood; write contoso/web01, contoso/*, */db* or a comma list, with ! to exclude";
    Unreachable, "unreachable", UNREACHABLE, "the server's agent is not connected, so nothing ran there";
    NotDelivered, "not-delivered", UNREACHABLE, "the server's agent never received it, so nothing ran there";
    MasterUnreachable, "master-unreachable", UNREACHABLE, "the master cannot be reached; check the address and the network";
    MasterUntrusted, "master-untrusted", REFUSED, "what answers there is not a master of this site; nothing was sent to it";
    JournalFailed, "journal-failed", REFUSED, "the server cannot write its own journal, so nothing runs there; its administrator must look";
    CannotStart, "cannot-start", CANNOT_START, "the command could not be started on the server";
    NotFound, "not-found", NOT_FOUND, "there is no such command on the server";
    TimedOut, "timed-out", TIMED_OUT, "the command ran longer than its time limit and was ended";
    Cancelled, "cancelled", CANCELLED, "the command was cancelled";
    RightLost, "right-lost", CANCELLED, "the right to run it was lost, so it was ended";
    OutcomeUnknown, "outcome-unknown", UNKNOWN, "whether it ran to its end is not known; the record will be completed when the server's agent is back";
    PolicyConfig, "configuration", CONFIG, "the configuration is wrong";
    Protocol, "protocol", INTERNAL, "the other side broke the protocol; update both to the same version";
    Internal, "internal", INTERNAL, "an internal fault; the log of that program has the cause";
}

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(UnknownCode)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

as_json_text!(Code);

/// A refusal: the code, and one sentence that may name the value at fault.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{reason}")]
pub struct Refusal {
    /// What scripts and records rely on.
    pub code: Code,
    /// What the reader gets.
    pub reason: String,
}

impl Refusal {
    /// A refusal that adds `detail` to the code's sentence.
    pub fn because(code: Code, detail: impl fmt::Display) -> Self {
        Self { code, reason: format!("{}: {detail}", code.sentence()) }
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self { code, reason: code.sentence().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_is_one_of_its_kind_and_comes_back() {
        let texts: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        }
    }
}
