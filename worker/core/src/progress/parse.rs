//! One line of output → one sample, or nothing.

use std::collections::BTreeMap;

/// Metrics kept from one line: more than anybody prints, few enough to bound memory.
const MAX_METRICS: usize = 64;
/// Longest metric name kept.
const MAX_NAME: usize = 64;
/// Lines longer than this are data, not progress.
const MAX_LINE: usize = 8 * 1024;

/// What one line said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Steps done.
    pub step: Option<u64>,
    /// Steps in all.
    pub total_steps: Option<u64>,
    /// Epoch.
    pub epoch: Option<u64>,
    /// Epochs in all.
    pub total_epochs: Option<u64>,
    /// Named numbers.
    pub metrics: BTreeMap<String, f64>,
}

impl Sample {
    fn is_empty(&self) -> bool {
        self.step.is_none() && self.epoch.is_none() && self.metrics.is_empty()
    }

    /// Takes one named value; what it means is told by its name.
    fn take(&mut self, name: &str, value: &str) {
        let (done, total) = match value.split_once('/') {
            Some((done, total)) => (done, count(total)),
            None => (value, None),
        };
        match role(name) {
            Role::Step => {
                self.step = count(done).or(self.step);
                self.total_steps = total.or(self.total_steps);
            }
            Role::TotalSteps => self.total_steps = count(done).or(self.total_steps),
            Role::Epoch => {
                self.epoch = count(done).or(self.epoch);
                self.total_epochs = total.or(self.total_epochs);
            }
            Role::TotalEpochs => self.total_epochs = count(done).or(self.total_epochs),
            Role::Metric => {
                if value.contains('/') || self.metrics.len() >= MAX_METRICS {
                    return;
                }
                if let Some(number) = number(value) {
                    self.metrics.insert(name.to_owned(), number);
                }
            }
        }
    }
}

enum Role {
    Step,
    TotalSteps,
    Epoch,
    TotalEpochs,
    Metric,
}

fn role(name: &str) -> Role {
    let is = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known));
    if is(&["step", "global_step", "iter", "iteration"]) {
        Role::Step
    } else if is(&["total_steps", "max_steps", "total_iters", "totalSteps"]) {
        Role::TotalSteps
    } else if is(&["epoch"]) {
        Role::Epoch
    } else if is(&["total_epochs", "num_epochs", "max_epochs", "totalEpochs"]) {
        Role::TotalEpochs
    } else {
        Role::Metric
    }
}

/// Reads one line. Lines of ranks other than 0 (`[rank 3] …`) say the same as rank 0's and are passed over.
#[must_use]
pub fn parse(line: &str) -> Option<Sample> {
    if line.len() > MAX_LINE {
        return None;
    }
    let line = of_first_rank(line.trim())?;
    let sample = if line.starts_with('{') { parse_json(line)? } else { parse_words(line)? };
    (!sample.is_empty()).then_some(sample)
}

/// The line without its `[rank N] ` or `[rank N gen G] ` prefix; nothing for ranks that are not 0.
fn of_first_rank(line: &str) -> Option<&str> {
    let Some(rest) = line.strip_prefix("[rank ") else { return Some(line) };
    let Some((rank, rest)) = rest.split_once(']') else { return Some(line) };
    let rank = rank.split_once(" gen ").map_or(rank, |(rank, _)| rank);
    if rank.parse::<u64>().is_ok_and(|rank| rank != 0) { None } else { Some(rest.trim_start()) }
}

fn parse_json(line: &str) -> Option<Sample> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).ok()?;
    let mut sample = Sample::default();
    for (name, value) in &object {
        if !is_name(name) {
            continue;
        }
        match value {
            serde_json::Value::Number(number) => sample.take(name, &number.to_string()),
            serde_json::Value::Object(inner) if name == "metrics" => {
                for (name, value) in inner.iter().filter(|(name, value)| is_name(name) && value.is_number()) {
                    sample.take(name, &value.to_string());
                }
            }
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::String(_)
            | serde_json::Value::Array(_)
            | serde_json::Value::Object(_) => {}
        }
    }
    Some(sample)
}

fn parse_words(line: &str) -> Option<Sample> {
    if !line.contains('=') {
        return None;
    }
    let mut sample = Sample::default();
    for word in line.split([' ', '\t', ',', ';', '|', '(', ')', '[', ']']) {
        if let Some((name, value)) = word.split_once('=')
            && is_name(name)
        {
            sample.take(name, value);
        }
    }
    Some(sample)
}

/// Names start with a letter and hold what programs call their metrics: `val_loss`, `lr-group.0`, `top1@val`, `eval/loss`.
fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '@'))
}

/// A whole number, also written `120.0`, as JSON writers of floats do.
fn count(text: &str) -> Option<u64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let number = number(text)?;
    // Above 2^53 floats no longer count one by one.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, not negative, below 2^53")]
    (number >= 0.0 && number.fract() == 0.0 && number < 9.0e15).then_some(number as u64)
}

/// A finite number, `87.5%` included; `nan` and `inf` are words, not points on a curve.
fn number(text: &str) -> Option<f64> {
    let text = text.strip_suffix('%').unwrap_or(text);
    let text = text.strip_suffix(['.', 's']).unwrap_or(text);
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse;

    #[test]
    fn words_of_a_line() {
        let sample =
            parse("2026-01-01 INFO step=120/400 loss=0.53, acc=87.5% epoch=3/10 name=resnet").expect("a sample");
        assert_eq!((sample.step, sample.total_steps), (Some(120), Some(400)));
        assert_eq!((sample.epoch, sample.total_epochs), (Some(3), Some(10)));
        assert_eq!(sample.metrics.get("loss"), Some(&0.53));
        assert_eq!(sample.metrics.get("acc"), Some(&87.5));
        assert!(!sample.metrics.contains_key("name"));
    }

    #[test]
    fn a_json_line() {
        let sample = parse(r#"{"step":120,"total_steps":400.0,"loss":5.3e-1,"msg":"x","metrics":{"val/acc":0.5}}"#)
            .expect("a sample");
        assert_eq!((sample.step, sample.total_steps), (Some(120), Some(400)));
        assert_eq!(sample.metrics.len(), 2);
        assert!(parse(r#"{"step":120"#).is_none());
    }

    #[test]
    fn only_the_first_rank_counts() {
        assert_eq!(parse("[rank 0] step=1").and_then(|s| s.step), Some(1));
        assert!(parse("[rank 1] step=1").is_none());
        assert_eq!(parse("[rank 0 gen 2] step=1").and_then(|s| s.step), Some(1));
        assert!(parse("[rank 1 gen 2] step=1").is_none());
    }

    #[test]
    fn ordinary_lines_say_nothing() {
        for line in ["", "hello", "a = b", "loss=nan", "x==1", "url?a=b&c=d", "PATH=/usr/bin:/bin", "date=2026-01-01"] {
            assert!(parse(line).is_none(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line in "\\PC{0,200}") {
            if let Some(sample) = parse(&line) {
                prop_assert!(sample.metrics.values().all(|value| value.is_finite()));
            }
        }

        #[test]
        fn what_is_printed_is_read(step in 0_u64..1_000_000, total in 0_u64..1_000_000, loss in -1e6_f64..1e6) {
            let sample = parse(&format!("step={step}/{total} loss={loss}")).expect("a sample");
            prop_assert_eq!((sample.step, sample.total_steps), (Some(step), Some(total)));
            prop_assert_eq!(sample.metrics.get("loss"), Some(&loss));
        }
    }
}
