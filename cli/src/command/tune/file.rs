//! An experiment's file, with what is wrong with it shown in it.

use std::path::Path;

use trainyard_tuner::definition::{Definition, DefinitionError};

use crate::error::CliError;
use crate::manifest::diagnostic::{Diagnostic, Position};
use crate::manifest::{self, Source};

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<(Source, Definition), CliError> {
    let file = |source| CliError::File { verb: "read", path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(file)?;
    let folder = path.canonicalize().map_err(file)?.parent().map(Path::to_owned);
    let source = Source { name: path.display().to_string(), text, folder };
    let read = Definition::read(&source.text);
    read.map_err(|errors| refusal(&source, &errors)).map(|definition| (source, definition))
}

/// What is wrong with a file, printed.
pub(super) fn refusal(source: &Source, errors: &[DefinitionError]) -> CliError {
    let diagnostics: Vec<Diagnostic> = errors.iter().map(|error| diagnostic(source, error)).collect();
    let refused = manifest::refuse(&diagnostics).err();
    refused.unwrap_or_else(|| CliError::Manifest { summary: format!("{} has an error", source.name) })
}

fn diagnostic(source: &Source, error: &DefinitionError) -> Diagnostic {
    let diagnostic = Diagnostic::at(source, position(&source.text, error), &error.path, &error.message);
    match &error.hint {
        Some(hint) => diagnostic.hint(hint),
        None => diagnostic,
    }
}

/// The line and column of an error's first byte.
fn position(text: &str, error: &DefinitionError) -> Position {
    let before = text.get(..error.span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let meant = text.get(error.span.clone()).unwrap_or_default().lines().next().unwrap_or_default();
    Position { line, column, length: meant.chars().count().max(1) }
}
