use futures_util::FutureExt;

use super::*;

fn written(connection: &Connection) -> Vec<String> {
    std::iter::from_fn(|| connection.next_line()).map(|line| String::from_utf8(line).unwrap()).collect()
}

#[test]
fn responses_in_any_order_reach_their_requests_once() {
    let connection = Arc::new(Connection::default());
    let mut calls = [1, 2].map(|_| connection.call("tools/call", |_| Object::new()).unwrap());
    assert_eq!(written(&connection).len(), 2);
    for line in [r#"{"id":2,"result":"b"}"#, r#"{"id":2,"result":"again"}"#, r#"{"id":1,"result":"a"}"#] {
        assert!(connection.accept(line.as_bytes()));
    }
    let results = calls.each_mut().map(|call| call.response().now_or_never().unwrap().unwrap().unwrap());
    assert_eq!(results, [Json::from("a"), "b".into()]);
    drop(calls);
    assert!(written(&connection).is_empty(), "an answered request is not cancelled");
}

#[test]
fn dropped_request_is_cancelled_once_it_was_written() {
    let connection = Arc::new(Connection::default());
    drop(connection.call("tools/call", |_| Object::new()).unwrap());
    assert!(written(&connection).is_empty(), "it was never written");
    let call = connection.call("tools/call", |_| Object::new()).unwrap();
    assert_eq!((written(&connection).len(), call.was_written()), (1, true));
    drop(call);
    let [cancelled] = &written(&connection)[..] else { panic!("one notification") };
    assert!(cancelled.contains("notifications/cancelled") && cancelled.contains("\"requestId\":2"));
    assert!(connection.accept(br#"{"id":2,"result":"late"}"#), "a late answer is ignored");
}

#[test]
fn invalid_response_fails_its_own_request() {
    let connection = Arc::new(Connection::default());
    let [mut broken, mut other] = [1, 2].map(|_| connection.call("tools/call", |_| Object::new()).unwrap());
    written(&connection);
    assert!(!connection.accept(br#"{"id":1,"result":{"a":tru}}"#));
    assert!(!connection.accept(b"INFO starting\n"));
    let lost = broken.response().now_or_never().unwrap().unwrap_err();
    assert!(lost.was_written && lost.failure.description.contains("no message of JSON-RPC"));
    assert!(other.response().now_or_never().is_none());
    connection.close(&AttemptFailure::new(FailureClass::Io, "is gone"));
    assert_eq!(other.response().now_or_never().unwrap().unwrap_err().failure.description, "is gone");
    assert!(connection.call("x", |_| Object::new()).is_err());
}

#[test]
fn question_reaches_the_call_that_it_is_about() {
    let connection = Arc::new(Connection::default());
    let ask = |id: u32, about| {
        let line = format!(r#"{{"id":{id},"method":"{ELICIT}","params":{{"message":"m"}}}}"#);
        assert!(connection.accept_about(about, line.as_bytes()));
        written(&connection).join("")
    };
    assert!(ask(1, None).contains("no call is under way"));
    let mut one = connection.call(CALL_TOOL, |_| Object::new()).unwrap();
    let _list = connection.call("tools/list", |_| Object::new()).unwrap();
    written(&connection);
    assert_eq!(ask(2, None), "");
    let asked = one.asked.try_recv().unwrap();
    assert_eq!((&asked.id, asked.params["message"].as_str()), (&2.into(), Some("m")));
    let two = connection.call(CALL_TOOL, |_| Object::new()).unwrap();
    written(&connection);
    assert!(ask(3, None).contains("set max_concurrency = 1"));
    assert_eq!(ask(4, Some(1)), "");
    for more in 5..8 {
        assert_eq!(ask(more, Some(1)), "");
    }
    assert!(ask(9, Some(1)).contains("has unanswered questions"));
    one.end_with(asked);
    let ended = written(&connection);
    assert!(ended[0].contains("notifications/cancelled"), "the call ends before its question: {ended:?}");
    assert!(ended[1].contains(r#""id":2,"result":{"action":"cancel"}"#), "{ended:?}");
    assert_eq!(ended.len(), 2 + 4, "no question stays open: {ended:?}");
    assert!(ask(10, Some(1)).contains("no call is under way"));
    assert_eq!(ask(11, Some(two.id)), "");
}

#[test]
fn flood_of_requests_gets_a_bounded_number_of_responses() {
    let connection = Connection::default();
    let ping = format!(r#"{{"id":"{}","method":"ping"}}"#, "x".repeat(100_000));
    for _ in 0..1000 {
        assert!(connection.accept(ping.as_bytes()));
    }
    assert!(written(&connection).len() < 20);
}
