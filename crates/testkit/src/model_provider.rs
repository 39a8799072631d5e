//! A provider of language models with OpenAI's API, which answers what a test wants.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Name of its model, unless a test sets another one.
const MODEL: &str = "gpt-test";

/// Answer to a request.
type Respond = Arc<dyn Fn(&Value) -> String + Send + Sync>;

/// A running provider.
#[derive(Clone)]
pub struct ModelProvider {
    url: String,
    model: String,
    tokens: (u32, u32),
    respond: Respond,
    /// The requests so far.
    requests: Arc<Mutex<Vec<Value>>>,
    /// Whether the requests wait.
    held: Arc<watch::Sender<bool>>,
}

impl ModelProvider {
    /// Starts a provider that answers each request with the text that `respond` returns for its body.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(respond: impl Fn(&Value) -> String + Send + Sync + 'static) -> Self {
        Self::start_as(MODEL, (900, 60), respond).await
    }

    /// Like [`Self::start`], with the name of its model, and the tokens of a request and of its answer.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start_as(
        model: &str,
        tokens: (u32, u32),
        respond: impl Fn(&Value) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let provider = Self {
            url,
            model: model.into(),
            tokens,
            respond: Arc::new(respond),
            requests: Arc::default(),
            held: Arc::new(watch::Sender::new(false)),
        };
        let serving = provider.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let provider = serving.clone();
                tokio::spawn(async move { provider.serve(connection).await });
            }
        });
        provider
    }

    /// Lets all requests wait from now on, until they are released.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Answers the requests that wait, and those that follow.
    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// The bodies of the requests so far, also of those that wait.
    ///
    /// # Panics
    /// When an earlier reader panicked.
    #[must_use]
    pub fn requests(&self) -> Vec<Value> {
        self.requests.lock().unwrap().clone()
    }

    /// The sections of `phoenix.toml` that make it the only provider.
    #[must_use]
    pub fn config(&self) -> String {
        format!(
            "[llm]\ndefault_provider = \"openai\"\n[llm.openai]\napi_key = \"sk-of-the-test\"\nbase_url = \"{}\"\n\
             model_name = \"{}\"\n",
            self.url, self.model
        )
    }

    async fn serve(&self, mut connection: TcpStream) {
        let Some(request) = body_of(&mut connection).await else { return };
        let request: Value = serde_json::from_str(&request).unwrap_or_default();
        self.requests.lock().unwrap().push(request.clone());
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        let (prompt, completion) = self.tokens;
        let body = json!({
            "id": "c1", "object": "chat.completion", "model": self.model,
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": (self.respond)(&request)}, "finish_reason": "stop"
            }],
            "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        });
        let body = body.to_string();
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length:";
        // The agent may have been killed meanwhile.
        let _ = connection.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await;
    }
}

impl std::fmt::Debug for ModelProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelProvider").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The body of a request; none when the connection is closed first.
async fn body_of(connection: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(body.to_owned());
            }
        }
        if connection.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}
