//! Bearer tokens: the file they are kept in, and how a presented one is compared.
//!
//! One line per token, `#` starts a comment:
//! ```text
//! # token                            user   namespace=role, …  (roles: view, edit, admin; * is every namespace)
//! 5f2b…at-least-sixteen-characters   ann    team=edit,*=view
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::role::{Role, User};

/// Fewest characters of a token: 16 random ones cannot be guessed over a network.
const MIN_TOKEN_CHARS: usize = 16;
/// Most tokens in a file: each request compares with all of them, in constant time; more users want a real identity provider.
const MAX_TOKENS: usize = 1_000;
/// Largest token file: [`MAX_TOKENS`] lines with room for a dozen namespaces each.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Who may show which token.
#[derive(Clone, Default)]
pub struct Tokens {
    entries: Vec<(Box<[u8]>, User)>,
}

impl fmt::Debug for Tokens {
    /// How many, never which.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("count", &self.entries.len()).finish_non_exhaustive()
    }
}

/// Why a token file is not used. Never shows a token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the token file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others can read it.
    #[error("the token file {} can be read by others; run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// A line is wrong.
    #[error("{} line {line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// There is nothing in it.
    #[error("the token file {} holds no token; write a line: TOKEN USER NAMESPACE=ROLE", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Tokens {
    /// Adds one.
    pub fn insert(&mut self, token: &str, user: User) {
        self.entries.push((token.as_bytes().into(), user));
    }

    /// Reads a token file.
    pub fn load(path: &Path) -> Result<Self, TokenFileError> {
        use std::os::unix::fs::PermissionsExt as _;
        let read = |source| TokenFileError::Read { path: path.to_owned(), source };
        let meta = std::fs::metadata(path).map_err(read)?;
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(TokenFileError::Exposed { path: path.to_owned() });
        }
        if meta.len() > MAX_FILE_BYTES {
            return Err(read(std::io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes"))));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let tokens = Self::parse(&text).map_err(|(line, message)| TokenFileError::Line {
            path: path.to_owned(),
            line,
            message,
        })?;
        if tokens.entries.is_empty() {
            return Err(TokenFileError::Empty { path: path.to_owned() });
        }
        Ok(tokens)
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut tokens = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.split_once('#').map_or(line, |(before, _)| before).trim();
            if line.is_empty() {
                continue;
            }
            let (token, user) = entry(line).map_err(|message| (index + 1, message))?;
            tokens.insert(token, user);
        }
        if tokens.entries.len() > MAX_TOKENS {
            return Err((text.lines().count(), format!("more than {MAX_TOKENS} tokens")));
        }
        Ok(tokens)
    }

    /// The user of a presented token. Looks at every entry and at every byte, whatever it finds, so that the time
    /// taken says nothing about how much of a guess was right.
    pub fn user(&self, presented: &str) -> Option<&User> {
        let mut found = None;
        for (token, user) in &self.entries {
            if same(token, presented.as_bytes()) {
                found = Some(user);
            }
        }
        found
    }
}

fn same(secret: &[u8], presented: &[u8]) -> bool {
    let mut difference = u8::from(secret.len() != presented.len());
    for (index, byte) in secret.iter().enumerate() {
        difference |= byte ^ presented.get(index).copied().unwrap_or(0);
    }
    // The optimiser must not turn the loop into one that leaves early.
    std::hint::black_box(difference) == 0
}

fn entry(line: &str) -> Result<(&str, User), String> {
    let mut words = line.split_whitespace();
    let (Some(token), Some(name), Some(grants)) = (words.next(), words.next(), words.next()) else {
        return Err("write three words: TOKEN USER NAMESPACE=ROLE[,NAMESPACE=ROLE…]".to_owned());
    };
    if words.next().is_some() {
        return Err("more than three words; write the roles without spaces".to_owned());
    }
    if token.chars().count() < MIN_TOKEN_CHARS {
        return Err(format!("the token has fewer than {MIN_TOKEN_CHARS} characters; try: openssl rand -hex 32"));
    }
    let mut roles = BTreeMap::new();
    for grant in grants.split(',') {
        let (namespace, role) = grant.split_once('=').ok_or_else(|| format!("\"{grant}\" is not NAMESPACE=ROLE"))?;
        roles.insert(namespace.to_owned(), role.parse::<Role>()?);
    }
    Ok((token, User { name: name.to_owned(), roles }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# people\n0123456789abcdef ann team=edit,*=view\n\nfedcba9876543210 bob *=admin # the boss\n";

    #[test]
    fn a_token_finds_its_user() {
        let tokens = Tokens::parse(FILE).expect("reads");
        assert_eq!(tokens.user("0123456789abcdef").map(|u| u.name.as_str()), Some("ann"));
        assert_eq!(tokens.user("fedcba9876543210").map(|u| u.roles["*"]), Some(Role::Admin));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
            assert_eq!(tokens.user(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn wrong_lines_are_named_and_tokens_are_not() {
        for (text, words) in [
            ("short ann *=view", "fewer than 16"),
            ("0123456789abcdef ann", "three words"),
            ("0123456789abcdef ann team", "NAMESPACE=ROLE"),
            ("0123456789abcdef ann team=king", "not a role"),
        ] {
            let (line, message) = Tokens::parse(text).expect_err(text);
            assert_eq!(line, 1);
            assert!(message.contains(words), "{message}");
            assert!(!message.contains("0123456789abcdef"), "{message}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        assert!(!format!("{:?}", Tokens::parse(FILE)).contains("0123"));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        std::fs::write(&path, FILE).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(Tokens::load(&path), Err(TokenFileError::Exposed { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        assert!(Tokens::load(&path).is_ok());
    }
}
