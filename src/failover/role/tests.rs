use super::super::{Failback, Policy, Standby};
use super::*;

use Fitness::{Down, Healthy, Trial, Unknown};

const MANUAL: Policy = Policy { failback: Failback::Manual, failback_delay: 0, has_hooks: false };
const AUTO: Policy = Policy { failback: Failback::Auto, failback_delay: 30_000, has_hooks: false };
const HOOKS: Policy = Policy { has_hooks: true, ..MANUAL };

/// Backend `id` is the member at that index; its priority is its index too unless said otherwise.
/// In here `Healthy` says since when; the machine is told for how long.
struct Bench {
    members: Vec<Standby>,
    policy: Policy,
    at: Tick,
    failover: Failover,
    wake: Option<Tick>,
}

fn aged(members: &[Standby], at: Tick) -> Vec<Standby> {
    let mut members = members.to_vec();
    for member in &mut members {
        if let Healthy(since) = &mut member.fitness {
            *since = at.saturating_sub(*since);
        }
    }
    members
}

fn standbys(fitness: &[Fitness]) -> Vec<Standby> {
    (0..).zip(fitness).map(|(id, f)| Standby { id, priority: id, fitness: *f }).collect()
}

impl Bench {
    fn new(fitness: &[Fitness], policy: Policy) -> Self {
        Self::of(standbys(fitness), policy, None)
    }

    fn of(members: Vec<Standby>, policy: Policy, restored: Option<Id>) -> Self {
        let known = Known { active: restored, ..Known::default() };
        Self::known(members, policy, known)
    }

    fn known(members: Vec<Standby>, policy: Policy, known: Known) -> Self {
        Self::starting(members, policy, known).0
    }

    /// And what is to be done at start.
    fn starting(members: Vec<Standby>, policy: Policy, known: Known) -> (Self, Vec<String>) {
        let view = View { members: &members, policy: &policy, at: 0 };
        let step = Failover::start(known, &view);
        let failover = step.next.clone();
        let mut bench = Self { members, policy, at: 0, failover, wake: None };
        let words = bench.take(step);
        (bench, words)
    }

    fn send(&mut self, event: Event) -> Vec<String> {
        let members = aged(&self.members, self.at);
        let view = View { members: &members, policy: &self.policy, at: self.at };
        let step = self.failover.step(event, &view);
        self.take(step)
    }

    fn take(&mut self, step: Step) -> Vec<String> {
        (self.failover, self.wake) = (step.next, step.wake);
        let words = step.actions.into_iter().map(|action| match action {
            Action::Vacate { from, why } => format!("vacate {from} {}", why.cause.as_str()),
            Action::Abandon { serial } => format!("abandon #{serial}"),
            Action::Prepare { to, serial, .. } => format!("prepare {to} #{serial}"),
            Action::Switch(Switch { from, to, why }) => {
                let from = from.map_or("-".into(), |id| id.to_string());
                format!("switch {from} to {to} {}", why.cause.as_str())
            }
        });
        words.collect()
    }

    /// The backend at `index` becomes so fit, and the machine hears of it.
    fn set(&mut self, index: usize, fitness: Fitness) -> Vec<String> {
        self.members[index].fitness = fitness;
        self.send(Event::Changed(Why::new(Cause::Probe, "3 checks failed in a row")))
    }

    fn timer(&mut self, at: Tick) -> Vec<String> {
        self.at = at;
        self.send(Event::Timer)
    }

    fn hooked(&mut self, serial: u64, is_ok: bool) -> Vec<String> {
        self.send(Event::Hooked { serial, is_ok })
    }

