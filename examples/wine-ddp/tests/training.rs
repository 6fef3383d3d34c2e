//! The training as ranks in threads: it learns, it repeats itself bit for bit, and the number of ranks does not matter.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::thread;

use clap::Parser;
use trainyard_example_wine_ddp::{Args, Error, Report, train};
use trainyard_worker::comm::{Communicator, Options};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(line: &str) -> Args {
    Cli::parse_from(format!("wine {line}").split_whitespace()).args
}

/// A training short enough for a test.
const SHORT: &str = "--epochs 8 --hidden 32";

/// Trains with `world` ranks; gives each rank's result and rank 0's lines.
fn ranks(world: usize, args: &Args) -> (Vec<Result<Report, Error>>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut listener = Some(listener);
    let mut results = Vec::new();
    let mut lines = String::new();
    thread::scope(|scope| {
        let handles: Vec<_> = (0..world)
            .map(|rank| {
                let listener = listener.take();
                scope.spawn(move || {
                    let options = Options::new(rank, world, "127.0.0.1", port);
                    let comm = match listener {
                        Some(listener) => Communicator::connect_on(&options, listener),
                        None => Communicator::connect(&options),
                    };
                    let mut out = Vec::new();
                    (train(args, comm.unwrap(), &mut out), String::from_utf8(out).unwrap())
                })
            })
            .collect();
        for handle in handles {
            let (result, out) = handle.join().unwrap();
            results.push(result);
            lines.push_str(&out);
        }
    });
    (results, lines)
}

fn report(world: usize, args: &Args) -> Report {
    ranks(world, args).0.swap_remove(0).unwrap()
}

#[test]
fn it_beats_the_majority_by_a_margin() {
    // Unseen wines, none of which repeats one of the training set; the honest margin over five seeds is 0.16 to 0.23.
    let report = report(4, &args("--epochs 20"));
    let margin = report.test_accuracy - report.baseline_accuracy;
    assert!(margin > 0.12, "test {} against baseline {}", report.test_accuracy, report.baseline_accuracy);
}

#[test]
fn the_same_seed_and_world_give_the_same_bits_on_every_rank() {
    let bits = |report: &Report| report.model.parameters.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let first: Vec<Report> = ranks(3, &args(SHORT)).0.into_iter().map(Result::unwrap).collect();
    let second: Vec<Report> = ranks(3, &args(SHORT)).0.into_iter().map(Result::unwrap).collect();
    for (one, other) in first.iter().zip(&second) {
        assert_eq!(bits(one), bits(&first[0]), "ranks differ");
        assert_eq!(bits(one), bits(other), "runs differ");
    }
    let other_seed = report(3, &args(&format!("{SHORT} --seed 2")));
    assert_ne!(bits(&other_seed), bits(&first[0]));
}

#[test]
fn the_number_of_ranks_changes_nothing_but_rounding() {
    let alone = train(&args(SHORT), Communicator::solo(), &mut Vec::new()).unwrap();
    for world in [2, 4, 8] {
        let together = report(world, &args(SHORT));
        let pairs = alone.model.parameters.iter().zip(&together.model.parameters);
        let furthest = pairs.map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        assert!(furthest < 1e-3, "{world} ranks: weights differ by {furthest}");
        assert!((alone.loss - together.loss).abs() < 1e-3, "{world} ranks: {} and {}", alone.loss, together.loss);
    }
}

#[test]
fn every_rank_says_that_it_is_there_and_rank_0_tells_the_progress() {
    let (_, lines) = ranks(2, &args("--epochs 2 --hidden 8 --log-every 30"));
    let (ranks, lines): (Vec<&str>, Vec<&str>) = lines.lines().partition(|line| line.starts_with("rank "));
    let here = format!("takes 16 of each 32 wines (process {})", std::process::id());
    assert_eq!(ranks, [format!("rank 0 of 2 {here}"), format!("rank 1 of 2 {here}")]);
    assert!(lines[0].starts_with("ranks=2 train_samples=1088 test_samples=271 "), "{}", lines[0]);
    assert!(lines[1].starts_with("epoch=1/2 step=30/68 loss=0."), "{}", lines[1]);
    assert!(lines[3].starts_with("epoch=2/2 step=68/68 loss=0."), "{}", lines[3]);
    assert!(lines[4].starts_with("baseline_accuracy=0.") && lines[4].contains(" test_accuracy=0."), "{}", lines[4]);
    assert_eq!(lines.len(), 5);
}

#[test]
fn a_failing_rank_is_named_by_all_others() {
    let (results, _) = ranks(4, &args(&format!("{SHORT} --fail-at-step 20 --fail-rank 2")));
    for (rank, result) in results.into_iter().enumerate() {
        match result.unwrap_err() {
            Error::Asked { rank: failed, step } => assert_eq!((rank, failed, step), (2, 2, 20)),
            Error::Comm(error) => assert_eq!(error.rank(), Some(2), "rank {rank}: {error}"),
            other @ (Error::Arguments(_) | Error::Diverged { .. } | Error::Output { .. }) => {
                panic!("rank {rank}: {other}")
            }
        }
    }
}

#[test]
fn the_model_and_the_metrics_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut args = args("--epochs 1 --hidden 8");
    args.output = Some(folder.path().join("deep/er"));
    let report = report(2, &args);
    let read = |name: &str| std::fs::read_to_string(folder.path().join("deep/er").join(name)).unwrap();
    let model: serde_json::Value = serde_json::from_str(&read("model.json")).unwrap();
    assert_eq!(model["layers"], serde_json::json!([11, 8, 8, 1]));
    assert_eq!(model["parameters"].as_array().unwrap().len(), report.model.parameters.len());
    assert_eq!(model["features"].as_array().unwrap().len(), 11);
    assert_eq!(read("metrics.jsonl").lines().count(), 34);
}

#[test]
fn nonsense_is_refused() {
    let error = train(&args("--epochs 0"), Communicator::solo(), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("must be 1 or more"));
}
