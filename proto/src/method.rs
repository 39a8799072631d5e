//! Methods that can be called on a shared stream ([`MultiplexService`](crate::common)).

use prost::Message;

use crate::{executor, planner};

/// A method of the contract: its path and its messages.
pub trait Method {
    /// Path: `/package.Service/Method`.
    const PATH: &'static str;
    /// Request message.
    type Request: Message + Default + Sync + 'static;
    /// Response message, sent once or many times.
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
