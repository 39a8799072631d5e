//! The gateway of a command: its address, its token, and the authorities to trust.
//!
//! | | address | token and authorities |
//! |--:|---|---|
//! | 1 | `--url` | `--token`, `--token-file`, `--ca` |
//! | 2 | `--context` | those of the context of 2 |
//! | 3 | `PHOENIX_URL` | `ORCH_API_TOKEN`, `PHOENIX_CA` |
//! | 4 | the context that `PHOENIX_CONTEXT` names, or else the current one | those of the context of 4 |
//!
//! Each comes from the first row that has it. The token of a context goes to the address of that context only.

use std::{env, path::PathBuf};

use clap::Args;
use phoenix_domain::llm::Secret;
use url::Url;

use super::{
    context::{entry::Context, file::selected},
    error::ClientError,
    text_file::read,
};

/// Address of a gateway that nothing names.
const DEFAULT_URL: &str = "http://127.0.0.1:8181";

/// The gateway, and the form of the output.
#[derive(Debug, Clone, Args)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    pub(crate) endpoint: EndpointArgs,
    /// Print JSON, one document per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The gateway.
#[derive(Debug, Clone, Args)]
pub(crate) struct EndpointArgs {
    /// Address of the gateway [env: PHOENIX_URL; default: that of the context, else http://127.0.0.1:8181]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "gateway_context")]
    pub(crate) url: Option<Url>,
    /// Token of the gateway [env: ORCH_API_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN")]
    pub(crate) token: Option<Secret>,
    /// File with the token of the gateway
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// File with the certificates (PEM) of the authorities to trust, instead of those of this machine [env: PHOENIX_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Context with the gateway, as `phoenix context list` names it [env: PHOENIX_CONTEXT; default: the current one]
    #[arg(id = "gateway_context", long = "context", global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// A gateway with what it takes to talk to it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) url: Url,
    pub(crate) token: Option<Secret>,
    pub(crate) ca: Option<PathBuf>,
}

impl EndpointArgs {
    /// The gateway that the arguments, the environment and the contexts name.
    ///
    /// # Errors
    /// When an address or a token is not valid, a context does not exist, or a file cannot be read.
    pub(crate) fn resolve(&self) -> Result<Endpoint, ClientError> {
        let endpoint = self.resolve_with(&|name| env::var_os(name)?.into_string().ok(), selected)?;
        if !matches!(endpoint.url.scheme(), "http" | "https") || endpoint.url.host().is_none() {
            return Err(ClientError::Usage(format!(
                "`{}` is not an address of a gateway, which begins with http:// or https://",
                endpoint.url
            )));
        }
        Ok(endpoint)
    }

    fn resolve_with(
        &self,
        env: &dyn Fn(&str) -> Option<String>,
        context: impl Fn(Option<&str>) -> Result<Option<Context>, ClientError>,
    ) -> Result<Endpoint, ClientError> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let given = match &self.token_file {
            Some(path) => Some(Secret::from(read(path)?)),
            None => self.token.clone(),
        };
        let (token, ca) = (given, self.ca.clone());
        let env_token = || env("ORCH_API_TOKEN").map(Secret::from);
        let env_ca = || env("PHOENIX_CA").map(PathBuf::from);
        let alone = |url| Endpoint {
            url,
            token: token.clone().or_else(env_token).filter(|token| !token.is_empty()),
            ca: ca.clone().or_else(env_ca),
        };
        if let Some(url) = &self.url {
            return Ok(alone(url.clone()));
        }
        let is_chosen = self.context.is_some();
        if !is_chosen && let Some(url) = env("PHOENIX_URL") {
            return Ok(alone(parse(&url)?));
        }
        let name = self.context.clone().or_else(|| env("PHOENIX_CONTEXT"));
        let Some(context) = context(name.as_deref())? else { return Ok(alone(parse(DEFAULT_URL)?)) };
        let url = context.url.clone();
        let of_context = |given: Option<Secret>| match given {
            Some(token) => Ok(Some(token)),
            None => context.token(),
        };
        let (token, ca) = if is_chosen {
            (of_context(token)?.or_else(env_token), ca.or(context.ca.clone()).or_else(env_ca))
        } else {
            (of_context(token.or_else(env_token))?, ca.or_else(env_ca).or(context.ca.clone()))
        };
        Ok(Endpoint { url, token: token.filter(|token| !token.is_empty()), ca })
    }
}

