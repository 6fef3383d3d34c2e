use super::*;

const LEASE: i64 = 15_000;
const RENEW: i64 = 10_000;

fn terms(identity: &str) -> Terms {
    Terms {
        namespace: "system".to_owned(),
        name: "operator".to_owned(),
        identity: identity.to_owned(),
        lease_ms: LEASE,
        renew_ms: RENEW,
        retry_ms: 2_000,
    }
}

/// The API server's part: one Lease with optimistic concurrency.
#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    version: u64,
}

impl Server {
    fn write(&mut self, claim: &Claim) -> Option<Lease> {
        let (mut lease, allowed) = match claim {
            Claim::Create(lease) => (lease.clone(), self.lease.is_none()),
            Claim::Update(lease) => {
                let there = self.lease.as_ref().and_then(|there| there.metadata.resource_version.clone());
                (lease.clone(), there.is_some() && there == lease.metadata.resource_version)
            }
        };
        if !allowed {
            return None;
        }
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        Some(lease)
    }
}

fn attempt(election: &mut Election, server: &mut Server, now_ms: i64) {
    election.observe(server.lease.clone(), now_ms);
    if let Some(claim) = election.claim(now_ms, now_ms)
        && let Some(lease) = server.write(&claim)
    {
        election.wrote(lease, now_ms, now_ms);
    }
}

#[test]
fn the_first_leads_and_the_second_waits_for_the_whole_lease() {
    let (mut one, mut two, mut server) = (Election::new(terms("one")), Election::new(terms("two")), Server::default());
    attempt(&mut one, &mut server, 0);
    assert_eq!(one.until_ms(), Some(RENEW));
    attempt(&mut two, &mut server, 1_000);
    assert_eq!((two.until_ms(), two.holder()), (None, Some("one")));
    attempt(&mut one, &mut server, 2_000);
    assert_eq!(one.until_ms(), Some(2_000 + RENEW));
    attempt(&mut two, &mut server, 3_000);
    // It is dead from here on. The other one saw its last word at 3 s.
    attempt(&mut two, &mut server, 3_000 + LEASE);
    assert!(!two.holds(3_000 + LEASE), "not before the time is over");
    attempt(&mut two, &mut server, 3_001 + LEASE);
    assert!(two.holds(3_001 + LEASE));
    let spec = server.lease.clone().and_then(|lease| lease.spec).unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("two"), Some(1)));
    // The first one was only asleep.
    assert!(one.is_over(3_001 + LEASE));
    assert_eq!(one.claim(3_001 + LEASE, 0), None, "whoever lost it never takes it again");
}

#[test]
fn a_lease_that_is_given_back_is_taken_at_once() {
    let (mut one, mut two, mut server) = (Election::new(terms("one")), Election::new(terms("two")), Server::default());
    attempt(&mut one, &mut server, 0);
    attempt(&mut two, &mut server, 10);
    let free = one.release(20, 20).unwrap();
    server.write(&Claim::Update(free)).unwrap();
    assert!(!one.holds(21));
    attempt(&mut two, &mut server, 21);
    assert!(two.holds(21));
}

#[test]
fn an_answer_that_comes_after_the_deadline_gives_nothing() {
    let mut one = Election::new(terms("one"));
    let mut server = Server::default();
    one.observe(None, 0);
    let lease = server.write(&one.claim(0, 0).unwrap()).unwrap();
    one.wrote(lease, 0, RENEW);
    assert_eq!(one.until_ms(), None);
    let mut two = Election::new(terms("two"));
    attempt(&mut two, &mut server, 0);
    let mut led = Election::new(terms("two"));
    let mut server = Server::default();
    attempt(&mut led, &mut server, 0);
    led.observe(server.lease.clone(), 9_000);
    let renewed = server.write(&led.claim(9_000, 9_000).unwrap()).unwrap();
    led.wrote(renewed, 9_000, RENEW + 1);
    assert!(led.is_over(RENEW + 1), "in between it might not have led");
}

#[test]
fn terms_that_protect_nothing_are_refused() {
    assert_eq!(terms("x").check(), Ok(()));
    for (lease_ms, renew_ms, retry_ms) in
        [(15_000, 15_000, 2_000), (15_000, 2_000, 2_000), (15_500, 10_000, 2_000), (15_000, 10_000, 0)]
    {
        assert!(
            Terms { lease_ms, renew_ms, retry_ms, ..terms("x") }.check().is_err(),
            "{lease_ms} {renew_ms} {retry_ms}"
        );
    }
}

/// A generator that is enough for a schedule.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A write that is under way: who sent it when, and when it arrives and is answered.
struct UnderWay {
    who: usize,
    sent_ms: i64,
    arrives_ms: i64,
    answered_ms: Option<i64>,
    claim: Claim,
    lease: Option<Lease>,
}

/// E-1, over schedules in which requests and answers take any time, processes stand still, and one gives the Lease back.
#[test]
fn at_no_moment_do_two_hold() {
    let mut terms_held = 0_u32;
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut server = Server::default();
        let mut all: Vec<Election> = (0..3).map(|n| Election::new(terms(&format!("p{n}")))).collect();
        let mut asleep_until = [0_i64; 3];
        let mut traffic: Vec<UnderWay> = Vec::new();
        let mut last = None;
        for step in 0..2_000_i64 {
            let now = step * 250;
            for one in &mut traffic {
                if one.lease.is_none() && one.answered_ms.is_none() && one.arrives_ms <= now {
                    one.lease = server.write(&one.claim);
                    one.answered_ms = Some(now + i64::try_from(dice.below(12_000)).unwrap());
                }
            }
            let (done, rest): (Vec<_>, Vec<_>) = traffic
                .into_iter()
                .partition(|one| one.answered_ms.is_some_and(|at| at <= now && asleep_until[one.who] <= now));
            traffic = rest;
            for one in done {
                if let Some(lease) = one.lease {
                    all[one.who].wrote(lease, one.sent_ms, now);
                }
            }
            for (who, election) in all.iter_mut().enumerate() {
                if asleep_until[who] > now {
                    continue;
                }
                if election.is_over(now) {
                    *election = Election::new(terms(&format!("p{who}-{step}")));
                }
                if dice.below(200) == 0 {
                    asleep_until[who] = now + i64::try_from(dice.below(40_000)).unwrap();
                }
                if dice.below(400) == 0
                    && let Some(lease) = election.release(now, now)
                {
                    let _ = server.write(&Claim::Update(lease));
                    continue;
                }
                if step % 8 == 0 && traffic.iter().all(|one| one.who != who) {
                    election.observe(server.lease.clone(), now);
                    if let Some(claim) = election.claim(now, now) {
                        let delay = if dice.below(4) == 0 { dice.below(14_000) } else { dice.below(300) };
                        let arrives_ms = now + i64::try_from(delay).unwrap();
                        traffic.push(UnderWay { who, sent_ms: now, arrives_ms, answered_ms: None, claim, lease: None });
                    }
                }
            }
            let holding: Vec<&str> = all
                .iter()
                .filter(|election| election.holds(now))
                .map(|election| election.terms().identity.as_str())
                .collect();
            assert!(holding.len() <= 1, "seed {seed} at {now}: {holding:?}");
            let holder = holding.first().map(|name| (*name).to_owned());
            if holder.is_some() && holder != last {
                terms_held += 1;
                last = holder;
            }
        }
    }
    assert!(terms_held > 2_000, "only {terms_held} terms were seen: the schedules show nothing");
}
