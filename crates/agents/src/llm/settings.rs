//! The settings of the agent: from the executor's socket, else from the environment.

use std::{
    env::VarError,
    io::{self, Read},
};

use phoenix_domain::llm::{LlmSettings, SETTINGS_SOCKET_VARIABLE, SETTINGS_VARIABLE};

/// Longest settings that are read from the socket.
const MAX_SETTINGS_BYTES: u64 = 4 * 1024 * 1024;

/// Reads the settings that the executor passed. Without any, as in an agent that is started by hand, the providers'
/// conventional variables apply. `variable` looks a variable up.
///
/// # Errors
/// The reason why the settings cannot be read, without their content.
pub(super) fn load(variable: impl Fn(&str) -> Result<String, VarError>) -> Result<LlmSettings, String> {
    if let Ok(name) = variable(SETTINGS_SOCKET_VARIABLE) {
        return match read_socket(&name) {
            Ok(json) => parse(&json, "the executor's settings"),
            Err(error) => Err(format!("cannot collect the settings from the executor: {}", error.kind())),
        };
    }
    match variable(SETTINGS_VARIABLE) {
        Ok(json) => parse(&json, SETTINGS_VARIABLE),
        Err(VarError::NotUnicode(_)) => Err(format!("{SETTINGS_VARIABLE} is not valid UTF-8")),
        Err(VarError::NotPresent) => {
            let mut settings = LlmSettings::default();
            settings.fill_from_environment(|name| variable(name).ok());
            Ok(settings)
        }
    }
}

#[cfg(target_os = "linux")]
fn read_socket(name: &str) -> io::Result<String> {
    use std::{
        os::{linux::net::SocketAddrExt, unix::net},
        time::Duration,
    };

    /// Time that the executor may take to answer.
    const TIMEOUT: Duration = Duration::from_secs(10);

    let stream = net::UnixStream::connect_addr(&net::SocketAddr::from_abstract_name(name)?)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut json = String::new();
    stream.take(MAX_SETTINGS_BYTES).read_to_string(&mut json)?;
    if json.is_empty() { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(json) }
}

#[cfg(not(target_os = "linux"))]
fn read_socket(_name: &str) -> io::Result<String> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The error names the position of the problem and never the text there: it may be a key.
fn parse(json: &str, source: &str) -> Result<LlmSettings, String> {
    serde_json::from_str(json).map_err(|problem| {
        format!("{source} cannot be read: wrong at line {} column {}", problem.line(), problem.column())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_settings_are_not_quoted_in_the_error() {
        for json in [
            r#"{"openai":"sk-secret"}"#,
            r#"{"openai":{"api_key":["sk-secret"]}}"#,
            r#"{"sk-secret":1}"#,
            "sk-secret",
        ] {
            let problem = parse(json, SETTINGS_VARIABLE).unwrap_err();
            assert!(problem.starts_with(SETTINGS_VARIABLE) && !problem.contains("sk-secret"), "{problem}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn settings_are_read_from_the_socket_before_the_environment() {
        use std::{
            io::Write,
            os::{linux::net::SocketAddrExt, unix::net},
        };

        let name = format!("phoenix-test-{}", uuid::Uuid::new_v4());
        let address = net::SocketAddr::from_abstract_name(&name).unwrap();
        let listener = net::UnixListener::bind_addr(&address).unwrap();
        let server = std::thread::spawn(move || {
            listener.accept().unwrap().0.write_all(br#"{"system_prompt":"of the socket"}"#).unwrap();
            // The second caller is not answered.
            drop(listener.accept().unwrap());
        });
        let lookup = |variable: &str| match variable {
            SETTINGS_SOCKET_VARIABLE => Ok(name.clone()),
            _ => Ok(r#"{"system_prompt":"of the environment"}"#.to_owned()),
        };
        assert_eq!(load(lookup).unwrap().system_prompt.as_deref(), Some("of the socket"));
        assert!(load(lookup).unwrap_err().contains("permission denied"));
        server.join().unwrap();
    }
}