    fn move_to(&mut self, to: Option<Id>) -> Result<Vec<String>, MoveError> {
        let members = aged(&self.members, self.at);
        let view = View { members: &members, policy: &self.policy, at: self.at };
        let step = self.failover.move_to(to, &view)?;
        Ok(self.take(step))
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn at_start_the_first_that_is_not_known_to_be_down_has_the_role() {
    // fitness, restored, then the active one
    let cases: &[(&[Fitness], Option<Id>, Option<Id>)] = &[
        (&[Unknown, Unknown], None, Some(0)),
        (&[Unknown, Healthy(0)], None, Some(0)),
        (&[Down, Unknown, Healthy(0)], None, Some(1)),
        (&[Down, Trial], None, Some(1)),
        (&[Trial, Unknown], None, Some(1)),
        (&[Down, Down], None, None),
        (&[], None, None),
        (&[Unknown, Unknown], Some(1), Some(1)),
        (&[Healthy(0), Unknown], Some(1), Some(1)),
        (&[Unknown, Down], Some(1), Some(0)),
        (&[Unknown, Trial], Some(1), Some(0)),
        (&[Unknown], Some(7), Some(0)),
    ];
    for (fitness, restored, active) in cases {
        let bench = Bench::of(standbys(fitness), MANUAL, *restored);
        assert_eq!(bench.failover.active(), *active, "{fitness:?} {restored:?}");
    }
}

#[test]
fn the_next_in_order_of_priority_then_list_takes_over_at_once() {
    // priorities, fitness of all but the active first, then the new active
    let cases: &[(&[u32], &[Fitness], Id)] = &[
        (&[0, 0, 0], &[Healthy(0), Healthy(0)], 1),
        (&[0, 1, 0], &[Healthy(0), Healthy(0)], 2),
        (&[0, 2, 1], &[Healthy(0), Healthy(0)], 2),
        (&[0, 0, 0], &[Unknown, Healthy(0)], 2),
        (&[0, 0, 1], &[Unknown, Healthy(0)], 1),
        (&[0, 0, 0], &[Trial, Unknown], 2),
        (&[0, 0, 0], &[Trial, Down], 1),
    ];
    for (priorities, fitness, to) in cases {
        let mut members = standbys(&[&[Healthy(0)], *fitness].concat());
        for (member, priority) in members.iter_mut().zip(*priorities) {
            member.priority = *priority;
        }
        let mut bench = Bench::of(members, MANUAL, None);
        let expected = ["vacate 0 probe".to_owned(), format!("switch 0 to {to} probe")];
        assert_eq!(bench.set(0, Down), expected, "{priorities:?} {fitness:?}");
    }
}

#[test]
fn what_does_not_concern_the_active_one_moves_nothing() {
    let mut bench = Bench::new(&[Unknown, Healthy(0), Healthy(0)], AUTO);
    assert_eq!(bench.set(1, Down), NOTHING);
    assert_eq!(bench.set(0, Healthy(5)), NOTHING);
    assert_eq!(bench.set(1, Healthy(9)), NOTHING);
    assert_eq!(bench.timer(1_000_000), NOTHING);
    assert_eq!((bench.failover.active(), bench.wake), (Some(0), None));
}

#[test]
fn manual_never_fails_back_by_itself() {
    let mut bench = Bench::new(&[Healthy(0), Healthy(0)], MANUAL);
    bench.set(0, Down);
    assert_eq!(bench.set(0, Healthy(10)), NOTHING);
    assert_eq!(bench.timer(100_000_000), NOTHING);
    assert_eq!(bench.move_to(Some(0)).unwrap(), ["vacate 1 operator", "switch 1 to 0 operator"]);
}

#[test]
fn auto_fails_back_when_the_preferred_one_has_been_healthy_for_the_delay() {
    let mut bench = Bench::new(&[Healthy(0), Healthy(0)], AUTO);
    bench.set(0, Down);
    bench.at = 100;
    assert_eq!(bench.set(0, Unknown), NOTHING);
    assert_eq!(bench.wake, None, "unknown is not healthy");
    assert_eq!(bench.set(0, Healthy(100)), NOTHING);
    assert_eq!(bench.wake, Some(30_100));
    assert_eq!(bench.timer(30_099), NOTHING);
    assert_eq!(bench.wake, Some(30_100));
    assert_eq!(bench.timer(30_100), ["vacate 1 failback", "switch 1 to 0 failback"]);
}

#[test]
fn a_preferred_one_that_flaps_begins_its_delay_anew() {
    let mut bench = Bench::new(&[Healthy(0), Healthy(0)], AUTO);
    bench.set(0, Down);
    bench.set(0, Healthy(100));
    bench.set(0, Down);
    assert_eq!(bench.wake, None);
    bench.set(0, Healthy(20_000));
    assert_eq!(bench.timer(30_100), NOTHING);
    assert_eq!(bench.timer(50_000).len(), 2);
}

#[test]
fn failback_goes_to_the_most_preferred_of_those_that_are_back() {
    let mut bench = Bench::new(&[Healthy(0); 3], AUTO);
    bench.set(0, Down);
    bench.set(1, Down);
    assert_eq!(bench.failover.active(), Some(2));
    bench.set(1, Healthy(1000));
    bench.at = 20_000;
    bench.set(0, Healthy(20_000));
    assert_eq!(bench.timer(31_000), NOTHING, "one move, not two");
    assert_eq!(bench.timer(50_000), ["vacate 2 failback", "switch 2 to 0 failback"]);
}

#[test]
fn with_nobody_usable_the_role_is_vacant_and_the_first_to_come_takes_it() {
    let mut bench = Bench::new(&[Healthy(0), Down], MANUAL);
    assert_eq!(bench.set(0, Down), ["vacate 0 probe"]);
    assert_eq!(bench.failover.role(), Role::Vacant);
    assert_eq!(bench.set(1, Healthy(5)), ["switch 0 to 1 probe"]);
    bench.set(1, Down);
    let step = bench.set(1, Healthy(9));
    assert_eq!(step, ["switch 1 to 1 probe"], "it goes on: no takeover");
}

#[test]
fn a_role_that_comes_back_to_its_holder_is_no_takeover() {
    let why = Why::new(Cause::Probe, "");
    assert!(!Switch { from: Some(1), to: 1, why: why.clone() }.is_takeover());
    assert!(Switch { from: Some(0), to: 1, why: why.clone() }.is_takeover());
    assert!(Switch { from: None, to: 1, why }.is_takeover());
}

#[test]
fn one_on_trial_has_the_role_only_while_nobody_else_is_usable() {
    let mut bench = Bench::new(&[Healthy(0), Down], MANUAL);
    bench.set(0, Down);
    assert_eq!(bench.set(0, Trial), ["switch 0 to 0 probe"]);
    assert_eq!(bench.set(0, Trial), NOTHING);
    assert_eq!(bench.set(1, Healthy(5)), ["vacate 0 probe", "switch 0 to 1 probe"]);
}

#[test]
fn an_operator_moves_the_role_to_whom_it_names_or_to_the_next_in_order() {
    let mut bench = Bench::new(&[Healthy(0), Down, Unknown], MANUAL);
    assert_eq!(bench.move_to(None).unwrap(), ["vacate 0 operator", "switch 0 to 2 operator"]);
    assert_eq!(bench.move_to(None).unwrap(), ["vacate 2 operator", "switch 2 to 0 operator"]);
    assert_eq!(bench.move_to(Some(2)).unwrap(), ["vacate 0 operator", "switch 0 to 2 operator"]);
    assert_eq!(bench.move_to(Some(2)), Err(MoveError::AlreadyActive));
    assert_eq!(bench.move_to(Some(1)), Err(MoveError::NotUsable));
    assert_eq!(bench.move_to(Some(9)), Err(MoveError::Unknown));
    bench.set(0, Trial);
    assert_eq!(bench.move_to(None), Err(MoveError::NobodyElse));
    assert_eq!(bench.failover.active(), Some(2));
}

#[test]
fn the_next_in_order_is_unknown_only_where_its_priority_has_no_healthy_one() {
    let mut members = standbys(&[Healthy(0), Unknown, Healthy(0)]);
    members.iter_mut().for_each(|member| member.priority = 0);
    let mut bench = Bench::of(members, MANUAL, None);
    assert_eq!(bench.move_to(None).unwrap()[1], "switch 0 to 2 operator");
}

#[test]
fn an_operators_move_holds_against_failback_until_that_one_is_evicted() {
    let mut bench = Bench::new(&[Healthy(0); 3], AUTO);
    bench.at = 60_000;
    bench.move_to(Some(1)).unwrap();
    assert!(bench.failover.is_pinned());
    assert_eq!(bench.timer(10_000_000), NOTHING);
    assert_eq!(bench.set(1, Down), ["vacate 1 probe", "switch 1 to 0 probe"]);
    bench.move_to(Some(2)).unwrap();
    bench.move_to(Some(0)).unwrap();
    assert_eq!(bench.set(0, Down)[1], "switch 0 to 2 probe");
    bench.set(0, Healthy(bench.at));
    assert_eq!(bench.wake, Some(10_030_000), "then failback is on again");
}

#[test]
fn a_reload_that_removes_the_active_one_is_a_takeover() {
    let mut bench = Bench::new(&[Healthy(0), Healthy(0)], MANUAL);
    bench.members.remove(0);
    let why = Why::new(Cause::Operator, "reload");
    let words = bench.send(Event::Changed(why.clone()));
    assert_eq!(words, ["vacate 0 configuration", "switch 0 to 1 configuration"]);
    bench.members.clear();
    assert_eq!(bench.send(Event::Changed(why)), ["vacate 1 configuration"]);
}

#[test]
fn a_reload_that_reorders_moves_nothing_but_failback_follows_the_new_order() {
    let mut bench = Bench::new(&[Healthy(0), Healthy(0)], AUTO);
    bench.members[0].priority = 5;
    assert_eq!(bench.send(Event::Changed(Why::new(Cause::Operator, "reload"))), NOTHING);
    assert_eq!(bench.timer(30_000), ["vacate 0 failback", "switch 0 to 1 failback"]);
}

#[test]
fn traffic_waits_for_the_actions_before_it() {
    let mut bench = Bench::new(&[Healthy(0), Healthy(0)], HOOKS);
    assert_eq!(bench.set(0, Down), ["vacate 0 probe", "prepare 1 #1"]);
    assert_eq!((bench.failover.role(), bench.failover.active()), (Role::Preparing(1), None));
    assert_eq!(bench.hooked(7, true), NOTHING, "another one's answer");
    assert_eq!(bench.set(0, Healthy(5)), NOTHING, "what has begun goes on");
    assert_eq!(bench.hooked(1, true), ["switch 0 to 1 probe"]);
    assert_eq!(bench.hooked(1, false), NOTHING, "it has answered");
}

#[test]
fn when_the_actions_fail_the_next_standby_is_tried_then_none_then_all_again() {
    let mut bench = Bench::new(&[Healthy(0); 3], HOOKS);
    assert_eq!(bench.set(0, Down), ["vacate 0 probe", "prepare 1 #1"]);
    assert_eq!(bench.hooked(1, false), ["prepare 2 #2"]);
    bench.at = 1000;
    assert_eq!(bench.hooked(2, false), NOTHING);
    assert_eq!((bench.failover.role(), bench.wake), (Role::Vacant, Some(31_000)));
    assert_eq!(bench.timer(30_999), NOTHING);
    assert_eq!(bench.wake, Some(31_000));
    assert_eq!(bench.timer(31_000), ["prepare 1 #3"]);
    assert_eq!(bench.hooked(3, true), ["switch 0 to 1 probe"]);
}

#[test]
fn a_reload_that_takes_the_actions_away_forgets_that_they_failed() {
    let mut bench = Bench::new(&[Healthy(0); 2], HOOKS);
    bench.set(0, Down);
    bench.hooked(1, false);
    bench.policy = MANUAL;
    let words = bench.send(Event::Changed(Why::new(Cause::Operator, "reload")));
    assert_eq!(words, ["switch 0 to 1 probe"]);
}

#[test]
fn a_reload_that_takes_the_actions_away_ends_the_waiting() {
    let mut bench = Bench::new(&[Healthy(0); 2], HOOKS);
    bench.set(0, Down);
    bench.policy = MANUAL;
    let words = bench.send(Event::Changed(Why::new(Cause::Operator, "reload")));
    assert_eq!(words, ["abandon #1", "switch 0 to 1 probe"]);
}

#[test]
fn a_reload_that_takes_the_actions_away_lets_a_failback_happen_at_once() {
    let members = standbys(&[Healthy(0), Healthy(0)]);
    let (mut bench, _) = Bench::starting(members, HOOKS, preparing(1));
    bench.policy = Policy { failback_delay: 0, ..AUTO };
    let words = bench.send(Event::Changed(Why::new(Cause::Operator, "reload")));
    let takes_over = ["abandon #1", "switch 0 to 1 probe"];
    assert_eq!(words, [&takes_over[..], &["vacate 1 failback", "switch 1 to 0 failback"]].concat());
}

#[test]
fn one_that_was_away_since_its_actions_failed_is_tried_at_once() {
    let mut bench = Bench::new(&[Healthy(0); 2], HOOKS);
    bench.set(0, Down);
    bench.hooked(1, false);
    bench.set(1, Down);
    assert_eq!(bench.wake, None);
    assert_eq!(bench.set(1, Healthy(9)), ["prepare 1 #2"]);
}

#[test]
fn the_one_that_had_the_role_goes_on_without_actions_when_its_successors_fail() {
    let mut bench = Bench::new(&[Healthy(0); 2], Policy { failback: Failback::Auto, ..HOOKS });
    bench.set(0, Down);
    bench.hooked(1, true);
    assert_eq!(bench.set(0, Healthy(10)), ["vacate 1 failback", "prepare 0 #2"]);
    assert_eq!(bench.hooked(2, false), ["switch 1 to 1 failback"]);
    assert_eq!(bench.timer(100_000), NOTHING, "it is not tried again and again");
    bench.set(0, Down);
    assert_eq!(bench.set(0, Healthy(100_000)), ["vacate 1 failback", "prepare 0 #3"]);
}

#[test]
fn who_made_room_in_vain_goes_on_before_others_are_tried() {
    let mut bench = Bench::new(&[Healthy(0); 3], HOOKS);
    assert_eq!(bench.move_to(Some(2)).unwrap(), ["vacate 0 operator", "prepare 2 #1"]);
    bench.hooked(1, true);
    assert_eq!(bench.move_to(Some(1)).unwrap(), ["vacate 2 operator", "prepare 1 #2"]);
    assert_eq!(bench.hooked(2, false), ["switch 2 to 2 operator"]);
}

#[test]
fn a_failback_in_vain_after_which_nobody_can_go_on_is_none() {
    let policy = Policy { failback: Failback::Auto, ..HOOKS };
    let mut bench = Bench::new(&[Healthy(0); 3], policy);
    bench.set(0, Down);
    bench.hooked(1, true);
    assert_eq!(bench.set(0, Healthy(0)), ["vacate 1 failback", "prepare 0 #2"]);
    assert_eq!(bench.set(1, Down), NOTHING);
    assert_eq!(bench.hooked(2, false), ["prepare 2 #3"]);
    assert_eq!(bench.hooked(3, true), ["switch 1 to 2 probe"]);
}

#[test]
fn one_that_fails_while_it_is_prepared_is_passed_over() {
    let mut bench = Bench::new(&[Healthy(0); 3], HOOKS);
    bench.set(0, Down);
    assert_eq!(bench.set(1, Down), ["abandon #1", "prepare 2 #2"]);
    assert_eq!(bench.hooked(1, true), NOTHING, "the answer for the one passed over");
    assert_eq!(bench.hooked(2, true), ["switch 0 to 2 probe"]);
}

#[test]
fn an_operator_may_name_another_one_while_one_is_prepared() {
    let mut bench = Bench::new(&[Healthy(0); 3], HOOKS);
    bench.set(0, Down);
    assert_eq!(bench.move_to(Some(1)), Err(MoveError::AlreadyActive));
    assert_eq!(bench.move_to(Some(2)).unwrap(), ["abandon #1", "prepare 2 #2"]);
    assert_eq!(bench.hooked(2, true), ["switch 0 to 2 operator"]);
    assert!(bench.failover.is_pinned());
}

const SERVED_BY_0: Known = Known {
    active: Some(0),
    preparing: None,
    last: None,
    was_held: true,
    is_pinned: false,
    barred: Vec::new(),
};

fn preparing(to: Id) -> Known {
    let why = Why::new(Cause::Probe, "3 checks failed in a row");
    Known { active: None, last: Some(0), preparing: Some((to, why)), ..SERVED_BY_0 }
}

#[test]
fn with_actions_the_first_start_ever_needs_none() {
    let (bench, words) = Bench::starting(standbys(&[Unknown, Unknown]), HOOKS, Known::default());
    assert_eq!((bench.failover.active(), words), (Some(0), vec![]));
}

#[test]
fn a_restart_runs_the_actions_anew_that_were_under_way() {
    let members = standbys(&[Healthy(0); 3]);
    let (mut bench, words) = Bench::starting(members, HOOKS, preparing(2));
    assert_eq!(words, ["prepare 2 #1"]);
    assert_eq!((bench.failover.role(), bench.failover.active()), (Role::Preparing(2), None));
    assert_eq!(bench.hooked(1, true), ["switch 0 to 2 probe"], "why it moved is not forgotten");
}

#[test]
fn who_had_the_role_before_a_restart_goes_on_when_its_successor_fails_after_it() {
    let members = standbys(&[Healthy(0); 2]);
    let (mut bench, _) = Bench::starting(members, HOOKS, preparing(1));
    assert_eq!(bench.hooked(1, false), ["switch 0 to 0 probe"]);
}

#[test]
fn an_operators_move_that_was_under_way_holds_after_a_restart() {
    let known = Known { is_pinned: true, ..preparing(1) };
    let (mut bench, _) = Bench::starting(standbys(&[Healthy(0); 2]), HOOKS, known);
    bench.hooked(1, true);
    assert!(bench.failover.is_pinned());
}

#[test]
fn whose_actions_had_failed_has_no_traffic_after_a_restart() {
    let known = Known { active: None, last: Some(0), barred: vec![1], ..SERVED_BY_0 };
    let (mut bench, words) = Bench::starting(standbys(&[Down, Healthy(0)]), HOOKS, known.clone());
    assert_eq!((bench.failover.role(), words), (Role::Vacant, vec![]));
    assert_eq!(bench.wake, Some(HOOK_RETRY), "then it is tried again");
    assert_eq!(bench.timer(HOOK_RETRY), ["prepare 1 #1"]);
    let (bench, words) = Bench::starting(standbys(&[Down, Healthy(0), Unknown]), HOOKS, known);
    assert_eq!(words, ["prepare 2 #1"], "the next standby");
    assert_eq!(bench.failover.barred(), [1]);
}

#[test]
fn who_follows_after_a_restart_needs_its_actions_too() {
    // fitness, known, then the role
    let gone = Known { active: None, ..SERVED_BY_0 };
    let cases: &[(&[Fitness], Known, Role)] = &[
        (&[Down, Unknown], SERVED_BY_0, Role::Preparing(1)),
        (&[Down, Trial], SERVED_BY_0, Role::Preparing(1)),
        (&[Healthy(0), Unknown], gone, Role::Preparing(0)),
        (&[Healthy(0), Down, Unknown], preparing(1), Role::Active(0)),
        (&[Down, Down, Unknown], preparing(1), Role::Preparing(2)),
    ];
    for (fitness, known, role) in cases {
        let (bench, words) = Bench::starting(standbys(fitness), HOOKS, known.clone());
        assert_eq!(bench.failover.role(), *role, "{fitness:?} {known:?}");
        let expected = match role {
            Role::Preparing(to) => vec![format!("prepare {to} #1")],
            _ => vec![],
        };
        assert_eq!(words, expected);
    }
}

#[test]
fn one_on_trial_that_had_the_role_before_a_restart_needs_no_actions() {
    let mut bench = Bench::known(standbys(&[Down, Down]), HOOKS, SERVED_BY_0);
    assert_eq!(bench.failover.role(), Role::Vacant);
    assert_eq!(bench.set(0, Trial), ["switch 0 to 0 probe"]);
}

#[test]
fn a_start_without_the_actions_that_were_under_way_waits_for_none() {
    let (bench, _) = Bench::starting(standbys(&[Down, Healthy(0)]), MANUAL, preparing(1));
    assert_eq!(bench.failover.active(), Some(1));
}
