//! The set of ports that are ours to lease.
