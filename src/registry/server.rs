//! A PostgreSQL server as people name it: `postgres://user@host:port/database`.

use crate::error::{Error, Result};
use crate::registry::secrets::redact;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::fmt;
use std::net::IpAddr;

/// What an address may say after its `?`. Others would be ignored without a word.
const PARAMETERS: [&str; 5] = ["host", "sslmode", "sslrootcert", "sslcert", "sslkey"];

/// Where a registry lies on a server, and how to reach it.
#[derive(Clone)]
pub(super) struct Server {
    /// Holds the password: never printed.
    options: PgConnectOptions,
    database: String,
    /// As it was given, without the password.
    address: String,
    /// That of the address.
    password: Option<String>,
}

impl Server {
    /// Reads an address. What it leaves out comes from where PostgreSQL's own programs look: `PGPASSWORD`, `~/.pgpass`,
    /// `PGUSER`, `PGSSLMODE` and so on.
    ///
    /// # Errors
    /// Where it is none. The message does not repeat it: it may hold a password.
    pub fn parse(address: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::input(format!(
                "--registry is no address of PostgreSQL: {why}; write postgres://USER@HOST:PORT/DATABASE, with %40 for \
                 an @ and the like"
            ))
        };
        let query = address.split_once('?').map_or("", |(_, query)| query);
        for name in query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| pair.split('=').next()) {
            if !PARAMETERS.contains(&name) {
                let known = PARAMETERS.join(", ");
                return Err(wrong(&format!("a parameter after the `?` is none of {known}")));
            }
        }
        let options: PgConnectOptions = address.parse().map_err(|error: sqlx::Error| match error {
            sqlx::Error::Configuration(error) => {
                wrong(&String::from_utf8_lossy(&redact(error.to_string().as_bytes()).0))
            }
            _ => wrong("it cannot be read"),
        })?;
        let database = options.get_database().unwrap_or_default().to_owned();
        if database.is_empty() || database.contains(['/', '@', '?', '#']) || database.chars().any(char::is_control) {
            return Err(wrong("it names no database"));
        }
        let (address, password) = without_password(address);
        let mut server = Server { options, database, address, password };
        // What crosses a network is encrypted, and the server is who it says, unless the address says otherwise.
        if !server.is_local()
            && matches!(server.options.get_ssl_mode(), PgSslMode::Prefer)
            && !query.contains("sslmode=")
        {
            server.options = server.options.ssl_mode(PgSslMode::VerifyFull);
        }
        Ok(server)
    }

    /// The address as it was given, without the password.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The password that the address held.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// How to connect.
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// The database's name.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Who connects.
    pub fn user(&self) -> &str {
        self.options.get_username()
    }

    /// `host:port`, or the folder of a socket.
    pub fn host(&self) -> String {
        match self.options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None if self.options.get_host().contains(':') && !self.options.get_host().starts_with('[') => {
                format!("[{}]:{}", self.options.get_host(), self.options.get_port())
            }
            None => format!("{}:{}", self.options.get_host(), self.options.get_port()),
        }
    }

    /// The same for everybody who uses it: without user and password.
    pub fn name(&self) -> String {
        format!("postgres://{}/{}", self.host(), self.database)
    }

    /// Whether nothing crosses a network.
    fn is_local(&self) -> bool {
        let host = self.options.get_host();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        self.options.get_socket().is_some()
            || host.starts_with('/')
            || host == "localhost"
            || address.is_ok_and(|address| address.is_loopback())
    }
}

/// An address, and the password that it held.
fn without_password(address: &str) -> (String, Option<String>) {
    let begin = address.find("://").map_or(0, |at| at + 3);
    let end = address[begin..].find(['/', '?', '#']).map_or(address.len(), |at| begin + at);
    let userinfo = address[begin..end].rfind('@').map_or(begin..begin, |at| begin..begin + at);
    match address[userinfo.clone()].split_once(':') {
        Some((user, password)) => {
            let rest = &address[userinfo.end..];
            (format!("{}{user}{rest}", &address[..begin]), Some(decoded(password)))
        }
        None => (address.to_owned(), None),
    }
}

/// Text in which %40 stands for an @.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.first_chunk::<2>().and_then(|digits| str::from_utf8(digits).ok());
        let encoded = digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(encoded.unwrap_or(*first));
        rest = if encoded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@{}/{}", self.user(), self.host(), self.database)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sees_the_password() {
        let server =
            Server::parse("postgres://ann:s3cret@db.example.org:5433/runs?sslmode=disable").expect("an address");
        assert_eq!(server.to_string(), "postgres://ann@db.example.org:5433/runs");
        assert_eq!(server.name(), "postgres://db.example.org:5433/runs");
        assert!(!format!("{server:?}").contains("s3cret"));
        assert_eq!(server.address(), "postgres://ann@db.example.org:5433/runs?sslmode=disable");
        assert_eq!(server.password(), Some("s3cret"));
        let server = Server::parse("postgresql://ann:p%40:%25@localhost/runs").expect("an address");
        assert_eq!((server.address(), server.password()), ("postgresql://ann@localhost/runs", Some("p@:%")));
    }

    #[test]
    fn what_crosses_a_network_is_encrypted() {
        let mode = |address: &str| Server::parse(address).expect("an address").options.get_ssl_mode();
        for local in ["localhost", "127.0.0.1", "[::1]"] {
            assert!(matches!(mode(&format!("postgres://ann@{local}/runs")), PgSslMode::Prefer), "{local}");
        }
        assert!(matches!(mode("postgres://ann@localhost/runs?host=/run/postgresql"), PgSslMode::Prefer));
        assert!(matches!(mode("postgres://ann@db.example.org/runs"), PgSslMode::VerifyFull));
        assert!(matches!(mode("postgres://ann@db.example.org/runs?sslmode=disable"), PgSslMode::Disable));
    }

    #[test]
    fn a_wrong_address_says_why_and_not_what() {
        for (address, expected) in [
            ("postgres://ann:s3cret@host:port/runs", "invalid port number"),
            ("postgres://ann:s3cret@host", "names no database"),
            ("postgres://ann:s3cret@host/", "names no database"),
            ("postgres://ann:1/s3cret@host/runs", "names no database"),
            ("postgres://ann:s3cret@host/runs?sslmod=disable", "none of host, sslmode"),
            ("postgres://ann:s3cret@host/runs?sslmode=s3cretly", "unknown value"),
        ] {
            let message = Server::parse(address).expect_err(address).to_string();
            assert!(message.contains(expected), "{address}: {message}");
            assert!(!message.contains("ann:") && !message.contains("s3cret@"), "{message}");
        }
    }
}
