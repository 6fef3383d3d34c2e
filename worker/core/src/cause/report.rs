//! What torch's `@record` writes to `TORCHELASTIC_ERROR_FILE` when the program raised an exception.

use serde_json::Value;

use super::words::{self, Finding};

/// An exception as the program reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReport {
    /// `ValueError: …`.
    pub message: String,
    /// The traceback.
    pub callstack: String,
}

impl ErrorReport {
    /// Reads `{"message": {"message": …, "extraInfo": {"py_callstack": …}}}`, or the older `{"message": "…"}`. `None` for
    /// anything else: a program killed while it wrote leaves half a file.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let message = value.get("message")?;
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let found = match message.as_str() {
            Some(message) => Self { message: message.to_owned(), callstack: String::new() },
            None => Self {
                message: text(message.get("message")),
                callstack: text(message.pointer("/extraInfo/py_callstack")),
            },
        };
        (!found.message.is_empty() || !found.callstack.is_empty()).then_some(found)
    }

    pub(super) fn finding(&self) -> Finding {
        let lines: Vec<&str> = self.callstack.lines().collect();
        words::find_in(&lines).unwrap_or_else(|| words::exception(&self.message, None, true))
    }
}
