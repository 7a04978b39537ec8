//! Tables for people. One that is wider than the terminal becomes paragraphs, a row each: nothing is broken in its middle.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Width};

use crate::cli::colour::Colour;
use crate::cli::words;

/// Between columns, and between the fields of a paragraph.
const GAP: &str = "  ";

/// Prose in a narrower column than this reads worse than in a paragraph.
const NARROWEST_PROSE: usize = 24;

/// What stands in a row, under a heading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    text: String,
    colour: Option<Colour>,
    alignment: CellAlignment,
}

impl Field {
    /// A text, whoever wrote it.
    pub(crate) fn text(text: impl ToString) -> Self {
        Self { text: words::printable(&text.to_string()), colour: None, alignment: CellAlignment::Left }
    }

    /// A number, a size or a duration: their ends line up.
    pub(crate) fn number(text: impl ToString) -> Self {
        Self { alignment: CellAlignment::Right, ..Self::text(text) }
    }

    pub(crate) fn coloured(text: impl ToString, colour: Colour) -> Self {
        Self { colour: Some(colour), ..Self::text(text) }
    }

    fn cell(&self) -> Cell {
        let cell = Cell::new(&self.text).set_alignment(self.alignment);
        match self.colour {
            Some(colour) => cell.fg(colour.of_cell()),
            None => cell,
        }
    }
}

/// Rows under headings. A last column without a heading is prose, which may be broken between its words.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    headings: Vec<String>,
    /// So many first columns say which row it is: they need no heading.
    names: usize,
    rows: Vec<Vec<Field>>,
    colours: bool,
    width: Option<usize>,
}

impl Table {
    /// An empty one for lines of `width`, which nobody knows where no terminal reads.
    pub(crate) fn new(headings: &[&str], colours: bool, width: Option<usize>) -> Self {
        let headings = headings.iter().map(|heading| words::printable(heading)).collect();
        Self { headings, names: 1, rows: Vec::new(), colours, width }
    }

    /// The same for rows that are told apart by their first `names` fields.
    pub(crate) fn named_by(mut self, names: usize) -> Self {
        self.names = names;
        self
    }

    /// The same with each line behind a margin.
    pub(crate) fn within(mut self, margin: usize) -> Self {
        self.width = self.width.map(|width| width.saturating_sub(margin));
        self
    }

    pub(crate) fn row(&mut self, fields: Vec<Field>) {
        self.rows.push(fields);
    }

    /// As text: no blanks at the ends of its lines, one line feed at its own.
    pub(crate) fn render(&self) -> String {
        let whole = self.columns(&self.headings);
        let Some(width) = self.width else { return lines(&whole) };
        let fits = |table: &comfy_table::Table| sum(&content_widths(table)) <= width;
        if fits(&whole) {
            return lines(&whole);
        }
        let broken: Vec<String> = self.headings.iter().map(|heading| heading.replace(' ', "\n")).collect();
        let mut narrow = self.columns(&broken);
        if fits(&narrow) {
            return lines(&narrow);
        }
        if self.headings.last().is_some_and(String::is_empty)
            && let [others @ .., _] = content_widths(&narrow).as_slice()
            && let Some(left) = width.checked_sub(sum(others) + GAP.len()).filter(|left| *left >= NARROWEST_PROSE)
        {
            let with_padding = Width::Fixed(u16::try_from(left + GAP.len()).unwrap_or(u16::MAX));
            let prose = narrow.column_mut(others.len()).expect("each heading has its column");
            prose.set_constraint(ColumnConstraint::Absolute(with_padding));
            return lines(&narrow);
        }
        self.paragraphs()
    }

    /// The rows without columns, each on as few lines as its fields need.
    pub(crate) fn paragraphs(&self) -> String {
        let width = self.width.unwrap_or(usize::MAX);
        self.rows.iter().map(|row| self.paragraph(row, width)).collect()
    }

    fn columns(&self, headings: &[String]) -> comfy_table::Table {
        let mut table = comfy_table::Table::new();
        table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
        table.style_text_only();
        if self.colours {
            table.enforce_styling();
        }
        let bold = |heading: &String| match heading.as_str() {
            "" => Cell::new(""),
            heading => Cell::new(heading).add_attribute(Attribute::Bold),
        };
        table.set_header(headings.iter().map(bold));
        table.add_rows(self.rows.iter().map(|row| row.iter().map(Field::cell).collect::<Vec<_>>()));
        table
    }

    fn paragraph(&self, row: &[Field], width: usize) -> String {
        let mut paragraph = Paragraph { text: String::new(), column: 0, width };
        for (place, (heading, field)) in self.headings.iter().zip(row).enumerate() {
            if place == self.names {
                paragraph.end_line();
            }
            let painted = |text: &str| match field.colour {
                Some(colour) if self.colours => colour.paint(text),
                _ => text.to_owned(),
            };
            if field.text.is_empty() {
                continue;
            }
            if place >= self.names && !heading.is_empty() {
                let label = heading.to_lowercase();
                let length = words::columns(&label) + 1 + words::columns(&field.text);
                paragraph.put(&format!("{label} {}", painted(&field.text)), length, GAP);
            } else if place >= self.names {
                paragraph.put_prose(&field.text);
            } else {
                paragraph.put(&painted(&field.text), words::columns(&field.text), GAP);
            }
        }
        paragraph.end_line();
        paragraph.text
    }
}

