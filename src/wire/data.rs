//! `[both]` What a worker is told instead of being given a descriptor.

use super::{Reader, TooLong, Writer};

/// What an object is. On the wire (56 bytes, little-endian):
///
/// | offset | size | field |
/// |-------:|-----:|-------|
/// | 0 | 4 | mode: type and permission bits, as st_mode |
/// | 4 | 4 | links |
/// | 8 | 4 | uid |
/// | 12 | 4 | gid |
/// | 16 | 8 | size |
/// | 24 | 8 | inode |
/// | 32 | 8 | device, as st_dev |
/// | 40 | 8 | modified: seconds since 1970, i64 |
/// | 48 | 4 | and nanoseconds |
/// | 52 | 4 | reserved: 0 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// Type and permission bits, as st_mode (inode(7)).
    pub mode: u32,
    /// Names that it has.
    pub links: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// The inode's number.
    pub inode: u64,
    /// The file system's, as st_dev.
    pub device: u64,
    /// When it was last modified: seconds since 1970.
    pub modified: i64,
    /// And nanoseconds.
    pub modified_nanoseconds: u32,
}

impl Stat {
    /// Bytes on the wire.
    pub const LEN: usize = 56;

    /// Reads the data of a reply to stat.
    #[must_use]
    pub fn decode(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let stat = Self {
            mode: reader.u32()?,
            links: reader.u32()?,
            uid: reader.u32()?,
            gid: reader.u32()?,
            size: reader.u64()?,
            inode: reader.u64()?,
            device: reader.u64()?,
            modified: i64::from_le_bytes(reader.array()?),
            modified_nanoseconds: reader.u32()?,
        };
        let reserved = reader.u32()?;
        reader.end()?;
        (reserved == 0).then_some(stat)
    }

    /// Puts it into `buffer`.
    ///
    /// # Errors
    /// [`TooLong`] when it does not fit.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, TooLong> {
        let mut writer = Writer::new(buffer);
        for number in [self.mode, self.links, self.uid, self.gid] {
            writer.put(&number.to_le_bytes());
        }
        for number in [self.size, self.inode, self.device] {
            writer.put(&number.to_le_bytes());
        }
        writer.put(&self.modified.to_le_bytes());
        writer.put(&self.modified_nanoseconds.to_le_bytes());
        writer.put(&0u32.to_le_bytes());
        writer.len().ok_or(TooLong)
    }
}

/// One entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The inode's number.
    pub inode: u64,
    /// Its type, as getdents(2) says it: DT_REG (8), DT_DIR (4), DT_LNK (10), ...; DT_UNKNOWN (0) where the file system
    /// does not tell.
    pub file_type: u8,
    /// Its name: 1 to 255 bytes.
    pub name: &'a [u8],
}

/// A part of a directory. On the wire:
///
/// | offset | size | field |
/// |-------:|-----:|-------|
/// | 0 | 8 | where to go on, for the next request; meaningless at the end |
/// | 8 | 1 | 1: there may be more. 0: that was the end |
/// | 9 | | entries, to the end of the data |
///
/// An entry is its inode (8 bytes), its type (1), the length of its name (1), and the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entries<'a> {
    /// Where to go on; `None` at the end.
    pub next: Option<u64>,
    entries: &'a [u8],
}

impl<'a> Entries<'a> {
    /// Reads the data of a reply to list.
    #[must_use]
    pub fn decode(data: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let (next, more) = (reader.u64()?, reader.u8()?);
        let entries = reader.rest();
        let mut all = EntryItems(entries);
        let sound = more <= 1 && all.by_ref().all(|entry| !entry.name.is_empty()) && all.0.is_empty();
        sound.then_some(Self { next: (more == 1).then_some(next), entries })
    }

    /// The entries.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        EntryItems(self.entries)
    }
}

struct EntryItems<'a>(&'a [u8]);

impl<'a> Iterator for EntryItems<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let mut reader = Reader::new(self.0);
        let (inode, file_type, len) = (reader.u64()?, reader.u8()?, reader.u8()?);
        let (name, rest) = reader.rest().split_at_checked(len.into())?;
        self.0 = rest;
        Some(Entry { inode, file_type, name })
    }
}

/// Collects entries in a buffer.
pub struct EntriesWriter<'b> {
    buffer: &'b mut [u8],
    len: usize,
}

impl<'b> EntriesWriter<'b> {
    const HEAD: usize = 9;

    /// No entries yet.
    pub fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, len: Self::HEAD }
    }

    /// Puts one entry.
    ///
    /// # Errors
    /// [`TooLong`]: there is no room for it, or its name has not 1 to 255 bytes.
    pub fn put(&mut self, entry: Entry<'_>) -> Result<(), TooLong> {
        let len = u8::try_from(entry.name.len()).ok().filter(|len| *len > 0).ok_or(TooLong)?;
        let mut writer = Writer::new(self.buffer.get_mut(self.len..).ok_or(TooLong)?);
        writer.put(&entry.inode.to_le_bytes());
        writer.put(&[entry.file_type, len]);
        writer.put(entry.name);
        self.len += writer.len().ok_or(TooLong)?;
        Ok(())
    }

    /// The length of the data.
    ///
    /// # Errors
    /// [`TooLong`]: not even the head fits.
    pub fn finish(self, next: Option<u64>) -> Result<usize, TooLong> {
        let mut writer = Writer::new(self.buffer);
        writer.put(&next.unwrap_or(0).to_le_bytes());
        writer.put(&[next.is_some().into()]);
        writer.len().ok_or(TooLong)?;
        Ok(self.len)
    }
}
