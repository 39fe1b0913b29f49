//! `[broker]` Why a worker's life ended.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::oom::{OomKills, Scope};
use super::worker::Ended;
use super::{Limit, syscall};

/// The reason of a worker's end. [`Display`](fmt::Display) says it in words, with what to do about it.
///
/// # What it rests on
///
/// The exit code and the signal are the kernel's word. Out of memory and CPU time are conclusions: both end a process by
/// SIGKILL, which says no more. They are drawn only where this broker has not sent that signal itself: from a counter of
/// such kills that has grown since the worker's start, and from CPU time used of about the limit (half of it: the kernel
/// counts ticks against it, of which others may have had a part). Somebody else's SIGKILL may have come at the same moment. The signals SIGXCPU and
/// SIGXFSZ could have been sent by somebody as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Death {
    /// It ended itself, with this exit code; 0 is success.
    Exit(i32),
    /// A signal killed it, and none of the reasons below is known.
    #[non_exhaustive]
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether the kernel wrote a core file, or gave it to the system's handler.
        core_dumped: bool,
    },
    /// The system-call filter killed it for this system call (its number on this architecture).
    SystemCall(i64),
    /// It was killed (SIGKILL) while the kernel counted a kill for want of memory.
    #[non_exhaustive]
    OutOfMemory {
        /// Whether the count is that of the cgroup in which it was started (`oom_kill` in memory.events, or of version 1
        /// in memory.oom_control), where only its own kind is counted. Otherwise the whole system's (/proc/vmstat):
        /// another process may have been the one.
        in_its_cgroup: bool,
    },
    /// It was killed for a limit: [`Limit::CpuTime`] or [`Limit::FileSize`].
    Limit(Limit),
    /// This broker killed it.
    Killed,
}

impl Death {
    /// Whether it ended itself with exit code 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == Self::Exit(0)
    }

    /// The reason in a word: `exit`, `signal`, `system-call`, `out-of-memory`, `limit`, `killed`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Exit(_) => "exit",
            Self::Signal { .. } => "signal",
            Self::SystemCall(_) => "system-call",
            Self::OutOfMemory { .. } => "out-of-memory",
            Self::Limit(_) => "limit",
            Self::Killed => "killed",
        }
    }

    /// The name of the system call that it was killed for, if it was and the name is known here: `socket`.
    #[must_use]
    pub fn system_call(&self) -> Option<&'static str> {
        match self {
            Self::SystemCall(number) => syscall::name(*number),
            _ => None,
        }
    }

    /// One JSON object on one line, of printable ASCII: `reason` as [`reason`](Self::reason) has it, `success`, `text`
    /// as it is displayed; and by the reason `code`; `signal` (number), `name` and `core_dumped`; `number` and `name`
    /// (of the system call); `in_its_cgroup`; `limit`. A `name` that is not known is null.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Of these texts, none has anything to escape.
        let text_or_null = |text: Option<&str>| text.map_or_else(|| "null".to_owned(), |text| format!("\"{text}\""));
        let more = match self {
            Self::Exit(code) => format!("\"code\":{code},"),
            Self::Signal { number, core_dumped } => {
                let name = text_or_null(signal_name(*number));
                format!("\"signal\":{number},\"name\":{name},\"core_dumped\":{core_dumped},")
            }
            Self::SystemCall(number) => format!("\"number\":{number},\"name\":{},", text_or_null(self.system_call())),
            Self::OutOfMemory { in_its_cgroup } => format!("\"in_its_cgroup\":{in_its_cgroup},"),
            Self::Limit(limit) => format!("\"limit\":\"{limit}\","),
            Self::Killed => String::new(),
        };
        let (reason, success) = (self.reason(), self.is_success());
        format!("{{\"reason\":\"{reason}\",\"success\":{success},{more}\"text\":\"{self}\"}}")
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exit(0) => f.write_str("it ended with exit code 0"),
            Self::Exit(101) => f.write_str(
                "it ended with exit code 101, as a Rust program does that panicked: see what it wrote to standard error",
            ),
            Self::Exit(code) => write!(f, "it ended with exit code {code}: see what it wrote to standard error"),
            Self::Signal { number, core_dumped } => {
                let name = signal_name(number).map_or_else(|| format!("signal {number}"), str::to_owned);
                let core = if core_dumped { ", and a core was dumped" } else { "" };
                write!(f, "{name} killed it{core}: {}", what_it_means(number))
            }
            Self::SystemCall(number) => {
                match syscall::name(number) {
                    Some(name) => write!(f, "its filter killed it for the system call {name} ({number})")?,
                    None => write!(f, "its filter killed it for system call {number} (`ausyscall {number}` names it)")?,
                }
                f.write_str(": if it needs that, allow the word that holds it, or have it refused with an errno")
            }
            Self::OutOfMemory { in_its_cgroup: true } => f.write_str(
                "memory ran out: it was killed while the kernel counted such a kill in its cgroup; \
                 give that more (memory.max), or the worker less to do",
            ),
            Self::OutOfMemory { in_its_cgroup: false } => f.write_str(
                "memory ran out, it seems: it was killed while the kernel counted such a kill somewhere; \
                 the kernel's log says of which process",
            ),
            Self::Limit(limit) => {
                write!(f, "it was killed at its limit on {limit}: raise that, if it is due so much")
            }
            Self::Killed => f.write_str("its broker killed it"),
        }
    }
}

