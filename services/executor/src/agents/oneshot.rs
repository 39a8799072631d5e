//! Mode `oneshot`: one process per attempt. One line in, end of input, chunks and one answer out, exit 0.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use phoenix_domain::action::ActionResult;

use super::{
    attempt::{AgentRunner, Attempt},
    exchange::{CompleteOn, Exchange},
};
use crate::{
    failure::AttemptFailure,
    process::{AgentProcess, Program},
    redact::Redactor,
};

/// Runs one agent in this mode.
pub(crate) struct Oneshot {
    program: Program,
    redactor: Arc<Redactor>,
}

impl Oneshot {
    pub(crate) const fn new(program: Program, redactor: Arc<Redactor>) -> Self {
        Self { program, redactor }
    }

    async fn run_attempt(&self, attempt: &mut Attempt<'_>) -> Result<ActionResult, AttemptFailure> {
        let request = attempt.request_line();
        let process =
            self.program.spawn(Some(&request)).map_err(|error| AttemptFailure::not_started(&error))?;
        let AgentProcess { pid, stdin, stdout, stderr, mut group, record: _ } = process;
        attempt.report_start(Some(pid));
        let unsent = if stdin.is_some() { &request[..] } else { &[] };
        let mut exchange = Exchange::new(stdin, stdout, stderr);
        let end = exchange.run(unsent, CompleteOn::Exit, attempt, group.wait()).await;
        group.kill();
        exchange.interpret(&end, attempt, &self.redactor)
    }
}

impl AgentRunner for Oneshot {
    fn run<'a>(
        &'a self,
        attempt: &'a mut Attempt<'_>,
    ) -> BoxFuture<'a, Result<ActionResult, AttemptFailure>> {
        Box::pin(self.run_attempt(attempt))
    }
}
