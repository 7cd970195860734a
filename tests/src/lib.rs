//! The harness of the tests that start whole parts: processes, clusters and clients. Everything binds to loopback, port
//! 0, is bounded in time, and ends only processes that it started.
