//! Sockets, TLS and WebSocket: carriers of messages for httvps
