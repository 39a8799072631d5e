//! Every fault of a provider in the table of `docs/providers.md`: the table is what these tests expect.
//!
//! A test asks an upstream with the fault, in each API, streamed or not, and compares what comes of it with its row: class and
//! code, message, whether the executor repeats the attempt, whether it counts against the agent's circuit, whether the next model
//! of a chain is asked, and whether a chain passes over the provider after three such chats.

mod table;
mod upstreams;

use std::{
    io::{Read, Write},
    num::NonZeroU32,
    thread,
    time::Duration,
};

use phoenix_domain::llm::ProviderKind::{self, Anthropic, Gemini, Ollama, OpenAi};
use serde_json::json;

use self::{
    table::{Case, Row},
    upstreams::{
        EVENTS, KINDS, answers, each, empty, empty_stream, error, frames, piece, ping, replies, send, server,
        statuses,
    },
};
use crate::{
    llm_connections::{read_request, tls_handshake},
    provider::{Provider, Reply},
};

/// A test for each row.
macro_rules! rows {
    ($($test:ident: $fault:literal => $cases:expr;)*) => {
        const TESTED: &[(&str, &str)] = &[$((stringify!($test), $fault)),*];
        $(#[test] fn $test() { Row::of($fault).check($cases); })*
    };
}

rows! {
    missing_key: "no key" => [OpenAi, Anthropic, Gemini].map(|kind| {
        Case::at(kind, "").adjusted(|settings| for kind in KINDS { *settings.section_mut(kind) = Default::default(); })
    }).into();
    rejected_key: "401, or 400 and 403 about the key" => rejected_keys();
    payment_required: "402" => statuses(&[402]);
    wrong_request: "400, 415, 422, 451" => statuses(&[400, 415, 422, 451]);
    forbidden: "403" => statuses(&[403]);
    too_large_request: "413" => statuses(&[413]);
    unknown_model: "404, 410" => statuses(&[404, 410]);
    conflict: "409" => statuses(&[409]);
    strange_status: "3xx, 405 and other statuses" => statuses(&[302, 307, 405, 418]);
    rate_limit: "429" => statuses(&[429]);
    no_capacity: "5xx with `Retry-After`" => each(|kind| {
        let busy = |status| replies(kind, move || Reply::from((status, "{}")).with_header("retry-after", "7"));
        vec![busy(500), busy(503).streamed(), busy(529)]
    });
    late_status: "408, 504" => statuses(&[408, 504]);
    failed_status: "500, 529 and any other 5xx" => statuses(&[500, 502, 503, 529, 599]);
    error_under_status_200: "200 with an error inside" => errors_inside(|kind, error| vec![
        answers(kind, 200, error.to_string()),
    ]);
    error_in_a_stream: "an error inside a stream" => errors_inside(|kind, error| vec![
        answers(kind, 200, frames(kind, std::slice::from_ref(error))).streamed(),
        answers(kind, 200, frames(kind, &[piece(kind, "half"), error.clone()])).begun(true),
    ]);
    garbage: "200 with garbage" => each(|kind| {
        ["<html>a proxy's page</html>", "{}", "[1]", "{\"choices\":", ""].map(|body| answers(kind, 200, body)).into()
    });
    garbage_in_a_stream: "garbage in a stream" => each(|kind| {
        let half = frames(kind, &[piece(kind, "half")]);
        let garbage = if kind == Ollama { "no json\n" } else { "data: {no json\n\n" };
        vec![
            answers(kind, 200, garbage).begun(false),
            answers(kind, 200, "<html>a proxy's page</html>\n").begun(false),
            answers(kind, 200, half + garbage).begun(true),
        ]
    });
    stream_without_an_end: "a stream that just ends, half an event" => each(|kind| {
        let (half, event) = (frames(kind, &[piece(kind, "half")]), frames(kind, &[piece(kind, "more")]));
        let cut = event[..event.len() / 2].to_owned();
        vec![
            answers(kind, 200, "").begun(false),
            answers(kind, 200, ping(kind)).begun(false),
            answers(kind, 200, half.clone()).begun(true),
            answers(kind, 200, half + &cut).begun(true),
            answers(kind, 200, cut).begun(false),
        ]
    });
    lost_connection: "a connection that breaks" => each(|kind| {
        let lost = |body: String| {
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
            let address = server(move |mut connection| {
                read_request(&mut connection);
                send(&connection, &format!("{head}{body}"));
            });
            Case::at(kind, format!("http://{address}"))
        };
        vec![lost(String::new()), lost("{\"a\":".into()), lost(frames(kind, &[piece(kind, "half")])).begun(true)]
    });
    endless_response: "a response over 8 MiB" => each(|kind| {
        let event = frames(kind, &[piece(kind, &"x".repeat(100_000))]);
        vec![floods(kind, String::new(), " ".repeat(100_000)), floods(kind, String::new(), event).begun(true)]
    });
    endless_event: "an event of 50 MB" => each(|kind| {
        let half = frames(kind, &[piece(kind, "half")]);
        let flood = || "x".repeat(1024 * 1024);
        vec![floods(kind, "data: ".into(), flood()).begun(false), floods(kind, half + "data: ", flood()).begun(true)]
    });
    endless_stream: "an endless stream" => each(|kind| {
        let pings = |begin: Option<&str>| {
            let begin = begin.map(|text| frames(kind, &[piece(kind, text)])).unwrap_or_default();
            let address = server(move |mut connection| {
                read_request(&mut connection);
                send(&connection, &format!("{EVENTS}{begin}"));
                while send(&connection, &ping(kind)) { thread::park_timeout(Duration::from_millis(20)); }
            });
            Case::at(kind, format!("http://{address}")).within(2000)
        };
        vec![pings(Some("half")).begun(true), pings(None).begun(false), a_second(pings(Some("half"))).begun(true)]
    });
    silence: "a slow first token, a stall between tokens" => each(|kind| {
        let silent = |begin: String| {
            let address = server(move |mut connection| {
                read_request(&mut connection);
                send(&connection, &format!("{EVENTS}{begin}"));
                // Until the client gives up.
                let _ = connection.read(&mut [0]);
            });
            Case::at(kind, format!("http://{address}")).adjusted(|settings| for kind in KINDS {
                settings.section_mut(kind).first_token_timeout_secs = NonZeroU32::new(1);
                settings.section_mut(kind).stall_timeout_secs = NonZeroU32::new(1);
            })
        };
        vec![silent(ping(kind)).begun(false), silent(frames(kind, &[piece(kind, "half")])).begun(true)]
    });
    no_answer: "no answer in time" => each(|kind| {
        let silent = Provider::with(|_| None::<Reply>);
        vec![Case::with(kind, silent.url("/v1"), silent).within(2000), a_second(Case::at(kind, never()))]
    });
    unknown_host: "no address for the host's name" => each(|kind| vec![Case::at(kind, "http://model.invalid/v1")]);
    no_connection: "no connection" => each(|kind| vec![
        Case::at(kind, "http://127.0.0.1:1/v1"), Case::at(kind, "https://127.0.0.1:1/v1").streamed(),
    ]);
    unknown_certificate: "a certificate that is not accepted" => each(|kind| {
        let address = server(|mut connection| assert!(tls_handshake(&mut connection).is_err()));
        vec![Case::at(kind, format!("https://{address}"))]
    });
    tls_mismatch: "TLS to a plain port, or the reverse" => each(|kind| {
        let plain = server(|mut connection| {
            let _ = connection.read(&mut [0; 512]);
            send(&connection, "HTTP/1.1 400 Bad Request\r\n\r\n");
        });
        let tls = server(|mut connection| {
            read_request(&mut connection);
            // The alert of a TLS server for data that is not TLS.
            let _ = connection.write_all(&[0x15, 3, 1, 0, 2, 2, 0x46]);
        });
        vec![Case::at(kind, format!("https://{plain}")), Case::at(kind, format!("http://{tls}"))]
    });
    proxy_without_a_password: "a proxy that wants a password" => each(|kind| {
        let proxy = server(|mut connection| {
            read_request(&mut connection);
            send(&connection, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
        });
        vec![
            Case::at(kind, "https://model.invalid/v1").through("https_proxy", format!("http://{proxy}")),
            Case::at(kind, "http://model.invalid/v1").through("http_proxy", format!("http://{proxy}")),
        ]
    });
    proxy_that_refuses: "a proxy that refuses or is down" => each(|kind| {
        let proxy = server(|mut connection| {
            read_request(&mut connection);
            send(&connection, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        });
        vec![
            Case::at(kind, "https://model.invalid/v1").through("https_proxy", format!("http://{proxy}")),
            Case::at(kind, "https://model.invalid/v1").through("all_proxy", "http://127.0.0.1:1"),
            Case::at(kind, "http://model.invalid/v1").through("all_proxy", "socks5h://127.0.0.1:1"),
        ]
    });
    declined: "the model or the provider declines" => ended_for(&[
        (OpenAi, "content_filter"), (Anthropic, "refusal"), (Gemini, "SAFETY"), (Gemini, "RECITATION"),
    ]);
    token_limit: "the token limit is used up before the answer" => ended_for(&[
        (OpenAi, "length"), (Anthropic, "max_tokens"), (Gemini, "MAX_TOKENS"), (Ollama, "length"),
    ]);
    empty_answer: "an empty answer" => ended_for(&[
        (OpenAi, "stop"), (Anthropic, "end_turn"), (Gemini, "STOP"), (Ollama, "stop"),
    ]);
}

#[test]
fn every_row_has_one_test() {
    let documented: Vec<_> = Row::all().into_iter().map(|row| (row.test, row.fault)).collect();
    let tested: Vec<_> =
        TESTED.iter().map(|(test, fault)| ((*test).to_owned(), (*fault).to_owned())).collect();
    assert_eq!(documented, tested);
}

fn rejected_keys() -> Vec<Case> {
    let google = json!({"error": {"code": 400, "message": "M", "details": [{"reason": "API_KEY_INVALID"}]}});
    let openai = json!({"error": {"message": "M", "code": "invalid_api_key"}});
    let mut cases = statuses(&[401]);
    cases.push(answers(Gemini, 400, google.to_string()));
    cases.push(answers(OpenAi, 403, openai.to_string()));
    cases
}

/// Errors of several statuses under the status 200, with the rows whose rules apply to them.
fn errors_inside(make: impl Fn(ProviderKind, &serde_json::Value) -> Vec<Case>) -> Vec<Case> {
    let rows = [(404, "404, 410"), (429, "429"), (529, "500, 529 and any other 5xx")];
    each(|kind| {
        // Ollama's errors have no status.
        let known = rows.iter().filter(|(status, _)| kind != Ollama || *status == 529);
        let cases = known.flat_map(|(status, row)| {
            make(kind, &error(kind, *status)).into_iter().map(|case| case.by_the_rules_of(row))
        });
        cases.collect()
    })
}

/// A provider that sends `begin`, and then `part` up to 50 MB or until the client has enough.
fn floods(kind: ProviderKind, begin: String, part: String) -> Case {
    let address = server(move |mut connection| {
        read_request(&mut connection);
        send(&connection, &format!("{EVENTS}{begin}"));
        let parts = 50 * 1024 * 1024 / part.len();
        (0..parts).all(|_| send(&connection, &part));
    });
    Case::at(kind, format!("http://{address}"))
}

/// The case with a second for a whole answer.
fn a_second(case: Case) -> Case {
    case.within(60_000).adjusted(|settings| settings.timeout_secs = NonZeroU32::new(1))
}

/// The address of a provider that takes a request and does not answer.
fn never() -> String {
    let address = server(|mut connection| {
        read_request(&mut connection);
        // Until the client gives up.
        let _ = connection.read(&mut [0]);
    });
    format!("http://{address}")
}

/// Answers without text that ended for these reasons, streamed and not.
fn ended_for(reasons: &[(ProviderKind, &str)]) -> Vec<Case> {
    let cases = reasons.iter().flat_map(|(kind, reason)| {
        [
            answers(*kind, 200, empty(*kind, reason).to_string()),
            answers(*kind, 200, empty_stream(*kind, reason)).streamed(),
        ]
    });
    cases.collect()
}
