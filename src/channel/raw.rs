//! `[both]` One sendmsg(2) and one recvmsg(2) with descriptors, on any UNIX socket, and nothing more.
//!
//! For peers that are not [`Channel`](crate::Channel)s: over a stream they know nothing of its frames. (Over
//! SOCK_SEQPACKET and SOCK_DGRAM a `Channel` speaks with any peer.) What the kernel says is reported as it is, but
//! descriptors are close-on-exec and owned from the first instant, no SIGPIPE is raised, and EINTR is answered by
//! another try.
//!
//! What to know of SOCK_STREAM: bytes have no boundaries, and a receive can hold those of several sends; descriptors
//! come with the first byte of what they were sent with; a send that carries descriptors needs at least one byte (K24,
//! K25).
//!
//! Perl's `IO::FDPass` sends each descriptor with one byte, 0, and takes none that comes with another.
//!
//! ```
//! use std::{fs::File, os::fd::AsFd, os::unix::net::UnixStream};
//! use fdbroker::raw::{self, Ancillary};
//!
//! let (here, there) = UnixStream::pair()?;
//! raw::send(&here, b"x", &[File::open("LICENSE-MIT")?.as_fd()])?;
//!
//! let (mut bytes, mut ancillary) = ([0; 64], Ancillary::new(1));
//! let received = raw::recv(&there, &mut bytes, &mut ancillary)?;
//! assert!(received.len == 1 && !received.ancillary_cut);
//! let file = File::from(ancillary.take_fds().next().unwrap());
//! # Ok::<(), std::io::Error>(())
//! ```

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::peer::{self, Credentials, PidFd};
use crate::sys::scm::{self, Arrived, Room};

/// Sends `bytes`, or on a stream perhaps only the first of them, with duplicates of `fds`, all or none. Answers the
/// number of bytes. The socket has to be a UNIX socket, which is not asked: over another the kernel sends the bytes and
/// drops the descriptors, and says nothing.
///
/// # Errors
/// Those of sendmsg(2). EINVAL: more than 253 descriptors ([`MAX_FDS`](crate::MAX_FDS)), or descriptors without a byte
/// on a stream, where the kernel would drop them. EAGAIN: the socket is non-blocking, or its timeout has passed.
#[inline]
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let socket = socket.as_fd();
    if bytes.is_empty() && !fds.is_empty() && crate::sys::socket::kind(socket)? == libc::SOCK_STREAM {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    scm::send(socket, &[IoSlice::new(bytes)], fds.iter().map(AsRawFd::as_raw_fd), 0)
}

/// Receives once: bytes into `bytes`, and into `ancillary`, which is emptied before, what came with them.
///
/// # Errors
/// Those of recvmsg(2). EAGAIN: the socket is non-blocking, or its timeout has passed.
#[inline]
pub fn recv(socket: impl AsFd, bytes: &mut [u8], ancillary: &mut Ancillary) -> io::Result<Received> {
    ancillary.arrived.clear();
    let socket = socket.as_fd();
    let received = scm::recv(socket, bytes, &mut ancillary.arrived, ancillary.room, 0)?;
    let surplus = ancillary.arrived.fds.len() > ancillary.room.fds;
    ancillary.arrived.fds.truncate(ancillary.room.fds);
    let nothing = !received.control && !received.control_cut;
    // With SO_PASSCRED the end of a stream comes with credentials, which are nobody's, or with the news that they were
    // cut.
    let end_of_stream = || crate::sys::socket::kind(socket).is_ok_and(|kind| kind == libc::SOCK_STREAM);
    let hung_up = received.len == 0 && !bytes.is_empty() && (nothing || end_of_stream());
    Ok(Received {
        len: received.len,
        bytes_cut: received.bytes_cut,
        ancillary_cut: !hung_up && (received.control_cut || received.no_pidfd || surplus),
        hung_up,
    })
}

/// What came with the bytes of a receive. Make one, and use it again and again: it allocates when it is made and never
/// again. What nobody took is closed by the next receive, and when this is dropped.
pub struct Ancillary {
    arrived: Arrived,
    room: Room,
}

impl Ancillary {
    /// Room for `max_fds` descriptors, at most 253, and for nothing else: the kernel cannot install more.
    #[must_use]
    pub fn new(max_fds: usize) -> Self {
        Self { arrived: Arrived::new(), room: Room { fds: max_fds.min(scm::MAX_FDS), ..Room::default() } }
    }

    /// Room for the sender's credentials and its pidfd as well, for a socket with SO_PASSCRED or SO_PASSPIDFD. Without,
    /// they take the room of the descriptors.
    #[must_use]
    pub fn with_sender(mut self) -> Self {
        (self.room.credentials, self.room.pidfd) = (true, true);
        self
    }

    /// The descriptors that came and have not been taken, in the order in which they were sent.
    #[must_use]
    pub fn fds(&self) -> &[OwnedFd] {
        &self.arrived.fds
    }

    /// Takes the descriptors, in order. Those that the iterator has not given when it is dropped are closed.
    pub fn take_fds(&mut self) -> impl ExactSizeIterator<Item = OwnedFd> + '_ {
        self.arrived.fds.drain(..)
    }

    /// The sender, where the socket has SO_PASSCRED; `None` where the kernel does not know it, as for
    /// [`Packet::sender`](crate::Packet::sender).
    #[must_use]
    pub fn sender(&self) -> Option<Credentials> {
        peer::sender(&self.arrived)
    }

    /// Takes the sender's pidfd, where the socket has SO_PASSPIDFD, as
    /// [`Packet::take_sender_pidfd`](crate::Packet::take_sender_pidfd).
    pub fn take_sender_pidfd(&mut self) -> Option<PidFd> {
        peer::take_pidfd(&mut self.arrived)
    }
}

impl fmt::Debug for Ancillary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ancillary").field("fds", &self.fds()).field("room", &self.room).finish_non_exhaustive()
    }
}

/// What one receive said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// Bytes received.
    pub len: usize,
    /// The message had more bytes, which are lost (MSG_TRUNC). Never on a stream.
    pub bytes_cut: bool,
    /// More came with it, and was closed: there were more descriptors than room, or than free numbers in this process's
    /// table (MSG_CTRUNC). What is in the [`Ancillary`] is a part; do not act on it.
    pub ancillary_cut: bool,
    /// Nothing came at all: the peer has closed its end or, but on a stream, has sent an empty message. Not told if
    /// there was no room for bytes.
    pub hung_up: bool,
}
