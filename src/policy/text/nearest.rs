//! `[broker]` The word that was probably meant.

/// Of `words`, the one that is nearest to `word`, if any is near: a third of its letters wrong, missing or too many.
pub(super) fn nearest<'w>(word: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let most = (word.chars().count() / 3).max(1);
    let distances = words.into_iter().map(|other| (distance(word, other), other));
    distances.filter(|(distance, _)| *distance <= most).min_by_key(|(distance, _)| *distance).map(|(_, other)| other)
}

/// "is x meant? ", or nothing.
pub(super) fn hint<'w>(word: &str, words: impl IntoIterator<Item = &'w str>) -> String {
    nearest(word, words).map(|near| format!("is \"{near}\" meant? ")).unwrap_or_default()
}

/// Letters to change, take away, add, or exchange with the next (the distance of optimal string alignment); letters of
/// the other case are the same. A word of over 64 bytes is far from all.
fn distance(one: &str, other: &str) -> usize {
    if one.len() > 64 {
        return usize::MAX;
    }
    let letters = |word: &str| word.to_ascii_lowercase().chars().collect::<Vec<char>>();
    let (one, other) = (letters(one), letters(other));
    let mut before = vec![0; other.len() + 1];
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for n in 1..=one.len() {
        let mut next = vec![n; other.len() + 1];
        for m in 1..=other.len() {
            let changed = row[m - 1] + usize::from(one[n - 1] != other[m - 1]);
            next[m] = changed.min(row[m] + 1).min(next[m - 1] + 1);
            if n > 1 && m > 1 && one[n - 1] == other[m - 2] && one[n - 2] == other[m - 1] {
                next[m] = next[m].min(before[m - 2] + 1);
            }
        }
        (before, row) = (row, next);
    }
    row[other.len()]
}
