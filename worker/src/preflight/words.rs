//! The report for people.

use std::fmt;

use super::Report;

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hosts: Vec<&str> = self.places.iter().map(|place| place.host.as_str()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        match hosts.len() {
            // They did not all come.
            0 => writeln!(out, "{}", count(self.world_size, "rank"))?,
            machines => writeln!(out, "{} on {}", count(self.world_size, "rank"), count(machines, "machine"))?,
        }
        let speeds = |value: fn(&super::Link) -> Option<f64>| {
            let mut values: Vec<f64> = self.links.iter().filter_map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let (bandwidths, latencies) = (speeds(|link| link.gigabytes_per_second), speeds(|link| link.latency_micros));
        if let (Some(slowest), Some(latest)) = (bandwidths.first(), latencies.last()) {
            let (middle, usual) = (bandwidths[bandwidths.len() / 2], latencies[latencies.len() / 2]);
            let links = count(bandwidths.len(), "link");
            writeln!(
                out,
                "{links}: median {middle:.2} GB/s and {usual:.0} µs, worst {slowest:.2} GB/s and {latest:.0} µs"
            )?;
        }
        for reduce in &self.all_reduces {
            let (bytes, backend) = (size(reduce.bytes), &reduce.backend);
            let bus = reduce.bus_gigabytes_per_second;
            writeln!(
                out,
                "all-reduce of {bytes} over {backend}: {:.2} ms, bus bandwidth {bus:.2} GB/s",
                reduce.micros / 1e3
            )?;
        }
        for gpu in &self.gpus {
            let celsius = gpu.celsius.map_or_else(|| "?".to_owned(), |celsius| celsius.to_string());
            let (used, all) = (size(gpu.memory_used_bytes), size(gpu.memory_bytes));
            writeln!(out, "GPU {} of {}: {}, {celsius} °C, {used} of {all} in use", gpu.index, gpu.host, gpu.name)?;
        }
        for skipped in &self.skipped {
            writeln!(out, "not checked: {skipped}")?;
        }
        if self.findings.is_empty() {
            return writeln!(out, "no findings");
        }
        writeln!(out, "\n{}:", count(self.findings.len(), "finding"))?;
        for finding in &self.findings {
            writeln!(out, "  {}: {}", finding.what, finding.why)?;
        }
        Ok(())
    }
}

fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        _ if bytes >= 1024.0 * 1024.0 * 1024.0 => format!("{:.1} GiB", bytes / 1024.0 / 1024.0 / 1024.0),
        _ if bytes >= 1024.0 * 1024.0 => format!("{:.0} MiB", bytes / 1024.0 / 1024.0),
        _ => format!("{:.0} KiB", bytes / 1024.0),
    }
}
