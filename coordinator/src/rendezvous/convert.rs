//! The contract's messages and the core's, both ways. Total: what makes no sense is an error with a name, and no message
//! can make the core see what it must not (a port 0, a member without a pod, a part that is another's).

use trainyard_coordinator_core::rendezvous::{
    Cause, Failure, Generation, Hello, Input, MemberId, Outcome, Output, Part, Pulse, RankPulse, Saved, Seat, Spares,
    Standing, World,
};
use trainyard_proto::pace::Window;
use trainyard_proto::rendezvous as wire;
use wire::from_launcher::Message as From;
use wire::to_launcher::Message as To;

/// Longest name of a pod, a host or an address: what DNS allows.
const MAX_NAME: usize = 253;
/// Longest text of a failure that is kept: a status is read by people, and stored.
const MAX_TEXT: usize = 4096;
/// Looks of a window at most: no sum of them overflows.
const MAX_LOOKS: u32 = 1 << 20;
/// Ranks of one launcher at most: far above what a machine has cores, low enough that no sum of them overflows.
const MAX_RANKS: u32 = 65_536;

/// The highest generation that can be: what any number of JSON holds, and more than any job comes to.
const MAX_GENERATION: u64 = 1 << 53;
/// Restarts of a job at most, and ranks of all its launchers together: no sum of them overflows.
const MAX_COUNT: u32 = 1 << 24;

/// What a message is wrong about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// A part that each such message has is not there.
    #[error("the message has no {0}")]
    Missing(&'static str),
    /// A stream began with something else.
    #[error("the first message of a stream must be a hello")]
    NotHello,
    /// A second hello on a stream.
    #[error("a stream has one hello, at its beginning")]
    SecondHello,
    /// A number that cannot be.
    #[error("{what} cannot be {value}")]
    Number {
        /// Of what.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// A name that is empty or longer than names are.
    #[error("{0} must have from 1 to {MAX_NAME} characters")]
    Name(&'static str),
    /// A launcher tells of a seat that is not its own.
    #[error("the launcher {speaker} tells of the seat of {seat}")]
    Seat {
        /// Who speaks.
        speaker: String,
        /// Whose seat it is.
        seat: String,
    },
}

/// What a launcher said after its hello.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// Something that decides.
    Input(Input),
    /// What its ranks do; nothing depends on it.
    Pulse(wire::Pulse),
    /// The newest whole checkpoint.
    Saved(wire::Saved),
}

/// The first message of a stream.
///
/// # Errors
/// When it is no hello, or one that makes no sense.
pub fn hello(message: wire::FromLauncher) -> Result<(MemberId, Hello), Nonsense> {
    let Some(From::Hello(hello)) = message.message else { return Err(Nonsense::NotHello) };
    let id = member(hello.member.ok_or(Nonsense::Missing("member"))?)?;
    let standing = hello.standing.and_then(|standing| standing.standing).ok_or(Nonsense::Missing("standing"))?;
    if !(1..=MAX_RANKS).contains(&hello.ranks) {
        return Err(Nonsense::Number { what: "the number of ranks", value: hello.ranks.into() });
    }
    let read = Hello {
        index: hello.index,
        address: name("the address", hello.address)?,
        port: port(hello.port)?,
        ranks: hello.ranks,
        seen: generation(hello.seen)?,
        ranks_are: self::standing(standing, &id)?,
        host: hello.host.chars().take(MAX_NAME).collect(),
        // Nobody takes the launcher's word for it.
        place: Box::default(),
    };
    Ok((id, read))
}

/// Any later message of a stream whose hello was `speaker`'s.
///
/// # Errors
/// When it makes no sense.
pub fn heard(speaker: &MemberId, message: wire::FromLauncher) -> Result<Heard, Nonsense> {
    let member = speaker.clone();
    let input = match message.message.ok_or(Nonsense::Missing("content"))? {
        From::Hello(_) => return Err(Nonsense::SecondHello),
        From::Holds(holds) => Input::Holds { member, port: port(holds.port)?, seen: generation(holds.seen)? },
        From::Ready(ready) => Input::Ready { member, generation: generation(ready.generation)? },
        From::Failed(failed) => {
            let (generation, failure) = self::failed(failed)?;
            Input::Failed { member, generation, failure }
        }
        From::Finished(finished) => Input::Finished { member, generation: generation(finished.generation)? },
        From::Pulse(pulse) => return Ok(Heard::Pulse(pulse)),
        From::Saved(saved) => return Ok(Heard::Saved(saved)),
    };
    Ok(Heard::Input(input))
}

/// Whom an output tells what; `None` where it is not for launchers.
#[must_use]
pub fn told(output: &Output) -> Option<(&[MemberId], wire::ToLauncher)> {
    let (members, message) = match output {
        Output::Reserve { .. } => return None,
        Output::Form { members, world } => (members, To::Form(wire_world(world))),
        Output::Halt { members, generation } => (members, To::Halt(wire::Halt { generation: generation.0 })),
        Output::Deadlock { members, generation, rank } => {
            (members, To::Deadlock(wire::Deadlock { generation: generation.0, rank: *rank }))
        }
        Output::Others { members, generation, silence } => {
            let silence = silence.map(Into::into);
            (members, To::Others(wire::Others { generation: generation.0, silence }))
        }
        Output::Release { members, outcome } => (members, To::Release(wire_release(outcome))),
    };
    Some((members, wire::ToLauncher { message: Some(message) }))
}

fn name(what: &'static str, text: String) -> Result<String, Nonsense> {
    if text.is_empty() || text.len() > MAX_NAME { Err(Nonsense::Name(what)) } else { Ok(text) }
}

fn port(number: u32) -> Result<u16, Nonsense> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.ok_or(Nonsense::Number { what: "a port", value: number.into() })
}

