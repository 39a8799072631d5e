//! The files of the page, embedded in the executable. They load nothing from other origins.

use axum::{
    extract::Path,
    http::{HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};

use crate::problem::unknown_path;

/// The files below `/page/`: name, media type, content.
const FILES: &[(&str, &str, &str)] = &[
    ("agents.js", SCRIPT, include_str!("../../page/agents.js")),
    ("api.js", SCRIPT, include_str!("../../page/api.js")),
    ("app.js", SCRIPT, include_str!("../../page/app.js")),
    ("chats.js", SCRIPT, include_str!("../../page/chats.js")),
    ("dom.js", SCRIPT, include_str!("../../page/dom.js")),
    ("icon.svg", "image/svg+xml", include_str!("../../page/icon.svg")),
    ("plan.js", SCRIPT, include_str!("../../page/plan.js")),
    ("style.css", "text/css; charset=utf-8", include_str!("../../page/style.css")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

pub(crate) async fn index() -> Response {
    respond("text/html; charset=utf-8", include_str!("../../page/index.html"))
}

pub(crate) async fn file(Path(requested): Path<String>, uri: Uri) -> Response {
    match FILES.iter().find(|(name, _, _)| *name == requested) {
        Some((_, content_type, text)) => respond(content_type, text),
        None => unknown_path(uri).await.into_response(),
    }
}

/// A file of the page. Browsers revalidate it on every visit, because it belongs to the running version.
fn respond(content_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text).into_response()
}
