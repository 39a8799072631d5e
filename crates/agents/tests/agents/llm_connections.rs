//! Connections to a provider: kept, lost, through a proxy, over TLS.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use phoenix_agents::{
    ActionError, ActionResult, Agent,
    llm::{LlmRouter, Proxies},
};
use phoenix_domain::llm::{LlmSettings, ProviderKind};
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use serde_json::json;

use crate::{llm_answers::settings, request};

/// Timeout of every wait.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A server that runs a script for its connections, and ends with it.
pub(crate) struct Server {
    pub(crate) url: String,
    script: thread::JoinHandle<()>,
}

impl Server {
    pub(crate) fn run(script: impl FnOnce(&TcpListener) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self { url, script: thread::spawn(move || script(&listener)) }
    }

    pub(crate) fn end(self) {
        self.script.join().unwrap();
    }
}

pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let (connection, _) = listener.accept().unwrap();
    connection.set_read_timeout(Some(TIMEOUT)).unwrap();
    connection
}

/// Reads one request, head and body.
pub(crate) fn read_request(connection: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = connection.read(&mut chunk).unwrap();
        assert!(read > 0, "the client closed the connection");
        request.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return text.into_owned();
            }
        }
    }
}

fn write_answer(connection: &mut TcpStream, text: &str) {
    let body = json!({"choices": [{"message": {"content": text}}]}).to_string();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.write_all((head + &body).as_bytes()).unwrap();
}

fn agent(url: &str) -> LlmRouter {
    LlmRouter::with_proxies(settings(ProviderKind::OpenAi, url.to_owned()), Proxies::default())
}

fn chat(agent: &mut LlmRouter) -> Result<ActionResult, ActionError> {
    agent.handle(&request("chat", json!({"message": "m"})))
}

#[test]
fn connection_closed_while_idle_is_replaced() {
    let (closed, is_closed) = mpsc::channel();
    let server = Server::run(move |listener| {
        let mut first = accept(listener);
        read_request(&mut first);
        write_answer(&mut first, "one");
        drop(first);
        closed.send(()).unwrap();
        let mut second = accept(listener);
        read_request(&mut second);
        write_answer(&mut second, "two");
    });
    let mut agent = agent(&server.url);
    assert_eq!(chat(&mut agent).unwrap().to_text(), "one");
    is_closed.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(chat(&mut agent).unwrap().to_text(), "two");
    server.end();
}

#[test]
fn request_lost_on_a_kept_connection_is_sent_again() {
    let server = Server::run(|listener| {
        let mut kept = accept(listener);
        read_request(&mut kept);
        write_answer(&mut kept, "one");
        // The provider closes the connection just when it is used again.
        read_request(&mut kept);
        drop(kept);
        let mut fresh = accept(listener);
        read_request(&mut fresh);
        write_answer(&mut fresh, "two");
        // Kept again, and reset this time, because of unread data.
        let mut byte = [0; 1];
        fresh.read_exact(&mut byte).unwrap();
        drop(fresh);
        let mut last = accept(listener);
        read_request(&mut last);
        write_answer(&mut last, "three");
    });
    let mut agent = agent(&server.url);
    for text in ["one", "two", "three"] {
        assert_eq!(chat(&mut agent).unwrap().to_text(), text);
    }
    server.end();
}

#[test]
fn request_lost_on_a_new_connection_is_not_sent_again() {
    let (asked, requests): (_, Receiver<()>) = mpsc::channel();
    let server = Server::run(move |listener| {
        let mut new = accept(listener);
        read_request(&mut new);
        asked.send(()).unwrap();
        drop(new);
        let mut kept = accept(listener);
        read_request(&mut kept);
        write_answer(&mut kept, "one");
        read_request(&mut kept);
        asked.send(()).unwrap();
        kept.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{").unwrap();
        drop(kept);
        listener.set_nonblocking(true).unwrap();
    });
    let mut agent = agent(&server.url);
    assert_eq!(chat(&mut agent).unwrap_err().code, 503);
    assert_eq!(chat(&mut agent).unwrap().to_text(), "one");
    let error = chat(&mut agent).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (503, "the connection to openai was interrupted"));
    assert_eq!(requests.iter().count(), 2);
    server.end();
}

fn through(variables: &[(&str, String)], base_url: &str) -> (LlmRouter, LlmSettings) {
    let settings = settings(ProviderKind::OpenAi, base_url.to_owned());
    let proxies = Proxies::from_lookup(|name| {
        variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.clone())
    });
    (LlmRouter::with_proxies(settings.clone(), proxies), settings)
}

