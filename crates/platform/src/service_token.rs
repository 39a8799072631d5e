//! The token that the services of one stack present to one another.
//!
//! [`RequireToken`] rejects gRPC calls that do not carry it as `authorization: Bearer <token>`; the layer
//! [`SendContext`](crate::propagation::SendContext) adds it to every call, and so to the call that
//! opens a shared stream. Health checks and reflection need no token.
//!
//! The token comes from [`FILE_VARIABLE`] or [`VARIABLE`]. `phoenix up` keeps it in the data folder, in [`FILE_NAME`], and
//! passes the path of that file to its services.

use std::{
    fs::{self, OpenOptions},
    future::{Ready, ready},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::HeaderValue;
use phoenix_domain::llm::Secret;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use uuid::Uuid;

use crate::{
    bearer,
    config::{Lookup, Problems},
    log_limit::LogLimit,
};

/// Environment variable of the token itself.
pub const VARIABLE: &str = "PHOENIX_SERVICE_TOKEN";

/// Environment variable of the path of a file with the token.
pub const FILE_VARIABLE: &str = "PHOENIX_SERVICE_TOKEN_FILE";

/// Name of the token file in a data folder.
pub const FILE_NAME: &str = "service.token";

/// Whether the environment variable `name` must not be passed to agents.
#[must_use]
pub fn is_variable(name: &str) -> bool {
    name == VARIABLE || name == FILE_VARIABLE
}

/// Path prefixes of services without authentication.
const OPEN: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// A service token. Cheap to clone; never printed.
#[derive(Debug, Clone)]
pub struct ServiceToken(Arc<Token>);

#[derive(Debug)]
struct Token {
    secret: Secret,
    /// `Bearer <token>`, marked as sensitive.
    header: HeaderValue,
}

/// Error of an invalid token. The message does not contain the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one word of visible ASCII characters")]
pub struct InvalidToken;

impl ServiceToken {
    /// Parses a token. Surrounding white space is ignored.
    ///
    /// # Errors
    /// When `text` is empty or not valid in a header.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        let mut header = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| InvalidToken)?;
        header.set_sensitive(true);
        Ok(Self(Arc::new(Token { secret: Secret::from(text.to_owned()), header })))
    }

    /// Resolves the token: from the file `flag`, else [`FILE_VARIABLE`], else [`VARIABLE`].
    ///
    /// # Errors
    /// The problem of the invalid setting.
    pub fn resolve(flag: Option<&Path>, env: Lookup<'_>) -> Result<Self, Problems> {
        let problem = |setting: &str, problem: &dyn std::fmt::Display| {
            let mut problems = Problems::default();
            problems.add(setting, problem);
            problems
        };
        let file = flag.map(Path::to_owned).or_else(|| env(FILE_VARIABLE).map(PathBuf::from));
        let direct = env(VARIABLE)
            .map(|text| Self::new(&text).map_err(|invalid| problem(VARIABLE, &invalid)))
            .transpose()?;
        let Some(path) = file else {
            return direct.ok_or_else(|| problem(VARIABLE, &missing()));
        };
        let of_file = Self::read(&path).map_err(|error| problem(FILE_VARIABLE, &error))?;
        match direct {
            Some(direct) if flag.is_none() && direct.0.secret != of_file.0.secret => Err(problem(
                VARIABLE,
                &format_args!(
                    "differs from the token in {}, which {FILE_VARIABLE} names; set one of the two",
                    path.display()
                ),
            )),
            _ => Ok(of_file),
        }
    }

    /// Reads the token from the file `path`.
    fn read(path: &Path) -> io::Result<Self> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), named(&error)))?;
        Self::new(&text).map_err(|_| {
            let problem = "does not hold a token: one word of visible ASCII characters on one line";
            io::Error::new(io::ErrorKind::InvalidData, named(&problem))
        })
    }

    /// The `authorization` header of a caller.
    pub(crate) fn header(&self) -> HeaderValue {
        self.0.header.clone()
    }

    fn is_presented(&self, headers: &http::HeaderMap) -> bool {
        bearer::check(headers, &self.0.secret).is_ok()
    }
}

fn missing() -> String {
    format!(
        "is not set; every service of a stack needs the same token: set {FILE_VARIABLE} to the path of a file that holds it, \
         such as the data/{FILE_NAME} that `phoenix up` creates, or set {VARIABLE} to the token itself"
    )
}