fn what_it_means(signal: i32) -> &'static str {
    match signal {
        libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP => {
            "a fault in the program, or memory that it could not get; a core file or a debugger shows where"
        }
        libc::SIGABRT => "it aborted itself; see what it wrote to standard error",
        libc::SIGSYS => "a system-call filter refused it; which call, the kernel's log says (type=1326)",
        libc::SIGPIPE => "it wrote where nobody reads any more",
        libc::SIGKILL => "not by its broker, but by an administrator or the kernel; the kernel's log may say more",
        libc::SIGALRM | libc::SIGVTALRM | libc::SIGPROF => "a timer that it set itself, and does not handle",
        _ => "somebody sent it, and the worker does not handle it",
    }
}

fn signal_name(number: i32) -> Option<&'static str> {
    Signal::try_from(number).ok().map(Signal::as_str)
}

/// What was noted at a worker's start, to explain its end.
#[derive(Debug, Clone)]
pub(super) struct Notes {
    kills: Option<(OomKills, u64)>,
    cpu_time: Option<Duration>,
}

impl Notes {
    /// `kills`: the counter. `cpu_time`: the limit at which the kernel kills it.
    pub(super) fn at_start(kills: Option<&OomKills>, cpu_time: Option<Duration>) -> Self {
        let kills = kills.and_then(|kills| Some((kills.clone(), kills.before()?)));
        Self { kills, cpu_time }
    }

    /// To be asked as soon as it has ended.
    pub(super) fn explain(&self, ended: &Ended) -> Death {
        // Read only where it can make a difference.
        let kills = self.kills.as_ref().filter(|_| ended.status.signal() == Some(libc::SIGKILL) && !ended.killed);
        let counted = kills.and_then(|(kills, before)| (kills.count()? > *before).then(|| kills.scope()));
        explained(ended, counted, self.cpu_time)
    }
}

/// `counted`: where the kernel has counted a kill for want of memory meanwhile.
fn explained(ended: &Ended, counted: Option<Scope>, cpu_time: Option<Duration>) -> Death {
    let Some(number) = ended.status.signal() else { return Death::Exit(ended.status.code().unwrap_or_default()) };
    let used = ended.user_time + ended.system_time;
    match number {
        libc::SIGSYS | libc::SIGKILL if ended.refused.is_some() => Death::SystemCall(ended.refused.unwrap_or_default()),
        libc::SIGXCPU => Death::Limit(Limit::CpuTime),
        libc::SIGXFSZ => Death::Limit(Limit::FileSize),
        libc::SIGKILL if ended.killed => Death::Killed,
        libc::SIGKILL if cpu_time.is_some_and(|limit| is_about(used, limit)) => Death::Limit(Limit::CpuTime),
        libc::SIGKILL if counted.is_some() => Death::OutOfMemory { in_its_cgroup: counted == Some(Scope::Cgroup) },
        _ => Death::Signal { number, core_dumped: ended.status.core_dumped() },
    }
}

