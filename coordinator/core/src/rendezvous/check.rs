//! The invariants of the module's documentation, derived anew.

use std::collections::BTreeSet;

use super::{MemberId, Phase, Rendezvous, World};

impl Rendezvous {
    /// Re-derives the invariants.
    ///
    /// # Errors
    /// The label and the words of the first one that does not hold.
    pub fn check(&self) -> Result<(), String> {
        if let Phase::Running { world, ready, finished, .. } = &self.phase {
            self.check_world(world)?;
            if world.generation > self.fence.last() {
                return Err(format!(
                    "R-2: generation {:?} runs, the last was {:?}",
                    world.generation,
                    self.fence.last()
                ));
            }
            let seated: BTreeSet<_> = world.seats.iter().map(|seat| &seat.member).collect();
            if let Some(other) = ready.iter().chain(finished).find(|id| !seated.contains(id)) {
                return Err(format!("R-3: {other:?} is ready or finished without a seat"));
            }
        }
        self.check_places()?;
        self.check_budget()
    }

    /// it is a matter of a few numbers, however many members there are.
    pub(super) fn check_budget(&self) -> Result<(), String> {
        self.config.budget.check(&self.earlier, self.restarts, &self.spent)
    }

    /// R-4 of a member that has just joined. Nothing else gives anybody a pod or an index, so this is all of R-4 where it held
    /// before.
    pub(super) fn check_place_of(&self, id: &MemberId) -> Result<(), String> {
        let Some(index) = self.members.get(id).map(|member| member.hello.index) else { return Ok(()) };
        for (other, place) in self.members.iter().filter(|(other, _)| *other != id) {
            if other.pod == id.pod {
                return Err(PODS.to_owned());
            }
            if let Some(index) = index.filter(|_| place.hello.index == index) {
                return Err(indexes(index));
            }
        }
        Ok(())
    }

    pub(super) fn check_world(&self, world: &World) -> Result<(), String> {
        let count = u32::try_from(world.seats.len()).unwrap_or(u32::MAX);
        let members: BTreeSet<_> = world.seats.iter().map(|seat| &seat.member).collect();
        if count == 0 || count > self.widest || members.len() != world.seats.len() {
            return Err(format!("R-1: {count} seats for {} members", members.len()));
        }
        let mut next: u32 = 0;
        for (node_rank, seat) in (0..).zip(&world.seats) {
            if seat.node_rank != node_rank || seat.first_rank != next {
                return Err(format!("R-1: seat {seat:?} where node rank {node_rank} from rank {next} was due"));
            }
            next = next.checked_add(seat.ranks).ok_or("R-1: more ranks than can be counted")?;
        }
        Ok(())
    }

    /// R-4 of all.
    fn check_places(&self) -> Result<(), String> {
        // They are in the order of their pods.
        let neighbours = self.members.keys().zip(self.members.keys().skip(1));
        if neighbours.into_iter().any(|(one, next)| one.pod == next.pod) {
            return Err(PODS.to_owned());
        }
        let mut known = BTreeSet::new();
        let doubled = self.members.values().filter_map(|member| member.hello.index).find(|index| !known.insert(*index));
        doubled.map_or(Ok(()), |index| Err(indexes(index)))
    }
}

const PODS: &str = "R-4: a pod has two members";

