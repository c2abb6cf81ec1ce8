//! wire-generated
