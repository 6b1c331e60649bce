//! The files and the command line that make ClickHouse the engine we want.
//!
//! Invariant: whoever lacks the password of this start can do nothing over HTTP, though the
//! loopback interface is open to every local user.
//!
//! ClickHouse's own console session insists on a user `default` without a password. That user
//! therefore has just the privileges of the start query and may have just one session, which the
//! console holds for as long as the engine lives. (A quota would not do: it lets through what reads
//! no table, and `SELECT file(...)` reads files.) We ourselves are another user, with a random
//! password of which the files hold only the digest.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::unpack::hex;

/// The user that we talk to the engine as.
pub(super) const USER: &str = "service";

const CONFIG_FILE: &str = "engine.xml";
const USERS_FILE: &str = "engine-users.xml";

/// The log is rotated at this size; this many old ones are kept, compressed.
const LOG_FILE_SIZE: &str = "10M";
const LOG_FILES_KEPT: u32 = 2;

/// How long a stopping engine waits for connections that clients leave open, in seconds.
const SHUTDOWN_WAIT_SECS: u32 = 1;

/// Serves HTTP, and then reads standard input, which ends when the service lets go of the pipe.
const START_QUERY: &str =
    "SYSTEM START LISTEN HTTP; SELECT count() FROM file('/dev/stdin', 'LineAsString') FORMAT Null";

/// Answered only by the engine that was started with this password.
pub(super) const READY_QUERY: &str = "SELECT 1";

/// What [`READY_QUERY`] answers.
pub(super) const READY_ANSWER: &str = "1";

/// The engine's log: beside the data, never among them.
pub(super) fn log_path(data_path: &Path) -> PathBuf {
    data_path.with_file_name("engine.log")
}

/// A password that nobody can guess, new for each start.
pub(super) fn random_password() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Writes the files that [`arguments`] refers to.
pub(super) fn write(data_path: &Path, password: &str) -> io::Result<()> {
    // Relative names hold from the engine's working directory, so no path needs escaping.
    private_file(
        &data_path.join(CONFIG_FILE),
        &format!(
            "<clickhouse>
  <users_config>{USERS_FILE}</users_config>
  <logger><size>{LOG_FILE_SIZE}</size><count>{LOG_FILES_KEPT}</count></logger>
  <shutdown_wait_unfinished>{SHUTDOWN_WAIT_SECS}</shutdown_wait_unfinished>
</clickhouse>
"
        ),
    )?;
    let digest = hex(&Sha256::digest(password.as_bytes()));
    private_file(
        &data_path.join(USERS_FILE),
        &format!(
            "<clickhouse>
  <profiles>
    <default/>
    <console><max_sessions_for_user>1</max_sessions_for_user></console>
  </profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password></password>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>console</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
        <query>GRANT CREATE TEMPORARY TABLE ON *.*</query>
        <query>GRANT READ ON FILE</query>
      </grants>
    </default>
    <{USER}>
      <password_sha256_hex>{digest}</password_sha256_hex>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </{USER}>
  </users>
</clickhouse>
"
        ),
    )
}

/// The engine's command line; it holds no secret, since every local user can read it.
pub(super) fn arguments(data_path: &Path) -> Vec<OsString> {
    vec![
        OsString::from(format!("--config-file={CONFIG_FILE}")),
        option("--path=", data_path.as_os_str()),
        "--listen_host=127.0.0.1".into(),
        "--http_port=0".into(),
        option("--logger.log=", log_path(data_path).as_os_str()),
        // Without this flag the level in the file is ignored and everything is traced.
        "--log-level=information".into(),
        format!("--query={START_QUERY}").into(),
    ]
}

fn option(name: &str, value: &OsStr) -> OsString {
    let mut option = OsString::from(name);
    option.push(value);
    option
}

fn private_file(path: &Path, content: &str) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(content.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_are_private_and_hold_no_password() {
        let dir = tempfile::tempdir().unwrap();
        let password = random_password();
        write(dir.path(), "an older start").unwrap();
        write(dir.path(), &password).unwrap();
        for name in [CONFIG_FILE, USERS_FILE] {
            let path = dir.path().join(name);
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
            assert!(!std::fs::read_to_string(&path).unwrap().contains(&password));
        }
        assert!(
            !arguments(dir.path())
                .iter()
                .any(|arg| arg.to_string_lossy().contains(&password))
        );
    }
}
