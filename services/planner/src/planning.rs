//! Pure planning: requests become plans. Nothing here reads or writes anything.

pub mod build;
pub mod proposal;
pub mod redrive;
pub mod request;
pub mod routing;
pub mod strategy;
