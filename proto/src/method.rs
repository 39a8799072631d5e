//! The methods that are called often enough to share a stream ([`MultiplexService`](crate::common)).

use prost::Message;

use crate::{executor, planner};

/// A method of the contract, by its path and its messages.
pub trait Method {
    /// `/package.Service/Method`.
    const PATH: &'static str;
    /// What it takes.
    type Request: Message + Default + Sync + 'static;
    /// What it answers, once or many times.
    type Response: Message + Default + Sync + 'static;
}

/// `ExecutorService.ExecuteTask`.
#[derive(Debug, Clone, Copy)]
pub struct ExecuteTask;

impl Method for ExecuteTask {
    const PATH: &'static str = "/phoenix.executor.v1.ExecutorService/ExecuteTask";
    type Request = executor::ExecuteTaskRequest;
    type Response = executor::ExecuteTaskResponse;
}

/// `PlannerService.PlanAndExecute`.
#[derive(Debug, Clone, Copy)]
pub struct PlanAndExecute;

impl Method for PlanAndExecute {
    const PATH: &'static str = "/phoenix.planner.v1.PlannerService/PlanAndExecute";
    type Request = planner::PlanAndExecuteRequest;
    type Response = planner::PlanAndExecuteResponse;
}