fn generation(number: u64) -> Result<Generation, Nonsense> {
    if number > MAX_GENERATION {
        return Err(Nonsense::Number { what: "a generation", value: number });
    }
    Ok(Generation(number))
}

fn count(what: &'static str, number: u32) -> Result<u32, Nonsense> {
    if number > MAX_COUNT { Err(Nonsense::Number { what, value: number.into() }) } else { Ok(number) }
}

fn member(member: wire::Member) -> Result<MemberId, Nonsense> {
    Ok(MemberId { pod: name("the member's pod", member.pod)?, incarnation: member.incarnation })
}

fn standing(standing: wire::standing::Standing, speaker: &MemberId) -> Result<Standing, Nonsense> {
    Ok(match standing {
        wire::standing::Standing::Idle(wire::Idle {}) => Standing::Idle,
        wire::standing::Standing::Running(part) => Standing::Running(self::part(part, speaker)?),
        wire::standing::Standing::Finished(part) => Standing::Finished(self::part(part, speaker)?),
        wire::standing::Standing::Failed(failed) => {
            let (generation, failure) = self::failed(failed)?;
            Standing::Failed { generation, failure }
        }
    })
}

fn part(part: wire::Part, speaker: &MemberId) -> Result<Part, Nonsense> {
    let seat = seat(part.seat.ok_or(Nonsense::Missing("seat"))?)?;
    if seat.member != *speaker {
        return Err(Nonsense::Seat { speaker: speaker.pod.clone(), seat: seat.member.pod });
    }
    if part.generation == 0 {
        return Err(Nonsense::Number { what: "a generation that runs", value: 0 });
    }
    let restarts = count("the number of restarts", part.restarts)?;
    let pods = count("the number of pods", part.pods)?;
    let ranks = count("the number of ranks", part.ranks)?;
    Ok(Part { generation: generation(part.generation)?, digest: part.digest, restarts, seat, pods, ranks })
}

fn seat(seat: wire::Seat) -> Result<Seat, Nonsense> {
    if !(1..=MAX_RANKS).contains(&seat.ranks) {
        return Err(Nonsense::Number { what: "the number of ranks", value: seat.ranks.into() });
    }
    Ok(Seat {
        member: member(seat.member.ok_or(Nonsense::Missing("member"))?)?,
        node_rank: count("a node rank", seat.node_rank)?,
        first_rank: count("a rank", seat.first_rank)?,
        ranks: seat.ranks,
        address: name("the address", seat.address)?,
        port: port(seat.port)?,
    })
}

