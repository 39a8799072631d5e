//! Budgets: limits on what calls of agents may use, and the accounts that they are counted in.
//!
//! Everything is an integer: money in billionths of a dollar ([`Money`](crate::usage::Money)), time in milliseconds.

mod account;
mod limits;
mod settings;

pub use self::{
    account::{Account, Scope},
    limits::{Amounts, Each, Limits, Resource, Room},
    settings::{BudgetSettings, Estimate, OnBudget},
};
