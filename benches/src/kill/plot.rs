//! The recoveries as a picture: bars on a logarithmic axis of seconds, in SVG.

use std::fmt::Write as _;

use super::contender::Contender;
use super::table::{Cell, Matrix};

const LEFT: f64 = 170.0;
const WIDTH: f64 = 760.0;
const BAR: f64 = 14.0;
const GAP: f64 = 18.0;
const TOP: f64 = 46.0;
/// Ends of the axis, in powers of ten of a second.
const LEAST: f64 = -2.0;
const MOST: f64 = 2.0;

fn colour(contender: Contender) -> &'static str {
    match contender {
        Contender::Torchrun => "#b0413e",
        Contender::TorchrunOwnStore => "#d98880",
        Contender::TrainyardCold => "#7fb3d5",
        Contender::Trainyard => "#1f618d",
        Contender::TrainyardJob => "#148f77",
    }
}

fn x(seconds: f64) -> f64 {
    let share = (seconds.max(1e-9).log10() - LEAST) / (MOST - LEAST);
    LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - 110.0)
}

/// The picture of a matrix.
#[must_use]
pub fn svg(matrix: &Matrix) -> String {
    let mut bars = String::new();
    let mut y = TOP;
    let mut last = None;
    for ((fault, contender), runs) in matrix.iter().filter(|((fault, _), _)| !fault.spares_the_ranks()) {
        if last != Some(*fault) {
            y += if last.is_some() { GAP } else { 0.0 };
            last = Some(*fault);
            let _ = writeln!(bars, r#"<text x="8" y="{:.0}">{}</text>"#, y + BAR - 3.0, fault.words());
        }
        let cell = Cell::of(runs);
        let (end, words) = match cell.recovery {
            Some(recovery) => (x(recovery), format!("{recovery:.2} s ({} of {})", cell.recovered, cell.runs)),
            None => (LEFT, "does not go on".to_owned()),
        };
        let _ = writeln!(
            bars,
            r#"<rect x="{LEFT}" y="{y:.0}" width="{:.1}" height="{:.0}" fill="{}"/><text x="{:.1}" y="{:.0}" class="s">{words}</text>"#,
            end - LEFT,
            BAR - 2.0,
            colour(*contender),
            end + 4.0,
            y + BAR - 4.0,
        );
        y += BAR;
    }
    let height = y + 40.0;
    let mut text = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" font-family="sans-serif" font-size="12">
<style>.s{{font-size:10px;fill:#555}}</style><rect width="100%" height="100%" fill="white"/>
<text x="8" y="16">Fault to the first all-reduce of the next generation (median, logarithmic)</text>
"#
    );
    legend(&mut text, matrix);
    for (seconds, label) in [(0.01, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s"), (100.0, "100 s")] {
        let at = x(seconds);
        let _ = writeln!(
            text,
            r##"<line x1="{at:.1}" y1="{TOP}" x2="{at:.1}" y2="{y:.0}" stroke="#ddd"/><text x="{at:.1}" y="{:.0}" text-anchor="middle" class="s">{label}</text>"##,
            y + 14.0,
        );
    }
    text.push_str(&bars);
    text.push_str("</svg>\n");
    text
}

fn legend(text: &mut String, matrix: &Matrix) {
    let mut contenders: Vec<Contender> = matrix.keys().map(|(_, contender)| *contender).collect();
    contenders.sort_unstable();
    contenders.dedup();
    let mut at = 8.0;
    for contender in contenders {
        let _ = writeln!(
            text,
            r#"<rect x="{at:.0}" y="24" width="10" height="10" fill="{}"/><text x="{:.0}" y="33" class="s">{}</text>"#,
            colour(contender),
            at + 14.0,
            contender.words(),
        );
        at += 140.0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::Fault;
    use super::super::run::Outcome;
    use super::*;

    #[test]
    fn slower_is_longer_and_no_recovery_has_no_bar() {
        let run = |recovery| vec![Outcome { recovery, ..Outcome::default() }];
        let matrix = Matrix::from([
            ((Fault::Sigkill, Contender::Trainyard), run(Some(0.15))),
            ((Fault::Sigkill, Contender::Torchrun), run(None)),
        ]);
        let text = svg(&matrix);
        assert!(text.contains("does not go on") && text.contains("0.15 s (1 of 1)"), "{text}");
        assert!(x(0.15) < x(6.8) && (x(0.01) - LEFT).abs() < 1e-6);
    }
}
