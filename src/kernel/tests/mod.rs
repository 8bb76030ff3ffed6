//! Real sockets in namespaces of their own.

mod binding;
mod resting;
