//! The httvps gateway as a library: configuration, accept, authentication, relay, telemetry, drain
