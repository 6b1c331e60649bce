//! Why there are no settings, in one line that names the one at fault.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Cli;

/// Why there are no settings.
pub enum Refusal {
    /// Help or the version was asked for: print this and exit well.
    Asked(String),
    /// One line that names what is wrong.
    Wrong(String),
}

impl From<clap::Error> for Refusal {
    fn from(error: clap::Error) -> Self {
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            return Refusal::Asked(error.render().to_string());
        }
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => text.as_str(),
            _ => "",
        };
        let flag = text(ContextKind::InvalidArg)
            .split(' ')
            .next()
            .unwrap_or_default();
        let name = flag
            .trim_start_matches('-')
            .replace('-', "_")
            .to_uppercase();
        let rendered = error.render().to_string();
        let reason = match std::error::Error::source(&error) {
            Some(source) => source.to_string(),
            None => rendered
                .lines()
                .next()
                .unwrap_or_default()
                .replace("error: ", ""),
        };
        Refusal::Wrong(match error.kind() {
            // A command's own arguments are named by clap; what else is required is required by a setting.
            ErrorKind::MissingRequiredArgument if rendered.contains("--clickhouse-url") => {
                "CLICKHOUSE_READ_URL, CLICKHOUSE_USER, CLICKHOUSE_PASSWORD and CLICKHOUSE_CLUSTER \
                 need CLICKHOUSE_URL"
                    .to_owned()
            }
            ErrorKind::MissingRequiredArgument => match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(names)) => format!("missing: {}", names.join(", ")),
                _ => reason,
            },
            ErrorKind::InvalidUtf8 => "a flag, or a variable of a setting, is not UTF-8".to_owned(),
            ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
                let value = without_secrets(text(ContextKind::InvalidValue));
                // A command's own flags have no variables.
                match is_variable(&name) {
                    true => format!("{name} ({flag}): {value:?}: {reason}"),
                    false => format!("{flag}: {value:?}: {reason}"),
                }
            }
            _ => reason,
        })
    }
}

/// What stands before an `@` may be a password.
fn without_secrets(value: &str) -> String {
    let (scheme, rest) = match value.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), value),
    };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}***@{host}"),
        None => value.to_owned(),
    }
}

fn is_variable(name: &str) -> bool {
    let command = Cli::command();
    let mut variables = command.get_arguments().filter_map(clap::Arg::get_env);
    variables.any(|variable| variable == name)
}
