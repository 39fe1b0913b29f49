//! What is attempted, and what should come of it.

use std::fs::File;
use std::io;
use std::net::{SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// What may come of an attempt: errnos, or 0 for success.
pub type Answers = &'static [i32];

pub const WORKS: Answers = &[0];
/// Works wherever the host's permissions let it: the targets' directory may be in one that not everybody may search.
pub const REACHED: Answers = &[0, libc::EACCES];
/// Refused by name, by a filter.
pub const EPERM: Answers = &[libc::EPERM];
/// Not allowed, by a filter: in which of the two words is its own choice.
pub const ENOSYS: Answers = &[libc::ENOSYS, libc::EPERM];
/// By Landlock.
pub const EACCES: Answers = &[libc::EACCES];
/// Not there, in a root of its own.
pub const ENOENT: Answers = &[libc::ENOENT];

/// What should come of it inside.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// At the start, by Landlock and the filter alone.
    pub floor: Answers,
    /// At the start, in a root of its own.
    pub rooted: Answers,
    /// At the start, with a PID and a network namespace as well.
    pub full: Answers,
    /// After `lockdown` from there on, on the floor, as each preset.
    pub computes: Answers,
    pub serves: Answers,
    pub spawns_nothing: Answers,
}

impl Expected {
    /// The same from the first instruction on, whatever comes after.
    pub const fn always(answers: Answers) -> Self {
        Self {
            floor: answers,
            rooted: answers,
            full: answers,
            computes: answers,
            serves: answers,
            spawns_nothing: answers,
        }
    }

    pub const fn floor(mut self, answers: Answers) -> Self {
        (self.floor, self.spawns_nothing) = (answers, answers);
        self
    }

    pub const fn rooted(mut self, answers: Answers) -> Self {
        (self.rooted, self.full) = (answers, answers);
        self
    }

    pub const fn full(mut self, answers: Answers) -> Self {
        self.full = answers;
        self
    }

    pub const fn locked(mut self, answers: Answers) -> Self {
        (self.computes, self.serves) = (answers, answers);
        self
    }

    pub const fn computes(mut self, answers: Answers) -> Self {
        self.computes = answers;
        self
    }

    pub const fn spawns_nothing(mut self, answers: Answers) -> Self {
        self.spawns_nothing = answers;
        self
    }

    fn works_anywhere(&self) -> bool {
        let Self { floor, rooted, full, computes, serves, spawns_nothing } = *self;
        [floor, rooted, full, computes, serves, spawns_nothing].iter().any(|answers| answers.contains(&0))
    }
}

pub const REFUSED: Expected = Expected::always(EPERM);
pub const UNKNOWN: Expected = Expected::always(ENOSYS);
/// A file of the host's, by its name.
pub const NAMED: Expected = Expected::always(EACCES).rooted(ENOENT).locked(EPERM);
/// A file that is there in the worker's root as well.
pub const HELD: Expected = Expected::always(EACCES).locked(EPERM);

