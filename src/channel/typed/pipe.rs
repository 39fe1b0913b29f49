//! `[both]` The ends of a pipe.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;

use super::descriptor::{Access, Descriptor, FileType};
use super::{Checked, FromDescriptor};

/// The end of a pipe, or of a FIFO, that is read. A descriptor that can write to the pipe as well, as O_RDWR on a FIFO
/// gives, is none: its holder would never see the end of the file.
///
/// Reading waits, unless O_NONBLOCK is set on the open file description, which the sender shares (K5).
#[derive(Debug)]
pub struct PipeReader(File);

/// The end of a pipe, or of a FIFO, that is written.
///
/// Writing waits for room, as reading does for bytes. Without a reader it is EPIPE, and SIGPIPE in a program that does
/// not ignore it (Rust's do, unless told otherwise).
#[derive(Debug)]
pub struct PipeWriter(File);

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.0.read_vectored(buffers)
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The end, by its access mode.
macro_rules! end {
    ($end:ident, $access:expr, $expected:literal) => {
        impl FromDescriptor for $end {
            const EXPECTED: &'static str = $expected;

            fn accepts(descriptor: &Descriptor<'_>) -> io::Result<bool> {
                Ok(descriptor.file_type()? == FileType::Fifo && descriptor.access()? == $access)
            }

            fn from_checked(fd: Checked<Self>) -> Self {
                Self(fd.into_fd().into())
            }
        }

        impl AsFd for $end {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }
        }

        impl From<$end> for OwnedFd {
            fn from(end: $end) -> Self {
                end.0.into()
            }
        }

        /// For a child process.
        impl From<$end> for Stdio {
            fn from(end: $end) -> Self {
                end.0.into()
            }
        }
    };
}

end!(PipeReader, Access::Read, "a pipe, open for reading only");
end!(PipeWriter, Access::Write, "a pipe, open for writing only");
