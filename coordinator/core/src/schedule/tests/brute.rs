//! Every placement there is, on clusters so small that all can be tried.

use super::world::{CPU, Dice, GPU, gang, node, role, view};
use crate::schedule::{Closeness, Reason, Shape, Slice, View, decide};
use std::sync::Arc;

/// Whether the pods, each (cpu, gpu), can be put on nodes, one after the other, on any node of these.
fn fits(pods: &[(i64, i64)], free: &mut [(i64, i64)]) -> bool {
    let Some(((cpu, gpu), rest)) = pods.split_first() else { return true };
    for at in 0..free.len() {
        if free[at].0 >= *cpu && free[at].1 >= *gpu {
            free[at].0 -= cpu;
            free[at].1 -= gpu;
            let fits = fits(rest, free);
            free[at].0 += cpu;
            free[at].1 += gpu;
            if fits {
                return true;
            }
        }
    }
    false
}

fn brute(view: &View) -> bool {
    let shape = &view.gangs[0].shape;
    let pods: Vec<(i64, i64)> =
        shape.roles.iter().flat_map(|role| (0..role.min).map(|_| (role.request(CPU), role.request(GPU)))).collect();
    let free = |rack: Option<&str>| -> Vec<(i64, i64)> {
        let inside = view.nodes.iter().filter(|node| rack.is_none_or(|rack| node.labels["rack"] == rack));
        inside.map(|node| (node.capacity[CPU], node.capacity[GPU])).collect()
    };
    match shape.closeness.required {
        Some(_) => ["r1", "r2"].iter().any(|rack| fits(&pods, &mut free(Some(rack)))),
        None => fits(&pods, &mut free(None)),
    }
}

#[test]
fn a_gang_starts_if_and_only_if_there_is_a_placement() {
    let (mut yes, mut no) = (0, 0);
    for seed in 0..4_000 {
        let mut dice = Dice(seed);
        let nodes = (0..1 + dice.roll(4))
            .map(|at| {
                let rack = dice.pick(&["r1", "r2"]);
                node(
                    &format!("n{at}"),
                    dice.pick(&[2, 3, 5, 8]),
                    dice.pick(&[0, 1, 2, 4]),
                    &[("zone", "z"), ("rack", rack)],
                )
            })
            .collect();
        let roles = (0..1 + dice.roll(3))
            .map(|at| {
                let count = u32::try_from(1 + dice.roll(3)).unwrap();
                role(&format!("r{at}"), count, dice.pick(&[1, 2, 3]), dice.pick(&[0, 1, 2]))
            })
            .collect();
        let mut view = view(nodes, vec![gang("one", roles)]);
        if dice.chance(40) {
            let closeness = Closeness { required: Some("rack".to_owned()), preferred: None };
            let shape = Shape::clone(&view.gangs[0].shape);
            view.gangs[0].shape = Arc::new(Shape { closeness, ..shape });
        }
        let decision = decide(&view, super::world::START_MS);
        let starts = !decision.admissions.is_empty();
        assert_eq!(starts, brute(&view), "seed {seed}: {view:#?}");
        if starts {
            yes += 1;
        } else {
            no += 1;
            assert!(
                matches!(decision.waiting[0].reason, Reason::TooLarge { .. }),
                "seed {seed}: {:?}",
                decision.waiting
            );
        }
    }
    assert!(yes > 500 && no > 500, "{yes} start, {no} do not");
}

/// Whether the pods, each (role, cpu, gpu), can be put on nodes, each (cpu, gpu, rack), so that each rack has whole pairs of the first role.
fn fits_in_pairs(pods: &[(usize, i64, i64)], free: &mut [(i64, i64, usize)], pairs: &mut [u32; 2]) -> bool {
    let Some(((role, cpu, gpu), rest)) = pods.split_first() else { return pairs.iter().all(|pods| pods % 2 == 0) };
    for at in 0..free.len() {
        let rack = free[at].2;
        if free[at].0 >= *cpu && free[at].1 >= *gpu {
            free[at].0 -= cpu;
            free[at].1 -= gpu;
            pairs[rack] += u32::from(*role == 0);
            let fits = fits_in_pairs(rest, free, pairs);
            pairs[rack] -= u32::from(*role == 0);
            free[at].0 += cpu;
            free[at].1 += gpu;
            if fits {
                return true;
            }
        }
    }
    false
}

#[test]
fn a_gang_with_slices_starts_if_and_only_if_there_is_a_placement() {
    let (mut yes, mut no) = (0, 0);
    for seed in 0..2_000 {
        let mut dice = Dice(seed ^ 0x51ce);
        let racks: Vec<usize> = (0..2 + dice.roll(3)).map(|_| dice.pick(&[0, 1])).collect();
        let nodes = racks.iter().enumerate().map(|(at, rack)| {
            let labels = [("zone", "z"), ("rack", ["r1", "r2"][*rack])];
            node(&format!("n{at}"), dice.pick(&[2, 3, 5, 8]), dice.pick(&[1, 2, 4]), &labels)
        });
        let nodes = nodes.collect::<Vec<_>>();
        let mut sliced = role("sliced", dice.pick(&[2, 4]), dice.pick(&[1, 2, 3]), dice.pick(&[0, 1, 2]));
        sliced.slice = Some(Slice { size: 2, level: "rack".to_owned() });
        let other = role("other", dice.pick(&[1, 2, 3]), dice.pick(&[1, 2, 3]), dice.pick(&[0, 1, 2]));
        let pods: Vec<(usize, i64, i64)> = [&sliced, &other]
            .into_iter()
            .enumerate()
            .flat_map(|(at, role)| (0..role.count).map(move |_| (at, role.request(CPU), role.request(GPU))))
            .collect();
        let mut free: Vec<(i64, i64, usize)> =
            nodes.iter().zip(&racks).map(|(node, rack)| (node.capacity[CPU], node.capacity[GPU], *rack)).collect();
        let view = view(nodes, vec![gang("one", vec![sliced, other])]);
        let starts = !decide(&view, super::world::START_MS).admissions.is_empty();
        assert_eq!(starts, fits_in_pairs(&pods, &mut free, &mut [0, 0]), "seed {seed}: {view:#?}");
        if starts {
            yes += 1;
        } else {
            no += 1;
        }
    }
    assert!(yes > 200 && no > 200, "{yes} start, {no} do not");
}