fn parse(url: &str) -> Result<Url, ClientError> {
    url.parse().map_err(|problem| {
        ClientError::Usage(format!(
            "`{url}` is not an address of a gateway ({problem}), such as {DEFAULT_URL}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        endpoint: EndpointArgs,
    }

    /// The address, token and authorities for arguments, variables, and the contexts `current` and `other`.
    fn resolved(words: &[&str], env: &[(&str, &str)], has_contexts: bool) -> (String, String, String) {
        let command = Command::try_parse_from([&["phoenix"], words].concat()).unwrap();
        let context = |name: Option<&str>| {
            let name = name.unwrap_or("current");
            let text = format!("url = 'http://{name}'\ntoken = 't-{name}'\nca = '/{name}.pem'");
            let without = format!("url = 'http://{name}'");
            let text = if name == "bare" { without } else { text };
            Ok(has_contexts.then(|| toml::from_str(&text).unwrap()))
        };
        let variable = |wanted: &str| {
            let found = env.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned())
        };
        let endpoint = command.endpoint.resolve_with(&variable, context).unwrap();
        let token = endpoint.token.map(|token| token.expose().to_owned()).unwrap_or_default();
        let ca = endpoint.ca.map(|path| path.display().to_string()).unwrap_or_default();
        (endpoint.url.host_str().unwrap().to_owned(), token, ca)
    }

    #[test]
    fn flags_precede_variables_and_those_the_current_context() {
        let all = [
            ("PHOENIX_URL", "http://env"),
            ("ORCH_API_TOKEN", "t-env"),
            ("PHOENIX_CA", "/env.pem"),
            ("PHOENIX_CONTEXT", "other"),
        ];
        let (url, rest) = (&all[..1], &all[1..]);
        let flags = ["--url=http://flag", "--token=t-flag", "--ca=/flag.pem"];
        for (words, env, has_contexts, expected) in [
            (&[][..], &[][..], false, ("127.0.0.1", "", "")),
            (&[], &all, true, ("env", "t-env", "/env.pem")),
            (&flags, &all, true, ("flag", "t-flag", "/flag.pem")),
            (&[], &[], true, ("current", "t-current", "/current.pem")),
            (&[], &all[3..], true, ("other", "t-other", "/other.pem")),
            (&[], rest, true, ("other", "t-env", "/env.pem")),
            // Chosen on the command line, a context is a flag.
            (&["--context=other"], &all, true, ("other", "t-other", "/other.pem")),
            (&["--context=other", "--token=t-flag"], &all, true, ("other", "t-flag", "/other.pem")),
            (&["--context=bare"], &all, true, ("bare", "t-env", "/env.pem")),
            // The token of a context goes nowhere else.
            (&flags[..1], &[], true, ("flag", "", "")),
            (&[], url, true, ("env", "", "")),
            (
                &[],
                &[("PHOENIX_URL", ""), ("ORCH_API_TOKEN", "")],
                true,
                ("current", "t-current", "/current.pem"),
            ),
        ] {
            let expected = (expected.0.to_owned(), expected.1.to_owned(), expected.2.to_owned());
            assert_eq!(resolved(words, env, has_contexts), expected, "{words:?} {env:?}");
        }
    }

    #[test]
    fn address_and_context_exclude_each_other() {
        assert!(Command::try_parse_from(["phoenix", "--url=http://h", "--context=c"]).is_err());
    }
}
