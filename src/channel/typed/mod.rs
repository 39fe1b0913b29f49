//! `[both]` Descriptors as the types that they are meant to be, after the kernel was asked what they are.
//!
//! A descriptor that came from another process is whatever that process chose to send. Taken as it is, a directory can
//! become a `File`, a connected socket a `TcpListener` whose every `accept` fails, and a file that the sender can still
//! truncate a memory map that raises SIGBUS. Here each descriptor is checked before it gets a type:
//!
//! | asked for | what the kernel must say |
//! |-----------|--------------------------|
//! | [`OwnedFd`] | nothing: any descriptor |
//! | [`File`] | a regular file (a memfd is one), open for reading or writing |
//! | [`TcpListener`], [`TcpStream`] | an IPv4 or IPv6 stream socket of TCP or MPTCP that listens, or does not |
//! | [`UdpSocket`] | an IPv4 or IPv6 datagram socket of UDP: not UDP-Lite, not ICMP |
//! | [`UnixListener`], [`UnixStream`] | a UNIX stream socket that listens, or does not |
//! | [`UnixDatagram`] | a UNIX datagram socket |
//! | [`Channel`] | a UNIX socket of any of the [kinds](crate::Kind) that does not listen |
//! | [`PipeReader`], [`PipeWriter`] | a pipe or FIFO that is open for reading only, or for writing only |
//! | [`Memfd<REQUIRED>`](Memfd) | a memfd that has the required [seals](seal) |
//! | [`PidFd`] | a pidfd, of a process or a thread, alive or not |
//! | your own type | what your [`FromDescriptor`] asks |
//!
//! ```
//! use std::{fs::File, net::TcpListener, os::fd::AsFd};
//! use fdbroker::{Channel, Packet, TakeError};
//!
//! let (here, there) = Channel::pair()?;
//! let (listener, log) = (TcpListener::bind("127.0.0.1:0")?, File::open("LICENSE-MIT")?);
//! here.send(b"start", &[listener.as_fd(), log.as_fd()])?;
//! here.send(b"again", &[log.as_fd()])?;
//!
//! let mut packet = Packet::new();
//! there.recv(&mut packet)?;
//! let (listener, log) = packet.take_all::<(TcpListener, File)>()?;
//! # let _ = (listener.local_addr()?, log.metadata()?);
//!
//! there.recv(&mut packet)?;
//! let error = packet.take_one::<TcpListener>().unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "descriptor 0 is a regular file, open for reading, where a listening TCP socket is expected; all were closed"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a check is worth
//!
//! File type and access mode of a descriptor never change, seals only grow, and a socket stays what it is (but that
//! IPV6_ADDRFORM can make an IPv6 socket an IPv4 one, and both are taken alike). The rest is a fact of one moment,
//! because the sender can keep a duplicate: a socket can begin or cease to listen, and whether it is connected is not
//! even asked. O_NONBLOCK, the offset and a socket's options are shared with the sender for good (K5).
//!
//! A regular file is no promise about the file system: the files of /proc, of namespaces (`/proc/self/ns`) and of FUSE
//! are regular too, and reading one of FUSE waits for whoever serves it. The checks themselves do not wait.
//!
//! Closing can wait, and whoever sent the descriptor can choose for how long (K42): the last reference to a TCP socket
//! with SO_LINGER and unsent data, or a file of FUSE. For TCP it makes no difference whether this process closes the
//! socket or the kernel discards a surplus one while it receives. Only
//! [`refuse_descriptors`](crate::Channel::refuse_descriptors) (SO_PASSRIGHTS) keeps such descriptors out.
//!
//! # System calls of the checks
//!
//! Each check takes a few system calls and no heap; of the types, `Vec` and a [`Channel`] of
//! [`Kind::Stream`](crate::Kind::Stream) allocate. A system-call filter must allow:
//!
//! * statx, fcntl (F_GETFL, F_GET_SEALS) and getsockopt, for all types;
//! * memfd_create, for a [`Memfd`] whose seals do not tell it from another file;
//! * waitid, for a [`PidFd`].
//!
//! The [sandbox](crate::Sandbox) of this crate allows what is asked here, waitid of a pidfd among it.
//!
//! [`File`]: std::fs::File
//! [`TcpListener`]: std::net::TcpListener
//! [`TcpStream`]: std::net::TcpStream
//! [`UdpSocket`]: std::net::UdpSocket
//! [`UnixListener`]: std::os::unix::net::UnixListener
//! [`UnixStream`]: std::os::unix::net::UnixStream
//! [`UnixDatagram`]: std::os::unix::net::UnixDatagram
//! [`Channel`]: crate::Channel
//! [`PidFd`]: crate::PidFd

