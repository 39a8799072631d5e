//! The files of the page, embedded in the executable. They load nothing from other origins.
//!
//! Every path of the page is the same document, whose script shows the view of the path.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::problem::unknown_path;

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Entries of [`FILES`]: the name and the media type of files in `gateway/page`.
macro_rules! files {
    ($($name:literal: $content_type:expr),* $(,)?) => {
        vec![$(File::new($name, $content_type, include_str!(concat!("../../page/", $name)))),*]
    };
}

/// The files below `/page/`.
static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    files! {
        "agent_view.js": SCRIPT,
        "agents.js": SCRIPT,
        "agents_view.js": SCRIPT,
        "api.js": SCRIPT,
        "app.js": SCRIPT,
        "approval.js": SCRIPT,
        "approvals_view.js": SCRIPT,
        "chart.js": SCRIPT,
        "chats.js": SCRIPT,
        "console.css": STYLE,
        "dead_letters.js": SCRIPT,
        "dialog.js": SCRIPT,
        "docs.js": SCRIPT,
        "dom.js": SCRIPT,
        "event_list.js": SCRIPT,
        "format.js": SCRIPT,
        "graph.js": SCRIPT,
        "icon.svg": "image/svg+xml",
        "json.js": SCRIPT,
        "listbox.js": SCRIPT,
        "overview.js": SCRIPT,
        "phases.js": SCRIPT,
        "plan.js": SCRIPT,
        "plan_actions.js": SCRIPT,
        "plan_feed.js": SCRIPT,
        "plan_view.js": SCRIPT,
        "plans.js": SCRIPT,
        "questions.js": SCRIPT,
        "router.js": SCRIPT,
        "style.css": STYLE,
        "tabs.js": SCRIPT,
        "task_panel.js": SCRIPT,
        "waterfall.js": SCRIPT,
    }
});

static INDEX: LazyLock<File> =
    LazyLock::new(|| File::new("", "text/html; charset=utf-8", include_str!("../../page/index.html")));

/// A file of the page.
#[derive(Debug)]
struct File {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
    /// Digest of the content.
    etag: Option<HeaderValue>,
}

impl File {
    fn new(name: &'static str, content_type: &'static str, text: &'static str) -> Self {
        let digest = Sha256::digest(text);
        let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { name, content_type, text, etag: HeaderValue::try_from(format!("\"{digest}\"")).ok() }
    }

    /// Browsers revalidate a file on every visit, because it belongs to the running version; it is sent again only after a change.
    fn respond(&self, request: &HeaderMap) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(etag) = &self.etag {
            headers.insert(header::ETAG, etag.clone());
            if is_known(request, etag) {
                return (StatusCode::NOT_MODIFIED, headers).into_response();
            }
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        (headers, self.text).into_response()
    }
}

/// Whether `If-None-Match` names `etag`. Proxies that compress a response make its tag weak.
fn is_known(request: &HeaderMap, etag: &HeaderValue) -> bool {
    let names = |value: &HeaderValue| {
        let tags = value.to_str().unwrap_or_default().split(',').map(str::trim);
        tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).any(|tag| tag == "*" || tag == etag)
    };
    request.get_all(header::IF_NONE_MATCH).iter().any(names)
}

pub(crate) async fn index(headers: HeaderMap) -> Response {
    INDEX.respond(&headers)
}

pub(crate) async fn file(Path(requested): Path<String>, headers: HeaderMap, uri: Uri) -> Response {
    match FILES.iter().find(|file| file.name == requested) {
        Some(file) => file.respond(&headers),
        None => unknown_path(uri).await.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/page")).unwrap();
        let mut names: Vec<_> = folder.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "index.html");
        names.sort();
        assert_eq!(names, FILES.iter().map(|file| file.name).collect::<Vec<_>>());
    }

    #[test]
    fn known_file_is_not_sent_again() {
        let status = |tags: &'static str| {
            let headers = [(header::IF_NONE_MATCH, HeaderValue::from_static(tags))].into_iter().collect();
            File::new("a.js", SCRIPT, "text").respond(&headers).status()
        };
        let tag = "\"982d9e3eb996f559e633f4d194def376\"";
        assert_eq!(File::new("a.js", SCRIPT, "text").etag.unwrap(), tag);
        for known in
            ["\"982d9e3eb996f559e633f4d194def376\"", "\"x\", W/\"982d9e3eb996f559e633f4d194def376\"", "*"]
        {
            assert_eq!(status(known), StatusCode::NOT_MODIFIED, "{known}");
        }
        assert_eq!(status("\"982d\""), StatusCode::OK);
    }
}
