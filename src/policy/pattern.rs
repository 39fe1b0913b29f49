//! `[broker]` Patterns of paths, anchored at both ends. Deciding allocates nothing.

use std::collections::HashMap;

use super::ancestors;

/// A pattern, in two: the directory before the first component with a wildcard, and the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) directory: Box<[u8]>,
    rest: Box<[u8]>,
}

impl Pattern {
    /// Takes a pattern that has the form of a path.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub(super) fn new(pattern: &[u8]) -> Result<Self, &'static str> {
        let wild = |component: &[u8]| component.iter().any(|byte| matches!(byte, b'*' | b'?'));
        let stars = |component: &[u8]| component != b"**" && component.windows(2).any(|two| two == b"**");
        let mut components = pattern.split(|&byte| byte == b'/');
        let before = components.by_ref().take_while(|component| !wild(component));
        let directory = before.map(|component| component.len() + 1).sum::<usize>().saturating_sub(1);
        if directory >= pattern.len() {
            return Err("it has no wildcard: name the file, or what is beneath the directory");
        }
        if directory == 0 {
            return Err("its first component has a wildcard, so it would be about every directory there is; name one");
        }
        if pattern.split(|&byte| byte == b'/').any(stars) {
            return Err("\"**\" stands for whole components only: between slashes, or at the end");
        }
        let (directory, rest) = pattern.split_at(directory);
        Ok(Self { directory: directory.into(), rest: rest[1..].into() })
    }

    /// Whether it matches what comes after its directory; `None` for nothing, which `**` matches.
    pub(super) fn matches(&self, name: Option<&[u8]>) -> bool {
        self.is_about(name, false)
    }

    /// Whether it matches `name`, or a directory above that.
    fn covers(&self, name: Option<&[u8]>) -> bool {
        self.is_about(name, true)
    }

    fn is_about(&self, name: Option<&[u8]>, or_above: bool) -> bool {
        let (mut pattern, mut name) = (Some(&*self.rest), name);
        // Behind the last `**`, and what of the name it has not swallowed: only that one need ever swallow more.
        let mut retry = None;
        loop {
            let wanted = first(pattern);
            if let Some((b"**", rest)) = wanted {
                (pattern, retry) = (rest, Some((rest, name)));
                continue;
            }
            match (wanted, first(name)) {
                (None, None) => return true,
                (None, Some(_)) if or_above => return true,
                (Some((wanted, after)), Some((component, rest))) if component_matches(wanted, component) => {
                    (pattern, name) = (after, rest);
                    continue;
                }
                _ => {}
            }
            let Some((after, swallowed)) = retry else { return false };
            let Some((_, rest)) = first(swallowed) else { return false };
            (pattern, name, retry) = (after, rest, Some((after, rest)));
        }
    }

    /// Whether it can match `name`, which comes after its directory, or something beneath that.
    fn reaches(&self, name: &[u8]) -> bool {
        let (mut pattern, mut name) = (Some(&*self.rest), Some(name));
        loop {
            match (first(pattern), first(name)) {
                (Some((b"**", _)), _) | (_, None) => return true,
                (Some((wanted, after)), Some((component, rest))) if component_matches(wanted, component) => {
                    (pattern, name) = (after, rest);
                }
                _ => return false,
            }
        }
    }

    /// Bytes that stand for themselves: of two patterns that match, the one with more is more specific.
    fn literal(&self) -> usize {
        self.directory.len() + self.rest.iter().filter(|byte| !matches!(byte, b'*' | b'?')).count()
    }
}

fn first(rest: Option<&[u8]>) -> Option<(&[u8], Option<&[u8]>)> {
    let rest = rest?;
    Some(match rest.iter().position(|&byte| byte == b'/') {
        Some(slash) => (&rest[..slash], Some(&rest[slash + 1..])),
        None => (rest, None),
    })
}

fn component_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => match retry {
                Some((after, swallowed)) => {
                    (p, n) = (after, swallowed + 1);
                    retry = Some((after, n));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Patterns by their directories. At most [`MOST`](Self::MOST) have the same one, so that to try them takes no longer
/// with more rules.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    by_directory: HashMap<Box<[u8]>, Vec<(Pattern, u32)>>,
    longest: usize,
}

impl Patterns {
    pub(super) const MOST: usize = 32;

    /// # Errors
    /// There is a rule for the same pattern already (its number), or there are too many.
    pub(super) fn insert(&mut self, pattern: Pattern, rule: u32) -> Result<(), Option<u32>> {
        self.longest = self.longest.max(pattern.directory.len());
        let patterns = self.by_directory.entry(pattern.directory.clone()).or_default();
        if let Some((_, same)) = patterns.iter().find(|(other, _)| *other == pattern) {
            return Err(Some(*same));
        }
        if patterns.len() == Self::MOST {
            return Err(None);
        }
        patterns.push((pattern, rule));
        // The most specific first; of equals, by their bytes: the order in which rules are given means nothing.
        patterns.sort_by(|(one, _), (other, _)| {
            other.literal().cmp(&one.literal()).then_with(|| one.rest.cmp(&other.rest))
        });
        Ok(())
    }

    /// The most specific pattern that matches `path`: its rule, and what of the path comes after its directory; `None`
    /// for the directory itself, which counts only where `itself` says so.
    pub(super) fn find<'a>(&self, path: &'a [u8], itself: bool) -> Option<(u32, Option<&'a [u8]>)> {
        self.best(path, itself, Pattern::matches)
    }

    /// The most specific pattern that matches `path` or a directory above it.
    pub(super) fn covering(&self, path: &[u8]) -> Option<u32> {
        self.best(path, true, Pattern::covers).map(|(rule, _)| rule)
    }

    fn best<'a>(
        &self,
        path: &'a [u8],
        itself: bool,
        is_about: impl Fn(&Pattern, Option<&[u8]>) -> bool,
    ) -> Option<(u32, Option<&'a [u8]>)> {
        let mut best: Option<(usize, u32, Option<&[u8]>)> = None;
        if self.by_directory.is_empty() {
            return None;
        }
        let inside = ancestors(path, self.longest).map(|(directory, name)| (directory, Some(name)));
        for (directory, name) in itself.then_some((path, None)).into_iter().chain(inside) {
            let Some(patterns) = self.by_directory.get(directory) else { continue };
            let Some((pattern, rule)) = patterns.iter().find(|(pattern, _)| is_about(pattern, name)) else { continue };
            if best.is_none_or(|(literal, ..)| literal < pattern.literal()) {
                best = Some((pattern.literal(), *rule, name));
            }
        }
        best.map(|(_, rule, name)| (rule, name))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_directory.is_empty()
    }

    /// The rule that has exactly this pattern.
    pub(super) fn same(&self, pattern: &[u8]) -> Option<u32> {
        let pattern = Pattern::new(pattern).ok()?;
        let patterns = self.by_directory.get(&pattern.directory)?;
        patterns.iter().find(|(other, _)| *other == pattern).map(|(_, rule)| *rule)
    }

    /// Whether `path` is the directory of a pattern, or one can match it or something beneath it.
    pub(super) fn reach(&self, path: &[u8]) -> bool {
        self.by_directory.contains_key(path)
            || ancestors(path, self.longest).any(|(directory, name)| {
                let patterns = self.by_directory.get(directory);
                patterns.is_some_and(|patterns| patterns.iter().any(|(pattern, _)| pattern.reaches(name)))
            })
    }

    /// The directories, and the rules of their patterns.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.by_directory
            .iter()
            .flat_map(|(directory, patterns)| patterns.iter().map(move |(_, rule)| (&**directory, *rule)))
    }
}
