//! What is wrong with a manifest: where, what was expected, and what to do.

use std::io::{self, Write};

use super::{Document, Source};
use crate::output::style;

/// So much of a line is shown.
const LINE_CHARS: usize = 160;

/// A place in a file, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Line.
    pub(crate) line: usize,
    /// Column, in characters.
    pub(crate) column: usize,
    /// How many characters are meant.
    pub(crate) length: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub(crate) struct Diagnostic {
    /// File name as the user gave it.
    pub(crate) file: String,
    /// Zero for a whole file, or for what was given on the command line.
    pub(crate) at: Position,
    /// The line of the file.
    pub(crate) line_text: String,
    /// The path in the document, `spec.replicas`.
    pub(crate) path: String,
    /// Which object, `TrainingJob wine-ddp`.
    pub(crate) subject: String,
    pub(crate) message: String,
    pub(crate) expected: Option<String>,
    pub(crate) hint: Option<String>,
}

impl Diagnostic {
    /// An error at a path of a document: at the value if the path was written, else at its nearest ancestor.
    pub(crate) fn error(document: &Document, path: &str, message: &str) -> Self {
        let at = document.span(path).map(|(exact, span)| if exact { span.value } else { span.key });
        Self { subject: subject(document), ..Self::at(&document.source, at.unwrap_or_default(), path, message) }
    }

    /// An error about a field's name.
    pub(crate) fn key(document: &Document, path: &str, message: &str) -> Self {
        let at = document.span(path).map(|(_, span)| span.key);
        Self { subject: subject(document), ..Self::at(&document.source, at.unwrap_or_default(), path, message) }
    }

    /// An error at a place of a file.
    pub(crate) fn at(source: &Source, at: Position, path: &str, message: &str) -> Self {
        let line_text = at.line.checked_sub(1).and_then(|index| source.text.lines().nth(index));
        Self {
            file: source.name.clone(),
            at,
            line_text: line_text.unwrap_or_default().to_owned(),
            path: path.to_owned(),
            subject: String::new(),
            message: message.to_owned(),
            expected: None,
            hint: None,
        }
    }

    /// An error about a whole file.
    pub(crate) fn in_file(source: &Source, message: &str) -> Self {
        Self::at(source, Position::default(), "", message)
    }

    pub(crate) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `file:line:column`, which editors and terminals open.
    pub(crate) fn place(&self) -> String {
        match self.at.line {
            0 => self.file.clone(),
            line => format!("{}:{line}:{}", self.file, self.at.column),
        }
    }
}

fn subject(document: &Document) -> String {
    [document.kind(), document.name()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Prints diagnostics with the lines they are about. They are ordered by file and place.
pub(crate) fn print(out: &mut dyn Write, diagnostics: &[Diagnostic]) -> io::Result<()> {
    let mut sorted: Vec<_> = diagnostics.iter().collect();
    sorted.sort_by(|a, b| (&a.file, a.at, &a.path).cmp(&(&b.file, b.at, &b.path)));
    for diagnostic in sorted {
        print_one(out, diagnostic)?;
    }
    Ok(())
}

fn print_one(out: &mut dyn Write, diagnostic: &Diagnostic) -> io::Result<()> {
    let strong = style::BAD;
    let dim = anstyle::AnsiColor::Blue.on_default();
    let cyan = anstyle::AnsiColor::Cyan.on_default().bold();
    writeln!(out, "{strong}error:{strong:#} {}", diagnostic.message)?;
    writeln!(out, "  {dim}-->{dim:#} {}", diagnostic.place())?;
    if !diagnostic.line_text.is_empty() {
        let number = diagnostic.at.line.to_string();
        let gutter = " ".repeat(number.len());
        let (line, column) = excerpt(&diagnostic.line_text, diagnostic.at.column);
        let before: String = line.chars().take(column - 1).map(blank).collect();
        let room = line.chars().count().saturating_sub(column - 1);
        let carets = "^".repeat(diagnostic.at.length.min(room).max(1));
        writeln!(out, "   {dim}{gutter}|{dim:#}")?;
        writeln!(out, " {dim}{number} |{dim:#} {line}")?;
        writeln!(out, "   {dim}{gutter}|{dim:#} {before}{strong}{carets}{strong:#}")?;
    }
    if !diagnostic.path.is_empty() {
        let of = if diagnostic.subject.is_empty() { String::new() } else { format!(" of {}", diagnostic.subject) };
        writeln!(out, "  at: {}{of}", diagnostic.path)?;
    } else if !diagnostic.subject.is_empty() {
        writeln!(out, "  in: {}", diagnostic.subject)?;
    }
    if let Some(expected) = &diagnostic.expected {
        writeln!(out, "  expected: {expected}")?;
    }
    if let Some(hint) = &diagnostic.hint {
        writeln!(out, "  {cyan}hint:{cyan:#} {hint}")?;
    }
    writeln!(out)
}

/// The part of a long line that is around a column, and the column in it. Manifests made by programs may be one line of megabytes.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    let length = line.chars().count();
    if length <= LINE_CHARS {
        return (line.to_owned(), column);
    }
    let start = (column - 1).saturating_sub(LINE_CHARS / 2).min(length - LINE_CHARS);
    let part: String = line.chars().skip(start).take(LINE_CHARS).collect();
    (part, (column - start).clamp(1, LINE_CHARS))
}

/// Keeps tabs, so that carets stand under what they mean.
fn blank(c: char) -> char {
    if c == '\t' { '\t' } else { ' ' }
}
