//! `[both]` Tables: aligned columns; colour on a terminal unless NO_COLOR is set; and text as JSON.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    None,
    Good,
    Bad,
}

/// A cell, and how it is to stand out.
pub type Cell = (String, Mark);

pub fn plain(text: impl Into<String>) -> Cell {
    (text.into(), Mark::None)
}

/// The first column is set left, as are those whose title ends in a space; the others right. A row that is shorter than
/// the titles ends in a remark, for which no column is made wider.
pub fn render(titles: &[&str], rows: &[Vec<Cell>]) -> String {
    let colour = colour();
    let width = |column: usize| {
        let whole = rows.iter().filter(|row| row.len() == titles.len() || column + 1 < row.len());
        let cells = whole.filter_map(|row| row.get(column)).map(|(text, _)| text.chars().count());
        cells.chain([titles[column].trim_end().chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = (&str, Mark)>| {
        let mut line = String::new();
        for (column, (cell, mark)) in cells.enumerate() {
            let gap = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            let left = column == 0 || titles[column].ends_with(' ');
            let cell = match mark {
                Mark::Good if colour => format!("\x1b[32m{cell}\x1b[0m"),
                Mark::Bad if colour => format!("\x1b[31m{cell}\x1b[0m"),
                _ => cell.to_owned(),
            };
            let _ = if left { write!(line, "{cell}{gap}  ") } else { write!(line, "{gap}{cell}  ") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(&mut titles.iter().map(|title| (title.trim_end(), Mark::None)));
    for row in rows {
        line(&mut row.iter().map(|(cell, mark)| (cell.as_str(), *mark)));
    }
    text
}

/// Prints a line, or ends the program where nobody reads any further.
pub fn say(line: &str) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

fn colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !refused
}

/// A string of JSON.
pub fn json(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            character if u32::from(character) < 0x20 => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            character => quoted.push(character),
        }
    }
    quoted + "\""
}
