//! Signed releases: manifests, content-addressed artifacts, TUF metadata. Pure.
