//! Tests of grpc.
