//! Rows as any database returns them, and what is wrong with them.
//!
//! Ids are text, times are microseconds, JSON is text. `Text` is free text, in whichever form its database can hold it.

pub(in crate::store) mod approval;
pub(in crate::store) mod bulk;
pub(in crate::store) mod dead_letter;
pub(in crate::store) mod event;
pub(in crate::store) mod plan;
pub(in crate::store) mod text;
pub(in crate::store) mod value;
