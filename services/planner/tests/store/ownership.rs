//! Ownership of plans: fencing and takeover.

use std::collections::HashSet;

use phoenix_domain::{
    OrchestratorError, PlanId,
    plan::{AttemptOutcome, TaskStatus},
};
use phoenix_planner::store::{
    Entry, Heartbeat, JournalError, OpenTask, PlanOwner, SkippedPlan, Store, TakeoverScope, UnfinishedPlan,
};

use crate::{accepted, at, new_plan, plan_ended, stores, take_over, taken_over, task_of, write};

async fn heartbeat(store: &dyn Store, planner: &str) -> Heartbeat {
    store.planners().await.unwrap().into_iter().find(|known| known.planner == planner).unwrap()
}

#[tokio::test]
async fn only_an_owner_can_write() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = new_plan(&["a"]);
        let refused = write(store, "unknown", &[accepted(&plan)]).await;
        assert!(matches!(refused, Err(JournalError::Fenced)), "{refused:?}");
        assert_eq!(store.plan(plan.plan_id).await.unwrap(), None);
        store.release("me").await.unwrap();
        let refused = write(store, "me", &[accepted(&plan)]).await;
        assert!(matches!(refused, Err(JournalError::Fenced)), "{refused:?}");
    }
}

#[tokio::test]
async fn heartbeat_increases_the_sequence() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let before = heartbeat(store, "me").await;
        store.heartbeat("me", at(0)).await.unwrap();
        let after = heartbeat(store, "me").await;
        assert!(after.sequence > before.sequence);
        let refused = store.heartbeat("unknown", at(0)).await;
        assert!(matches!(refused, Err(JournalError::Fenced)), "{refused:?}");
    }
}

#[tokio::test]
async fn plans_of_dead_and_released_planners_are_taken_over() {
    for fresh in stores().await {
        let store = &*fresh.store;
        store.register("heir").await.unwrap();
        let (open, ended) = (new_plan(&["a"]), new_plan(&["a"]));
        write(store, "me", &[accepted(&open), accepted(&ended), plan_ended(&ended, 1)]).await.unwrap();
        assert_eq!(taken_over(store, "heir", &[]).await, [], "its owner lives");

        let seen = heartbeat(store, "me").await;
        store.heartbeat("me", at(0)).await.unwrap();
        assert_eq!(taken_over(store, "heir", &[seen]).await, [], "it has sent a heartbeat since");

        let seen = heartbeat(store, "me").await;
        assert_eq!(
            taken_over(store, "unknown", std::slice::from_ref(&seen)).await,
            [],
            "an unknown planner takes nothing over"
        );
        assert_eq!(taken_over(store, "heir", &[seen]).await, [open.plan_id]);
        let late = write(store, "me", &[plan_ended(&open, 2)]).await;
        assert!(matches!(late, Err(JournalError::Fenced)), "{late:?}");

        store.register("third").await.unwrap();
        store.release("heir").await.unwrap();
        assert_eq!(taken_over(store, "third", &[]).await, [open.plan_id]);
        write(store, "third", &[plan_ended(&open, 3)]).await.unwrap();
        assert_eq!(taken_over(store, "third", &[]).await, []);
    }
}

#[tokio::test]
async fn owner_of_an_unfinished_plan_is_found_with_its_url() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let (open, ended) = (new_plan(&["a"]), new_plan(&["a"]));
        write(store, "me", &[accepted(&open), accepted(&ended), plan_ended(&ended, 1)]).await.unwrap();
        assert_eq!(store.owner(open.plan_id).await.unwrap(), None, "it advertises no URL");
        store.advertise("me", "http://10.0.0.7:50051").await.unwrap();
        let me = PlanOwner { planner: "me".into(), url: "http://10.0.0.7:50051".into() };
        assert_eq!(store.owner(open.plan_id).await.unwrap(), Some(me));
        assert_eq!(store.owner(ended.plan_id).await.unwrap(), None, "it has ended");
        assert_eq!(store.owner(PlanId::generate()).await.unwrap(), None);

        store.register("heir").await.unwrap();
        store.advertise("heir", "http://10.0.0.8:50051").await.unwrap();
        store.release("me").await.unwrap();
        assert_eq!(store.owner(open.plan_id).await.unwrap(), None, "it waits for a takeover");
        assert_eq!(taken_over(store, "heir", &[]).await, [open.plan_id]);
        assert_eq!(store.owner(open.plan_id).await.unwrap().unwrap().planner, "heir");
        let refused = store.advertise("me", "http://10.0.0.7:50051").await;
        assert!(matches!(refused, Err(JournalError::Fenced)), "{refused:?}");
    }
}

