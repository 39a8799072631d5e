use super::*;

fn object(text: &str) -> Object {
    Object::parse(text).unwrap()
}

fn requested(terms: &ApprovalTerms, is_required: bool) -> Approval {
    let policy = ApprovalPolicy { timeout: Duration::from_secs(60), ..ApprovalPolicy::default() };
    Approval::requested(Timestamp::UNIX_EPOCH, object("{}"), Some(terms), &policy, is_required)
}

#[test]
fn hash_depends_on_values_and_not_on_the_order_of_members() {
    let hash = input_hash(&object(r#"{"b": [1, {"d": 1, "c": 2}], "a": "x"}"#));
    assert_eq!(hash, input_hash(&object(r#"{"a":"x","b":[1,{"c":2,"d":1}]}"#)));
    assert_ne!(hash, input_hash(&object(r#"{"a":"x","b":[1,{"c":2,"d":1.0}]}"#)));
    assert_eq!(input_hash(&object("{}")), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
}

#[test]
fn terms_of_a_caller_do_not_weaken_a_policy() {
    let terms = |secs| ApprovalTerms {
        timeout: Some(Duration::from_secs(secs)),
        on_expiry: OnExpiry::Approve,
        ..ApprovalTerms::default()
    };
    for (secs, is_required, expires, on_expiry) in
        [(30, true, 30, OnExpiry::Fail), (90, true, 60, OnExpiry::Fail), (90, false, 90, OnExpiry::Approve)]
    {
        let approval = requested(&terms(secs), is_required);
        assert_eq!((approval.expires_at.as_second(), approval.on_expiry), (expires, on_expiry));
    }
    assert_eq!(requested(&ApprovalTerms::default(), false).expires_at.as_second(), 60);
}

#[test]
fn task_runs_or_is_refused_as_its_approval_says() {
    for (state, on_expiry, runs, code) in [
        (ApprovalState::Waiting, OnExpiry::Fail, false, None),
        (ApprovalState::Approved, OnExpiry::Fail, true, None),
        (ApprovalState::Rejected, OnExpiry::Fail, false, Some(Code::Cancelled)),
        (ApprovalState::Expired, OnExpiry::Fail, false, Some(Code::Timeout)),
        (ApprovalState::Expired, OnExpiry::Reject, false, Some(Code::Cancelled)),
        (ApprovalState::Expired, OnExpiry::Approve, true, None),
        (ApprovalState::Withdrawn, OnExpiry::Approve, false, Some(Code::Cancelled)),
    ] {
        let approval = Approval { state, on_expiry, ..requested(&ApprovalTerms::default(), false) };
        assert_eq!(approval.approved_input().is_some(), runs, "{state} {on_expiry}");
        assert_eq!(approval.refusal("a").map(|error| error.code), code, "{state} {on_expiry}");
    }
}

#[test]
fn policy_requires_what_a_pattern_matches() {
    let policy = |patterns: &[&str]| ApprovalPolicy {
        actions: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
        ..ApprovalPolicy::default()
    };
    assert!(policy(&["git_c*", "x"]).requires("git_commit") && policy(&["*"]).requires("chat"));
    assert!(!policy(&["git_c*", "x"]).requires("git_status") && !policy(&[]).requires("chat"));
}
