//! What a lease costs: portlease through its public interface, beside what people use today,
//! on one harness.
//!
//! - [`allocator`]: what is compared; [`mod@portlease`] and the [`alternatives`], each by our own
//!   hand.
//! - [`field`]: all of them side by side; [`tasks`]: what each of them is asked to do.
//! - [`workload`], [`million`], [`threads`]: how it is done.
//! - [`measure`], [`memory`]: how time and bytes are taken.
//! - [`dial`], [`namespace`]: real connections, where nobody is in the way.
//! - [`report`], [`plot`]: how it is told.
//!
//! `README.md` beside this package has the figures, and says what each leaves out.

pub mod allocator;
pub mod alternatives;
pub mod dial;
pub mod field;
pub mod measure;
pub mod memory;
pub mod million;
pub mod namespace;
pub mod plot;
pub mod portlease;
pub mod random;
pub mod report;
pub mod space;
pub mod tasks;
pub mod threads;
pub mod workload;
