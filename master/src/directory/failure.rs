//! Why the directory did not say yes: one sentence for each reason.

use super::State;

/// Why a name and a password were not accepted.
///
/// `Display` is what the technician may read; it says the same thing of a name that does not exist, a wrong password
/// and an account that refuses before the password is looked at.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AuthFailure {
    /// Unknown name, wrong password, or a password that is never sent (empty, blank, with a NUL, over 1024 bytes).
    #[error("the name or the password is wrong")]
    WrongPassword,
    /// The account is not in use.
    #[error("{}", account_state_sentence(.state, .password_was_right))]
    AccountState {
        /// What is the matter with it.
        state: State,
        /// Whether the server accepted the password. Without that, the technician is told nothing of the state.
        password_was_right: bool,
    },
    /// The directory could not say.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

fn account_state_sentence(state: &State, password_was_right: &bool) -> String {
    if *password_was_right {
        format!("this account is {state}; ask the directory's administrator")
    } else {
        AuthFailure::WrongPassword.to_string()
    }
}

/// Why the directory could not say. Never a "no": nothing may be concluded from it but that it is not a "yes".
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unavailable {
    /// No connection, or none that can be trusted.
    #[error("the directory {server} cannot be reached: {why}")]
    Unreachable {
        /// Which one.
        server: String,
        /// What the network or TLS said.
        why: String,
    },
    /// No answer in time.
    #[error("the directory {server} did not answer in time")]
    TimedOut {
        /// Which one.
        server: String,
    },
    /// The server refuses the account that Reeve itself uses.
    #[error("the directory {server} refuses Reeve's own account ({why}): check bind-dn and password-file")]
    ServiceRefused {
        /// Which one.
        server: String,
        /// The result code and the server's text.
        why: String,
    },
    /// The server answered with an error, or with something that is not LDAP.
    #[error("the directory {server} answered with an error: {why}")]
    BadAnswer {
        /// Which one.
        server: String,
        /// The result code and the server's text, or what was wrong.
        why: String,
    },
    /// More than one account has the name.
    #[error("the directory has more than one account named {name}: ambiguous identity, ask its administrator")]
    AmbiguousIdentity {
        /// The name that was asked for.
        name: String,
    },
    /// Groups in groups in groups, past the limit.
    #[error("groups are nested too deep: more than {limit} levels from the person")]
    NestedTooDeep {
        /// The most levels that are followed.
        limit: usize,
    },
    /// More entries than are read.
    #[error("the directory {server} has too much to say: more than {limit} entries for one question")]
    TooMany {
        /// Which one.
        server: String,
        /// The most entries that are read.
        limit: usize,
    },
    /// The file cannot be used as it is.
    #[error("the directory file {file} cannot be used: {why}")]
    BadFile {
        /// Which one.
        file: String,
        /// The first problem in it.
        why: String,
    },
    /// Too many questions or logins at once.
    #[error("the directory is asked too much at once; try again in a moment")]
    Busy,
    /// The question was given up half-way.
    #[error("the directory's answer was lost; try again")]
    Interrupted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_refuses_before_the_password_reads_like_a_wrong_password() {
        let locked = AuthFailure::AccountState { state: State::Locked, password_was_right: false };
        let known = AuthFailure::AccountState { state: State::Locked, password_was_right: true };

        assert_eq!(locked.to_string(), AuthFailure::WrongPassword.to_string());
        assert_eq!(known.to_string(), "this account is locked; ask the directory's administrator");
    }
}