/// A row's text while it is laid out.
struct Paragraph {
    text: String,
    column: usize,
    width: usize,
}

impl Paragraph {
    /// Adds words to the line, or to the next where they do not fit. Lines but the first are indented. What is too long
    /// for any of those stands at a line's start, where a terminal that breaks it lets it be copied whole.
    fn put(&mut self, words: &str, length: usize, gap: &str) {
        if self.column > 0 && self.column + gap.len() + length > self.width {
            self.end_line();
        }
        if self.column > 0 {
            self.text.push_str(gap);
            self.column += gap.len();
        } else if !self.text.is_empty() && GAP.len() + length <= self.width {
            self.text.push_str(GAP);
            self.column += GAP.len();
        }
        self.text.push_str(words);
        self.column += length;
    }

    /// Adds words that may be parted: on the line where all of them fit, else from the next one on.
    fn put_prose(&mut self, prose: &str) {
        if self.column + GAP.len() + words::columns(prose) > self.width {
            self.end_line();
        }
        for (place, word) in prose.split_whitespace().enumerate() {
            self.put(word, words::columns(word), if place == 0 { GAP } else { " " });
        }
    }

    fn end_line(&mut self) {
        if self.column > 0 {
            self.text.push('\n');
            self.column = 0;
        }
    }
}

/// The widths of the columns, without the blanks around them.
fn content_widths(table: &comfy_table::Table) -> Vec<usize> {
    table.column_max_content_widths().into_iter().map(usize::from).collect()
}

/// How wide columns are side by side.
fn sum(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1)
}

fn lines(table: &comfy_table::Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn tasks(width: Option<usize>) -> String {
        let mut table = Table::new(&["TASK", "OPERATOR", "STATE", "DEAD LETTERS", ""], false, width);
        let row = |task: &str, letters: u64, remark: &str| {
            let state = Field::coloured("success", Colour::Green);
            vec![Field::text(task), Field::text("sink"), state, Field::number(letters), Field::text(remark)]
        };
        table.row(row("posts", 12, "2,000 records in 4 objects, and others that were there before"));
        table.row(row("people", 0, ""));
        table.render()
    }

    #[test]
    fn a_table_that_fits_has_its_columns() {
        assert_snapshot!(tasks(None), @"
        TASK    OPERATOR  STATE    DEAD LETTERS
        posts   sink      success            12  2,000 records in 4 objects, and others that were there before
        people  sink      success             0
        ");
        assert_eq!(tasks(Some(102)), tasks(None));
    }

    #[test]
    fn in_less_room_headings_and_prose_are_broken_between_words() {
        assert_snapshot!(tasks(Some(60)), @"
        TASK    OPERATOR  STATE    DEAD
                                   LETTERS
        posts   sink      success       12  2,000 records in 4
                                            objects, and others that
                                            were there before
        people  sink      success        0
        ");
    }

    #[test]
    fn in_still_less_a_row_is_a_paragraph() {
        assert_snapshot!(tasks(Some(40)), @"
        posts
          operator sink  state success
          dead letters 12
          2,000 records in 4 objects, and others
          that were there before
        people
          operator sink  state success
          dead letters 0
        ");
        assert_snapshot!(tasks(Some(24)), @"
        posts
          operator sink
          state success
          dead letters 12
          2,000 records in 4
          objects, and others
          that were there before
        people
          operator sink
          state success
          dead letters 0
        ");
    }

    #[test]
    fn what_names_a_row_is_never_broken_nor_moved_where_it_cannot_be_copied() {
        let mut table = Table::new(&["DAG", "RUN", "STATE"], true, Some(40)).named_by(2);
        let run = "manual__2026-03-01T02:00:00.123456+00:00";
        table.row(vec![Field::text("daily"), Field::text(run), Field::coloured("failed", Colour::Red)]);
        assert_eq!(table.render(), format!("daily\n{run}\n  state \u{1b}[31mfailed\u{1b}[0m\n"));
        assert!(table.within(8).render().contains(&format!("\n{run}\n")));
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let mut table = Table::new(&["TASK", "STATE", ""], true, Some(50));
        let prose = "an error that says at length what went wrong where, and what to do about it";
        table.row(vec![Field::text("a"), Field::coloured("failed", Colour::Red), Field::text(prose)]);
        let coloured = table.render();
        assert!(coloured.contains("\u{1b}["));
        let plain = regex::Regex::new("\u{1b}\\[[0-9;]*m").unwrap().replace_all(&coloured, "").into_owned();
        table.colours = false;
        assert_eq!(plain.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n", table.render());
        assert_snapshot!(table.render(), @"
        TASK  STATE
        a     failed  an error that says at length what
                      went wrong where, and what to do
                      about it
        ");
    }
}
