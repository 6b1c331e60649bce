//! The inside of the child process: bind our life to the parent's, then become ClickHouse.
//!
//! Invariant: nothing here runs in the service's own process. This is the only unsafe code of the
//! module: the library is C++ behind a C interface.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::CHILD_SUBCOMMAND;
use super::error::excerpt;

/// Exit code of every failure; the reason is one line on standard error.
const FAILURE: u8 = 1;

/// Becomes the engine if the command line says so: `engine-child LIBRARY PARENT_PID ARGUMENT...`.
///
/// Call it first thing in `main`, before a runtime, a `.env` file or a command line parser:
/// the child's environment and standard input belong to the engine.
pub fn run_child_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    if words.next()? != CHILD_SUBCOMMAND {
        return None;
    }
    let library = words.next().map(PathBuf::from);
    let parent = words.next().and_then(|pid| pid.to_str()?.parse().ok());
    Some(match (library, parent) {
        (Some(library), Some(parent)) => run_child(&library, parent, words.collect()),
        _ => fail("the engine subcommand is internal: it is run by the service itself"),
    })
}

/// Ends with the process `parent`, opens `library` and runs ClickHouse with `args` until its
/// standard input ends.
pub fn run_child(library: &Path, parent: u32, args: Vec<OsString>) -> ExitCode {
    if let Err(reason) = die_with(parent) {
        return fail(&reason);
    }
    let args: Result<Vec<CString>, _> = std::iter::once(OsString::from("clickhouse"))
        .chain(args)
        .map(|arg| CString::new(arg.into_vec()))
        .collect();
    match args
        .map_err(|error| error.to_string())
        .and_then(|args| run_library(library, &args))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => fail(&reason),
    }
}

/// The pipe alone would do while the engine reads it; this also covers an engine that hangs.
#[cfg(target_os = "linux")]
fn die_with(parent: u32) -> Result<(), String> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| error.to_string())?;
    // The parent may have died before the line above took effect.
    match getppid() {
        Some(pid) if pid.as_raw_nonzero().get().cast_unsigned() == parent => Ok(()),
        _ => Err("the service that started the engine is gone".to_owned()),
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with(_parent: u32) -> Result<(), String> {
    Ok(())
}

type Run = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut c_void;
type ResultError = unsafe extern "C" fn(*mut c_void) -> *const c_char;

#[allow(
    unsafe_code,
    reason = "a foreign library can be opened and called in no other way"
)]
fn run_library(path: &Path, args: &[CString]) -> Result<(), String> {
    // The C interface declares the words mutable, so it gets copies of its own.
    let mut words: Vec<Vec<u8>> = args
        .iter()
        .map(|arg| arg.as_bytes_with_nul().to_vec())
        .collect();
    let mut argv: Vec<*mut c_char> = words
        .iter_mut()
        .map(|word| word.as_mut_ptr().cast())
        .collect();
    let argc = c_int::try_from(argv.len()).map_err(|error| error.to_string())?;
    argv.push(std::ptr::null_mut());

    // SAFETY: opening runs the library's initialisers. It is a pinned, digest-checked ClickHouse,
    // and this process has one thread and does nothing else.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| {
        let reason = std::error::Error::source(&error).map_or(error.to_string(), |s| s.to_string());
        let path = path.display();
        format!(
            "{path} can't be opened: {reason}; if it is damaged, delete it to have it fetched again"
        )
    })?;
    // SAFETY: the type is that of `chdb_result *chdb_query_cmdline(int argc, char **argv)`.
    let run =
        unsafe { library.get::<Run>(c"chdb_query_cmdline") }.map_err(|error| error.to_string())?;
    // SAFETY: the type is that of `const char *chdb_result_error(chdb_result *result)`.
    let result_error = unsafe { library.get::<ResultError>(c"chdb_result_error") }
        .map_err(|error| error.to_string())?;

    // SAFETY: argv holds argc pointers to NUL-terminated words and a final null; the words and the
    // vector outlive the call.
    let result = unsafe { run(argc, argv.as_mut_ptr()) };
    let failure = if result.is_null() {
        None
    } else {
        // SAFETY: the result came from the call above and was not destroyed.
        let message = unsafe { result_error(result) };
        // SAFETY: a non-null message is a C string that lives as long as the result.
        (!message.is_null()).then(|| {
            unsafe { CStr::from_ptr(message) }
                .to_string_lossy()
                .into_owned()
        })
    };
    // Its threads may still be ending: the library stays loaded until the process is gone.
    std::mem::forget(library);
    match failure {
        Some(message) => Err(first_sentence(&message).to_owned()),
        None => Ok(()),
    }
}

/// ClickHouse appends a stack trace to what it did not foresee.
fn first_sentence(message: &str) -> &str {
    message.split(", Stack trace").next().unwrap_or(message)
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("{}", excerpt(reason));
    ExitCode::from(FAILURE)
}
