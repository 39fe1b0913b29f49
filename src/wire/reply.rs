//! `[both]` What the broker answers.

use std::{fmt, io};

use super::{Frame, Malformed, Reader, TooLong};

/// One reply as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The id of the request that it answers.
    pub id: u64,
    /// Yes or no.
    pub answer: Answer,
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Yes. The descriptor, if the request was for one, rides on the same message.
    Granted {
        /// Descriptors on the message: 1, or 0 in answer to hello. The client knows which it asked for.
        descriptors: u16,
    },
    /// No.
    Refused(Refusal),
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
}

impl Reason {
    const ALL: [Self; 5] = [Self::Denied, Self::Path, Self::Failed, Self::Kind, Self::Verb];

    const fn code(self) -> u16 {
        match self {
            Self::Denied => 1,
            Self::Path => 2,
            Self::Failed => 3,
            Self::Kind => 4,
            Self::Verb => 5,
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
            Self::Kind => "the policy allows a regular file, and this is none",
            Self::Verb => "the broker does not know this request",
        })
    }
}

/// The reason and the errno, in words.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, io::Error::from_raw_os_error(self.errno))
    }
}

const GRANTED: u8 = 0x80;
const REFUSED: u8 = 0x81;

impl Reply {
    /// Reads one message, which came with `descriptors` descriptors.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8], descriptors: usize) -> Result<Self, Malformed> {
        let Frame { verb, id, descriptors: count, body } = Frame::decode(bytes, descriptors)?;
        let answer = match verb {
            GRANTED => body.is_empty().then_some(Answer::Granted { descriptors: count }),
            REFUSED if count == 0 => Refusal::decode(body).map(Answer::Refused),
            REFUSED => return Err(Malformed::Descriptors { declared: count, actual: descriptors }),
            _ => return Err(Malformed::UnknownVerb { id, verb }),
        };
        Ok(Self { id, answer: answer.ok_or(Malformed::Body(verb))? })
    }

    /// Puts the message into `buffer` ([`MAX_REPLY`](super::MAX_REPLY) bytes hold any) and answers its length.
    ///
    /// # Errors
    /// [`TooLong`] when it does not fit.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, TooLong> {
        match self.answer {
            Answer::Granted { descriptors } => Frame::encode(GRANTED, self.id, descriptors, &[], buffer),
            Answer::Refused(refusal) => {
                let reason = refusal.reason.code().to_le_bytes();
                Frame::encode(REFUSED, self.id, 0, &[&reason, &[0; 2], &refusal.errno.to_le_bytes()], buffer)
            }
        }
    }
}

impl Refusal {
    fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let (reason, reserved, errno) = (reader.u16()?, reader.u16()?, reader.u32()?);
        reader.end()?;
        if reserved != 0 || !(1..=4095).contains(&errno) {
            return None;
        }
        Some(Self { reason: Reason::from_code(reason)?, errno: i32::try_from(errno).ok()? })
    }
}
