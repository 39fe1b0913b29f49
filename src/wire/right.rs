//! `[both]` The closed set of what can be granted. The same words stand in the policy, its file, on the wire and in the
//! client.

use std::fmt;
use std::str::FromStr;

macro_rules! rights {
    ($($(#[doc = $doc:literal])+ $name:ident = $bit:literal, $word:literal;)+) => {
        /// One thing that a policy can grant. The number is its bit in a [`Rights`] on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Right {
            $($(#[doc = $doc])+ $name = $bit,)+
        }

        impl Right {
            /// Every right, in the order of their bits.
            pub const ALL: [Self; [$($bit),+].len()] = [$(Self::$name),+];

            /// The word for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

rights! {
    /// Open an existing file for reading.
    Read = 0, "read";
    /// Open an existing file for writing. It is not truncated.
    Write = 1, "write";
    /// Open an existing file for writing at its end.
    Append = 2, "append";
    /// Empty an existing file as it is opened for writing.
    Truncate = 3, "truncate";
    /// Create a file that does not exist, open for writing.
    Create = 4, "create";
    /// Ask what a directory holds: names, types and inode numbers, as data.
    List = 5, "list";
    /// Ask what an object is: type, permission bits, owner, size, times. Links are not followed.
    Stat = 6, "stat";
    /// Ask where a symbolic link points.
    Readlink = 7, "readlink";
    /// Create a directory.
    Mkdir = 8, "mkdir";
    /// Remove a name of anything but a directory.
    Unlink = 9, "unlink";
    /// Remove an empty directory.
    Rmdir = 10, "rmdir";
    /// Give an object of the kinds that the rule names another name. Needed at both ends; what had the new name is
    /// replaced.
    Rename = 11, "rename";
    /// Have a descriptor of a directory, which is a way out of it: `openat(fd, "..")` leads to all that the holder may
    /// open.
    Directory = 12, "directory-escape";
    /// Have an unnamed temporary file.
    Scratch = 13, "scratch";
    /// Have a socket that listens.
    Listen = 14, "listen";
    /// Have a datagram socket that is bound to an address.
    Bind = 15, "bind";
    /// Have a connected socket.
    Connect = 16, "connect";
    /// Call a service of the daemon's own.
    Call = 17, "call";
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The word is none of the closed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no right: it is one of {words}", words = words(&Right::ALL))]
pub struct UnknownRight(pub String);

impl FromStr for Right {
    type Err = UnknownRight;

    fn from_str(word: &str) -> Result<Self, UnknownRight> {
        Self::ALL.into_iter().find(|right| right.name() == word).ok_or_else(|| UnknownRight(word.into()))
    }
}

fn words(rights: &[Right]) -> String {
    rights.iter().map(|right| right.name()).collect::<Vec<_>>().join(", ")
}

/// A set of rights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Rights(u32);

impl Rights {
    /// No right.
    pub const NONE: Self = Self(0);
    /// Every right.
    pub const ALL: Self = Self((1 << Right::ALL.len()) - 1);

    /// The set with one right more.
    #[must_use]
    pub const fn with(self, right: Right) -> Self {
        Self(self.0 | 1 << right as u32)
    }

    /// Whether `right` is in the set.
    #[must_use]
    pub const fn contains(self, right: Right) -> bool {
        self.0 & 1 << right as u32 != 0
    }

    /// Whether all of `rights` are in the set.
    #[must_use]
    pub const fn contains_all(self, rights: Self) -> bool {
        rights.0 & !self.0 == 0
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is here and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The rights, in the order of their bits.
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.contains(*right))
    }

    /// As a number on the wire: bit n is the right of that number.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// From the wire; `None` if a bit is set that is no right.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if Self::ALL.contains_all(Self(bits)) { Some(Self(bits)) } else { None }
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        rights.into_iter().fold(Self::NONE, Self::with)
    }
}

impl<const N: usize> From<[Right; N]> for Rights {
    fn from(rights: [Right; N]) -> Self {
        rights.into_iter().collect()
    }
}

impl From<Right> for Rights {
    fn from(right: Right) -> Self {
        Self::NONE.with(right)
    }
}

/// The words, in the order of their bits, with commas; "nothing" for the empty set.
impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        for (n, right) in self.iter().enumerate() {
            write!(f, "{}{right}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
