use super::{Ask, Fragments, Packer, Room, Rule, Spot};

fn room(devices: &[u32], cpu: i64) -> Room {
    Room { devices: devices.to_vec(), amounts: vec![cpu] }
}

fn ask(devices: u32, share_milli: u32, cpu: i64) -> Ask {
    Ask { devices, share_milli, amounts: vec![cpu] }
}

fn packer(rooms: &[Room]) -> Packer<Fragments> {
    Packer::new(rooms.to_vec(), Fragments::new(rooms))
}

#[test]
fn a_part_comes_from_one_device() {
    let rooms = [room(&[400, 400], 8)];
    assert!(packer(&rooms).place(&ask(1, 500, 1), |_| true).is_none());
    assert!(packer(&rooms).place(&ask(2, 400, 1), |_| true).is_some());
    assert!(packer(&rooms).place(&ask(1, 400, 9), |_| true).is_none(), "the processors are too few");
    assert!(packer(&rooms).place(&ask(1, 400, 1), |_| false).is_none(), "it may be on no node");
}

#[test]
fn what_was_taken_is_given_back() {
    let rooms = [room(&[1_000, 1_000], 8)];
    let mut packer = packer(&rooms);
    let (part, whole) = (ask(1, 300, 1), ask(2, 1_000, 1));
    let spot = packer.place(&part, |_| true);
    assert_eq!(spot, Some(Spot { node: 0, devices: vec![0] }));
    assert_eq!(packer.rooms(), [room(&[700, 1_000], 7)]);
    assert!(packer.place(&whole, |_| true).is_none());
    spot.iter().for_each(|spot| packer.shift(&part, spot, -1));
    assert_eq!(packer.rooms(), rooms);
    assert!(packer.place(&whole, |_| true).is_some());
}

#[test]
fn parts_are_put_together() {
    let rooms = [room(&[1_000, 1_000], 8), room(&[1_000, 1_000], 8)];
    let mut packer = packer(&rooms);
    for _ in 0..2 {
        packer.came(&ask(1, 500, 1));
        packer.came(&ask(1, 1_000, 1));
        assert!(packer.place(&ask(1, 500, 1), |_| true).is_some());
    }
    let untouched = packer.rooms().iter().flat_map(|room| &room.devices).filter(|free| **free == 1_000).count();
    assert_eq!(untouched, 3, "{:?}", packer.rooms());
}

#[test]
fn devices_are_not_left_without_processors() {
    // The second node has processors to spare; the first would keep two devices and nothing to use them with.
    let rooms = [room(&[1_000, 1_000, 1_000], 12), room(&[1_000], 40)];
    let mut packer = packer(&rooms);
    (0..8).for_each(|_| packer.came(&ask(1, 1_000, 4)));
    let spot = packer.place(&ask(1, 1_000, 12), |_| true);
    assert_eq!(spot.map(|spot| spot.node), Some(1));
}

#[test]
fn waste_is_what_the_kinds_that_came_cannot_use() {
    let mut rule = Fragments::new(&[room(&[1_000], 8)]);
    assert_eq!(rule.waste(&room(&[190], 8)), 0, "nothing came");
    rule.came(&ask(1, 810, 1));
    assert!(rule.waste(&room(&[190], 8)) > 0 && rule.waste(&room(&[810], 8)) == 0);
    assert!(rule.waste(&room(&[810], 0)) > 0, "without processors a device is of no use");
    assert!(!rule.came(&ask(0, 0, 1)), "who uses no device says nothing of devices");
}

#[test]
fn who_asks_for_the_best_place_is_not_there_yet() {
    let rooms = [room(&[1_000], 8)];
    let mut packer = packer(&rooms);
    (0..3).for_each(|_| packer.came(&ask(1, 500, 1)));
    let half = packer.best(&ask(1, 500, 1), |_| true);
    assert!(half.as_ref().is_some_and(|(cost, _)| *cost <= 0), "another half can use the rest: {half:?}");
    let most = packer.best(&ask(1, 600, 1), |_| true);
    assert!(most.is_some_and(|(cost, _)| cost > 0), "nobody can use the rest");
    assert_eq!(packer.rooms(), rooms);
    assert_eq!(packer.place(&ask(1, 500, 1), |_| true), half.map(|(_, spot)| spot));
}
