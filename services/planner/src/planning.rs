//! Pure planning: requests become plans. Nothing here reads or writes anything.

pub mod build;
pub mod redrive;
pub mod request;
pub mod routing;
