//! The only place with system calls: options, binding, errno to verdict, clock.