#[tokio::test]
async fn one_of_two_planners_that_take_each_other_for_dead_survives() {
    for fresh in stores().await {
        let (one, other) = (&*fresh.store, &*fresh.store);
        for n in 0..10 {
            let names = [format!("one-{n}"), format!("other-{n}")];
            for name in &names {
                one.register(name).await.unwrap();
            }
            let [first, second] = [heartbeat(one, &names[0]).await, heartbeat(one, &names[1]).await];
            let scope = TakeoverScope::default();
            let (first, second) = ([first], [second]);
            // A deadlock ends one of them, which tries again half a second later.
            let _ = tokio::join!(
                one.take_over(&names[0], &second, &scope, at(0)),
                other.take_over(&names[1], &first, &scope, at(0))
            );
            let alive = one.planners().await.unwrap();
            let alive: Vec<_> = alive.iter().filter(|known| names.contains(&known.planner)).collect();
            assert_eq!(alive.len(), 1, "{alive:?}");
            let late = one.heartbeat(names.iter().find(|name| **name != alive[0].planner).unwrap(), at(1));
            assert!(matches!(late.await, Err(JournalError::Fenced)));
        }
    }
}

#[tokio::test]
async fn crash_counts_only_for_running_plans_of_dead_planners() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let (waits, runs) = (new_plan(&["a"]), new_plan(&["a"]));
        write(store, "me", &[accepted(&waits), accepted(&runs)]).await.unwrap();
        write(store, "me", &[Entry::TaskDispatched { task: task_of(&runs, 0), at: at(1) }]).await.unwrap();
        let crashes = async |planner: &str, dead: &[Heartbeat]| {
            store.register(planner).await.unwrap();
            let claimed = take_over(store, planner, dead).await.plans;
            let of = |plan_id| *claimed.iter().find(|plan| plan.plan_id == plan_id).unwrap();
            let UnfinishedPlan { takeovers, crashes, .. } = of(runs.plan_id);
            assert_eq!(of(waits.plan_id).crashes, 0, "it has not started");
            assert_eq!(of(waits.plan_id).takeovers, takeovers);
            (takeovers, crashes)
        };
        let me = heartbeat(store, "me").await;
        assert_eq!(crashes("second", &[me]).await, (1, 1));
        store.release("second").await.unwrap();
        assert_eq!(crashes("third", &[]).await, (2, 1), "a released planner has not died");
        let third = heartbeat(store, "third").await;
        assert_eq!(crashes("fourth", &[third]).await, (3, 2));
    }
}

#[tokio::test]
async fn plan_that_survives_or_progresses_is_no_suspect() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let (old, young) = (new_plan(&["a"]), new_plan(&["a", "a"]));
        let dispatched = |plan, second| Entry::TaskDispatched { task: task_of(plan, 0), at: at(second) };
        let entries = [accepted(&old), accepted(&young), dispatched(&old, 0), dispatched(&young, 100)];
        write(store, "me", &entries).await.unwrap();
        // `dead` sent its last heartbeat at one second, `heir` takes over at another.
        let crashes = async |dead: &str, last_seen: i64, heir: &str, now: i64| {
            store.heartbeat(dead, at(last_seen)).await.unwrap();
            store.register(heir).await.unwrap();
            let (dead, scope) = ([heartbeat(store, dead).await], TakeoverScope::default());
            let plans = store.take_over(heir, &dead, &scope, at(now)).await.unwrap().plans;
            [&old, &young].map(|plan| plans.iter().find(|own| own.plan_id == plan.plan_id).unwrap().crashes)
        };
        assert_eq!(crashes("me", 130, "b", 200).await, [0, 1], "one had run for 130 s, one for 30 s");
        let ended = Entry::TaskEnded {
            task: task_of(&young, 0),
            status: phoenix_domain::plan::TaskStatus::Succeeded,
            at: at(210),
            result: Ok(phoenix_domain::action::ActionResult::text("done")),
        };
        write(store, "b", &[ended]).await.unwrap();
        assert_eq!(crashes("b", 220, "c", 300).await, [1, 0], "a task of one ended after the takeover");
        assert_eq!(crashes("c", 310, "d", 400).await, [2, 1], "neither progressed");
        assert_eq!(crashes("d", 461, "e", 500).await, [0, 0], "both survived a minute");
        assert_eq!(crashes("e", 501, "f", 600).await, [1, 1], "the count restarts");
    }
}

