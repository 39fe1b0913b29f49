//! `[broker]` What stands where in a policy file, and whether its tables have keys that nobody knows.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::error::TextError;
use super::file::{LIMIT_KEYS, PHASE_KEYS, Step, TOP_KEYS};
use super::nearest::hint;
use super::rule::RuleText;
use crate::policy::Place;

/// A text and what it consists of.
pub(super) struct Map<'t> {
    text: &'t str,
    file: Arc<str>,
    top: DeTable<'t>,
}

impl<'t> Map<'t> {
    /// # Errors
    /// It is not TOML.
    pub(super) fn new(text: &'t str, file: &str) -> Result<Self, TextError> {
        let mut map = Self { text, file: file.into(), top: DeTable::default() };
        map.top = DeTable::parse(text).map_err(|error| map.error(&error))?.into_inner();
        Ok(map)
    }

    /// What the parser says, and where.
    pub(super) fn error(&self, error: &toml::de::Error) -> TextError {
        let at = error.span().map_or(self.text.len(), |span| span.start);
        TextError::new(self.place(at), error.message().replace('\n', ", "))
    }

    /// Where the way of `steps` leads, or as far as there is one. A way that ends with a key leads to the key.
    pub(super) fn find(&self, steps: &[Step]) -> Place {
        let (mut table, mut value, mut at) = (Some(&self.top), None, 0);
        for step in steps {
            match step {
                Step::Key(key) => match table.and_then(|table| entry(table, key)) {
                    Some((name, found)) => (at, value) = (name.span().start, Some(found)),
                    None => break,
                },
                Step::Number(n) => {
                    let array = value.and_then(|value| value.get_ref().as_array());
                    match array.and_then(|array| array.get(*n)) {
                        Some(found) => (at, value) = (found.span().start, Some(found)),
                        None => break,
                    }
                }
            }
            table = value.and_then(|value| value.get_ref().as_table());
        }
        self.place(at)
    }

    /// Finds keys that no table of a policy has, single tables where there is a list of them, and permission bits that
    /// are not written in octal.
    pub(super) fn check(&self) -> Result<(), TextError> {
        self.known(&self.top, "a policy", TOP_KEYS)?;
        self.rules(&self.top, "")?;
        for phase in self.list(&self.top, "phase", "")? {
            self.known(phase, "a phase", PHASE_KEYS)?;
            self.rules(phase, "phase.")?;
        }
        match entry(&self.top, "limits").and_then(|(_, value)| value.get_ref().as_table()) {
            Some(limits) => self.known(limits, "limits", LIMIT_KEYS),
            None => Ok(()),
        }
    }

    fn rules(&self, table: &DeTable<'t>, of: &str) -> Result<(), TextError> {
        for list in ["allow", "deny"] {
            for rule in self.list(table, list, of)? {
                self.known(rule, "a rule", RuleText::KEYS)?;
                self.octal(rule)?;
            }
        }
        Ok(())
    }

    /// The tables of a list. What is no list at all, the types of the fields tell.
    fn list<'m>(
        &self,
        table: &'m DeTable<'t>,
        key: &'static str,
        of: &str,
    ) -> Result<impl Iterator<Item = &'m DeTable<'t>>, TextError> {
        let found = entry(table, key);
        if let Some((name, value)) = found.filter(|(_, value)| value.get_ref().is_table()) {
            let why = format!("there can be many: write each as [[{of}{key}]], in double brackets");
            let at = if value.span().is_empty() { name.span() } else { value.span() };
            return Err(TextError::new(self.place(at.start), why));
        }
        let array = found.and_then(|(_, value)| value.get_ref().as_array());
        Ok(array.into_iter().flat_map(|array| array.iter()).filter_map(|item| item.get_ref().as_table()))
    }

    fn known(&self, table: &DeTable<'t>, what: &str, keys: &[&'static str]) -> Result<(), TextError> {
        let unknown = table.keys().filter(|key| !keys.contains(&&**key.get_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(()) };
        let (name, hint) = (key.get_ref(), hint(key.get_ref(), keys.iter().copied()));
        let why = format!("{what} has no key \"{}\": {hint}there are {}", name.escape_debug(), keys.join(", "));
        Err(TextError::new(self.place(key.span().start), why))
    }

    /// `create-mode = 400` would be `0o620`.
    fn octal(&self, rule: &DeTable<'t>) -> Result<(), TextError> {
        for key in ["create-mode", "mkdir-mode", "socket-mode"] {
            let Some((_, value)) = entry(rule, key) else { continue };
            let decimal = |number: &&DeInteger<'_>| number.radix() != 8 && number.as_str() != "0";
            if let Some(number) = value.get_ref().as_integer().filter(decimal) {
                let digits = number.as_str();
                let octal = digits.len() == 3 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
                let meant = if octal { digits } else { "640" };
                let why = format!("permission bits are octal: write them as {key} = 0o{meant}");
                return Err(TextError::new(self.place(value.span().start), why));
            }
        }
        Ok(())
    }

    fn place(&self, at: usize) -> Place {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        Place::Text { file: self.file.clone(), line, column: before[line_start..].chars().count() + 1 }
    }
}

type Entry<'m, 't> = (&'m Spanned<std::borrow::Cow<'t, str>>, &'m Spanned<DeValue<'t>>);

fn entry<'m, 't>(table: &'m DeTable<'t>, key: &str) -> Option<Entry<'m, 't>> {
    table.iter().find(|(name, _)| name.get_ref() == key)
}
