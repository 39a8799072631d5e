//! Who is let in at the ports of a real stack.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{os::unix::fs::PermissionsExt, time::Duration};

use phoenix_domain::CorrelationId;
use phoenix_platform::{
    RequestContext,
    client::{self, PeerChannel},
    config::Role,
    multiplex::Calls,
    service_token::ServiceToken,
};
use phoenix_proto::{
    PlanAndExecute,
    executor::{ExecuteTaskRequest, executor_service_client::ExecutorServiceClient},
    health_v1::{ReportOutcomeRequest, agent_health_service_client::AgentHealthServiceClient},
    planner::{ListPlansRequest, PlanAndExecuteRequest, planner_service_client::PlannerServiceClient},
};
use phoenix_testkit::{
    phoenix_bin,
    stack::{Stack, pids_with_environment},
    wait::until,
};
use tokio::process::Command;
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(5);

/// The services that speak gRPC.
const SERVICES: [Role; 3] = [Role::Planner, Role::Executor, Role::Health];

/// What each service answers to a caller that presents `token`.
async fn answers(stack: &Stack, token: &ServiceToken) -> Vec<Code> {
    let channel = |role| -> PeerChannel { client::channel(&stack.url(role), token).unwrap() };
    let code = |status: &tonic::Status| status.code();
    let planner =
        PlannerServiceClient::new(channel(Role::Planner)).list_plans(ListPlansRequest::default()).await;
    let executor =
        ExecutorServiceClient::new(channel(Role::Executor)).execute_task(ExecuteTaskRequest::default()).await;
    let health = AgentHealthServiceClient::new(channel(Role::Health))
        .report_outcome(ReportOutcomeRequest::default())
        .await;
    let shared = Calls::new(channel(Role::Planner));
    let request = PlanAndExecuteRequest { message: " ".into(), ..Default::default() };
    let context = RequestContext::new(CorrelationId::generate());
    // The first call is made by itself, while the shared stream is opened.
    let mut last = Code::Ok;
    for _ in 0..2 {
        let call = shared.call_once::<PlanAndExecute>(&context, request.clone());
        last = call.await.map_or_else(|status| status.code(), |_| Code::Ok);
    }
    vec![
        planner.as_ref().map_or_else(code, |_| Code::Ok),
        executor.as_ref().map_or_else(code, |_| Code::Ok),
        health.as_ref().map_or_else(code, |_| Code::Ok),
        last,
    ]
}

#[tokio::test]
async fn grpc_ports_without_service_token_are_unauthenticated() {
    let stack = Stack::builder().env("ORCH_API_TOKEN", "t").start().await;
    for wrong in ["t", "another-token"] {
        let codes = answers(&stack, &ServiceToken::new(wrong).unwrap()).await;
        assert_eq!(codes, [Code::Unauthenticated; 4], "{wrong}");
    }
    // With the token each call is judged by its content.
    let invalid = Code::InvalidArgument;
    assert_eq!(answers(&stack, &stack.service_token()).await, [Code::Ok, invalid, invalid, invalid]);
    for role in SERVICES {
        let open = client::channel(&stack.url(role), &ServiceToken::new("any").unwrap()).unwrap();
        until(&format!("the {role} says without a token that it serves"), async || {
            client::is_serving(open.clone(), LIMIT).await
        })
        .await;
    }
}

#[tokio::test]
async fn service_token_of_up_is_in_a_private_file_only() {
    let stack = Stack::builder().start().await;
    let path = stack.dir().join("data/service.token");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&path).unwrap();
    assert_eq!(pids_with_environment(token.trim()), Vec::<i32>::new());
    assert!(!stack.stderr_text().contains(token.trim()));
}

#[tokio::test]
async fn service_without_token_exits_64_and_names_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    for role in Role::ALL {
        let mut command = Command::new(phoenix_bin());
        command.arg(role.as_str()).current_dir(dir.path()).env_clear().kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output()).await.expect("it ends").unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{role}: {text}");
        for word in ["PHOENIX_SERVICE_TOKEN_FILE", "PHOENIX_SERVICE_TOKEN ", "data/service.token"] {
            assert!(text.contains(word), "{role}: {text}");
        }
    }
}
