//! Test helpers: certificates, scripted backend, in-memory transport
