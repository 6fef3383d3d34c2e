//! The live queue and what would become of it, side by side.

use std::io::{self, Write};

use trainyard_coordinator_core::gang::{self, Fate, Outlook, Prospect, Share, Shift, Totals};

use crate::command::queue::{or_dash, position, when};
use crate::output::duration::age;
use crate::output::table::Table;

/// Columns that tell of the second view.
const THEN: usize = 2;

/// Prints what is supposed, then each gang that does not just go on, then sums.
pub(super) fn print(out: &mut dyn Write, outlook: &Outlook, words: &[String], now_ms: i64) -> io::Result<()> {
    for word in words {
        writeln!(out, "Suppose {word}")?;
    }
    if !words.is_empty() {
        writeln!(out)?;
    }
    if outlook.gangs.is_empty() {
        writeln!(out, "Nothing waits.")?;
    } else {
        let head = ["NAMESPACE", "NAME", "QUEUE", "PODS", "POSITION", "REASON", "NOW", "THEN", "CHANGE"];
        table(&head, outlook.gangs.iter().map(|gang| row(gang, now_ms)).collect(), words.is_empty())
            .print(out, true)?;
    }
    for gang in &outlook.gangs {
        tell(out, gang)?;
    }
    writeln!(out)?;
    let rows = sums(&outlook.before, &outlook.after);
    table(&["", "NOW", "THEN"], rows, words.is_empty()).print(out, true)
}

/// Where nothing is supposed there is no second view.
fn table(head: &[&str], mut rows: Vec<Vec<String>>, alone: bool) -> Table {
    let columns = match (alone, head.len()) {
        (false, all) => all,
        (true, 3) => 2,
        (true, all) => all - THEN,
    };
    rows.iter_mut().for_each(|row| row.truncate(columns));
    Table { rows, ..Table::new(&head[..columns]) }
}

fn row(gang: &Prospect, now_ms: i64) -> Vec<String> {
    let reason = match &gang.after {
        Fate::Waits { code, .. } => code.name(),
        Fate::Absent | Fate::Runs | Fate::Starts { .. } | Fate::Stopped { .. } | Fate::Leaves => "-",
    };
    let change = match gang.shift {
        Shift::Same => "-",
        Shift::Sooner => "sooner",
        Shift::Later => "later",
        Shift::Unclear => "unclear",
        Shift::New => "new",
        Shift::Gone => "gone",
    };
    vec![
        gang.namespace.clone(),
        if gang.spare { format!("{} (more pods)", gang.name) } else { gang.name.clone() },
        or_dash(&gang.queue),
        gang.pods.to_string(),
        positions(&gang.before, &gang.after),
        reason.to_owned(),
        fate(&gang.before, now_ms),
        fate(&gang.after, now_ms),
        change.to_owned(),
    ]
}

fn positions(before: &Fate, after: &Fate) -> String {
    let place = |fate: &Fate| match fate {
        Fate::Waits { position: at, .. } => position(*at),
        Fate::Absent | Fate::Runs | Fate::Starts { .. } | Fate::Stopped { .. } | Fate::Leaves => "-".to_owned(),
    };
    let (before, after) = (place(before), place(after));
    if before == after { before } else { format!("{before} -> {after}") }
}

fn fate(fate: &Fate, now_ms: i64) -> String {
    match fate {
        Fate::Absent => "-".to_owned(),
        Fate::Runs => "runs".to_owned(),
        Fate::Starts { after, .. } if after.is_empty() => "starts now".to_owned(),
        Fate::Starts { after, .. } => format!("starts when {} has left", after.join(", ")),
        Fate::Waits { estimate: Some(estimate), reserved, .. } => when(*estimate, *reserved, now_ms),
        Fate::Waits { .. } => "waits".to_owned(),
        Fate::Stopped { estimate: Some(estimate), .. } => {
            format!("is stopped, again {}", when(*estimate, false, now_ms))
        }
        Fate::Stopped { .. } => "is stopped".to_owned(),
        Fate::Leaves => "is leaving".to_owned(),
    }
}

/// Who is stopped for whom, and why the job in question waits.
fn tell(out: &mut dyn Write, gang: &Prospect) -> io::Result<()> {
    let title = format!("{}/{}", gang.namespace, gang.name);
    match &gang.after {
        Fate::Stopped { preemptor, lost_pod_ms, .. } => {
            let lost = age(lost_pod_ms / 1000);
            writeln!(out, "{title} is stopped to make room for {preemptor}; {lost} of work of its pods are lost")
        }
        Fate::Waits { message, .. } if matches!(gang.shift, Shift::New | Shift::Later) => {
            writeln!(out, "{title} waits: {message}")
        }
        Fate::Absent | Fate::Runs | Fate::Starts { .. } | Fate::Waits { .. } | Fate::Leaves => Ok(()),
    }
}