mod descriptor;
mod kinds;
#[cfg(target_os = "linux")]
mod memfd;
mod pipe;
mod several;

pub use descriptor::{Access, Descriptor, Domain, FileType, Found, Protocol, Socket, SocketType};
#[cfg(target_os = "linux")]
pub use memfd::{Memfd, seal};
pub use pipe::{PipeReader, PipeWriter};

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};

use super::Packet;
use crate::error::TakeError;

/// A type that one descriptor can become, once the kernel was asked whether it is one. Implement it for types of your
/// own:
///
/// ```
/// use std::{fs::File, io, os::fd::AsFd};
/// use fdbroker::typed::{Access, Checked, Descriptor, FromDescriptor};
/// use fdbroker::{Channel, Packet, TakeError};
///
/// /// A file that its holder cannot change.
/// struct ReadOnly(File);
///
/// impl FromDescriptor for ReadOnly {
///     const EXPECTED: &'static str = "a regular file, open for reading only";
///
///     fn accepts(descriptor: &Descriptor<'_>) -> io::Result<bool> {
///         Ok(File::accepts(descriptor)? && descriptor.access()? == Access::Read)
///     }
///
///     fn from_checked(fd: Checked<Self>) -> Self {
///         Self(fd.into_fd().into())
///     }
/// }
///
/// let (here, there) = Channel::pair()?;
/// let mut packet = Packet::new();
/// here.send(b"to read", &[File::open("LICENSE-MIT")?.as_fd()])?;
/// there.recv(&mut packet)?;
/// assert!(packet.take_one::<ReadOnly>()?.0.metadata()?.len() > 0);
///
/// here.send(b"to write", &[File::options().write(true).open("/dev/null")?.as_fd()])?;
/// there.recv(&mut packet)?;
/// assert!(matches!(packet.take_one::<ReadOnly>(), Err(TakeError::WrongKind { position: 0, .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait FromDescriptor: Sized {
    /// What is expected, in words that go on from "where …": "a listening TCP socket". For errors.
    const EXPECTED: &'static str;

    /// Whether the descriptor is of this kind. It must not be read from, written to or otherwise changed: the sender
    /// may hold a duplicate, and the answer may be no.
    ///
    /// # Errors
    /// Those of the system calls that ask. They are reported as [`TakeError::Os`].
    fn accepts(descriptor: &Descriptor<'_>) -> io::Result<bool>;

    /// Gives the type to a descriptor that was [accepted](Self::accepts).
    fn from_checked(fd: Checked<Self>) -> Self;
}

/// A descriptor that [`FromDescriptor::accepts`] of `T` has accepted. Only this crate makes one, so that a `T` that is
/// made of it cannot be made without the check:
///
/// ```compile_fail
/// # use fdbroker::typed::{Checked, FromDescriptor};
/// fn forge(fd: std::os::fd::OwnedFd) -> fdbroker::PidFd {
///     FromDescriptor::from_checked(Checked::new(fd))
/// }
/// ```
pub struct Checked<T> {
    fd: OwnedFd,
    for_type: PhantomData<fn() -> T>,
}

impl<T> Checked<T> {
    fn new(fd: OwnedFd) -> Self {
        Self { fd, for_type: PhantomData }
    }

    /// The descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl<T> fmt::Debug for Checked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Checked").field(&self.fd).finish()
    }
}

