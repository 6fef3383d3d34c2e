//! The terminal while a job is followed: log lines on stdout, everything else on stderr, never two halves of a line.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use unicode_width::UnicodeWidthStr as _;

use super::label::Label;
use super::progress::Progress;
use crate::output::style;

/// Without a terminal, progress is a line from time to time.
const PLAIN_PERIOD: Duration = Duration::from_secs(10);
/// Width of the words in front, as cargo has it.
const WORD_WIDTH: usize = 12;

/// Width of the bar, without the gap behind it.
const BAR_WIDTH: usize = 24;

/// Where a job is shown.
#[derive(Debug)]
pub(crate) struct Screen {
    /// Whether lines get the look of a terminal.
    pretty: bool,
    /// Whether there is a terminal for a live line.
    live: bool,
    bar: Option<ProgressBar>,
    last_plain: Option<Instant>,
    /// Nobody reads stdout any more.
    mute: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self {
            pretty: io::stdout().is_terminal(),
            live: io::stderr().is_terminal(),
            bar: None,
            last_plain: None,
            mute: false,
        }
    }

    /// The live line, made when it is first wanted: one that exists is drawn again after each line above it.
    fn live_line(&mut self) -> Option<&ProgressBar> {
        if self.live && self.bar.is_none() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(spinner());
            self.bar = Some(bar);
        }
        self.bar.as_ref()
    }

    /// A line of a log.
    pub(crate) fn log(&self, label: &Label, text: &str) -> io::Result<()> {
        if self.mute {
            return Ok(());
        }
        let line = if self.pretty { pretty(label, text) } else { plain(label, text) };
        self.aside(|| {
            let mut out = anstream::stdout().lock();
            out.write_all(line.as_bytes())?;
            out.flush()
        })
    }

    /// Prints no more log lines: stdout takes none.
    pub(crate) fn mute(&mut self) {
        self.mute = true;
    }

    /// A word with what it is about, on stderr.
    pub(crate) fn say(&self, word: &str, style: anstyle::Style, text: &str) -> io::Result<()> {
        // A closed stderr leaves nobody to tell, and is no reason to let go of the job.
        let _ = self.aside(|| writeln!(anstream::stderr().lock(), "{style}{word:>WORD_WIDTH$}{style:#} {text}"));
        Ok(())
    }

    /// A line below such a word.
    pub(crate) fn more(&self, text: &str) -> io::Result<()> {
        let _ = self.aside(|| writeln!(anstream::stderr().lock(), "{:WORD_WIDTH$} {text}", ""));
        Ok(())
    }

    /// Shows what the job waits for, where there is a terminal.
    pub(crate) fn wait(&mut self, text: &str) {
        if let Some(bar) = self.live_line() {
            bar.set_style(spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(text.to_owned());
        }
    }

    /// Shows progress: live on a terminal, else as a line from time to time.
    pub(crate) fn progress(&mut self, progress: &Progress) -> io::Result<()> {
        if let Some(bar) = self.live_line() {
            bar.disable_steady_tick();
            let (style, text) = live(progress, usize::from(console::Term::stderr().size().1));
            bar.set_style(style);
            bar.set_length(1000);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
            bar.set_position((progress.share().unwrap_or(0.0) * 1000.0) as u64);
            bar.set_message(text);
            return Ok(());
        }
        if self.last_plain.is_none_or(|last| last.elapsed() >= PLAIN_PERIOD) {
            self.last_plain = Some(Instant::now());
            self.say("Progress", style::STRONG, &progress.line())?;
        }
        Ok(())
    }

    /// Takes the live line away.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// The live line for a terminal of this width: the bar is there where there is room for it beside the whole text.
fn live(progress: &Progress, width: usize) -> (ProgressStyle, String) {
    // The last column stays free: some terminals wrap when it is written to.
    let width = width.saturating_sub(1);
    let text = progress.line();
    if progress.share().is_some() && text.width() + BAR_WIDTH < width {
        (share_style(), text)
    } else {
        (template("{wide_msg}"), progress.line_within(width))
    }
}

fn spinner() -> ProgressStyle {
    template("{spinner:.cyan} {wide_msg}")
}

fn share_style() -> ProgressStyle {
    template("{bar:24.cyan/dim} {wide_msg}").progress_chars("━━─")
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).expect("the template is a constant that the tests render")
}

fn pretty(label: &Label, text: &str) -> String {
    let (name, style) = match label {
        Label::Only => return format!("{text}\n"),
        Label::Rank(rank) => (format!("rank {rank}"), style::rank(*rank)),
        Label::Named(name) => (name.clone(), style::rank(name.bytes().map(usize::from).sum())),
    };
    format!("{style}{name:<7} │{style:#} {text}\n")
}

fn plain(label: &Label, text: &str) -> String {
    match label {
        Label::Only => format!("{text}\n"),
        Label::Rank(_) | Label::Named(_) => format!("[{label}] {text}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_told_apart_with_and_without_colour() {
        assert_eq!(plain(&Label::Rank(2), "loss=1"), "[rank 2] loss=1\n");
        assert_eq!(plain(&Label::Only, "loss=1"), "loss=1\n");
        let stripped = anstream::adapter::strip_str(&pretty(&Label::Rank(2), "loss=1")).to_string();
        assert_eq!(stripped, "rank 2  │ loss=1\n");
        let _ = (spinner(), share_style());
    }

    #[test]
    fn the_bar_goes_before_any_number_does() {
        let value =
            serde_json::json!({"step": 120, "totalSteps": 400, "stepsPerSecond": 25.13, "remainingSeconds": 11.1});
        let progress = Progress::of(&value).unwrap();
        for (width, text) in [
            (80, "step 120/400  30 %  25.13 steps/s  0:11 left"),
            (60, "step 120/400  30 %  25.13 steps/s  0:11 left"),
            (40, "step 120/400  25.13 steps/s  0:11 left"),
        ] {
            assert_eq!(live(&progress, width).1, text, "{width}");
        }
    }
}
