//! Base URLs of providers: parsing of the conventional variables, and validation.

use url::Url;

use super::{provider::ProviderKind, text::set};

/// Endpoint paths that requests append, so that a base URL must not end in one.
const ENDPOINTS: &[&str] = &[
    "/chat/completions",
    "/completions",
    "/responses",
    "/embeddings",
    "/messages/count_tokens",
    "/messages",
    "/complete",
    "/api/chat",
    "/api/generate",
    "/api/tags",
];

/// The base URL of a conventional variable, in the form of `base_url`. `None` for a blank one.
///
/// The SDKs of Anthropic and Google append the version path themselves, so their variables omit it.
pub(super) fn from_variable(kind: ProviderKind, variable: &str, value: &str) -> Option<String> {
    if variable == "OLLAMA_HOST" {
        return ollama_host(value);
    }
    let value = set(Some(value))?.trim_end_matches('/');
    let version = match kind {
        ProviderKind::Anthropic => "/v1",
        ProviderKind::Gemini => "/v1beta",
        _ => return Some(value.into()),
    };
    let last = value.rsplit('/').next().unwrap_or_default();
    let has_version =
        last.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    // An invalid value is unchanged, for the error message.
    let complete = has_version || problem(kind, value).is_some();
    Some(if complete { value.into() } else { format!("{value}{version}") })
}

/// The problem of an invalid `base_url`, with the valid form; `None` for a valid one.
///
/// The message omits credentials and query, which may hold a key.
pub(super) fn problem(kind: ProviderKind, base_url: &str) -> Option<String> {
    let default = kind.default_base_url();
    let url = match Url::parse(base_url) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url,
        Ok(_) => return Some(format!("must start with http:// or https://, such as {default}")),
        Err(error) => return Some(format!("is not a URL ({error}); write it like {default}")),
    };
    let mut right = url.clone();
    right.set_query(None);
    right.set_fragment(None);
    right.set_path(without_endpoint(kind, url.path()));
    let path_is_right = right.path().trim_end_matches('/') == url.path().trim_end_matches('/');
    let mistake = if url.query().is_some() || url.fragment().is_some() {
        "must not have a query or a fragment"
    } else if !path_is_right {
        "must not end in the path of an endpoint, which is added to it"
    } else {
        return None;
    };
    // Cannot fail for a URL with a host.
    let _ = right.set_username("").and_then(|()| right.set_password(None));
    Some(format!("{mistake}; write {}", right.as_str().trim_end_matches('/')))
}

fn without_endpoint(kind: ProviderKind, path: &str) -> &str {
    let mut path = path.trim_end_matches('/');
    if kind == ProviderKind::Gemini
        && let Some((before, model)) = path.rsplit_once("/models")
        && (model.is_empty() || model.starts_with('/'))
    {
        path = before.trim_end_matches('/');
    }
    let whole = path;
    while let Some(before) = ENDPOINTS.iter().find_map(|endpoint| path.strip_suffix(endpoint)) {
        path = before.trim_end_matches('/');
    }
    if kind == ProviderKind::Ollama && path != whole { ollama_root(path) } else { path }
}

/// `address` of an Ollama without the path of its APIs, which requests append.
pub(super) fn ollama_root(address: &str) -> &str {
    let mut root = address.trim_end_matches('/');
    // A host may have such a name.
    while let Some(before) = root.strip_suffix("/v1").or_else(|| root.strip_suffix("/api"))
        && !before.ends_with('/')
    {
        root = before;
    }
    root
}

/// The base URL for `OLLAMA_HOST`, which is `host`, `host:port` or a URL, and `0.0.0.0` for a server that listens on every
/// address.
fn ollama_host(host: &str) -> Option<String> {
    let host = set(Some(host))?.trim_end_matches('/');
    if host.contains("://") {
        return Some(host.replacen("://0.0.0.0", "://127.0.0.1", 1));
    }
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && !name.ends_with(':') => (name, port),
        _ => (host, "11434"),
    };
    let name = if matches!(name, "" | "0.0.0.0") { "127.0.0.1" } else { name };
    Some(format!("http://{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ollama_host_is_parsed_in_every_form() {
        for (host, url) in [
            ("127.0.0.1", "http://127.0.0.1:11434"),
            ("gpu-box:8080", "http://gpu-box:8080"),
            (":8080", "http://127.0.0.1:8080"),
            ("https://ollama.example.com/", "https://ollama.example.com"),
            ("http://0.0.0.0:11434", "http://127.0.0.1:11434"),
            ("[::1]", "http://[::1]:11434"),
            ("[::1]:8080", "http://[::1]:8080"),
        ] {
            let read = from_variable(ProviderKind::Ollama, "OLLAMA_HOST", host);
            assert_eq!(read.as_deref(), Some(url), "{host}");
        }
        assert_eq!(from_variable(ProviderKind::Ollama, "OLLAMA_HOST", "  "), None);
    }

    #[test]
    fn base_url_with_query_or_endpoint_names_the_right_form() {
        use ProviderKind::{Anthropic, Gemini, LmStudio, Ollama, OpenAi, OpenRouter};
        for (kind, wrong, right) in [
            (OpenAi, "https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1"),
            (OpenAi, "https://api.openai.com/v1/chat/completions/", "https://api.openai.com/v1"),
            (OpenAi, "https://u:p@example.com/v1?key=secret", "https://example.com/v1"),
            (OpenAi, "https://example.com/v1#top", "https://example.com/v1"),
            (OpenAi, "https://example.com/v1/responses?a=b", "https://example.com/v1"),
            (OpenRouter, "https://openrouter.ai/api/v1/chat/completions", "https://openrouter.ai/api/v1"),
            (LmStudio, "http://127.0.0.1:1234/v1/completions", "http://127.0.0.1:1234/v1"),
            (Anthropic, "https://api.anthropic.com/v1/messages", "https://api.anthropic.com/v1"),
            (
                Gemini,
                "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
                "https://generativelanguage.googleapis.com/v1beta",
            ),
            (Gemini, "https://example.com/v1beta/models", "https://example.com/v1beta"),
            (Ollama, "http://127.0.0.1:11434/api/chat", "http://127.0.0.1:11434"),
            (Ollama, "http://127.0.0.1:11434/v1/chat/completions", "http://127.0.0.1:11434"),
        ] {
            let problem = problem(kind, wrong).unwrap();
            assert!(problem.ends_with(&format!("; write {right}")), "{wrong}: {problem}");
            assert!(!problem.contains("secret"), "{problem}");
        }
        assert!(problem(OpenAi, "api.openai.com").unwrap().contains("not a URL"));
        assert!(problem(OpenAi, "localhost:8000/v1").unwrap().contains("http://"));
    }

    #[test]
    fn valid_base_url_is_accepted() {
        for &kind in ProviderKind::ALL {
            for url in [
                kind.default_base_url(),
                "http://127.0.0.1:8080",
                "https://gateway.example.com/llm/v1/",
                "https://user:password@gateway.example.com/chat",
            ] {
                assert_eq!(problem(kind, url), None, "{kind} {url}");
            }
        }
        for url in ["http://gpu:11434/v1", "http://gpu:11434/v1/", "http://gpu:11434/api"] {
            assert_eq!(ollama_root(url), "http://gpu:11434", "{url}");
        }
        assert_eq!(ollama_root("http://api"), "http://api");
        assert_eq!(ollama_root("https://example.com/ollama/api"), "https://example.com/ollama");
    }
}
