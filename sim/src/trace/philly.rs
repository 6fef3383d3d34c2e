//! The columns of Microsoft's Philly trace, as in the Sia artifact: `timestamp,duration,num_gpus,gpu_time,cluster`.

use trainyard_coordinator_core::fnv;

use super::Job;
use super::table::{Table, TraceError};

const COLUMNS: &str = "timestamp, duration, num_gpus and, if it is known, cluster (Philly's); or those of OpenB's pods";
/// GPUs of a job, at most: more would be a mistake.
const GPUS: f64 = 1_000_000.0;

/// Reads a trace; its jobs in the order of their submission.
pub(super) fn jobs(table: &Table<'_>) -> Result<Vec<Job>, TraceError> {
    let column = |name| table.column(name, COLUMNS);
    let (timestamp, duration, num_gpus) = (column("timestamp")?, column("duration")?, column("num_gpus")?);
    let cluster = table.find("cluster");
    let mut jobs = Vec::new();
    for row in table.rows() {
        let submit_ms =
            instant(row.text(timestamp)).ok_or_else(|| row.wrong(timestamp, "a time such as `2017-10-09 07:01:55`"))?;
        let owner = cluster.map_or(0, |column| fnv::text(row.text(column)));
        let (seconds, gpus) = (row.number(duration)?, row.number(num_gpus)?);
        if gpus.fract() != 0.0 || gpus > GPUS {
            return Err(row.wrong(num_gpus, "a whole number of GPUs"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be finite, positive and small"
        )]
        let (run_ms, gpus) = ((seconds * 1_000.0).max(1.0) as i64, gpus as u32);
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
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_from_the_epoch() {
        assert_eq!(instant("1970-01-01 00:00:00"), Some(0));
        assert_eq!(instant("2017-10-09 07:01:55"), Some(1_507_532_515_000));
        assert_eq!(instant("2000-02-29T12:00:00"), Some(951_825_600_000));
        assert_eq!(instant("2017-13-09 07:01:55"), None);
    }
}