/// What comes of it outside.
#[derive(Debug, Clone, Copy)]
pub enum Outside {
    Works,
    /// It works for root, and for others it may not.
    Privileged,
    /// Not on this host, or not in a test: why.
    Not(&'static str),
    /// It may work or not, which depends on the host: why.
    Perhaps(&'static str),
}

type Make = Box<dyn Fn(&Means) -> io::Result<i64>>;

pub struct Attempt {
    pub name: &'static str,
    pub expected: Expected,
    pub outside: Outside,
    /// Why it works inside, if it does.
    pub known: Option<&'static str>,
    pub make: Make,
}

impl Attempt {
    pub fn outside(&mut self, outside: Outside) -> &mut Self {
        self.outside = outside;
        self
    }

    pub fn privileged(&mut self) -> &mut Self {
        self.outside(Outside::Privileged)
    }

    pub fn not(&mut self, why: &'static str) -> &mut Self {
        self.outside(Outside::Not(why))
    }

    /// It works inside: allowed, or a known limit.
    pub fn known(&mut self, why: &'static str) -> &mut Self {
        self.known = Some(why);
        self
    }

    /// Nothing works inside without a word about it.
    pub fn is_explained(&self) -> bool {
        self.known.is_some() == self.expected.works_anywhere()
    }
}

#[derive(Default)]
pub struct List(pub Vec<Attempt>);

impl List {
    pub fn add(
        &mut self,
        name: &'static str,
        expected: Expected,
        make: impl Fn(&Means) -> io::Result<i64> + 'static,
    ) -> &mut Attempt {
        self.0.push(Attempt { name, expected, outside: Outside::Works, known: None, make: Box::new(make) });
        self.0.last_mut().unwrap()
    }
}

/// Where and as what the attempts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Outside,
    Floor,
    Standard,
    Full,
    Computes,
    Serves,
    SpawnsNothing,
    /// Each wall by itself: as Standard, without Landlock; and each `lockdown` in a process that nobody has sandboxed.
    WithoutLandlock,
    PlainComputes,
    PlainServes,
    PlainSpawnsNothing,
    /// As Full, with every word of the filter.
    AllWords,
}

impl Place {
    pub const ALL: [Self; 7] =
        [Self::Outside, Self::Floor, Self::Standard, Self::Full, Self::Computes, Self::Serves, Self::SpawnsNothing];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Floor => "floor",
            Self::Standard => "standard",
            Self::Full => "full",
            Self::Computes => "computes",
            Self::Serves => "serves",
            Self::SpawnsNothing => "no-spawn",
            Self::WithoutLandlock => "without-landlock",
            Self::PlainComputes => "plain-computes",
            Self::PlainServes => "plain-serves",
            Self::PlainSpawnsNothing => "plain-no-spawn",
            Self::AllWords => "all-words",
        }
    }

    pub const BY_ITSELF: [Self; 5] =
        [Self::WithoutLandlock, Self::PlainComputes, Self::PlainServes, Self::PlainSpawnsNothing, Self::AllWords];

    /// Whether the process is started without a sandbox.
    pub const fn is_plain(self) -> bool {
        matches!(self, Self::Outside | Self::PlainComputes | Self::PlainServes | Self::PlainSpawnsNothing)
    }

    /// Whether each attempt is made in a child of its own, which it may change, replace or end.
    pub const fn forks(self) -> bool {
        matches!(self, Self::Outside | Self::AllWords)
    }

    pub fn of(name: &str) -> Self {
        Self::ALL.into_iter().chain(Self::BY_ITSELF).find(|place| place.name() == name).unwrap()
    }
}

/// What the attempts are made with.
pub struct Means {
    pub place: Place,
    pub directory: PathBuf,
    /// The process that started this one.
    pub parent: usize,
    /// A process of the starter's that does nothing, and where its secret is.
    pub victim: usize,
    pub secret: usize,
    /// Of System V objects, and of the name of a message queue.
    pub key: usize,
    /// Where somebody listens, by TCP and UDP.
    pub target: SocketAddrV4,
    pub udp_target: SocketAddrV4,
    /// Granted, or opened: for appending, for reading and appending, and for reading.
    pub append: File,
    pub both: File,
    pub read: File,
    pub listener: TcpListener,
    pub udp: UdpSocket,
    pub datagram: UnixDatagram,
}

impl Means {
    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn of_parent(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.parent))
    }

    pub fn of_victim(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.victim))
    }

    /// The abstract name at which somebody listens.
    pub fn abstract_name(&self, kind: &str) -> Vec<u8> {
        format!("\0fdbroker-escape-{}-{kind}", self.key).into_bytes()
    }

    /// The parent's channel, or a pair of its own where there is none.
    pub fn is_outside(&self) -> bool {
        self.place == Place::Outside
    }
}

/// Numbers of the descriptors that a careless starter has declared: the host's root directory, and a terminal.
pub const ROOT: usize = 10;
pub const TERMINAL: usize = 11;
