//! The httvps gateway as a library: accept, authentication, relay, drain.
//!
//! The way of a connection: [`accept`](Gateway) → TLS → HTTP → WebSocket → `hello` → the backend's
//! verdict → a session that relays streams to upstreams. One task takes a connection to its verdict
//! under one absolute deadline; another, smaller one is the session.

mod accept;
mod admission;
mod authorities;
pub mod backend;
mod context;
mod device;
mod dial;
mod gateway;
mod http;
mod http_connection;
mod https;
mod memory_budget;
pub mod nodes;
mod overload;
mod registry;
mod session;
mod source;

pub use gateway::{Gateway, Signals, StartError, TaskDied, check, host_warnings};
pub use memory_budget::{BudgetSource, MemoryBudget};
