//! The httvps protocol without I/O: frames, codec, session and stream state, limits, codes
