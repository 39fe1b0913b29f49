//! `[both]` How a file is to be opened: a closed set of its own, not the flags of open(2).

use std::fmt;

use super::{Right, Rights};

/// How a file is to be opened. Any 16 bits can be asked; which of them mean something is [`Access::needs`]'s word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Access(u16);

impl Access {
    /// 0x01: for reading.
    pub const READ: Self = Self(0x01);
    /// 0x02: for writing.
    pub const WRITE: Self = Self(0x02);
    /// 0x04: for writing at its end.
    pub const APPEND: Self = Self(0x04);
    /// 0x08: emptied. With [`WRITE`](Self::WRITE).
    pub const TRUNCATE: Self = Self(0x08);
    /// 0x10: created if it is not there. With [`WRITE`](Self::WRITE) or [`APPEND`](Self::APPEND).
    pub const CREATE: Self = Self(0x10);
    /// 0x20: it must not be there yet. With [`CREATE`](Self::CREATE).
    pub const NEW: Self = Self(0x20);
    /// 0x40: O_NONBLOCK stays set on the descriptor.
    pub const NONBLOCKING: Self = Self(0x40);
    /// 0x80: it is a directory, and nothing else is asked of it.
    pub const DIRECTORY: Self = Self(0x80);

    /// What a new file is opened with by the plain verb.
    pub const CREATE_NEW: Self = Self(Self::WRITE.0 | Self::CREATE.0 | Self::NEW.0);

    /// The bits on the wire.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Any bits from the wire.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The first without the bits of the second.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The rights that a rule must grant for it. A file that must be new needs `create`, and `read` if it is to be read
    /// as well: what is written to it was nobody's before. One that may be there needs the rights to what is there too.
    ///
    /// # Errors
    /// The combination means nothing: the message says why.
    pub fn needs(self) -> Result<Rights, &'static str> {
        let has = |access| self.contains(access);
        if self.0 > 0xff {
            return Err("a bit is set that means nothing");
        }
        if has(Self::DIRECTORY) {
            let alone = self.0 & !Self::NONBLOCKING.0 == Self::DIRECTORY.0;
            return if alone { Ok(Right::Directory.into()) } else { Err("of a directory nothing else can be asked") };
        }
        let writes = has(Self::WRITE) || has(Self::APPEND);
        if !writes && !has(Self::READ) {
            return Err("neither reading nor writing is asked");
        }
        if has(Self::WRITE) && has(Self::APPEND) {
            return Err("write and append are two ways of writing: ask for one");
        }
        if has(Self::TRUNCATE) && !has(Self::WRITE) {
            return Err("only what is opened for writing can be truncated");
        }
        if has(Self::CREATE) && !writes {
            return Err("only what is opened for writing can be created");
        }
        if has(Self::NEW) && !has(Self::CREATE) {
            return Err("what must be new has to be created");
        }
        if has(Self::NEW) && has(Self::TRUNCATE) {
            return Err("a new file has nothing to truncate");
        }
        let existing = [(Self::WRITE, Right::Write), (Self::APPEND, Right::Append), (Self::TRUNCATE, Right::Truncate)];
        let always = [(Self::READ, Right::Read), (Self::CREATE, Right::Create)];
        let existing = existing.into_iter().filter(|_| !has(Self::NEW));
        Ok(always.into_iter().chain(existing).filter(|(access, _)| has(*access)).map(|(_, right)| right).collect())
    }
}

impl std::ops::BitOr for Access {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

/// The words, joined with `+`: `read+write`. The plain verb `create` stands for a new file for writing.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WORDS: [(Access, &str); 8] = [
            (Access::READ, "read"),
            (Access::WRITE, "write"),
            (Access::APPEND, "append"),
            (Access::TRUNCATE, "truncate"),
            (Access::CREATE, "create"),
            (Access::NEW, "new"),
            (Access::NONBLOCKING, "nonblocking"),
            (Access::DIRECTORY, "directory"),
        ];
        if *self == Self::CREATE_NEW {
            return f.write_str("create");
        }
        let unknown = self.0 & 0xff00;
        let mut plus = "";
        for (access, word) in WORDS {
            if self.contains(access) {
                write!(f, "{plus}{word}")?;
                plus = "+";
            }
        }
        if unknown != 0 || self.0 == 0 {
            write!(f, "{plus}0x{unknown:04x}")?;
        }
        Ok(())
    }
}
