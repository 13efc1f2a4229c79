//! Mutual TLS with SPIFFE identities: acceptor, verifiers, client channels.