/// The kernel holds the limit against whole ticks of its clock, and tells what was used to the nanosecond: on a busy
/// machine a tick may be counted of which another process had a part.
fn is_about(used: Duration, limit: Duration) -> bool {
    used >= limit / 2
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    const SOCKET: i64 = libc::SYS_socket;
    const CORE: i32 = 0x80;

    /// What became of a process with this wait status.
    fn ended(status: i32) -> Ended {
        let none = Duration::ZERO;
        let status = ExitStatus::from_raw(status);
        Ended { status, user_time: none, system_time: none, refused: None, killed: false }
    }

    fn signal(number: i32) -> Death {
        Death::Signal { number, core_dumped: false }
    }

    #[test]
    fn each_end_has_its_reason() {
        let (cgroup, system) = (Some(Scope::Cgroup), Some(Scope::System));
        let second = Some(Duration::from_secs(1));
        let busy = |user_ms, system_ms| Ended {
            user_time: Duration::from_millis(user_ms),
            system_time: Duration::from_millis(system_ms),
            ..ended(9)
        };
        let killed = |status| Ended { killed: true, ..ended(status) };
        let refused = |status| Ended { refused: Some(SOCKET), ..ended(status) };
        let memory = |in_its_cgroup| Death::OutOfMemory { in_its_cgroup };
        for (ended, counted, cpu_time, death) in [
            (ended(0), None, None, Death::Exit(0)),
            (ended(7 << 8), None, None, Death::Exit(7)),
            (ended(255 << 8), cgroup, second, Death::Exit(255)),
            (ended(libc::SIGTERM), None, None, signal(libc::SIGTERM)),
            (ended(libc::SIGSEGV | CORE), None, None, Death::Signal { number: libc::SIGSEGV, core_dumped: true }),
            (ended(40), None, None, signal(40)),
            // The filter, whichever signal it kills by; but what it refused before another end is not the reason.
            (refused(libc::SIGSYS | CORE), None, None, Death::SystemCall(SOCKET)),
            (refused(libc::SIGKILL), cgroup, None, Death::SystemCall(SOCKET)),
            (Ended { killed: true, ..refused(libc::SIGKILL) }, None, None, Death::SystemCall(SOCKET)),
            (refused(0), None, None, Death::Exit(0)),
            (refused(libc::SIGSEGV), None, None, signal(libc::SIGSEGV)),
            (ended(libc::SIGSYS), None, None, signal(libc::SIGSYS)),
            // Memory.
            (ended(libc::SIGKILL), None, None, signal(libc::SIGKILL)),
            (ended(libc::SIGKILL), cgroup, None, memory(true)),
            (ended(libc::SIGKILL), system, None, memory(false)),
            (ended(libc::SIGTERM), cgroup, None, signal(libc::SIGTERM)),
            (killed(libc::SIGKILL), cgroup, None, Death::Killed),
            // Limits.
            (ended(libc::SIGXCPU), None, None, Death::Limit(Limit::CpuTime)),
            (ended(libc::SIGXFSZ), None, second, Death::Limit(Limit::FileSize)),
            (busy(300, 200), None, second, Death::Limit(Limit::CpuTime)),
            (busy(900, 200), cgroup, second, Death::Limit(Limit::CpuTime)),
            (busy(300, 199), None, second, signal(libc::SIGKILL)),
            (busy(300, 199), cgroup, second, memory(true)),
            (busy(5000, 0), None, None, signal(libc::SIGKILL)),
            (Ended { killed: true, ..busy(1000, 0) }, None, second, Death::Killed),
            // By us, or before we came to it.
            (killed(libc::SIGKILL), None, None, Death::Killed),
            (killed(0), None, None, Death::Exit(0)),
            (killed(libc::SIGTERM), None, None, signal(libc::SIGTERM)),
        ] {
            assert_eq!(explained(&ended, counted, cpu_time), death, "{ended:?} {counted:?} {cpu_time:?}");
        }
    }

    #[test]
    fn only_code_0_is_success() {
        let others = [Death::Exit(1), signal(15), Death::SystemCall(1), Death::Limit(Limit::CpuTime), Death::Killed];
        assert!(Death::Exit(0).is_success());
        assert!(others.iter().all(|death| !death.is_success()));
    }

    #[test]
    fn the_words_name_what_is_known() {
        for (death, words) in [
            (Death::Exit(3), "it ended with exit code 3: see what it wrote to standard error"),
            (signal(libc::SIGPIPE), "SIGPIPE killed it: it wrote where nobody reads any more"),
            (signal(40), "signal 40 killed it: somebody sent it, and the worker does not handle it"),
            (
                Death::Limit(Limit::FileSize),
                "it was killed at its limit on file size: raise that, if it is due so much",
            ),
        ] {
            assert_eq!(death.to_string(), words);
        }
        let socket = Death::SystemCall(SOCKET).to_string();
        assert!(
            socket.starts_with(&format!("its filter killed it for the system call socket ({SOCKET}): ")),
            "{socket}"
        );
        let newer = Death::SystemCall(4000).to_string();
        assert!(
            newer.starts_with("its filter killed it for system call 4000 (`ausyscall 4000` names it): "),
            "{newer}"
        );
    }

    #[test]
    fn json_has_the_parts() {
        let dumped = Death::Signal { number: 11, core_dumped: true };
        for (death, start) in [
            (Death::Exit(0), r#"{"reason":"exit","success":true,"code":0,"text":"it ended"#),
            (dumped, r#"{"reason":"signal","success":false,"signal":11,"name":"SIGSEGV","core_dumped":true,"text":"#),
            (signal(40), r#"{"reason":"signal","success":false,"signal":40,"name":null,"core_dumped":false,"text":"#),
            (Death::SystemCall(4000), r#"{"reason":"system-call","success":false,"number":4000,"name":null,"text":"#),
            (Death::Limit(Limit::CpuTime), r#"{"reason":"limit","success":false,"limit":"cpu time","text":"#),
            (Death::Killed, r#"{"reason":"killed","success":false,"text":"its broker killed it"}"#),
        ] {
            let json = death.to_json();
            assert!(json.starts_with(start) && json.ends_with("\"}"), "{json}");
            // Nothing in it needs escaping.
            assert!(json.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'\\'), "{json}");
            assert_eq!(json.matches('"').count() % 2, 0, "{json}");
        }
    }
}