fn failed(failed: wire::Failed) -> Result<(Generation, Failure), Nonsense> {
    let failure = failed.failure.ok_or(Nonsense::Missing("failure"))?;
    Ok((generation(failed.generation)?, self::failure(failure)))
}

/// That a rank failed matters more than the word for it: one that is not known here counts as an exit code.
#[must_use]
pub fn failure(failure: wire::Failure) -> Failure {
    let cause = match failure.cause() {
        wire::Cause::Unspecified | wire::Cause::ExitCode => Cause::ExitCode,
        wire::Cause::Signal => Cause::Signal,
        wire::Cause::OutOfMemory => Cause::OutOfMemory,
        wire::Cause::ImportError => Cause::ImportError,
        wire::Cause::Exception => Cause::Exception,
        wire::Cause::RendezvousTimeout => Cause::RendezvousTimeout,
        wire::Cause::Hang => Cause::Hang,
        wire::Cause::NodeLost => Cause::NodeLost,
        wire::Cause::GpuXid => Cause::GpuXid,
        wire::Cause::Preflight => Cause::Preflight,
    };
    let message = failure.message.chars().take(MAX_TEXT).collect();
    Failure { rank: failure.rank, cause, code: failure.code, message, secondary: failure.secondary }
}

/// A failure as the contract has it.
#[must_use]
pub fn wire_failure(failure: &Failure) -> wire::Failure {
    let cause = match failure.cause {
        Cause::ExitCode => wire::Cause::ExitCode,
        Cause::Signal => wire::Cause::Signal,
        Cause::OutOfMemory => wire::Cause::OutOfMemory,
        Cause::ImportError => wire::Cause::ImportError,
        Cause::Exception => wire::Cause::Exception,
        Cause::RendezvousTimeout => wire::Cause::RendezvousTimeout,
        Cause::Hang => wire::Cause::Hang,
        Cause::NodeLost => wire::Cause::NodeLost,
        Cause::GpuXid => wire::Cause::GpuXid,
        Cause::Preflight => wire::Cause::Preflight,
    };
    let Failure { rank, code, secondary, .. } = *failure;
    wire::Failure { rank, cause: cause.into(), code, message: failure.message.clone(), secondary }
}

/// A world as the contract has it.
#[must_use]
pub fn wire_world(world: &World) -> wire::World {
    wire::World {
        generation: world.generation.0,
        seats: world.seats.iter().map(wire_seat).collect(),
        restarts: world.restarts,
        digest: world.digest(),
    }
}

/// A seat as the contract has it.
#[must_use]
pub fn wire_seat(seat: &Seat) -> wire::Seat {
    wire::Seat {
        member: Some(wire::Member { pod: seat.member.pod.clone(), incarnation: seat.member.incarnation }),
        node_rank: seat.node_rank,
        first_rank: seat.first_rank,
        ranks: seat.ranks,
        address: seat.address.clone(),
        port: seat.port.into(),
    }
}

/// The order to end.
#[must_use]
pub fn release(outcome: &Outcome) -> wire::ToLauncher {
    wire::ToLauncher { message: Some(To::Release(wire_release(outcome))) }
}

/// What a launcher's ranks do.
#[must_use]
pub fn pulse(pulse: wire::Pulse) -> Pulse {
    let ranks = pulse.ranks.into_iter().take(MAX_RANKS as usize).map(|rank| RankPulse {
        rank: rank.rank,
        silent_ms: i64::try_from(rank.silent_ms).unwrap_or(i64::MAX),
        waits_in: rank.waits_in.chars().take(MAX_NAME).collect(),
        in_collective: rank.in_collective,
        stalled: rank.stalled,
        window: rank.window.map(window),
    });
    let spares = Spares { count: pulse.spares, memory_bytes: pulse.spare_memory_bytes };
    let tempo = pulse.tempo.map(Into::into);
    Pulse { generation: pulse.generation, ranks: ranks.collect(), spares, tempo, still: pulse.still }
}

fn window(window: wire::Window) -> Window {
    let wire::Window { number, looks, lock, net, steps, step_us, took_ms } = window;
    Window { number, looks: looks.min(MAX_LOOKS), lock, net, steps, step_us, took_ms }
}

