//! `[both]` What the broker answers.

use std::{fmt, io};

use super::{Answers, Frame, MAX_REPLY, Malformed, Reader, TooLong};

/// One reply as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The id of the request that it answers.
    pub id: u64,
    /// Yes or no.
    pub answer: Answer<'a>,
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Yes.
    Granted {
        /// Descriptors on the message that are this answer's: the client knows how many the request is for.
        descriptors: u16,
        /// What the request asked to know; empty for a request for a descriptor.
        data: &'a [u8],
    },
    /// No.
    Refused(Refusal),
    /// To a batch: an answer to each of its requests.
    Batch(Answers<'a>),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Who said no.
    pub reason: Reason,
    /// A Linux error number, 1 to 4095.
    pub errno: i32,
}

/// Who said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// 1: no rule of the policy allows it. Nothing was opened or looked at.
    Denied,
    /// 2: the path is not in the form of [`path`](super::path), or is too long. Nothing was opened or looked at.
    Path,
    /// 3: the policy allows it, the system call failed with this errno.
    Failed,
    /// 4: the policy allows it, but what is there is not of the kind that the rule names.
    Kind,
    /// 5: the verb is not known to this broker.
    Verb,
    /// 6: the request asks for what cannot be had by any rule, such as to truncate without writing. Nothing was opened
    /// or looked at.
    Impossible,
    /// 7: a narrowing that asks for something that is not held. Nothing was narrowed.
    NotHeld,
    /// 8: a limit on this worker is reached. Nothing was opened; the same request may be granted later.
    Limit,
}

impl Reason {
    const ALL: [Self; 8] =
        [Self::Denied, Self::Path, Self::Failed, Self::Kind, Self::Verb, Self::Impossible, Self::NotHeld, Self::Limit];

    const fn code(self) -> u16 {
        match self {
            Self::Denied => 1,
            Self::Path => 2,
            Self::Failed => 3,
            Self::Kind => 4,
            Self::Verb => 5,
            Self::Impossible => 6,
            Self::NotHeld => 7,
            Self::Limit => 8,
        }
    }

    /// One word for it, as the audit has it: `denied`, `path`, `failed`, `kind`, `verb`, `impossible`, `not-held`,
    /// `limit`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Path => "path",
            Self::Failed => "failed",
            Self::Kind => "kind",
            Self::Verb => "verb",
            Self::Impossible => "impossible",
            Self::NotHeld => "not-held",
            Self::Limit => "limit",
        }
    }

    fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

/// In words, for a line of a log.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Denied => "no rule of the policy allows it",
            Self::Path => "no policy takes such a path",
            Self::Failed => "the policy allows it, but the system call failed",
            Self::Kind => "the policy allows the name, but what is there is not of the kind that it allows",
            Self::Verb => "the broker does not know this request",
            Self::Impossible => "no policy can grant that",
            Self::NotHeld => "more is asked for than is held",
            Self::Limit => "a limit on this worker is reached",
        })
    }
}

/// The reason and the errno, in words.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, io::Error::from_raw_os_error(self.errno))
    }
}

pub(super) const GRANTED: u8 = 0x80;
pub(super) const REFUSED: u8 = 0x81;
const BATCH: u8 = 0x82;

impl<'a> Reply<'a> {
    /// Reads one message, which came with `descriptors` descriptors.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &'a [u8], descriptors: usize) -> Result<Self, Malformed> {
        let Frame { verb, id, descriptors: count, body } = Frame::decode(bytes, descriptors)?;
        if bytes.len() > MAX_REPLY {
            return Err(Malformed::Oversize);
        }
        let answer = match verb {
            GRANTED => Some(Answer::Granted { descriptors: count, data: body }),
            REFUSED if count == 0 => Refusal::decode(body).map(Answer::Refused),
            REFUSED => return Err(Malformed::Descriptors { declared: count, actual: descriptors }),
            BATCH => Answers::decode(body, count).map(Answer::Batch),
            _ => return Err(Malformed::UnknownVerb { id, verb }),
        };
        Ok(Self { id, answer: answer.ok_or(Malformed::Body(verb))? })
    }

    /// Puts the message into `buffer` ([`MAX_REPLY`] bytes hold any) and answers its length. It is to
    /// be sent with `descriptors` descriptors, which the answer knows, but for a batch's.
    ///
    /// # Errors
    /// [`TooLong`] when it does not fit, or is over [`MAX_REPLY`].
    pub fn encode(&self, descriptors: u16, buffer: &mut [u8]) -> Result<usize, TooLong> {
        let room = buffer.len().min(MAX_REPLY);
        let buffer = &mut buffer[..room];
        match self.answer {
            Answer::Granted { data, .. } => Frame::encode(GRANTED, self.id, descriptors, &[data], buffer),
            Answer::Refused(refusal) => Frame::encode(REFUSED, self.id, 0, &[&refusal.encode()], buffer),
            Answer::Batch(answers) => Frame::encode(BATCH, self.id, descriptors, &[answers.bytes()], buffer),
        }
    }
}

impl Refusal {
    /// Bytes on the wire.
    pub(super) const LEN: usize = 8;

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let (reason, errno) = (self.reason.code().to_le_bytes(), self.errno.to_le_bytes());
        [reason[0], reason[1], 0, 0, errno[0], errno[1], errno[2], errno[3]]
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let (reason, reserved, errno) = (reader.u16()?, reader.u16()?, reader.u32()?);
        reader.end()?;
        if reserved != 0 || !(1..=4095).contains(&errno) {
            return None;
        }
        Some(Self { reason: Reason::from_code(reason)?, errno: i32::try_from(errno).ok()? })
    }
}