/// What the descriptors of one message can become together: `()`, tuples of one to six [`FromDescriptor`]s, arrays, and
/// [`Vec`] for a number that the sender chooses. (For a struct of your own, map a tuple.)
pub trait FromDescriptors: several::Several {}

impl<T: several::Several> FromDescriptors for T {}

/// Checks one descriptor, wherever it came from: inherited as standard input, say.
///
/// # Errors
/// [`TakeError::WrongKind`], [`TakeError::Os`]; the descriptor is closed.
pub fn from_fd<T: FromDescriptor>(fd: OwnedFd) -> Result<T, TakeError> {
    check::<T>(0, &fd)?;
    Ok(T::from_checked(Checked::new(fd)))
}

/// Checks several descriptors, wherever they came from. Positions in errors are those of `fds`.
///
/// # Errors
/// As for [`Packet::take_all`]; every descriptor is closed.
pub fn from_fds<T: FromDescriptors>(mut fds: Vec<OwnedFd>) -> Result<T, TakeError> {
    take_all(&mut fds)
}

impl Packet {
    /// Takes the one descriptor of the message, as what the kernel says that it is. The bytes stay.
    ///
    /// # Errors
    /// Every descriptor of the message is then closed: none is left to be taken by accident.
    /// * [`TakeError::WrongCount`]: no descriptor, or several. One that was [taken](Self::take_fds) before is none.
    /// * [`TakeError::WrongKind`]: something else than a `T`.
    /// * [`TakeError::Os`]: the kernel did not say.
    pub fn take_one<T: FromDescriptor>(&mut self) -> Result<T, TakeError> {
        self.take_all().map(|(one,)| one)
    }

    /// As [`take_one`](Self::take_one), for a packet that is of no more use.
    ///
    /// # Errors
    /// As for [`take_one`](Self::take_one).
    pub fn into_one<T: FromDescriptor>(mut self) -> Result<T, TakeError> {
        self.take_one()
    }

    /// Takes all the descriptors of the message, in order, as what the kernel says that they are: all of them or none.
    ///
    /// ```
    /// # use std::{fs::File, os::fd::AsFd};
    /// # use fdbroker::{Channel, Packet};
    /// # fn message(count: usize) -> Result<Packet, Box<dyn std::error::Error>> {
    /// #     let (here, there) = Channel::pair()?;
    /// #     let file = File::open("LICENSE-MIT")?;
    /// #     here.send(b"x", &vec![file.as_fd(); count])?;
    /// #     let mut packet = Packet::new();
    /// #     there.recv(&mut packet)?;
    /// #     Ok(packet)
    /// # }
    /// # let mut packet = message(2)?;
    /// let (config, log) = packet.take_all::<(File, File)>()?;
    /// # let mut packet = message(3)?;
    /// let three = packet.take_all::<[File; 3]>()?;
    /// # let mut packet = message(5)?;
    /// let as_many_as_came = packet.take_all::<Vec<File>>()?;
    /// # assert_eq!(as_many_as_came.len(), 5);
    /// # let mut packet = message(0)?;
    /// packet.take_all::<()>()?; // There are none, or this is an error.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`take_one`](Self::take_one). The first descriptor that is wrong is the one reported.
    pub fn take_all<T: FromDescriptors>(&mut self) -> Result<T, TakeError> {
        take_all(&mut self.arrived.fds)
    }
}

/// Every way out of here, a panic of a user's check among them, drops the drain and closes what it still has.
fn take_all<T: FromDescriptors>(fds: &mut Vec<OwnedFd>) -> Result<T, TakeError> {
    let fds = fds.drain(..);
    T::check(fds.as_slice())?;
    Ok(T::make(fds))
}

fn check<T: FromDescriptor>(position: usize, fd: &OwnedFd) -> Result<(), TakeError> {
    let descriptor = Descriptor::of(fd.as_fd());
    let os = |source| TakeError::Os { position, expected: T::EXPECTED, source };
    if T::accepts(&descriptor).map_err(os)? {
        return Ok(());
    }
    let found = descriptor.describe().map_err(os)?;
    Err(TakeError::WrongKind { position, expected: T::EXPECTED, found })
}
