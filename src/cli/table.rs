//! `[broker]` Columns.

use super::paint::Paint;

/// Lines of cells, the first one the heading. Columns are as wide as their widest cell; the last one is not filled up.
pub(super) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]], paint: Paint) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| shown(&row[column]));
        cells.chain([heading[column].len()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let filled = |cell: &str, column: usize| {
        let gap = if column + 1 == N { 0 } else { widths[column] + 2 - shown(cell) };
        " ".repeat(gap)
    };
    let mut text = String::new();
    for (column, cell) in heading.iter().enumerate() {
        text += &(paint.head(cell) + &filled(cell, column));
    }
    text.push('\n');
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text += &(cell.clone() + &filled(cell, column));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// How many columns of a terminal a cell takes: its colours take none.
fn shown(cell: &str) -> usize {
    let mut in_colour = false;
    let takes_one = |c: &char| {
        let before = in_colour;
        in_colour = if before { *c != 'm' } else { *c == '\x1b' };
        !before && !in_colour
    };
    cell.chars().filter(takes_one).count()
}
