//! Where a stream goes: connectors, destination policy and name resolution