#[test]
fn proxy_variables_apply_by_scheme_in_either_case() {
    for (variable, base_url, first_line) in [
        ("http_proxy", "http://model.invalid/v1", "POST http://model.invalid/v1/chat/completions "),
        ("HTTP_PROXY", "http://model.invalid/v1", "POST http://model.invalid/v1/chat/completions "),
        ("all_proxy", "http://model.invalid/v1", "POST http://model.invalid/v1/chat/completions "),
        ("https_proxy", "https://model.invalid/v1", "CONNECT model.invalid:443 "),
        ("HTTPS_PROXY", "https://model.invalid/v1", "CONNECT model.invalid:443 "),
        ("ALL_PROXY", "https://model.invalid/v1", "CONNECT model.invalid:443 "),
    ] {
        let seen = Arc::new(Mutex::new(String::new()));
        let seen_by_server = seen.clone();
        let server = Server::run(move |listener| {
            let mut connection = accept(listener);
            let request = read_request(&mut connection);
            let is_tunnel = request.starts_with("CONNECT");
            *seen_by_server.lock().unwrap() = request;
            if is_tunnel {
                connection.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").unwrap();
            } else {
                write_answer(&mut connection, "through the proxy");
            }
        });
        let (mut agent, _) = through(&[(variable, server.url.clone())], base_url);
        match chat(&mut agent) {
            Ok(result) => assert_eq!(result.to_text(), "through the proxy"),
            Err(error) => {
                assert!(
                    error.message.contains(&format!("the proxy in {variable} requires a user")),
                    "{error}"
                );
                assert_eq!(error.code, 424);
            }
        }
        server.end();
        let seen = seen.lock().unwrap();
        assert!(seen.starts_with(first_line), "{variable}: {seen}");
    }
}

#[test]
fn no_proxy_bypasses_the_proxy() {
    for variable in ["no_proxy", "NO_PROXY"] {
        for list in ["model.invalid", "other, *.invalid", ".invalid other", "model.invalid:80", "*"] {
            let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
            proxy.set_nonblocking(true).unwrap();
            let variables = [
                ("http_proxy", format!("http://{}", proxy.local_addr().unwrap())),
                (variable, list.to_owned()),
            ];
            let (mut agent, _) = through(&variables, "http://model.invalid/v1");
            let error = chat(&mut agent).unwrap_err();
            assert_eq!(error.code, 503, "{list}: {error}");
            assert!(proxy.accept().is_err(), "{list}: the proxy was asked");
        }
    }
}

#[test]
fn all_proxy_supports_a_socks_proxy() {
    let server = Server::run(|listener| {
        let mut connection = accept(listener);
        let mut greeting = [0; 3];
        connection.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, [5, 1, 0]);
        connection.write_all(&[5, 0]).unwrap();
        let mut connect = [0; 5];
        connection.read_exact(&mut connect).unwrap();
        assert_eq!(connect[..4], [5, 1, 0, 3], "the proxy resolves the name");
        let mut name = vec![0; usize::from(connect[4]) + 2];
        connection.read_exact(&mut name).unwrap();
        assert_eq!(name, b"model.invalid\x00\x50");
        connection.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 80]).unwrap();
        assert!(read_request(&mut connection).starts_with("POST /v1/chat/completions "));
        write_answer(&mut connection, "through socks");
    });
    let address = server.url.replace("http://", "socks5h://");
    let (mut agent, _) = through(&[("all_proxy", address)], "http://model.invalid/v1");
    assert_eq!(chat(&mut agent).unwrap().to_text(), "through socks");
    server.end();
}

#[test]
fn invalid_proxy_variable_is_named() {
    let (mut agent, _) = through(&[("https_proxy", "ftp://proxy".into())], "https://model.invalid/v1");
    let error = chat(&mut agent).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (424, "https_proxy is not a proxy URL"));
}

/// A handshake with a certificate that no client accepts.
pub(crate) fn tls_handshake(connection: &mut TcpStream) -> io::Result<(usize, usize)> {
    // A self-signed certificate for this test, valid for a hundred years.
    let (certificate, key) = (include_bytes!("tls/certificate.der"), include_bytes!("tls/key.der"));
    let certificates = vec![CertificateDer::from(&certificate[..])];
    let key = PrivatePkcs8KeyDer::from(&key[..]).into();
    let config = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    ServerConnection::new(config.into()).unwrap().complete_io(connection)
}

#[test]
fn certificate_of_an_unknown_authority_is_named() {
    let server = Server::run(|listener| {
        assert!(tls_handshake(&mut accept(listener)).is_err(), "the client does not accept it");
    });
    let error = chat(&mut agent(&server.url.replace("http:", "https:"))).unwrap_err();
    assert_eq!(error.code, 424);
    assert!(error.message.contains("the certificate of openai is rejected: its authority"), "{error}");
    assert!(error.message.contains("SSL_CERT_FILE"), "{error}");
    server.end();
}

#[test]
fn tls_to_a_plain_port_and_the_reverse_differ() {
    let plain = Server::run(|listener| {
        let mut connection = accept(listener);
        let _ = connection.read(&mut [0; 512]).unwrap();
        connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let error = chat(&mut agent(&plain.url.replace("http:", "https:"))).unwrap_err();
    assert_eq!(error.code, 424);
    assert!(error.message.contains("does not speak TLS; write the address with http://"), "{error}");
    plain.end();

    let tls = Server::run(|listener| {
        let mut connection = accept(listener);
        read_request(&mut connection);
        // The alert of a TLS server for data that is not TLS.
        connection.write_all(&[0x15, 3, 1, 0, 2, 2, 0x46]).unwrap();
    });
    let error = chat(&mut agent(&tls.url)).unwrap_err();
    assert_eq!(error.code, 424);
    assert!(error.message.contains("write the address with https://"), "{error}");
    tls.end();
}