fn indexes(index: u32) -> String {
    format!("R-4: index {index} has two members")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Budget, Cause, Config, Failure, Generation, Hello, Input, Place, Spent, Standing};
    use super::*;

    type Break = fn(&mut Rendezvous);

    fn config(total: Option<u32>, most_lost: u32) -> Config {
        Config {
            least: 1,
            most: 200,
            join_ms: 600_000,
            last_call_ms: 5_000,
            away_ms: 15_000,
            return_ms: 30_000,
            lost_ms: 600_000,
            grow_ms: 30_000,
            budget: Budget { total, by_cause: BTreeMap::from([(Cause::NodeLost, most_lost)]), lowest_code: 0 },
        }
    }

    fn id(at: u32) -> MemberId {
        MemberId { pod: format!("pod-{at:03}"), incarnation: 1 }
    }

    fn hello(at: u32) -> Hello {
        Hello {
            index: Some(at),
            address: format!("10.0.0.{at}"),
            port: 1000,
            ranks: 2,
            seen: Generation(0),
            ranks_are: Standing::Idle,
            host: "host".to_owned(),
            place: Box::<Place>::default(),
        }
    }

    /// So many launchers run.
    fn running(members: u32, config: Config, spent: Spent) -> Rendezvous {
        let mut machine = Rendezvous::new(Config { most: members, ..config }, Generation(16), spent, 0);
        step(&mut machine, Input::Reserved { to: Generation(32) });
        for at in 0..members {
            step(&mut machine, Input::Joined { member: id(at), stream: 1, hello: hello(at) });
        }
        for at in 0..members {
            step(&mut machine, Input::Ready { member: id(at), generation: Generation(17) });
        }
        assert!(machine.is_ready());
        machine
    }

    fn step(machine: &mut Rendezvous, input: Input) {
        machine.step(0, input, &mut Vec::new());
    }

    fn fail(machine: &mut Rendezvous, cause: Cause) {
        let Some(generation) = machine.world().map(|world| world.generation) else { return };
        let failure = Failure { rank: Some(0), cause, code: 1, message: String::new(), secondary: false };
        step(machine, Input::Failed { member: id(0), generation, failure });
        for at in 0..2 {
            step(machine, Input::Holds { member: id(at), port: 1001, seen: generation });
        }
    }

    fn label(checked: Result<(), String>) -> Option<String> {
        checked.err().and_then(|words| words.split(':').next().map(str::to_owned))
    }

    #[test]
    fn whatever_is_broken_is_found() {
        let sound = running(100, config(Some(3), 1), Spent::default());
        assert_eq!(sound.check(), Ok(()));
        let breaks: [(&str, Break); 8] = [
            ("R-1", |machine| world(machine).seats[50].first_rank += 1),
            ("R-1", |machine| world(machine).seats[50].member = id(51)),
            ("R-2", |machine| world(machine).generation = Generation(18)),
            ("R-3", |machine| ready(machine).extend([id(100)])),
            ("R-4", |machine| {
                let again = machine.members[&id(50)].clone();
                machine.members.insert(MemberId { incarnation: 2, ..id(50) }, again);
            }),
            ("R-4", |machine| machine.members.get_mut(&id(50)).unwrap().hello.index = Some(99)),
            ("R-5", |machine| machine.restarts = 4),
            ("R-5", |machine| {
                machine.restarts = 2;
                machine.spent = BTreeMap::from([(Cause::NodeLost, 2)]);
            }),
        ];
        for (at, (expected, breaks)) in breaks.into_iter().enumerate() {
            let mut machine = sound.clone();
            breaks(&mut machine);
            assert_eq!(label(machine.check()).as_deref(), Some(expected), "{at}");
        }
    }

    fn world(machine: &mut Rendezvous) -> &mut World {
        let Phase::Running { world, .. } = &mut machine.phase else { unreachable!("it runs") };
        world
    }

    fn ready(machine: &mut Rendezvous) -> &mut BTreeSet<MemberId> {
        let Phase::Running { ready, .. } = &mut machine.phase else { unreachable!("it runs") };
        ready
    }

    #[test]
    fn whoever_joins_is_held_against_all_others() {
        let sound = running(100, config(None, 1), Spent::default());
        assert!((0..100).all(|at| sound.check_place_of(&id(at)).is_ok()));
        let mut of_one_pod = sound.clone();
        let again = MemberId { incarnation: 2, ..id(50) };
        let mut place = of_one_pod.members[&id(50)].clone();
        place.hello.index = None;
        of_one_pod.members.insert(again.clone(), place);
        for member in [&id(50), &again] {
            assert_eq!(label(of_one_pod.check_place_of(member)).as_deref(), Some("R-4"));
        }
        let mut of_one_index = sound;
        of_one_index.members.get_mut(&id(0)).unwrap().hello.index = Some(99);
        for at in [0, 99] {
            assert_eq!(label(of_one_index.check_place_of(&id(at))).as_deref(), Some("R-4"));
        }
        assert_eq!(of_one_index.check_place_of(&id(50)), Ok(()));
    }

    #[test]
    fn a_budget_is_held_for_each_cause() {
        let mut machine = running(2, config(Some(3), 1), Spent::default());
        fail(&mut machine, Cause::NodeLost);
        fail(&mut machine, Cause::Signal);
        assert_eq!((machine.restarts(), machine.outcome().is_some()), (2, false));
        assert_eq!(machine.check(), Ok(()));
        // Within the total, but once too often for a lost node.
        machine.spent.insert(Cause::NodeLost, 2);
        machine.restarts = 3;
        assert_eq!(machine.check(), Err("R-5: 2 restarts for nodeLost, 1 allowed".to_owned()));
        machine.spent = BTreeMap::from([(Cause::Preflight, 1)]);
        assert_eq!(machine.check(), Err("R-5: 1 restarts for preflight, 0 allowed".to_owned()));
        machine.spent = BTreeMap::from([(Cause::Hang, 4)]);
        assert_eq!(label(machine.check()).as_deref(), Some("R-5"), "more causes than restarts");
    }

    #[test]
    fn what_was_borne_before_the_budget_was_cut_breaks_nothing() {
        let mut machine = running(2, config(None, 5), Spent::default());
        fail(&mut machine, Cause::NodeLost);
        fail(&mut machine, Cause::NodeLost);
        step(&mut machine, Input::Changed { config: Config { most: 2, ..config(Some(1), 0) } });
        assert_eq!((machine.restarts(), machine.check()), (2, Ok(())));
        machine.spent.insert(Cause::NodeLost, 3);
        machine.restarts = 3;
        assert_eq!(label(machine.check()).as_deref(), Some("R-5"), "but not one more");
        // A control plane that begins under the smaller budget finds what was borne.
        let by_cause = BTreeMap::from([(Cause::NodeLost, 2)]);
        let machine = running(2, config(Some(1), 0), Spent { by_cause, ..Spent::default() });
        assert_eq!((machine.restarts(), machine.check()), (2, Ok(())));
    }
}
