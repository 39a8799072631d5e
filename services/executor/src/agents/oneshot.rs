//! Mode `oneshot`: a process per attempt. One line in, end of input, one line out, exit 0.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use phoenix_domain::action::ActionResult;

use super::{
    AgentRunner, Call,
    conversation::{Conversation, Until},
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

    async fn attempt(&self, call: &mut Call<'_>) -> Result<ActionResult, AttemptFailure> {
        let request = call.line();
        let process =
            self.program.spawn(Some(&request)).map_err(|error| AttemptFailure::not_started(&error))?;
        let AgentProcess { pid, stdin, stdout, stderr, mut group, work: _ } = process;
        call.started(Some(pid));
        let unsent = if stdin.is_some() { &request[..] } else { &[] };
        let mut conversation = Conversation::new(stdin, stdout, stderr);
        let end = conversation.hold(unsent, Until::Exit, call.deadline, group.wait()).await;
        group.kill();
        conversation.judge(&end, call, &self.redactor)
    }
}

impl AgentRunner for Oneshot {
    fn run<'a>(&'a self, call: &'a mut Call<'_>) -> BoxFuture<'a, Result<ActionResult, AttemptFailure>> {
        Box::pin(self.attempt(call))
    }
}
