//! A complaint about a text, with the line it is about and carets below.

use std::fmt;

use miette::Diagnostic;

/// Message, line, column, and the line itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    message: String,
    help: Option<String>,
    place: Option<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
    text: String,
    width: usize,
}

impl Excerpt {
    /// Line and column, both from 1, where the complaint has a place.
    #[must_use]
    pub fn position(&self) -> Option<(usize, usize)> {
        self.place.as_ref().map(|place| (place.line, place.column))
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Place {
            line,
            column,
            text,
            width,
        }) = &self.place
        else {
            return f.write_str(&self.message);
        };
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "line {line}, column {column}: {}", self.message)?;
        writeln!(f, "{margin} |\n{number} | {text}")?;
        write!(
            f,
            "{margin} | {}{}",
            " ".repeat(column - 1),
            "^".repeat(*width)
        )?;
        self.help
            .as_ref()
            .map_or(Ok(()), |help| write!(f, "\n{margin} = {help}"))
    }
}

/// The excerpt of an error's first label in `source`.
pub(super) fn of_diagnostic(error: &dyn Diagnostic, source: &str) -> Excerpt {
    let label = error.labels().and_then(|mut labels| labels.next());
    let place = label.and_then(|label| place(source, label.offset(), label.len()));
    let help = error.help().map(|help| help.to_string());
    Excerpt {
        message: error.to_string(),
        help,
        place,
    }
}

fn place(source: &str, offset: usize, length: usize) -> Option<Place> {
    let before = source.get(..offset)?;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let text = source.get(start..)?.lines().next().unwrap_or_default();
    let column = before.get(start..)?.chars().count() + 1;
    let marked = source.get(offset..)?.get(..length).unwrap_or_default();
    let width = marked
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        .max(1);
    Some(Place {
        line: before.matches('\n').count() + 1,
        column,
        text: text.to_owned(),
        width,
    })
}
