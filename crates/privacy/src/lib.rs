//! Clipping, noise, accounting and the rules of the privacy ledger. Pure.
