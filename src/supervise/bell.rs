//! `[broker]` What wakes a thread that waits for descriptors: other threads ring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// An eventfd(2). Rings before it is heard are one.
#[derive(Debug)]
pub(super) struct Bell(EventFd);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    pub(super) fn ring(&self) {
        // It fails when nobody has listened 2^64 times: it rings then already.
        let _ = self.0.write(1);
    }

    /// It rings no more, until somebody rings again. To be called before looking at what there is to hear of.
    pub(super) fn hush(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The moment after this time, or one far in the future where that cannot be said.
pub(super) fn moment_after(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or(now + Duration::from_secs(u32::MAX.into()))
}

/// Waits until one of these can be read, or this moment has come, or a signal; it may come back without any of that.
pub(super) fn wait_for<'f>(fds: impl IntoIterator<Item = BorrowedFd<'f>>, until: Option<Instant>) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let timeout = until.map_or(PollTimeout::NONE, |until| {
        // Rounded up: a moment that has not quite come would be asked for over and over.
        let rest = until.saturating_duration_since(Instant::now()).as_nanos().div_ceil(1_000_000);
        i32::try_from(rest).ok().and_then(|rest| PollTimeout::try_from(rest).ok()).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
