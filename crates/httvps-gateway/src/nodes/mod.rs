//! Which Outline node a session uses.

pub mod health;
pub mod select;
