//! The answer to a client of a model's API, in whatever API: a plan, run to its end or followed.

mod plan_header;
mod plans;
mod stream;
mod submitted;
mod whole;

pub(super) use self::{
    plan_header::plan_header, plans::AnswerCall, stream::streamed, submitted::submitted, whole::whole,
};
