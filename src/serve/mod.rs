//! Assembles and runs the server.
