//! The device: session, install, serve, train.
