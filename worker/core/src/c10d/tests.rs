use super::{Input, Output, Refusal, Store};

const GREETING: [u8; 5] = [0, 0xce, 0xf7, 0x85, 0x3c];

/// A store with clients 0 and 1, both greeted.
struct World {
    store: Store,
}

impl World {
    fn new() -> Self {
        let mut world = Self { store: Store::default() };
        for id in 0..3 {
            world.input(Input::Connected(id));
            assert_eq!(world.say(id, &GREETING), []);
        }
        world
    }

    fn input(&mut self, input: Input<'_>) -> Vec<Output> {
        let mut out = Vec::new();
        self.store.step(input, &mut out);
        out
    }

    fn say(&mut self, id: u64, bytes: &[u8]) -> Vec<Output> {
        self.input(Input::Received(id, bytes))
    }

    /// The one answer that the client itself gets.
    fn ask(&mut self, id: u64, bytes: &[u8]) -> Vec<u8> {
        match self.say(id, bytes).as_slice() {
            [Output::Send(to, answer)] if *to == id => answer.clone(),
            other => panic!("{other:?}"),
        }
    }
}

fn number(value: i64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn block(text: &str) -> Vec<u8> {
    [number(text.len() as i64), text.as_bytes().to_vec()].concat()
}

fn request(code: u8, blocks: &[&str]) -> Vec<u8> {
    let mut bytes = vec![code];
    blocks.iter().for_each(|text| bytes.extend(block(text)));
    bytes
}

fn listed(code: u8, keys: &[&str]) -> Vec<u8> {
    let mut bytes = [vec![code], number(keys.len() as i64)].concat();
    keys.iter().for_each(|key| bytes.extend(block(key)));
    bytes
}

fn stop(id: u64) -> Output {
    Output::Send(id, vec![0])
}

#[test]
fn values_are_set_read_added_compared_and_deleted() {
    let mut world = World::new();
    assert_eq!(world.say(0, &request(1, &["k", "v"])), []);
    assert_eq!(world.ask(1, &request(3, &["k"])), block("v"));
    assert_eq!(world.ask(1, &[request(4, &["n"]), number(3)].concat()), number(3));
    assert_eq!(world.ask(0, &[request(4, &["n"]), number(-5)].concat()), number(-2));
    assert_eq!(world.ask(0, &request(3, &["n"])), block("-2"));
    assert_eq!(world.ask(0, &request(2, &["z", "", "w"])), block("w"), "absent, and expected to be");
    assert_eq!(world.ask(0, &request(2, &["y", "a", "w"])), block("a"), "absent, and expected to be there");
    assert_eq!(world.ask(0, &request(2, &["z", "w", "x"])), block("x"));
    assert_eq!(world.ask(0, &request(2, &["z", "w", "y"])), block("x"), "another value than expected");
    assert_eq!(world.ask(0, &[7]), number(3));
    assert_eq!(world.say(0, &request(9, &["k", "w"])), []);
    assert_eq!(world.ask(0, &listed(10, &["k", "z"])), [block("vw"), block("x")].concat());
    assert_eq!(world.say(0, &[vec![11], number(2), block("a"), block("1"), block("b"), block("2")].concat()), []);
    assert_eq!(world.ask(0, &listed(5, &["a", "b"])), [0]);
    assert_eq!(world.ask(0, &request(8, &["a"])), number(1));
    assert_eq!(world.ask(0, &request(8, &["a"])), number(0));
    assert_eq!(world.ask(0, &listed(5, &["a", "b"])), [1]);
    assert_eq!(world.ask(0, &[17]), [number(4), block("b"), block("k"), block("n"), block("z")].concat());
    assert_eq!(world.ask(0, &[13, 1, 2, 3, 4]), [1, 2, 3, 4]);
}

#[test]
fn a_wait_ends_when_all_keys_are_there() {
    let mut world = World::new();
    assert_eq!(world.say(0, &listed(6, &["a", "b"])), []);
    assert_eq!(world.say(1, &listed(6, &["b"])), []);
    assert_eq!(world.say(2, &request(1, &["b", ""])), [stop(1)]);
    assert_eq!(world.say(2, &[request(4, &["a"]), number(1)].concat()), [stop(0), Output::Send(2, number(1))]);
    assert_eq!(world.say(2, &request(1, &["a", "again"])), [], "nobody waits any more");
    assert_eq!(world.ask(0, &listed(6, &["a", "b"])), [0], "there already");
}

#[test]
fn one_value_wakes_all_that_have_the_rest_in_the_order_of_arrival() {
    let mut world = World::new();
    assert_eq!(world.say(2, &listed(6, &["a", "a"])), [], "a key may be named twice");
    assert_eq!(world.say(0, &listed(6, &["a", "b"])), []);
    assert_eq!(world.say(1, &[request(1, &["a", ""]), listed(6, &["a"])].concat()), [stop(2), stop(1)]);
    assert_eq!(world.say(1, &request(1, &["b", ""])), [stop(0)]);
}

#[test]
fn what_a_client_waits_for_and_how_much_was_asked_are_known() {
    let mut world = World::new();
    assert_eq!((world.store.requests(), world.store.waits_for(0)), (0, None));
    world.say(0, &listed(6, &["a", "b"]));
    assert_eq!(world.store.waits_for(0), Some(b"a".as_slice()));
    world.say(1, &request(1, &["a", ""]));
    assert_eq!(world.store.waits_for(0), Some(b"b".as_slice()), "the first that is missing");
    world.say(1, &[request(18, &["c"]), number(2)].concat());
    assert_eq!(world.store.waits_for(1), Some(b"c".as_slice()));
    world.say(2, &request(1, &["b", ""]));
    assert_eq!((world.store.requests(), world.store.waits_for(0)), (4, None));
}

#[test]
fn a_cancelled_wait_is_over() {
    let mut world = World::new();
    assert_eq!(world.say(0, &listed(6, &["a"])), []);
    assert_eq!(world.ask(0, &[12]), [1]);
    assert_eq!(world.say(1, &request(1, &["a", ""])), []);
    assert_eq!(world.ask(0, &[12]), [1], "told even when nothing was waited for, as torch's client expects");
}

#[test]
fn one_pushed_value_wakes_one_client() {
    let mut world = World::new();
    world.say(0, &listed(6, &["q"]));
    world.say(1, &listed(6, &["q"]));
    assert_eq!(world.say(2, &request(14, &["q", "1"])), [stop(0)]);
    assert_eq!(world.say(2, &request(14, &["q", "2"])), [stop(1)]);
    assert_eq!(world.ask(2, &request(16, &["q"])), number(2));
    assert_eq!(world.ask(2, &listed(5, &["q"])), [0], "a queue with something in it is there");
    assert_eq!(world.ask(0, &request(15, &["q"])), [number(2), block("1")].concat());
    assert_eq!(world.ask(1, &request(15, &["q"])), [number(1), block("2")].concat());
    assert_eq!(world.ask(1, &request(15, &["q"])), number(0));
    assert_eq!(world.ask(2, &listed(5, &["q"])), [1]);
}

#[test]
fn a_barrier_opens_for_the_last_and_can_be_used_again() {
    let mut world = World::new();
    let barrier = [request(18, &["b"]), number(2)].concat();
    for _ in 0..2 {
        assert_eq!(world.say(0, &barrier), []);
        assert_eq!(world.say(1, &barrier), [stop(0), stop(1)]);
    }
    assert_eq!(world.say(0, &barrier), []);
    world.input(Input::Disconnected(0));
    assert_eq!(world.say(1, &barrier), [], "who left does not count");
    assert_eq!(world.say(2, &barrier), [stop(1), stop(2)]);
}

#[test]
fn requests_may_come_in_any_pieces() {
    let mut whole = World::new();
    let bytes = [request(1, &["k", "v"]), request(3, &["k"]), vec![7], listed(6, &["k"])].concat();
    let expected = whole.say(0, &bytes);
    assert_eq!(expected.len(), 3);
    let mut pieces = World::new();
    let got: Vec<Output> = bytes.iter().flat_map(|byte| pieces.say(0, &[*byte])).collect();
    assert_eq!(got, expected);
}

#[test]
fn what_is_not_understood_ends_the_connection() {
    let mut store = Store::default();
    let mut out = Vec::new();
    store.step(Input::Connected(7), &mut out);
    store.step(Input::Received(7, b"GET / HTTP/1.1\r\n"), &mut out);
    assert_eq!(out, [Output::Close(7, Refusal::Stranger)]);
    let refusal = |bytes: &[u8]| {
        let mut world = World::new();
        world.say(1, &request(1, &["k", "text"]));
        match world.say(0, bytes).as_slice() {
            [Output::Close(0, refusal)] => {
                assert_eq!(world.store.clients(), 2, "the others stay");
                refusal.clone()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refusal(&[19]), Refusal::Unknown(19));
    assert_eq!(refusal(&[request(4, &["k"]), number(1)].concat()), Refusal::NotANumber);
    let long = refusal(&[vec![3], number(1 << 40)].concat());
    assert_eq!(long, Refusal::TooLong { what: "a key", length: 1 << 40, limit: 8192 });
}

/// A request of kilobytes may ask for one large value very often.
#[test]
fn answers_that_nobody_could_hold_are_not_made() {
    let mut world = World::new();
    let value = "v".repeat(8 * 1024 * 1024);
    assert_eq!(world.say(1, &request(1, &["k", &value])), []);
    assert_eq!(world.ask(0, &listed(10, &["k"; 7])).len(), 7 * (8 + value.len()));
    for greedy in [listed(10, &["k"; 1000]), request(3, &["k"]).repeat(1000)] {
        let mut world = World::new();
        world.say(1, &request(1, &["k", &value]));
        let out = world.say(0, &greedy);
        let limit = 64 * 1024 * 1024;
        let sent: usize =
            out.iter().map(|output| if let Output::Send(_, bytes) = output { bytes.len() } else { 0 }).sum();
        assert!(sent <= limit, "{sent}");
        assert!(
            matches!(out.last(), Some(Output::Close(0, Refusal::TooLong { what: "the answers to requests", .. }))),
            "{} outputs",
            out.len()
        );
    }
}

#[test]
fn a_long_request_may_come_in_pieces() {
    let mut world = World::new();
    let values: Vec<String> = (0..2_000).map(|number| format!("{number:0>200}")).collect();
    let mut bytes = [vec![11], number(2_000)].concat();
    values.iter().enumerate().for_each(|(at, value)| bytes.extend([block(&format!("k{at}")), block(value)].concat()));
    bytes.extend(request(3, &["k1999"]));
    let out: Vec<Output> = bytes.chunks(4_096).flat_map(|piece| world.say(0, piece)).collect();
    assert_eq!(out, [Output::Send(0, block(&values[1_999]))]);
}
