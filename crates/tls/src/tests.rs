//! Tests with real sockets on the loopback interface.

mod enrolment;
mod handshake;
mod issuing;
mod load;
mod plain;
mod service;