#[tokio::test]
async fn plan_with_unknown_agent_is_skipped_unless_regardless() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let (known, unknown, partly) = (new_plan(&["a"]), new_plan(&["b"]), new_plan(&["b", "a"]));
        write(store, "me", &[accepted(&known), accepted(&unknown), accepted(&partly)]).await.unwrap();
        let done = Entry::TaskEnded {
            task: task_of(&partly, 0),
            status: phoenix_domain::plan::TaskStatus::Succeeded,
            at: at(1),
            result: Ok(phoenix_domain::action::ActionResult::text("done")),
        };
        write(store, "me", &[done]).await.unwrap();
        store.release("me").await.unwrap();
        store.register("heir").await.unwrap();
        let agents = Some(HashSet::from(["a".parse().unwrap()]));
        let mut scope = TakeoverScope { agents, regardless: HashSet::new() };
        let claimed = store.take_over("heir", &[], &scope, at(0)).await.unwrap();
        let mut taken = crate::plan_ids(&claimed);
        taken.sort_unstable();
        assert_eq!(taken, [known.plan_id, partly.plan_id], "an ended task needs no agent");
        let skipped = [SkippedPlan { plan_id: unknown.plan_id, agent: "b".into() }];
        assert_eq!(claimed.skipped, skipped);
        assert_eq!(store.take_over("heir", &[], &scope, at(0)).await.unwrap().skipped, skipped, "still");
        scope.regardless.insert(unknown.plan_id);
        let claimed = store.take_over("heir", &[], &scope, at(0)).await.unwrap();
        assert_eq!((crate::plan_ids(&claimed), claimed.skipped), (vec![unknown.plan_id], Vec::new()));
    }
}

#[tokio::test]
async fn open_tasks_are_listed_with_their_open_attempts() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = new_plan(&["a", "b", "c"]);
        let [first, second, _] = [0, 1, 2].map(|ordinal| task_of(&plan, ordinal));
        let started = |task, number| Entry::AttemptStarted { task, number, at: at(1), worker: "w".into() };
        let lost = Entry::AttemptEnded {
            task: second,
            number: 1,
            at: at(2),
            outcome: AttemptOutcome::Cancelled { reason: "its executor was lost".into() },
            retried: true,
        };
        let cancelled = Entry::TaskEnded {
            task: first,
            status: TaskStatus::Cancelled,
            at: at(2),
            result: Err(OrchestratorError::internal("a reason")),
        };
        let dispatched = Entry::TaskDispatched { task: second, at: at(1) };
        let entries =
            [accepted(&plan), cancelled, dispatched, started(second, 1), lost, started(second, 101)];
        write(store, "me", &entries).await.unwrap();
        let open = |ordinal, is_dispatched, open_attempts| OpenTask { ordinal, is_dispatched, open_attempts };
        let listed = store.open_tasks(plan.plan_id).await.unwrap();
        assert_eq!(listed, [open(1, true, vec![101]), open(2, false, Vec::new())]);
        assert_eq!(store.open_tasks(PlanId::generate()).await.unwrap(), []);
        let attempts = store.plan(plan.plan_id).await.unwrap().unwrap().tasks.swap_remove(1).attempts;
        let reasons: Vec<_> = attempts.iter().map(|attempt| attempt.outcome.as_ref()?.reason()).collect();
        assert_eq!(reasons, [Some("its executor was lost"), None]);
    }
}
