//! Replays a trace in Philly's columns under several policies: `replay FILE GPUS[,GPUS…] POLICY[,POLICY…]`.

use std::error::Error;
use std::io::Write as _;

use trainyard_sim::trace::{Options, Policy, parse, replay};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, gpus, policies] = arguments.as_slice() else {
        return Err("usage: replay FILE GPUS[,GPUS...] POLICY[,POLICY...]".into());
    };
    let jobs = parse(&std::fs::read_to_string(file)?)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "| GPUs | policy | mean, h | p50, h | p99, h | utilisation | free while jobs wait | preemptions |")?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    for gpus in gpus.split(',') {
        for name in policies.split(',') {
            let policy: Policy = serde_json::from_value(name.into())?;
            let one = replay(&jobs, Options::new(gpus.parse()?, policy));
            let (used, free) = (one.utilisation * 100.0, one.fragmentation * 100.0);
            writeln!(
                out,
                "| {gpus} | {name} | {:.2} | {:.2} | {:.1} | {used:.1} % | {free:.1} % | {} |",
                one.mean_hours, one.p50_hours, one.p99_hours, one.preemptions
            )?;
        }
    }
    Ok(())
}
