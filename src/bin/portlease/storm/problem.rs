//! What stands in a storm's way, and the way out.

use std::fmt;

/// An impossible request or a failure that ends the storm.
#[derive(Debug)]
pub(crate) struct Problem {
    what: String,
    way_out: String,
    status: u8,
}

impl Problem {
    /// Known before the first connection.
    pub(crate) fn impossible(what: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { what: what.into(), way_out: way_out.into(), status: 2 }
    }

    /// Met on the way.
    pub(crate) fn failed(what: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { what: what.into(), way_out: way_out.into(), status: 1 }
    }

    /// Told by a signal to end.
    pub(crate) fn interrupted(signal: i32) -> Self {
        Self {
            what: format!("ended by signal {signal}; all connections are closed"),
            way_out: String::new(),
            status: 128 + signal as u8,
        }
    }

    pub(crate) fn is_interrupt(&self) -> bool {
        self.status > 128
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.way_out.as_str() {
            "" => Ok(()),
            way_out => write!(f, "; {way_out}"),
        }
    }
}
