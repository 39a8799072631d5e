//! The page: a handful of files, embedded in the executable, that load nothing from elsewhere.

use axum::{
    extract::Path,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};

use crate::router;

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
    answer("text/html; charset=utf-8", include_str!("../../page/index.html"))
}

pub(crate) async fn file(Path(asked): Path<String>) -> Response {
    match FILES.iter().find(|(name, _, _)| *name == asked) {
        Some((_, content_type, text)) => answer(content_type, text),
        None => router::unknown_path().await.into_response(),
    }
}

/// Asked for anew on every visit: the files belong to the version that runs.
fn answer(content_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text).into_response()
}