fn sums(before: &Totals, after: &Totals) -> Vec<Vec<String>> {
    let both = |name: &str, of: &dyn Fn(&Totals) -> String| vec![name.to_owned(), of(before), of(after)];
    let gangs = |number: usize| if number == 1 { "1 gang".to_owned() } else { format!("{number} gangs") };
    let mut rows = vec![
        both("nodes", &|totals| totals.nodes.to_string()),
        both("running", &|totals| gangs(totals.running)),
        both("waiting", &|totals| format!("{}, {} pods", gangs(totals.waiting), totals.waiting_pods)),
        both("mean wait", &mean),
    ];
    let names = before.resources.iter().chain(&after.resources).map(|share| share.resource.as_str());
    let mut seen: Vec<&str> = Vec::new();
    for name in names.filter(|name| *name != "pods") {
        if !seen.contains(&name) {
            seen.push(name);
            rows.push(both(name, &|totals| {
                let share = totals.resources.iter().find(|share| share.resource == name);
                share.map_or_else(|| "-".to_owned(), used)
            }));
        }
    }
    rows
}

fn mean(totals: &Totals) -> String {
    let untold = match totals.untold {
        0 => String::new(),
        number => format!("{number} unknown"),
    };
    match totals.mean_wait_ms.map(|ms| age(ms / 1000)) {
        Some(mean) if untold.is_empty() => mean,
        Some(mean) => format!("{mean}, {untold}"),
        None => or_dash(&untold),
    }
}

fn used(share: &Share) -> String {
    let all = gang::show(&share.resource, share.capacity);
    if share.capacity <= 0 {
        return format!("none of {all}");
    }
    format!("{:.1}% of {all}", share.used as f64 * 100.0 / share.capacity as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_coordinator_core::gang::WaitCode;
    use trainyard_coordinator_core::schedule::Estimate;

    fn waits(position: u32, expected_ms: i64) -> Fate {
        Fate::Waits {
            position,
            code: WaitCode::InsufficientResources,
            message: "no room".to_owned(),
            estimate: Some(Estimate { expected_ms, latest_ms: None }),
            reserved: false,
        }
    }

    fn gang(name: &str, before: Fate, after: Fate, shift: Shift) -> Prospect {
        let (namespace, queue) = ("team".to_owned(), "q".to_owned());
        Prospect { namespace, name: name.to_owned(), spare: false, queue, pods: 2, before, after, shift }
    }

    fn totals(nodes: usize, used: i64) -> Totals {
        let cpu = Share { resource: "cpu".to_owned(), used, capacity: 4000 * i64::try_from(nodes).unwrap() };
        Totals {
            nodes,
            running: 1,
            waiting: 1,
            waiting_pods: 2,
            mean_wait_ms: Some(60_000),
            untold: 1,
            resources: vec![cpu],
        }
    }

    #[test]
    fn both_views_stand_side_by_side() {
        let stopped = Fate::Stopped { preemptor: "team/new".to_owned(), lost_pod_ms: 3_600_000, estimate: None };
        let starts = Fate::Starts { nodes: [("n".to_owned(), 2)].into(), after: vec!["team/low".to_owned()] };
        let outlook = Outlook {
            gangs: vec![
                gang("low", Fate::Runs, stopped, Shift::Later),
                gang("new", Fate::Absent, starts, Shift::New),
                gang("next", waits(1, 60_000), waits(2, 300_000), Shift::Later),
            ],
            before: totals(1, 3000),
            after: totals(2, 4000),
        };
        let mut out = Vec::new();
        print(&mut out, &outlook, &["1 node joins (new-2)".to_owned()], 0).unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = "\
Suppose 1 node joins (new-2)

NAMESPACE   NAME   QUEUE   PODS   POSITION   REASON                  NOW            THEN                            CHANGE
team        low    q       2      -          -                       runs           is stopped                      later
team        new    q       2      -          -                       -              starts when team/low has left   new
team        next   q       2      1 -> 2     InsufficientResources   in about 60s   in about 5m                     later
team/low is stopped to make room for team/new; 60m of work of its pods are lost
team/next waits: no room

            NOW               THEN
nodes       1                 2
running     1 gang            1 gang
waiting     1 gang, 2 pods    1 gang, 2 pods
mean wait   60s, 1 unknown    60s, 1 unknown
cpu         75.0% of 4 CPUs   50.0% of 8 CPUs
";
        assert_eq!(text, expected, "{text}");
        let mut out = Vec::new();
        print(&mut out, &outlook, &[], 0).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("THEN") && !text.contains("Suppose"), "{text}");
    }
}
