//! What must not be stored: tokens, private keys, credentials in addresses.

/// How tokens of well-known services begin, and how many characters follow at least.
const TOKENS: [(&str, usize); 14] = [
    ("hf_", 20),
    ("ghp_", 30),
    ("gho_", 30),
    ("ghs_", 30),
    ("ghu_", 30),
    ("github_pat_", 30),
    ("glpat-", 18),
    ("sk-", 20),
    ("sk_live_", 16),
    ("AKIA", 16),
    ("ASIA", 16),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("AIza", 30),
];
const STARS: &[u8] = b"***";

/// The text with asterisks in place of tokens, private keys and passwords of addresses, and how many there were.
pub fn redact(text: &[u8]) -> (Vec<u8>, usize) {
    let mut clean = Vec::with_capacity(text.len());
    let mut secrets = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let starts_word = at == 0 || !is_word(text[at - 1]);
        let secret = if rest.starts_with(b"-----BEGIN ") {
            private_key(rest)
        } else if rest.starts_with(b"://") {
            userinfo(&rest[3..]).map(|length| (3, length))
        } else if starts_word {
            token(rest).map(|length| (0, length))
        } else {
            None
        };
        match secret {
            Some((kept, length)) => {
                clean.extend_from_slice(&rest[..kept]);
                clean.extend_from_slice(STARS);
                secrets += 1;
                at += kept + length;
            }
            None => {
                clean.push(text[at]);
                at += 1;
            }
        }
    }
    (clean, secrets)
}

/// An address without user, password and query; of `ssh://git@host` and `git@host:path` the user stays, who is no secret.
pub fn strip_credentials(address: &str) -> String {
    let address = address.split(['?', '#']).next().unwrap_or_default();
    let stripped = match address.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split('/').next().unwrap_or_default();
            match authority.rsplit_once('@') {
                Some((user, host)) => {
                    let user = user.split(':').next().unwrap_or_default();
                    let user = if scheme.contains("ssh") { format!("{user}@") } else { String::new() };
                    format!("{scheme}://{user}{host}{}", &rest[authority.len()..])
                }
                None => address.to_owned(),
            }
        }
        None => address.to_owned(),
    };
    String::from_utf8_lossy(&redact(stripped.as_bytes()).0).into_owned()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// The length of the token that the text begins with.
fn token(text: &[u8]) -> Option<usize> {
    let (prefix, least) = TOKENS.iter().find(|(prefix, _)| text.starts_with(prefix.as_bytes()))?;
    let length = text.iter().take_while(|byte| is_word(**byte)).count();
    (length >= prefix.len() + least).then_some(length)
}

/// What of a private key in PEM is kept, and the length of the rest up to its end line.
fn private_key(text: &[u8]) -> Option<(usize, usize)> {
    const END: &[u8] = b"-----END ";
    let line = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    if !text[..line].windows(11).any(|window| window == b"PRIVATE KEY") {
        return None;
    }
    let end = text.windows(END.len()).position(|window| window == END).unwrap_or(text.len());
    Some((line, end - line)).filter(|(_, length)| *length > 0)
}

/// The length of `user:password` before the `@` of an address.
fn userinfo(authority: &[u8]) -> Option<usize> {
    let end = authority.iter().position(|byte| byte.is_ascii_whitespace() || b"/\"'<>?#".contains(byte));
    let authority = &authority[..end.unwrap_or(authority.len())];
    let at = authority.iter().rposition(|byte| *byte == b'@')?;
    authority[..at].contains(&b':').then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_keys_and_passwords_become_asterisks() {
        let hf = format!("hf_{}", "x".repeat(34));
        let github = format!("ghp_{}", "y".repeat(36));
        let key = "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n+def\n-----END RSA PRIVATE KEY-----";
        for (text, expected, secrets) in [
            (format!("+token = \"{hf}\"\n"), "+token = \"***\"\n", 1),
            (format!("{github} {hf}"), "*** ***", 2),
            ("https://me:pw@host/path".to_owned(), "https://***@host/path", 1),
            (key.to_owned(), "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----", 1),
            (
                "half_ghp_ hf_short disk-20x30 risk-aaaaaaaaaaaaaaaaaaaaaaaaa".to_owned(),
                "half_ghp_ hf_short disk-20x30 risk-aaaaaaaaaaaaaaaaaaaaaaaaa",
                0,
            ),
            ("-----BEGIN PUBLIC KEY-----\nabc\n".to_owned(), "-----BEGIN PUBLIC KEY-----\nabc\n", 0),
            ("see https://host/@me and a@b:c".to_owned(), "see https://host/@me and a@b:c", 0),
        ] {
            let (clean, found) = redact(text.as_bytes());
            assert_eq!((String::from_utf8_lossy(&clean).as_ref(), found), (expected, secrets));
        }
    }

    #[test]
    fn addresses_lose_their_credentials() {
        for (address, expected) in [
            ("https://user:pw@host/a.git", "https://host/a.git"),
            ("https://token@host/a.git?key=1#x", "https://host/a.git"),
            ("ssh://git:pw@host:22/a", "ssh://git@host:22/a"),
            ("git@github.com:me/a.git", "git@github.com:me/a.git"),
            ("/srv/git/a", "/srv/git/a"),
            ("https://host/a@b/c", "https://host/a@b/c"),
        ] {
            assert_eq!(strip_credentials(address), expected);
        }
    }
}
