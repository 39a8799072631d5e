//! Places, given out in turn.
//!
//! Taking a free place is one short lock. Who has to wait sleeps until it is called: a place that is given back goes
//! straight to the first in turn, and nobody who comes later can slip in between.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use metrics::Gauge;
use tokio::sync::oneshot;

use super::Turn;

/// So many places, and those who wait for one.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    in_line: Gauge,
}

#[derive(Debug)]
struct State {
    /// Places that nobody has; less than none while more were given out than there are.
    free: i64,
    /// Who waits, first in turn first. While a place is free, nobody does.
    line: BTreeMap<Turn, oneshot::Sender<()>>,
    pace: Pace,
    is_closed: bool,
}

/// A place. Dropping it gives it to the next in turn.
#[derive(Debug)]
pub struct Place(Arc<Gate>);

/// Somebody in line. Gives a place when it is its turn; dropping it leaves the line.
#[derive(Debug)]
pub struct Waiting {
    gate: Arc<Gate>,
    turn: Turn,
    state: InLine,
}

#[derive(Debug)]
enum InLine {
    /// There was a place at once, or there will be none any more.
    Done(Result<(), Closed>),
    Waits(oneshot::Receiver<()>),
    Left,
}

/// No place is given out any more: the planner ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl Gate {
    /// A gate with `places` places. `in_line` shows how many wait.
    pub(super) fn new(places: u32, in_line: Gauge) -> Arc<Self> {
        let state =
            State { free: places.into(), line: BTreeMap::new(), pace: Pace::default(), is_closed: false };
        Arc::new(Self { state: Mutex::new(state), in_line })
    }

    /// A place, if one is free.
    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        self.lock().take().then(|| Place(Arc::clone(self)))
    }

    /// A place, whether one is free or not.
    pub(super) fn take_anyway(self: &Arc<Self>) -> Place {
        self.lock().free -= 1;
        Place(Arc::clone(self))
    }

    /// Gets in line. Each turn is taken once at a time.
    pub(super) fn wait(self: &Arc<Self>, turn: Turn) -> Waiting {
        let mut state = self.lock();
        let in_line = if state.take() {
            InLine::Done(Ok(()))
        } else if state.is_closed {
            InLine::Done(Err(Closed))
        } else {
            let (call, called) = oneshot::channel();
            state.line.insert(turn, call);
            self.in_line.increment(1.0);
            InLine::Waits(called)
        };
        drop(state);
        Waiting { gate: Arc::clone(self), turn, state: in_line }
    }

    /// How many wait, and when one who comes now may expect a place.
    pub(super) fn outlook(&self) -> (usize, Duration) {
        let state = self.lock();
        (state.line.len(), state.pace.outlook(state.line.len(), Instant::now()))
    }

    /// Sends everybody away who waits.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.line.clear();
    }

    fn give_back(&self) {
        let mut state = self.lock();
        if state.free <= 0 {
            state.pace.given_back(Instant::now());
        }
        // While more are given out than there are, this one is not there to be had.
        let next = if state.free < 0 { None } else { state.line.pop_first() };
        match next {
            // Who is in line listens: it leaves the line before it stops to.
            Some((_, call)) => drop(call.send(())),
            None => state.free += 1,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> bool {
        if self.free <= 0 || self.is_closed {
            return false;
        }
        self.free -= 1;
        if self.free == 0 {
            self.pace.none_left(Instant::now());
        }
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Future for Waiting {
    type Output = Result<Place, Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let called = match &mut self.state {
            InLine::Waits(called) => {
                let called = ready!(Pin::new(called).poll(cx)).map_err(|_| Closed);
                self.gate.in_line.decrement(1.0);
                called
            }
            InLine::Done(result) => *result,
            // Polled after its end.
            InLine::Left => return Poll::Pending,
        };
        self.state = InLine::Left;
        Poll::Ready(called.map(|()| Place(Arc::clone(&self.gate))))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let has_place = match std::mem::replace(&mut self.state, InLine::Left) {
            InLine::Left => false,
            InLine::Done(result) => result.is_ok(),
            InLine::Waits(mut called) => {
                self.gate.in_line.decrement(1.0);
                // Called just now, and not there any more to hear it.
                self.gate.lock().line.remove(&self.turn).is_none() && called.try_recv().is_ok()
            }
        };
        if has_place {
            self.gate.give_back();
        }
    }
}

/// How fast places come free while none is.
#[derive(Debug, Default)]
struct Pace {
    /// When the last place was taken, or given back since.
    last: Option<Instant>,
    /// The time between two places, the last ones counting most.
    mean: Option<Duration>,
}

impl Pace {
    fn none_left(&mut self, now: Instant) {
        self.last = Some(now);
    }

    fn given_back(&mut self, now: Instant) {
        let gap = self.last.map_or(Duration::ZERO, |last| now.duration_since(last));
        self.mean = Some(self.mean.map_or(gap, |mean| (mean * 7 + gap) / 8));
        self.last = Some(now);
    }

    /// The time until there is a place for one who comes after `ahead` others. If none has come for longer than usual, the
    /// next one is expected to take as long again.
    fn outlook(&self, ahead: usize, now: Instant) -> Duration {
        let silence = self.last.map_or(Duration::ZERO, |last| now.duration_since(last));
        let mean = self.mean.unwrap_or(silence);
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
        mean.max(silence).saturating_add(mean.saturating_mul(ahead))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::{super::PlanTurn, *};

    fn gate(places: u32) -> Arc<Gate> {
        Gate::new(places, Gauge::noop())
    }

    fn turn(plan: u64) -> Turn {
        PlanTurn(plan).task(0)
    }

    #[test]
    fn a_place_goes_to_the_first_in_turn_and_nobody_slips_in() {
        let gate = gate(1);
        let place = gate.take().unwrap();
        let mut later = gate.wait(turn(2));
        let mut earlier = gate.wait(turn(1));
        assert!(gate.take().is_none());
        drop(place);
        assert!(gate.take().is_none(), "it has been given already");
        assert!((&mut later).now_or_never().is_none());
        let place = (&mut earlier).now_or_never().unwrap().unwrap();
        drop(place);
        assert!(later.now_or_never().unwrap().is_ok());
        assert!(gate.take().is_some(), "and came back");
    }

    #[test]
    fn who_was_called_and_does_not_come_passes_the_place_on() {
        let gate = gate(1);
        let place = gate.take().unwrap();
        let (first, second) = (gate.wait(turn(1)), gate.wait(turn(2)));
        drop(place);
        drop(first);
        assert!(second.now_or_never().unwrap().is_ok());
        assert!(gate.take().is_some());
    }

    #[test]
    fn what_was_given_out_beyond_the_limit_is_not_given_again() {
        let gate = gate(1);
        let places = [gate.take_anyway(), gate.take_anyway(), gate.take_anyway()];
        let waiting = gate.wait(turn(1));
        let [a, b, c] = places;
        drop((a, b));
        assert!(gate.take().is_none());
        drop(c);
        assert!(waiting.now_or_never().unwrap().is_ok());
    }

    #[test]
    fn a_closed_gate_sends_everybody_away() {
        let gate = gate(1);
        let place = gate.take().unwrap();
        let waiting = gate.wait(turn(1));
        gate.close();
        assert_eq!(waiting.now_or_never().unwrap().unwrap_err(), Closed);
        drop(place);
        assert!(gate.take().is_none());
        assert_eq!(gate.wait(turn(2)).now_or_never().unwrap().unwrap_err(), Closed);
    }

    #[test]
    fn the_outlook_is_the_pace_times_those_ahead() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let mut pace = Pace::default();
        assert_eq!(pace.outlook(5, begin), Duration::ZERO, "nothing is known");
        pace.none_left(begin);
        assert_eq!(pace.outlook(0, begin + 3 * second), 3 * second, "nothing has come for so long");
        for n in 1..=50 {
            pace.given_back(begin + n * second);
        }
        assert_eq!(pace.outlook(0, begin + 50 * second), second);
        assert_eq!(pace.outlook(9, begin + 50 * second), 10 * second);
        assert_eq!(pace.outlook(9, begin + 70 * second), 29 * second, "it has become slower");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take,
        Wait,
        GiveBack(prop::sample::Index),
        Leave(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Take),
            Just(Step::Wait),
            any::<prop::sample::Index>().prop_map(Step::GiveBack),
            any::<prop::sample::Index>().prop_map(Step::Leave),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_no_place_is_lost_or_given_twice_and_turns_are_kept(
            places in 1..4_u32,
            turns in Just((0..64_u64).collect::<Vec<_>>()).prop_shuffle(),
            steps in prop::collection::vec(step(), 0..64),
        ) {
            let gate = gate(places);
            let mut turns = turns.into_iter();
            let mut held = Vec::new();
            let mut line: Vec<(u64, Waiting)> = Vec::new();
            for step in steps {
                match step {
                    Step::Take => held.extend(gate.take()),
                    Step::Wait => {
                        if let Some(plan) = turns.next() {
                            line.push((plan, gate.wait(turn(plan))));
                        }
                    }
                    Step::GiveBack(which) if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                    Step::Leave(which) if !line.is_empty() => drop(line.swap_remove(which.index(line.len()))),
                    Step::GiveBack(_) | Step::Leave(_) => {}
                }
                let before: BTreeSet<u64> = line.iter().map(|(plan, _)| *plan).collect();
                let mut called = BTreeSet::new();
                line.retain_mut(|(plan, waiting)| match waiting.now_or_never() {
                    Some(place) => {
                        held.push(place.unwrap());
                        called.insert(*plan);
                        false
                    }
                    None => true,
                });
                prop_assert_eq!(&called, &before.iter().copied().take(called.len()).collect());
                prop_assert!(held.len() <= places as usize);
                prop_assert!(line.is_empty() || held.len() == places as usize, "a place is free and somebody waits");
            }
            drop(line);
            held.clear();
            let all: Vec<_> = std::iter::from_fn(|| gate.take()).collect();
            prop_assert_eq!(all.len(), places as usize);
        }
    }
}
