//! `[broker -> worker]` Where a worker's standard descriptors lead.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

/// Where a standard descriptor of a worker leads.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Stdio {
    /// To /dev/null.
    Null,
    /// To where the broker's leads. A terminal or a pipe is opened once more, for one direction only; what cannot be
    /// opened again (files, sockets, another user's terminal) is shared. If the broker's is closed: /dev/null.
    Inherit,
    /// To a pipe, whose other end the [`Worker`](super::Worker) has: `take_stdout`, `take_stderr`.
    Pipe,
    /// To a pipe that a thread of the broker's reads, a line at a time: see [`Sandbox::log`](super::Sandbox::log).
    Log,
    /// To this descriptor, of which each worker gets a duplicate. The sandbox and what is prepared from it keep it open: the
    /// reader of a pipe sees its end when they are dropped as well.
    Fd(Arc<OwnedFd>),
}

impl Stdio {
    /// [`Stdio::Null`].
    #[must_use]
    pub const fn null() -> Self {
        Self::Null
    }

    /// [`Stdio::Inherit`].
    #[must_use]
    pub const fn inherit() -> Self {
        Self::Inherit
    }

    /// [`Stdio::Pipe`].
    #[must_use]
    pub const fn piped() -> Self {
        Self::Pipe
    }

    /// [`Stdio::Log`].
    #[must_use]
    pub const fn log() -> Self {
        Self::Log
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self::Fd(Arc::new(fd))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

/// What one start puts at a standard number, and the other end of a pipe.
pub(super) struct Opened {
    pub(super) end: OwnedFd,
    pub(super) other: Option<OwnedFd>,
}

impl Stdio {
    /// Opens it for the worker's descriptor `number`. What is opened has a number of at least `above`, so that nothing
    /// is in the way of what the child puts at its places.
    pub(super) fn open(&self, number: RawFd, above: RawFd) -> io::Result<Opened> {
        let reads = number == 0;
        let (end, other) = match self {
            Self::Null => (null()?, None),
            Self::Inherit => (inherited(number, reads)?, None),
            Self::Fd(fd) => (fd.try_clone()?, None),
            Self::Pipe | Self::Log => {
                let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
                let (end, other) = if reads { (read, write) } else { (write, read) };
                (end, Some(moved(other, 3)?))
            }
        };
        Ok(Opened { end: moved(end, above)?, other })
    }
}

/// The same descriptor, with a number of at least `above`.
pub(super) fn moved(fd: OwnedFd, above: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= above {
        return Ok(fd);
    }
    crate::sys::descriptor::duplicate_above(fd.as_fd(), above)
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}

fn inherited(number: RawFd, reads: bool) -> io::Result<OwnedFd> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let standard = match number {
        0 => stdin.as_fd(),
        1 => stdout.as_fd(),
        _ => stderr.as_fd(),
    };
    // A broker that has closed it may have something else there by now, which is closed on exec.
    let flags = fcntl(standard, FcntlArg::F_GETFD);
    if !flags.is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0) {
        return null();
    }
    reopened(standard, reads).map_or_else(|| standard.try_clone_to_owned(), Ok)
}

/// The broker's own standard descriptor for a worker: the same terminal or pipe, but opened once more, for one direction
/// only, so that what the worker does to its flags (O_NONBLOCK) is not done to the broker's, and a terminal is not
/// there to be read. `None` where that cannot be, and for files, where the two must share one offset: the worker then
/// gets a duplicate.
fn reopened(fd: BorrowedFd<'_>, reads: bool) -> Option<OwnedFd> {
    use std::os::unix::fs::FileTypeExt;
    let metadata = File::from(fd.try_clone_to_owned().ok()?).metadata().ok()?;
    if !metadata.file_type().is_fifo() && !metadata.file_type().is_char_device() {
        return None;
    }
    // Without O_NONBLOCK, a pipe that nobody reads any more would hold this up.
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let file = File::options().read(reads).write(!reads).custom_flags(flags).open(path).ok()?;
    let status = fcntl(file.as_fd(), FcntlArg::F_GETFL).ok()?;
    let blocking = OFlag::from_bits_retain(status) & !OFlag::O_NONBLOCK;
    fcntl(file.as_fd(), FcntlArg::F_SETFL(blocking)).ok()?;
    Some(file.into())
}

/// What a worker has written: one line of it, without its end, or [`Line::MAX`] bytes of a longer one.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// The worker's process id.
    pub worker: u32,
    /// 1 for standard output, 2 for standard error.
    pub stream: i32,
    /// Any bytes: a hostile worker's, too.
    pub bytes: &'a [u8],
}

impl Line<'_> {
    /// The most bytes that are handed over at once.
    pub const MAX: usize = 4096;
}

/// The bytes as text, with everything escaped that is not printable.
impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write;
        String::from_utf8_lossy(self.bytes).chars().try_for_each(|character| match character {
            '\'' | '"' => f.write_char(character),
            // Controls, what turns the direction of text, and the backslash that would otherwise look like an escape.
            other => write!(f, "{}", other.escape_debug()),
        })
    }
}

/// Takes the lines that workers write.
pub(super) type Log = Arc<dyn Fn(&Line<'_>) + Send + Sync>;

/// Reads one of a worker's streams until nobody has its other end any more, or the worker has ended and what was written
/// by then is read: who else holds the end does not keep the thread.
pub(super) fn follow(
    stream: OwnedFd,
    worker: u32,
    pidfd: OwnedFd,
    number: RawFd,
    log: Log,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name("log".to_owned()).spawn(move || {
        let mut stream = File::from(stream);
        let mut line = Vec::with_capacity(Line::MAX);
        let say = |line: &mut Vec<u8>| {
            log(&Line { worker, stream: number, bytes: line });
            line.clear();
        };
        let mut buffer = [0; Line::MAX];
        // As much as a pipe holds by default, and more than that only from who goes on writing.
        let mut after_the_end: usize = 1 << 16;
        while after_the_end > 0 {
            let mut waited = [stream.as_fd(), pidfd.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let ready = poll(&mut waited, PollTimeout::NONE);
            let [there, ended] = waited.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            match ready {
                Err(Errno::EINTR) => continue,
                Ok(_) if there => {}
                // It has ended, and there is nothing left.
                _ => break,
            }
            let Ok(read @ 1..) = stream.read(&mut buffer) else { break };
            if ended {
                after_the_end = after_the_end.saturating_sub(read);
            }
            for &byte in buffer.get(..read).unwrap_or_default() {
                if byte == b'\n' || line.len() == Line::MAX {
                    say(&mut line);
                }
                if byte != b'\n' {
                    line.push(byte);
                }
            }
        }
        if !line.is_empty() {
            say(&mut line);
        }
    })
}
