//! SSH
