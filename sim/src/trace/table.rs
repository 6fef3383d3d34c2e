//! Lines with named columns, and what is wrong with them.

/// A place in a trace that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{at}: {what}")]
pub struct TraceError {
    /// Which line, from 1.
    pub line: usize,
    /// At which character of it, from 1.
    pub at: usize,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

/// Values separated by commas, under a header.
pub(super) struct Table<'t> {
    names: Vec<&'t str>,
    lines: Vec<(usize, &'t str)>,
}

/// A line.
pub(super) struct Row<'t> {
    line: usize,
    names: &'t [&'t str],
    cells: Vec<(usize, &'t str)>,
}

impl<'t> Table<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let mut lines = (1..).zip(text.lines());
        let names = lines.next().map(|(_, line)| line.split(',').map(str::trim).collect()).unwrap_or_default();
        Self { names, lines: lines.filter(|(_, line)| !line.trim().is_empty()).collect() }
    }

    /// The position of a column, if there is one.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|one| *one == name)
    }

    /// The position of a column that has to be there; `all` are those that are looked for.
    pub(super) fn column(&self, name: &str, all: &str) -> Result<usize, TraceError> {
        self.find(name).ok_or_else(|| TraceError {
            line: 1,
            at: 1,
            what: format!("there is no column `{name}`"),
            hint: format!("the first line names the columns; these are needed: {all}"),
        })
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.lines.iter().map(|(line, text)| {
            let mut at = 1;
            let cell = |text: &'t str| {
                let begins = at;
                at += text.chars().count() + 1;
                (begins, text.trim())
            };
            Row { line: *line, names: &self.names, cells: text.split(',').map(cell).collect() }
        })
    }
}

impl Row<'_> {
    pub(super) fn text(&self, column: usize) -> &str {
        self.cells.get(column).map_or("", |(_, text)| text)
    }

    /// A number that is not negative.
    pub(super) fn number(&self, column: usize) -> Result<f64, TraceError> {
        let value = self.text(column).parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
        value.ok_or_else(|| self.wrong(column, "a number, not below zero"))
    }

    /// A whole number up to a limit.
    pub(super) fn whole<T: TryFrom<u64>>(&self, column: usize, most: u64) -> Result<T, TraceError> {
        let value = self.text(column).parse::<u64>().ok().filter(|value| *value <= most);
        value
            .and_then(|value| T::try_from(value).ok())
            .ok_or_else(|| self.wrong(column, &format!("a whole number from 0 to {most}")))
    }

    /// What is wrong with a cell, which should have been something else.
    pub(super) fn wrong(&self, column: usize, expected: &str) -> TraceError {
        let name = self.names.get(column).copied().unwrap_or_default();
        let end = || self.cells.last().map_or(1, |(at, text)| at + text.chars().count());
        let (at, what) = match self.cells.get(column) {
            Some((at, "")) => (*at, format!("`{name}` is empty")),
            Some((at, text)) => (*at, format!("`{name}` is `{text}`")),
            None => (
                end(),
                format!("`{name}` is missing: the line has {} of {} values", self.cells.len(), self.names.len()),
            ),
        };
        let hint = format!("`{name}` is {expected}; correct the line, or take it out");
        TraceError { line: self.line, at, what, hint }
    }
}
