//! CRI log lines. Pure.

/// A line of a container's log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// RFC 3339 with nanoseconds.
    pub(super) time: &'a [u8],
    /// Whether the container's line ends here; a long line is written in several parts.
    pub(super) ends: bool,
    /// What the container wrote.
    pub(super) text: &'a [u8],
}

/// Reads one line without its newline; `None` for one that is torn or not ours.
pub(super) fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let mut fields = raw.splitn(4, |byte| *byte == b' ');
    let (time, stream, tag) = (fields.next()?, fields.next()?, fields.next()?);
    let text = fields.next().unwrap_or_default();
    let known = matches!(stream, b"stdout" | b"stderr") && matches!(tag, b"F" | b"P");
    known.then_some(Line { time, ends: tag == b"F", text })
}

/// The time of a line in milliseconds since the epoch.
pub(super) fn time_ms(line: &Line<'_>) -> Option<i64> {
    std::str::from_utf8(line.time).ok()?.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// How lines are shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Writer {
    /// Each line begins with its time.
    pub(super) timestamps: bool,
    /// The line before was a part only.
    inside: bool,
}

impl Writer {
    pub(super) fn new(timestamps: bool) -> Self {
        Self { timestamps, inside: false }
    }

    pub(super) fn write(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        if self.timestamps && !self.inside {
            out.extend_from_slice(line.time);
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if line.ends {
            out.push(b'\n');
        }
        self.inside = !line.ends;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(raw: &[&str], timestamps: bool) -> String {
        let mut writer = Writer::new(timestamps);
        let mut out = Vec::new();
        for raw in raw {
            writer.write(&parse(raw.as_bytes()).expect("a line"), &mut out);
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn parts_are_joined_and_the_time_said_once() {
        let lines = [
            "2026-01-01T00:00:00.1Z stdout P hel",
            "2026-01-01T00:00:00.2Z stdout F lo",
            "2026-01-01T00:00:01Z stderr F ",
        ];
        assert_eq!(shown(&lines, false), "hello\n\n");
        assert_eq!(shown(&lines, true), "2026-01-01T00:00:00.1Z hello\n2026-01-01T00:00:01Z \n");
    }

    #[test]
    fn torn_and_foreign_lines_are_none() {
        for raw in ["", "2026-01-01T00:00:00Z", "x y z w", "2026-01-01T00:00:00Z stdout Q x"] {
            assert_eq!(parse(raw.as_bytes()), None, "{raw}");
        }
    }

    #[test]
    fn times_are_read() {
        let line = parse(b"1970-01-01T00:00:01.5Z stdout F x").expect("a line");
        assert_eq!(time_ms(&line), Some(1_500));
    }
}
