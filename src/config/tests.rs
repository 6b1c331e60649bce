use super::*;

fn read(flags: &[&str]) -> Result<Settings, String> {
    let arguments = std::iter::once("traffic-api").chain(flags.iter().copied());
    match Cli::read(arguments.map(OsString::from)) {
        Ok(cli) => Ok(cli.settings),
        Err(Refusal::Wrong(line) | Refusal::Asked(line)) => Err(line),
    }
}

#[test]
fn a_wrong_value_is_one_line_that_names_its_setting() {
    for (flags, name) in [
        (["--retention-days", "0"], "RETENTION_DAYS"),
        (["--retention-days", "many"], "RETENTION_DAYS"),
        (["--events-retention-days", "3651"], "EVENTS_RETENTION_DAYS"),
        (["--listen-addr", "here"], "LISTEN_ADDR"),
        (["--clickhouse-url", "ftp://x"], "CLICKHOUSE_URL"),
        (["--clickhouse-url", "http://u:p@x"], "CLICKHOUSE_URL"),
        (["--clickhouse-database", "a; DROP"], "CLICKHOUSE_DATABASE"),
        (["--clickhouse-database", ""], "CLICKHOUSE_DATABASE"),
        (["--clickhouse-database", "system"], "CLICKHOUSE_DATABASE"),
        (["--clickhouse-url", "http://h:99999"], "CLICKHOUSE_URL"),
        (["--clickhouse-url", "http://:9"], "CLICKHOUSE_URL"),
        (["--clickhouse-url", "http://h:1#x"], "CLICKHOUSE_URL"),
        (
            ["--clickhouse-read-url", "http://h:1"],
            "need CLICKHOUSE_URL",
        ),
        (["--clickhouse-user", "me"], "need CLICKHOUSE_URL"),
        (["--log-level", "loud"], "LOG_LEVEL"),
        (["--report-plan", "fast"], "REPORT_PLAN"),
        (["--sealer", "maybe"], "SEALER"),
        // Below, rows could come after the count and leave no mark.
        (["--seal-delay-secs", "2399"], "SEAL_DELAY_SECS"),
        (
            ["--reconcile-interval-secs", "604801"],
            "RECONCILE_INTERVAL_SECS",
        ),
        (["--log-format", "xml"], "LOG_FORMAT"),
        (["--auth", "maybe"], "AUTH"),
        (["--trusted-proxies", "10.0.0.0/33"], "TRUSTED_PROXIES"),
        (["--listen-addr", "0.0.0.0:1"], "API_KEYS_FILE"),
        (["--auth=off", "--api-keys={}"], "AUTH"),
        (["--cors-origins", "example.org"], "CORS_ORIGINS"),
        (["--cors-origins=*", "--sealer=true"], "CORS_ORIGINS"),
        (["--cors-origins=*", "--auth=off"], "CORS_ORIGINS"),
        (
            ["--cors-origins=*,http://a", "--api-keys={}"],
            "CORS_ORIGINS",
        ),
        (["--allowed-hosts", "http://a"], "ALLOWED_HOSTS"),
        (["--tls-cert-file", "c"], "TLS_KEY_FILE"),
        (["--tls-key-file", "k"], "TLS_CERT_FILE"),
        (["--clickhouse-ca-file", "c"], "CLICKHOUSE_URL"),
        (
            ["--clickhouse-url=http://h:1", "--clickhouse-ca-file=c"],
            "CLICKHOUSE_CA_FILE",
        ),
        (["--header-timeout-secs", "0"], "HEADER_TIMEOUT_SECS"),
        (["--body-timeout-secs", "0"], "BODY_TIMEOUT_SECS"),
        (["--idle-timeout-secs", "0"], "IDLE_TIMEOUT_SECS"),
        (["--write-timeout-secs", "0"], "WRITE_TIMEOUT_SECS"),
        (["--log-level", "info,=x=y"], "LOG_LEVEL"),
        (["--no-such", "x"], "--no-such"),
    ] {
        let line = read(&flags)
            .err()
            .unwrap_or_else(|| panic!("{flags:?} was accepted"));
        assert!(line.contains(name), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn a_password_in_a_url_is_not_said_again() {
    for url in [
        "http://u:hunter2@x",
        "http://u:hun/ter@hunter2@x",
        "u:hunter2@x",
        "https://hunter2@x",
    ] {
        let line = read(&["--clickhouse-url", url]).err().unwrap();
        assert!(line.contains("CLICKHOUSE_URL"), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}

#[test]
fn good_urls_are_taken() {
    for url in [
        "http://localhost:8123",
        "http://clickhouse/",
        "http://[::1]:8123",
        "http://10.0.0.1:1",
    ] {
        let read = read(&["--clickhouse-url", url]);
        assert_eq!(
            read.unwrap().clickhouse_url.as_deref(),
            Some(url.trim_end_matches('/'))
        );
    }
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let replica = [
        "--clickhouse-url=http://a:1",
        "--clickhouse-read-url=http://b:1",
        "--report-plan=view",
    ];
    assert!(read(&replica).is_err_and(|line| line.contains("REPORT_PLAN")));
    assert!(read(&replica[..2]).is_ok());
    let cluster = [&replica[..], &["--clickhouse-cluster=c"]].concat();
    assert!(read(&cluster).is_ok());
    let backwards = ["seal", "--from=2026-11-21T09:00:00Z", "--to=2026-11-21"];
    assert!(read(&backwards).is_err_and(|line| line.contains("--to")));
    let same = "2026-11-21T09:00:00Z";
    let empty = read(&["seal", "--from", same, "--to", same]);
    assert!(empty.is_err_and(|line| line.contains("--from must be before --to")));
    let missing = read(&["seal", "--from", same]);
    assert!(missing.is_err_and(|line| line.contains("missing: --to")));
    let days = ["reconcile", "--from=2026-11-21", "--to=2026-11-21"];
    assert!(read(&days).is_err_and(|line| line.contains("--from must be before --to")));
    assert!(read(&days[..2]).is_ok());
    let second = read(&["reconcile", "--from=2026-11-21T09:00:00Z"]);
    assert!(second.is_err_and(|line| line.contains("--from")));
}

#[test]
fn what_to_generate_is_checked() {
    let url = "--to=http://127.0.0.1:8000";
    for (flags, name) in [
        (&["--views=0"][..], "--views"),
        (&["--users=0"], "--users"),
        (&["--pages=x"], "--pages"),
        (&["--duplicates=1.1"], "--duplicates"),
        (&["--duplicates=NaN"], "--duplicates"),
        (&["--updates=0.5"], "--to"),
        (&["--single"], "--to"),
        (&["--days=90"], "RETENTION_DAYS"),
        (&["--sites=3"], "--sites"),
        (&["--stream=clicks"], "--stream"),
        (&["--stream=events", "--sites=0"], "--sites"),
        (&["--stream=events", "--users=3"], "--users"),
        (&["--stream=events", "--pages=3"], "--pages"),
        (&[url, "--stream=events", "--updates=0.1"], "--updates"),
        (&["--stream=events", "--days=30"], "EVENTS_RETENTION_DAYS"),
        (&["--until=2026-11-21"], "--until"),
        (&["--to=https://example.org"], "https"),
        (&["--to=http://a:1/api"], "--to"),
        (&["--to=http://a@b"], "user"),
        (&[url, "--single", "--batch-size=5"], "--batch-size"),
        (&[url, "--single", "--compress=gzip"], "--compress"),
        (&[url, "--compress=brotli"], "--compress"),
        (&[url, "--duration=5"], "--rate"),
        (&[url, "--duration=5", "--rate=5", "--views=7"], "--views"),
        (&[url, "--duration=5", "--rate=5", "--days=7"], "--days"),
    ] {
        let line = read(&[&["generate"], flags].concat());
        let line = line
            .err()
            .unwrap_or_else(|| panic!("{flags:?} was accepted"));
        assert!(line.contains(name), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    let line = read(&["generate", "--views=0"]).err().unwrap();
    assert!(line.starts_with("--views: "), "{line}");
    let line = read(&["--retention-days=0"]).err().unwrap();
    assert!(
        line.starts_with("RETENTION_DAYS (--retention-days): "),
        "{line}"
    );
    assert!(read(&["generate", url, "--single", "--rate=5", "--duration=60"]).is_ok());
    assert!(read(&["generate", url, "--updates=0.5", "--compress=zstd"]).is_ok());
    let events = ["generate", "--stream=events", "--visits=5", "--sites=3"];
    assert!(read(&events).is_ok());
    let for_ever = ["--days=400", "--events-retention-days=0"];
    assert!(read(&[&events[..], &for_ever].concat()).is_ok());
}

#[test]
fn flags_may_stand_on_both_sides_of_the_subcommand() {
    assert_eq!(
        read(&["migrate", "--retention-days", "7"])
            .unwrap()
            .retention_days,
        7
    );
    assert_eq!(
        read(&["--retention-days", "7", "migrate"])
            .unwrap()
            .retention_days,
        7
    );
}
