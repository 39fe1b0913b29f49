//! `[broker]` One JSON document, for programs that read what this one says.

use std::fmt::{Display, Write};

use crate::broker::Escaped;
use crate::policy::Info;

#[derive(Debug, Clone)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(i64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    pub(super) fn text(text: impl Display) -> Self {
        Self::Text(text.to_string())
    }

    pub(super) fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(items.into_iter().collect())
    }

    pub(super) fn or_null(value: Option<Self>) -> Self {
        value.unwrap_or(Self::Null)
    }

    /// A rule as people are told of it.
    pub(super) fn rule(rule: &Info) -> Self {
        Self::Object(vec![
            ("number", Self::Number(rule.number().into())),
            ("text", Self::text(rule.text())),
            ("place", Self::text(rule.place())),
        ])
    }

    /// With a line end.
    pub(super) fn document(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(0, &mut out);
        out.push(b'\n');
        out
    }

    fn put(&self, depth: usize, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend(b"null"),
            Self::Bool(value) => out.extend(value.to_string().bytes()),
            Self::Number(value) => out.extend(value.to_string().bytes()),
            Self::Text(text) => quote(text, out),
            Self::List(items) => inside(b"[]", depth, items, out, |item, out| item.put(depth + 1, out)),
            Self::Object(fields) => inside(b"{}", depth, fields, out, |(name, value), out| {
                quote(name, out);
                out.extend(b": ");
                value.put(depth + 1, out);
            }),
        }
    }
}

fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    // To memory, always.
    let _ = Escaped(out).write_str(text);
    out.push(b'"');
}

fn inside<T>(brackets: &[u8; 2], depth: usize, items: &[T], out: &mut Vec<u8>, put: impl Fn(&T, &mut Vec<u8>)) {
    out.push(brackets[0]);
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        line(depth + 1, out);
        put(item, out);
    }
    if !items.is_empty() {
        line(depth, out);
    }
    out.push(brackets[1]);
}

fn line(depth: usize, out: &mut Vec<u8>) {
    out.push(b'\n');
    out.resize(out.len() + 2 * depth, b' ');
}
