//! The columns of Microsoft's Philly trace, as in the Sia artifact: `timestamp,duration,num_gpus,gpu_time,cluster`.

use super::Job;

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct TraceError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// Reads a trace; its jobs in the order of their submission.
///
/// # Errors
/// A column is missing, or a value is not of its kind.
pub fn parse(text: &str) -> Result<Vec<Job>, TraceError> {
    let wrong = |line: usize, what: String| TraceError { line: line + 1, what };
    let mut lines = text.lines().enumerate();
    let header: Vec<&str> = lines.next().map(|(_, line)| line.split(',').map(str::trim).collect()).unwrap_or_default();
    let column = |name: &str| {
        header.iter().position(|one| *one == name).ok_or_else(|| wrong(0, format!("there is no column `{name}`")))
    };
    let (timestamp, duration, num_gpus) = (column("timestamp")?, column("duration")?, column("num_gpus")?);
    let cluster = column("cluster").ok();
    let mut jobs = Vec::new();
    for (at, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let cell = |column: usize| cells.get(column).copied().unwrap_or_default();
        let number = |column: usize| {
            let value = cell(column).parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
            value.ok_or_else(|| wrong(at, format!("`{}` is not a number", cell(column))))
        };
        let submit_ms =
            instant(cell(timestamp)).ok_or_else(|| wrong(at, format!("`{}` is not a time", cell(timestamp))))?;
        let owner = cluster.map_or(0, |column| trainyard_coordinator_core::fnv::text(cell(column)));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be finite and positive"
        )]
        let (run_ms, gpus) = ((number(duration)? * 1_000.0).max(1.0) as i64, number(num_gpus)? as u32);
        jobs.push(Job { submit_ms, run_ms, gpus, owner });
    }
    jobs.sort_by_key(|job| job.submit_ms);
    Ok(jobs)
}

/// Milliseconds of `2017-10-09 07:01:55`.
fn instant(text: &str) -> Option<i64> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let parts = |text: &str, by: char| -> Option<[i64; 3]> {
        let parts: Vec<i64> = text.split(by).map(|part| part.parse().ok()).collect::<Option<_>>()?;
        parts.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (parts(date, '-')?, parts(time, ':')?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since the epoch, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (month * 153 + 2) / 5 + day
            - 719_469;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_from_the_epoch() {
        assert_eq!(instant("1970-01-01 00:00:00"), Some(0));
        assert_eq!(instant("2017-10-09 07:01:55"), Some(1_507_532_515_000));
        assert_eq!(instant("2000-02-29T12:00:00"), Some(951_825_600_000));
        assert_eq!(instant("2017-13-09 07:01:55"), None);
    }

    #[test]
    fn jobs_come_in_the_order_of_their_submission() {
        let text = "timestamp,duration,num_gpus,gpu_time,cluster\n2017-10-09 07:00:10,66.0,1,66.0,a\n\n2017-10-09 07:00:00,2.5,8,20,b\n";
        let jobs = parse(text).unwrap();
        assert_eq!(jobs.iter().map(|job| (job.run_ms, job.gpus)).collect::<Vec<_>>(), [(2_500, 8), (66_000, 1)]);
        assert_ne!(jobs[0].owner, jobs[1].owner);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        assert_eq!(parse("timestamp,duration\n").unwrap_err().to_string(), "line 1: there is no column `num_gpus`");
        let text = "timestamp,duration,num_gpus\n2017-10-09 07:00:10,long,1\n";
        assert_eq!(parse(text).unwrap_err().to_string(), "line 2: `long` is not a number");
    }
}
