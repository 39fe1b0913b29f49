//! `[both]` Many requests in one message, and their answers in one reply.

use super::reply::{GRANTED, REFUSED};
use super::{Answer, Ask, MAX_BATCH, Reader, Refusal, TooLong, Writer, request};

/// Bytes before the body of each item, in a request and in a reply.
pub(super) const ITEM_LEN: usize = 4;

/// The requests of one message: 1 to [`MAX_BATCH`]. Each is judged and answered by itself, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a>(&'a [u8]);

impl<'a> Batch<'a> {
    /// Puts requests into `buffer`, as the body of a batch.
    ///
    /// # Errors
    /// [`TooLong`]: they do not fit, are none or more than [`MAX_BATCH`], or one of them cannot stand in a batch
    /// (hello, narrow, ready, call, and a batch).
    pub fn encode<'b, 'x>(asks: impl IntoIterator<Item = Ask<'x>>, buffer: &'b mut [u8]) -> Result<Batch<'b>, TooLong> {
        let mut len = 0;
        for (n, ask) in asks.into_iter().enumerate() {
            let item = buffer.get_mut(len..).ok_or(TooLong)?;
            let written = if n < MAX_BATCH { ask.encode_item(item)? } else { return Err(TooLong) };
            len += written;
        }
        if len == 0 { Err(TooLong) } else { Ok(Batch(&buffer[..len])) }
    }

    pub(super) fn decode(body: &'a [u8]) -> Option<Self> {
        let mut items = Items(body);
        let count = items.by_ref().count();
        (items.0.is_empty() && (1..=MAX_BATCH).contains(&count)).then_some(Self(body))
    }

    /// How many there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        Items(self.0).count()
    }

    /// The requests, in order; for one that is not known here, its verb.
    pub fn iter(&self) -> impl Iterator<Item = Result<Ask<'a>, u8>> + use<'a> {
        Items(self.0)
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// Stops where the bytes are no item, and leaves them.
struct Items<'a>(&'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = Result<Ask<'a>, u8>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = Reader::new(self.0);
        let (verb, reserved, len) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let (body, rest) = reader.rest().split_at_checked(len.into())?;
        // Not read at all: batches within batches would take a stack as deep as the worker likes.
        if verb == request::BATCH {
            return None;
        }
        let ask = match request::decode_body(verb, body) {
            Some(Ok(ask)) if ask.stands_in_a_batch() => Ok(ask),
            None => Err(verb),
            Some(_) => return None,
        };
        if reserved != 0 {
            return None;
        }
        self.0 = rest;
        Some(ask)
    }
}

/// The answers of one message, in the order of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answers<'a>(&'a [u8]);

impl<'a> Answers<'a> {
    pub(super) fn decode(body: &'a [u8], descriptors: u16) -> Option<Self> {
        let mut items = AnswerItems(body);
        let (mut count, mut carried) = (0, 0u32);
        for answer in items.by_ref() {
            count += 1;
            if let Answer::Granted { descriptors, .. } = answer {
                carried += u32::from(descriptors);
            }
        }
        let whole = items.0.is_empty() && (1..=MAX_BATCH).contains(&count);
        (whole && carried == u32::from(descriptors)).then_some(Self(body))
    }

    /// The answers. Each says how many of the message's descriptors are its own; they come in the same order.
    pub fn iter(&self) -> impl Iterator<Item = Answer<'a>> + use<'a> {
        AnswerItems(self.0)
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

struct AnswerItems<'a>(&'a [u8]);

impl<'a> Iterator for AnswerItems<'a> {
    type Item = Answer<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = Reader::new(self.0);
        let (verb, descriptors, len) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let (body, rest) = reader.rest().split_at_checked(len.into())?;
        let answer = match verb {
            GRANTED => Answer::Granted { descriptors: descriptors.into(), data: body },
            REFUSED if descriptors == 0 => Answer::Refused(Refusal::decode(body)?),
            _ => return None,
        };
        self.0 = rest;
        Some(answer)
    }
}

/// Collects the answers of a batch in a buffer.
pub struct AnswersWriter<'b> {
    buffer: &'b mut [u8],
    len: usize,
    answers: usize,
    descriptors: u16,
    /// What refusals instead of the grants so far would take beyond them.
    spare: usize,
}

impl<'b> AnswersWriter<'b> {
    /// Bytes of an answer that is no more than a refusal.
    pub const REFUSAL_LEN: usize = ITEM_LEN + Refusal::LEN;

    /// Nothing answered yet.
    pub fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, len: 0, answers: 0, descriptors: 0, spare: 0 }
    }

    /// Bytes that the next answer's data may have, if `further` more answers are to find room for a refusal each, and
    /// so are those that carry descriptors, in case these cannot be sent.
    #[must_use]
    pub fn room(&self, further: usize) -> usize {
        self.buffer.len().saturating_sub(self.len + self.spare + ITEM_LEN + further * Self::REFUSAL_LEN)
    }

    /// Puts the next answer.
    ///
    /// # Errors
    /// [`TooLong`]: there is no room for it, there are [`MAX_BATCH`] already, or it is a batch.
    pub fn put(&mut self, answer: Answer<'_>) -> Result<(), TooLong> {
        let refusal;
        let (verb, descriptors, body) = match answer {
            Answer::Granted { descriptors, data } => (GRANTED, descriptors, data),
            Answer::Refused(why) => {
                refusal = why.encode();
                (REFUSED, 0, &refusal[..])
            }
            Answer::Batch(_) => return Err(TooLong),
        };
        let count = u8::try_from(descriptors).map_err(|_| TooLong)?;
        if self.answers == MAX_BATCH {
            return Err(TooLong);
        }
        let len = put_item(self.buffer.get_mut(self.len..).ok_or(TooLong)?, verb, count, &[body])?;
        self.len += len;
        self.answers += 1;
        self.descriptors += descriptors;
        if descriptors > 0 {
            self.spare += Refusal::LEN.saturating_sub(body.len());
        }
        Ok(())
    }

    /// The answers so far, and how many descriptors they carry.
    #[must_use]
    pub fn finish(self) -> (Answers<'b>, u16) {
        (Answers(&self.buffer[..self.len]), self.descriptors)
    }
}

/// Puts one item, its body in parts. Answers its length.
pub(super) fn put_item(buffer: &mut [u8], verb: u8, second: u8, parts: &[&[u8]]) -> Result<usize, TooLong> {
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut writer = Writer::new(buffer);
    writer.put(&[verb, second]);
    writer.put(&u16::try_from(len).map_err(|_| TooLong)?.to_le_bytes());
    for part in parts {
        writer.put(part);
    }
    writer.len().ok_or(TooLong)
}
