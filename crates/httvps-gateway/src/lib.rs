//! The httvps gateway as a library: accept, authentication, relay, drain.
//!
//! The way of a connection: [`accept`](Gateway) → TLS → HTTP → WebSocket → `hello` → the backend's
//! verdict → a session that relays streams to upstreams. One task takes a connection to its verdict
//! under one absolute deadline; another, smaller one is the session.

mod accept;
mod admin;
mod admission;
mod context;
mod device;
mod gateway;
mod http;
mod http_connection;
mod memory_budget;
mod overload;
mod registry;
mod routes;
mod session;

pub use gateway::{Gateway, Signals, StartError, TaskDied, check, host_warnings};
pub use memory_budget::{BudgetSource, MemoryBudget};
