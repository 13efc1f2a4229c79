//! The wire contract: generated code and conversions to the domain.
