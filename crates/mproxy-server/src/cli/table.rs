//! A table with aligned columns, for a terminal.

use std::io::{self, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::text::one_line;

/// Where the text of a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) align: Align,
    /// Columns of the terminal; what is longer is cut.
    pub(super) most: usize,
}

impl Column {
    pub(super) const fn left(title: &'static str, most: usize) -> Self {
        Self { title, align: Align::Left, most }
    }

    pub(super) const fn right(title: &'static str) -> Self {
        Self { title, align: Align::Right, most: 20 }
    }
}

/// Rows under these columns, each of which is as wide as it has to be.
#[derive(Debug)]
pub(super) struct Table<'a> {
    columns: &'a [Column],
    rows: Vec<Vec<String>>,
}

impl<'a> Table<'a> {
    pub(super) const fn new(columns: &'a [Column]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// A row with a text for each column, which may come from outside.
    pub(super) fn add(&mut self, row: impl IntoIterator<Item = String>) {
        let shown = |(column, text): (&Column, String)| fit(&one_line(&text), column.most);
        self.rows.push(self.columns.iter().zip(row).map(shown).collect());
    }

    /// The titles and the rows, each in a line that begins with `indent`.
    pub(super) fn write(&self, indent: &str, out: &mut impl Write) -> io::Result<()> {
        let titles: Vec<String> = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let lines = || std::iter::once(&titles).chain(&self.rows);
        let widest =
            |at: usize| lines().map(|line| line.get(at).map_or(0, |text| text.width())).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(widest).collect();
        for line in lines() {
            let mut text = indent.to_owned();
            for ((cell, column), width) in line.iter().zip(self.columns).zip(&widths) {
                let space = " ".repeat(width - cell.width());
                let parts = if column.align == Align::Left { [cell, &space] } else { [&space, cell] };
                text.extend(parts.map(String::as_str));
                text.push_str("  ");
            }
            writeln!(out, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// As much of a text as has its place in so many columns; where that is not all, with `…` at its end.
pub(super) fn fit(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let mut taken = 0;
    let fits = |c: &char| {
        taken += c.width().unwrap_or(0);
        taken < most
    };
    let mut shown: String = text.chars().take_while(fits).collect();
    shown.push('…');
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_have_to_be_and_nothing_breaks_a_line() {
        let columns = [Column::left("CLIENT", 6), Column::right("BYTES"), Column::left("USER", 9)];
        let mut table = Table::new(&columns);
        table.add(["a\nb".into(), "12 B".into(), "温度".into()]);
        table.add(["longer-than".into(), "7 B".into(), String::new()]);
        let mut out = Vec::new();
        table.write(" ", &mut out).expect("a Vec takes everything");
        let shown = String::from_utf8(out).expect("text");
        assert_eq!(shown, " CLIENT  BYTES  USER\n a\\nb     12 B  温度\n longe…    7 B\n");
    }

    #[test]
    fn wide_characters_are_cut_where_they_end() {
        assert_eq!(fit("温度温度", 8), "温度温度");
        assert_eq!(fit("温度温度", 7), "温度温…");
        assert_eq!(fit("abc", 2), "a…");
        assert_eq!(fit("", 0), "");
    }
}
