//! Drives one httvps protocol session over one message transport
