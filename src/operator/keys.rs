//! What an operator can do with keys, beside a running service or without one.
//!
//! Purpose: make, list and revoke the keys of a file. A running service learns of it when it is told to
//! read the file again.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};

use crate::access::{Credential, Key, KeyFile, Keyring, Restrictions, check_client, check_path};
use crate::config::{AccessSettings, KeyCommand, NewKey};
use crate::domain::UserSet;

const TELL: &str = "A running service takes it over on SIGHUP.";

/// Runs one command on the keys that `settings` name; `say` prints a line, `note` one that is for people
/// alone.
///
/// # Errors
/// What could not be done, in words for an operator.
pub fn keys(
    settings: &AccessSettings,
    command: KeyCommand,
    say: impl Fn(&str),
    note: impl Fn(&str),
) -> Result<()> {
    let file = settings.api_keys_file.as_deref().map(KeyFile::at);
    match command {
        KeyCommand::New(wanted) => add(file.as_ref(), wanted, Utc::now(), &say, &note),
        KeyCommand::List => list(file.as_ref(), settings.api_keys.as_deref(), &say, &note),
        KeyCommand::Revoke { id } => {
            let file =
                file.context("API_KEYS_FILE is not set; from API_KEYS, take the line out")?;
            // Whoever finds a key has all of it.
            let id = match Credential::read(id.as_bytes()) {
                Some(credential) => credential.id().to_owned(),
                None if id.len() > 20 => bail!("that is neither an id nor a whole key"),
                None => id,
            };
            if !file.remove(&id)? {
                bail!("no key has the id {id}");
            }
            say(&format!("revoked {id}"));
            note(TELL);
            Ok(())
        }
    }
}

fn add(
    file: Option<&KeyFile>,
    wanted: NewKey,
    now: DateTime<Utc>,
    say: &impl Fn(&str),
    note: &impl Fn(&str),
) -> Result<()> {
    let named = |name: &str, reason: &dyn std::fmt::Display| anyhow::anyhow!("--{name}: {reason}");
    check_client(&wanted.client).map_err(|reason| named("client", &reason))?;
    let scopes = wanted.scopes.iter().map(|scope| scope.trim().parse());
    let scopes: Result<_, _> = scopes.collect();
    let scopes = scopes.map_err(|reason| named("scopes", &reason))?;
    let users = wanted
        .users
        .as_deref()
        .map_or(Ok(UserSet::EVERYBODY), str::parse);
    let users = users.map_err(|reason| named("users", &reason))?;
    for path in &wanted.paths {
        check_path(path).map_err(|reason| named("paths", &reason))?;
    }
    if wanted.expires.is_some_and(|end| end <= now) {
        bail!("--expires: is past");
    }
    let credential = Credential::generate();
    let mut key = Key::new(&credential, wanted.client, scopes, now.trunc_subsecs(0));
    key.expires_at = wanted.expires;
    key.restrictions = Restrictions {
        users,
        paths: wanted.paths,
        writes_per_sec: wanted.writes_per_sec,
        reads_per_sec: wanted.reads_per_sec,
    };
    match file {
        Some(file) => {
            file.add(&key)?;
            say(&credential.reveal());
            note(&format!(
                "This is key {} for {}; it is not shown again. {TELL}",
                key.id, key.client
            ));
        }
        None => {
            say(&credential.reveal());
            say(&key.to_line());
            note(
                "The first line is the key, and is not shown again. The second is for API_KEYS or a key \
                 file of the service",
            );
        }
    }
    Ok(())
}

fn list(
    file: Option<&KeyFile>,
    given: Option<&str>,
    say: &impl Fn(&str),
    note: &impl Fn(&str),
) -> Result<()> {
    let mut keys = Vec::new();
    if let Some(given) = given {
        let ring = Keyring::read(given);
        let ring =
            ring.map_err(|(line, error)| anyhow::anyhow!("API_KEYS, line {line}: {error}"))?;
        keys.extend(ring.all());
    }
    if let Some(file) = file {
        if let Some(warning) = file.warning() {
            note(&warning);
        }
        keys.extend(file.read()?.all());
    }
    let now = Utc::now();
    let mut of_clients: BTreeMap<&str, usize> = BTreeMap::new();
    for key in &keys {
        *of_clients.entry(&key.client).or_default() += 1;
        say(&line(key, now));
    }
    let clients = of_clients.len();
    note(&format!("{} keys of {clients} clients", keys.len()));
    Ok(())
}

fn line(key: &Key, now: DateTime<Utc>) -> String {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let mut line = format!(
        "{}  {}  {}  made {}",
        key.id,
        key.client,
        key.scopes,
        time(key.created_at)
    );
    let restrictions = &key.restrictions;
    let mut add = |words: String| {
        line.push_str("  ");
        line.push_str(&words);
    };
    match key.expires_at {
        Some(end) if key.has_expired(now) => add(format!("EXPIRED {}", time(end))),
        Some(end) => add(format!("expires {}", time(end))),
        None => {}
    }
    if !restrictions.users.is_everybody() {
        add(format!("users {}", restrictions.users));
    }
    if !restrictions.paths.is_empty() {
        add(format!("paths {}", restrictions.paths.join(",")));
    }
    if let Some(rows) = restrictions.writes_per_sec {
        add(format!("{rows} writes/s"));
    }
    if let Some(reads) = restrictions.reads_per_sec {
        add(format!("{reads} reads/s"));
    }
    line
}
