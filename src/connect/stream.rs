//! A TCP connection that owns its lease.

use super::lease::Lease;
use crate::ledger::FourTuple;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::ManuallyDrop;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// A TCP connection together with the lease of its four-tuple.
///
/// It reads and writes as a [`TcpStream`] does, and [`LeasedStream::get_ref`] gives that stream.
/// When it is dropped, the kernel is asked who closed first, the descriptor is closed, and only
/// then the four-tuple is given back, to rest as long as the kernel needs after such a close.
///
/// A connection lives until all its descriptors are closed, so a duplicate
/// ([`TcpStream::try_clone`]) must not outlive the `LeasedStream`.
pub struct LeasedStream {
    // Dropped by hand: the descriptor is closed before its lease is released.
    stream: ManuallyDrop<TcpStream>,
    lease: ManuallyDrop<Lease<'static>>,
}

impl LeasedStream {
    /// Joins a stream with the lease that it was connected under: its source and destination are
    /// those of the lease. [`Pool::adopt`](crate::Pool::adopt) finds the lease by itself.
    pub fn from_parts(stream: TcpStream, lease: Lease<'static>) -> Self {
        Self { stream: ManuallyDrop::new(stream), lease: ManuallyDrop::new(lease) }
    }

    /// Takes stream and lease apart. From now on the caller closes the stream before the lease is
    /// released.
    pub fn into_parts(self) -> (TcpStream, Lease<'static>) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped nor used again, so each part is taken exactly once.
        unsafe { (ManuallyDrop::take(&mut this.stream), ManuallyDrop::take(&mut this.lease)) }
    }

    /// The stream, for its options and addresses.
    pub fn get_ref(&self) -> &TcpStream {
        &self.stream
    }

    /// The lease.
    pub fn lease(&self) -> &Lease<'static> {
        &self.lease
    }

    /// Both ends of the connection.
    pub fn four_tuple(&self) -> FourTuple {
        self.lease.four_tuple()
    }

    /// Closes the connection, then gives its four-tuple back: what dropping it does.
    pub fn close(self) {}
}

impl Drop for LeasedStream {
    fn drop(&mut self) {
        // SAFETY: the fields are not used again after this, the only place that drops them.
        let (stream, lease) =
            unsafe { (ManuallyDrop::take(&mut self.stream), ManuallyDrop::take(&mut self.lease)) };
        lease.close(stream);
    }
}

impl Read for LeasedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&mut &*self.stream).read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&mut &*self.stream).read_vectored(buffers)
    }
}

impl Write for LeasedStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&mut &*self.stream).write(buffer)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&mut &*self.stream).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&mut &*self.stream).flush()
    }
}

impl Read for &LeasedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&mut &*self.stream).read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&mut &*self.stream).read_vectored(buffers)
    }
}

impl Write for &LeasedStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&mut &*self.stream).write(buffer)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&mut &*self.stream).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&mut &*self.stream).flush()
    }
}

impl AsFd for LeasedStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for LeasedStream {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl fmt::Debug for LeasedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedStream")
            .field("fd", &self.as_raw_fd())
            .field("four_tuple", &self.four_tuple())
            .finish()
    }
}