/// The newest whole checkpoint.
#[must_use]
pub fn saved(saved: wire::Saved) -> Saved {
    let wire::Saved { step, path, at_ms, bytes } = saved;
    Saved { step, path: path.chars().take(MAX_TEXT).collect(), at_ms, bytes }
}

fn wire_release(outcome: &Outcome) -> wire::Release {
    let outcome = match outcome {
        Outcome::Succeeded => wire::release::Outcome::Succeeded(wire::Succeeded {}),
        Outcome::Failed(failure) => wire::release::Outcome::Failed(wire_failure(failure)),
        Outcome::Stopped => wire::release::Outcome::Stopped(wire::Stopped {}),
    };
    wire::Release { outcome: Some(outcome) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    fn id(pod: &str) -> MemberId {
        MemberId { pod: pod.to_owned(), incarnation: 3 }
    }

    fn seat_of(pod: &str) -> Seat {
        Seat { member: id(pod), node_rank: 1, first_rank: 4, ranks: 4, address: "10.0.0.2".to_owned(), port: 20_001 }
    }

    fn wire_hello() -> wire::Hello {
        let part = wire::Part {
            generation: 7,
            digest: 99,
            restarts: 2,
            seat: Some(wire_seat(&seat_of("a"))),
            pods: 2,
            ranks: 8,
        };
        wire::Hello {
            member: Some(wire::Member { pod: "a".to_owned(), incarnation: 3 }),
            index: Some(1),
            address: "10.0.0.2".to_owned(),
            port: 20_002,
            ranks: 4,
            seen: 7,
            standing: Some(wire::Standing { standing: Some(wire::standing::Standing::Running(part)) }),
            host: "box".to_owned(),
        }
    }

    fn says(message: From) -> wire::FromLauncher {
        wire::FromLauncher { message: Some(message) }
    }

    #[test]
    fn a_hello_is_read_as_it_was_written() {
        let (member, read) = hello(says(From::Hello(wire_hello()))).unwrap();
        assert_eq!(member, id("a"));
        let part = Part { generation: Generation(7), digest: 99, restarts: 2, seat: seat_of("a"), pods: 2, ranks: 8 };
        let expected = Hello {
            index: Some(1),
            address: "10.0.0.2".to_owned(),
            port: 20_002,
            ranks: 4,
            seen: Generation(7),
            ranks_are: Standing::Running(part),
            host: "box".to_owned(),
            place: Box::default(),
        };
        assert_eq!(read, expected);
    }

    fn running(hello: &mut wire::Hello) -> &mut wire::Part {
        let standing = hello.standing.as_mut().unwrap().standing.as_mut().unwrap();
        let wire::standing::Standing::Running(part) = standing else { panic!("{standing:?}") };
        part
    }

    #[test]
    fn no_number_is_so_high_that_the_next_one_overflows() {
        let refused: [(Spoil, &str, u64); 7] = [
            (|hello| hello.seen = u64::MAX - 1, "a generation", u64::MAX - 1),
            (|hello| running(hello).generation = u64::MAX, "a generation", u64::MAX),
            (|hello| running(hello).restarts = u32::MAX, "the number of restarts", u32::MAX.into()),
            (|hello| running(hello).pods = u32::MAX, "the number of pods", u32::MAX.into()),
            (|hello| running(hello).ranks = u32::MAX, "the number of ranks", u32::MAX.into()),
            (|hello| running(hello).seat.as_mut().unwrap().first_rank = u32::MAX, "a rank", u32::MAX.into()),
            (|hello| running(hello).seat.as_mut().unwrap().node_rank = u32::MAX, "a node rank", u32::MAX.into()),
        ];
        for (spoil, what, value) in refused {
            let mut spoilt = wire_hello();
            spoil(&mut spoilt);
            assert_eq!(hello(says(From::Hello(spoilt))), Err(Nonsense::Number { what, value }));
        }
        let holds = From::Holds(wire::Holds { port: 1, seen: u64::MAX });
        assert_eq!(heard(&id("a"), says(holds)), Err(Nonsense::Number { what: "a generation", value: u64::MAX }));
    }

    type Spoil = fn(&mut wire::Hello);

    #[test]
    fn every_nonsense_in_a_hello_has_its_name() {
        let cases: [(Spoil, Nonsense); 8] = [
            (|hello| hello.member = None, Nonsense::Missing("member")),
            (|hello| hello.standing = None, Nonsense::Missing("standing")),
            (|hello| hello.port = 0, Nonsense::Number { what: "a port", value: 0 }),
            (|hello| hello.port = 65_536, Nonsense::Number { what: "a port", value: 65_536 }),
            (|hello| hello.ranks = 0, Nonsense::Number { what: "the number of ranks", value: 0 }),
            (|hello| hello.address.clear(), Nonsense::Name("the address")),
            (|hello| hello.member.as_mut().unwrap().pod = "x".repeat(254), Nonsense::Name("the member's pod")),
            (
                |hello| hello.member.as_mut().unwrap().pod = "b".to_owned(),
                Nonsense::Seat { speaker: "b".to_owned(), seat: "a".to_owned() },
            ),
        ];
        for (spoil, expected) in cases {
            let mut spoilt = wire_hello();
            spoil(&mut spoilt);
            assert_eq!(hello(says(From::Hello(spoilt))), Err(expected));
        }
        assert_eq!(hello(says(From::Ready(wire::Ready { generation: 1 }))), Err(Nonsense::NotHello));
        assert_eq!(hello(wire::FromLauncher::default()), Err(Nonsense::NotHello));
    }

    #[test]
    fn later_messages_are_their_speakers() {
        let failure = Failure {
            rank: Some(5),
            cause: Cause::OutOfMemory,
            code: 137,
            message: "no memory".to_owned(),
            secondary: false,
        };
        let failed = wire::Failed { generation: 7, failure: Some(wire_failure(&failure)) };
        let member = id("a");
        let generation = Generation(7);
        for (message, expected) in [
            (
                From::Holds(wire::Holds { port: 20_003, seen: 7 }),
                Input::Holds { member: member.clone(), port: 20_003, seen: generation },
            ),
            (From::Ready(wire::Ready { generation: 7 }), Input::Ready { member: member.clone(), generation }),
            (From::Failed(failed), Input::Failed { member: member.clone(), generation, failure }),
            (From::Finished(wire::Finished { generation: 7 }), Input::Finished { member: member.clone(), generation }),
        ] {
            assert_eq!(heard(&member, says(message)), Ok(Heard::Input(expected)));
        }
        assert_eq!(heard(&member, says(From::Hello(wire_hello()))), Err(Nonsense::SecondHello));
        assert_eq!(heard(&member, wire::FromLauncher::default()), Err(Nonsense::Missing("content")));
    }

    #[test]
    fn a_cause_that_is_not_known_is_still_a_failure() {
        let strange = wire::Failure { rank: None, cause: 4_711, code: 1, message: "?".to_owned(), secondary: false };
        assert_eq!(failure(strange).cause, Cause::ExitCode);
    }

    #[test]
    fn every_cause_comes_back_as_it_went() {
        use Cause::{
            Exception, ExitCode, GpuXid, Hang, ImportError, NodeLost, OutOfMemory, Preflight, RendezvousTimeout, Signal,
        };
        for cause in [
            ExitCode,
            Signal,
            OutOfMemory,
            ImportError,
            Exception,
            RendezvousTimeout,
            Hang,
            NodeLost,
            GpuXid,
            Preflight,
        ] {
            let sent = Failure { rank: Some(0), cause, code: 1, message: "why".to_owned(), secondary: false };
            assert_eq!(failure(wire_failure(&sent)), sent);
        }
    }

    #[test]
    fn an_order_names_those_it_is_for() {
        let world = World { generation: Generation(8), seats: vec![seat_of("a")], restarts: 1 };
        let form = Output::Form { members: vec![id("a")], world: world.clone() };
        let (members, message) = told(&form).unwrap();
        assert_eq!(members, [id("a")]);
        let Some(To::Form(sent)) = message.message else { panic!("no order to form: {message:?}") };
        assert_eq!((sent.generation, sent.digest, sent.restarts), (8, world.digest(), 1));
        assert_eq!(sent.seats, [wire_seat(&seat_of("a"))]);
        assert_eq!(told(&Output::Reserve { to: Generation(16) }), None);
    }
}