/// Path of the token file in the folder `data_dir`. Creates the token if there is none: readable by its owner only, created
/// atomically, and the same for concurrent callers.
///
/// # Errors
/// When the token can be neither read nor created.
pub fn load_or_create(data_dir: &Path) -> io::Result<PathBuf> {
    let path = data_dir.join(FILE_NAME);
    if path.try_exists()? {
        ServiceToken::read(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        return Ok(path);
    }
    let temporary = data_dir.join(format!(".{FILE_NAME}-{}", Uuid::new_v4().simple()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    // 244 random bits.
    let token = format!("{}{}\n", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let created = file
        .write_all(token.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&temporary, &path));
    let _ = fs::remove_file(&temporary);
    match created {
        // Another process has created it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => ServiceToken::read(&path).map(drop)?,
        created => created?,
    }
    Ok(path)
}

/// A layer that rejects calls without the token.
#[derive(Debug, Clone)]
pub(crate) struct RequireToken(pub(crate) ServiceToken);

impl<S> Layer<S> for RequireToken {
    type Service = RequireTokenService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireTokenService { inner, token: self.0.clone() }
    }
}

/// Service of [`RequireToken`].
#[derive(Debug, Clone)]
pub(crate) struct RequireTokenService<S> {
    inner: S,
    token: ServiceToken,
}

impl<S, B> Service<http::Request<B>> for RequireTokenService<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let path = request.uri().path();
        if OPEN.iter().any(|service| path.starts_with(service)) || self.token.is_presented(request.headers())
        {
            return Either::Left(self.inner.call(request));
        }
        static LIMIT: LogLimit = LogLimit::new();
        if let Some(unlogged) = LIMIT.pass() {
            tracing::warn!(
                unlogged,
                "call refused: no valid service token; services of one stack need the same {FILE_VARIABLE} or {VARIABLE}"
            );
        }
        let rejected = Status::unauthenticated(
            "the service token is missing or not valid: send the metadata `authorization: Bearer <token>`",
        );
        Either::Right(ready(Ok(rejected.into_http())))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn resolve(flag: Option<&Path>, env: &[(&str, &str)]) -> Result<ServiceToken, Problems> {
        ServiceToken::resolve(flag, &|name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn token_in_a_data_folder_is_created_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let read = || fs::read_to_string(load_or_create(dir.path()).unwrap()).unwrap();
        let tokens: HashSet<String> = std::thread::scope(|scope| {
            let creators: Vec<_> = (0..8).map(|_| scope.spawn(read)).collect();
            creators.into_iter().map(|creator| creator.join().unwrap()).collect()
        });
        assert_eq!(tokens.len(), 1);
        assert!(tokens.iter().all(|token| token.trim().len() >= 32));
        let mode = || fs::metadata(dir.path().join(FILE_NAME)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        fs::set_permissions(dir.path().join(FILE_NAME), fs::Permissions::from_mode(0o644)).unwrap();
        load_or_create(dir.path()).unwrap();
        assert_eq!(mode(), 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file remains");
    }

    #[test]
    fn token_is_read_from_flag_file_or_variable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "of-the-file\n").unwrap();
        let file = path.to_str().unwrap();
        let header =
            |token: Result<ServiceToken, Problems>| token.unwrap().header().to_str().unwrap().to_owned();
        assert_eq!(header(resolve(Some(&path), &[(VARIABLE, "other")])), "Bearer of-the-file");
        assert_eq!(header(resolve(None, &[(FILE_VARIABLE, file)])), "Bearer of-the-file");
        assert_eq!(header(resolve(None, &[(VARIABLE, " direct\n")])), "Bearer direct");
        assert_eq!(
            header(resolve(None, &[(VARIABLE, "of-the-file"), (FILE_VARIABLE, file)])),
            "Bearer of-the-file"
        );

        let missing = resolve(None, &[]).unwrap_err().to_string();
        for word in [VARIABLE, FILE_VARIABLE, "data/service.token"] {
            assert!(missing.contains(word), "{missing}");
        }
        let differs = resolve(None, &[(VARIABLE, "sesame"), (FILE_VARIABLE, file)]).unwrap_err().to_string();
        assert!(differs.contains("set one of the two"), "{differs}");
        fs::write(&path, "open sesame\n").unwrap();
        let unusable = resolve(None, &[(FILE_VARIABLE, file)]).unwrap_err().to_string();
        assert!(unusable.contains(file), "{unusable}");
        let invalid = resolve(None, &[(VARIABLE, "open sesame")]).unwrap_err().to_string();
        for text in [&differs, &unusable, &invalid] {
            assert!(!text.contains("sesame"), "the message contains the token: {text}");
        }
        let absent = resolve(None, &[(FILE_VARIABLE, "/nonexistent/token")]).unwrap_err().to_string();
        assert!(absent.contains("/nonexistent/token"), "{absent}");
    }
}
