//! The program: reads the settings, sets up logging, runs the subcommand.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use traffic_api::config::{Auth, Cli, Command, LogFormat, Refusal, Settings};
use traffic_api::domain::Clock;
use traffic_api::{app, engine, http, operator, probe, telemetry};

/// What a shell gives for wrong usage.
const EXIT_USAGE: u8 = 2;
/// `reconcile` found differences, and did not mend them all.
const EXIT_DIFFERENT: u8 = 3;

fn main() -> ExitCode {
    // Before anything else: in the engine's own process nothing is ours.
    if let Some(code) = engine::run_child_if_asked() {
        return code;
    }
    // Only here, not in the directories above: a stray file there must not redirect the service.
    match dotenvy::from_path(".env") {
        Ok(_) => {}
        Err(error) if error.not_found() => {}
        Err(error) => return refuse(&format!(".env: {error}"), EXIT_USAGE),
    }
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Refusal::Asked(text)) => {
            say(&text);
            return ExitCode::SUCCESS;
        }
        Err(Refusal::Wrong(line)) => return refuse(&line, EXIT_USAGE),
    };
    let is_serving = matches!(cli.command, None | Some(Command::Serve));
    // Who reads the log by program reads its last line, too.
    let in_json = is_serving && cli.settings.log_format == LogFormat::Json;
    let outcome = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => run(&cli.settings, serve(&cli.settings)),
        Command::Migrate => run(&cli.settings, migrate(&cli.settings)),
        Command::Seal { from, to } => run(&cli.settings, app::seal(&cli.settings, from, to, say)),
        Command::Generate(task) => run(&cli.settings, app::generate(&cli.settings, &task, say)),
        Command::Reconcile(task) => {
            return match run(&cli.settings, app::reconcile(&cli.settings, &task, say)) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::from(EXIT_DIFFERENT),
                Err(error) => refuse(&in_one_line(&error), 1),
            };
        }
        Command::Drain(task) => run(&cli.settings, app::drain(&cli.settings, &task, say)),
        Command::Probe { ready } => {
            let settings = &cli.settings;
            probe::probe(
                settings.listen_addr,
                settings.connections.serves_tls(),
                ready,
            )
        }
        Command::Key(command) => {
            let note = |text: &str| {
                let _ = writeln!(std::io::stderr(), "{text}");
            };
            operator::keys(&cli.settings.access, command, say, note)
        }
        Command::Postman => {
            say(&http::postman_collection());
            Ok(())
        }
        Command::Spool(command) => operator::spool(&app::spool_dir(&cli.settings), command, say),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if in_json => {
            tracing::error!("{}", in_one_line(&error));
            ExitCode::FAILURE
        }
        Err(error) => refuse(&in_one_line(&error), 1),
    }
}

/// The error and its causes; a cause that the error before it has already told is left out.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

fn run<T>(settings: &Settings, command: impl Future<Output = Result<T>>) -> Result<T> {
    telemetry::init(&settings.log_level, settings.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let outcome = runtime.block_on(command);
    // Not to wait for a disk that hangs: what was to be answered has been.
    runtime.shutdown_background();
    outcome
}

async fn serve(settings: &Settings) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("no signal handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no signal handler")?;
    // Without a file there is nothing to read again: a terminal that is closed ends the service.
    let has_files = settings.access.api_keys_file.is_some() || settings.connections.serves_tls();
    let mut reload = match has_files {
        true => Some(signal(SignalKind::hangup()).context("no signal handler")?),
        false => None,
    };
    let app = tokio::select! {
        app = app::start(settings, Clock::system()) => app?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tracing::info!(address = %app.address(), "ready");
    if settings.log_format == LogFormat::Text {
        say(&what_to_try(&app, settings));
    }
    let reloads = async {
        while let Some(hangup) = &mut reload
            && hangup.recv().await.is_some()
        {
            app.reload();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = reloads => {}
        () = app.engine_lost() => tracing::error!("the engine's supervisor has ended"),
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        () = app.stop() => Ok(()),
        _ = terminate.recv() => anyhow::bail!("stopped at once; what was acknowledged is safe"),
        _ = interrupt.recv() => anyhow::bail!("stopped at once; what was acknowledged is safe"),
    }
}

async fn migrate(settings: &Settings) -> Result<()> {
    let outcome = app::migrate(settings).await?;
    for name in &outcome.applied {
        say(&format!("applied {name}"));
    }
    for table in &outcome.retention_changed {
        say(&match app::days_kept(table, settings) {
            Some(days) => format!("{table} now keeps {days} days"),
            None => format!("{table} now keeps everything"),
        });
    }
    for table in &outcome.fsync_changed {
        say(&format!(
            "{table} now has fsync: {}",
            settings.clickhouse_fsync
        ));
    }
    say("the schema is up to date");
    Ok(())
}

fn what_to_try(app: &app::App, settings: &Settings) -> String {
    let now = Clock::system().now().format("%Y-%m-%dT%H:%M:%SZ");
    let (scheme, curl) = match settings.connections.serves_tls() {
        true => ("https", "curl -k"),
        false => ("http", "curl"),
    };
    let at = format!("{scheme}://{}", app.address());
    let store = match &settings.clickhouse_url {
        Some(url) => format!("ClickHouse at {url}"),
        None => format!(
            "an embedded ClickHouse, data in {}",
            settings.data_dir.display()
        ),
    };
    let open = match (settings.access.auth, settings.access.has_keys()) {
        (Auth::Off, _) => "\nAUTH=off: whoever reaches this address may do everything.\n",
        (Auth::On, false) => {
            "\nThere are no keys, so only this machine is served: see traffic-api key new --help.\n"
        }
        (Auth::On, true) => "",
    };
    let key = if settings.access.has_keys() {
        " -H \"authorization: Bearer $API_KEY\""
    } else {
        ""
    };
    format!(
        "\ntraffic-api is ready at {at} on {store}. Try:\n\n  \
         {curl} -i {at}/api/traffic/1{key} -H 'content-type: application/json' \\\n    \
         -d '{{\"user_id\": 42, \"created_at\": \"{now}\", \"page_url\": \"/pricing\"}}'\n  \
         {curl} {at}/api/traffic/daily/42{key}\n  \
         open {at}/ in a browser\n{open}"
    )
}

fn say(text: &str) {
    // A closed standard output must not end the service.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n'));
}

fn refuse(line: &str, code: u8) -> ExitCode {
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(std::io::stderr(), "traffic-api: {line}");
    ExitCode::from(code)
}
