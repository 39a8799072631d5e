//! Plans are read as they were written.

use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode as Code,
    action::ActionResult,
    approval::ApprovalTerms,
    json::Object,
    plan::{AttemptOutcome, Plan, PlanKind, PlanStatus, Task, TaskStatus},
};
use phoenix_planner::store::{Entry, OutputPart, PlanFilter};

use crate::{accepted, at, call, life, new_plan, plan_ended, stores, task_of, write};

#[tokio::test]
async fn plan_is_independent_of_the_batching_of_its_entries() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let mut read = Vec::new();
        for batch in [1, 2, 3, 5, 100] {
            let plan = new_plan(&["a", "b"]);
            for entries in life(&plan).chunks(batch) {
                write(store, "me", entries).await.unwrap();
            }
            let mut known = store.plan(plan.plan_id).await.unwrap().unwrap();
            let events = store.events(plan.plan_id, 0, 100).await.unwrap();
            assert!(events.windows(2).all(|pair| pair[0].position < pair[1].position));
            let of_later = store.events(plan.plan_id, events[3].position, 2).await.unwrap();
            assert_eq!(of_later, events[4..6]);
            let mut facts: Vec<_> =
                events.into_iter().map(|event| (event.kind, event.at, event.task_key, event.data)).collect();
            assert!(facts[0].3.contains(&plan.correlation_id.to_string()));
            // Values that differ between plans.
            facts[0].3.clear();
            let nil = uuid::Uuid::nil();
            (known.plan_id, known.correlation_id) = (nil.into(), nil.into());
            known.tasks.iter_mut().for_each(|task| task.task_id = nil.into());
            read.push((known, facts));
        }
        let (plan, facts) = &read[0];
        assert_eq!((plan.status, plan.output.as_deref()), (PlanStatus::Succeeded, None));
        assert_eq!((plan.ended_at, plan.deadline_at), (Some(at(9)), Some(at(100))));
        let [first, second] = &plan.tasks[..] else { panic!("{plan:?}") };
        assert_eq!((first.status, second.status), (TaskStatus::Succeeded, TaskStatus::DeadLettered));
        assert_eq!((first.dispatched_at, first.ended_at), (Some(at(1)), Some(at(5))));
        assert_eq!(first.spec, new_plan(&["a"]).tasks[0].spec);
        let outcomes: Vec<_> = first.attempts.iter().filter_map(|attempt| attempt.outcome.clone()).collect();
        let [AttemptOutcome::Failed { model_calls, .. }, AttemptOutcome::Succeeded] = &outcomes[..] else {
            panic!("{outcomes:?}")
        };
        assert_eq!(model_calls[..], [call()]);
        let usage = plan.usage();
        assert_eq!((usage.calls, usage.tokens.total()), (2, 2 * 1230));
        let error = second.error.clone().unwrap();
        assert_eq!((&*error.message, error.retry_after.unwrap().as_millis()), ("no", 1500));
        let kinds: Vec<_> = facts.iter().map(|(kind, ..)| kind.as_str()).collect();
        assert_eq!(
            kinds.join(" "),
            "plan_accepted task_dispatched attempt_started attempt_ended attempt_started attempt_ended task_ended \
             task_dispatched attempt_started attempt_ended task_ended plan_ended"
        );
        for other in &read[1..] {
            assert_eq!(other, &read[0]);
        }
    }
}

#[tokio::test]
async fn recorded_output_is_an_event_in_its_place() {
    for fresh in stores().await {
        let store = &*fresh.store;
        for batch in [1, 100] {
            let plan = Plan { kind: PlanKind::RecordedChat, ..new_plan(&["a"]) };
            let (task, delta) = (task_of(&plan, 0), r#"{"n":12345678901234567890123,"b":1,"a":"\u0000"}"#);
            let part = |text: &str, delta: Option<&str>| OutputPart {
                text: text.into(),
                delta: delta.map(|delta| Object::parse(delta).unwrap()),
            };
            let output = |number, parts| Entry::TaskOutput { task, number, at: at(3), parts };
            let started = |number| Entry::AttemptStarted { task, number, at: at(2), worker: "pid 1".into() };
            let mut entries = vec![
                accepted(&plan),
                started(1),
                output(1, vec![part("a\0 \"", None), part("", Some(delta))]),
                started(101),
                output(101, vec![part("b", None)]),
            ];
            let result = Ok(ActionResult::text("b"));
            entries.push(Entry::TaskEnded { task, status: TaskStatus::Succeeded, at: at(4), result });
            entries.push(plan_ended(&plan, 5));
            for entries in entries.chunks(batch) {
                write(store, "me", entries).await.unwrap();
            }
            let events = store.events(plan.plan_id, 0, 100).await.unwrap();
            let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
            let expected =
                "plan_accepted attempt_started task_output attempt_started task_output task_ended plan_ended";
            assert_eq!(kinds.join(" "), expected);
            let facts =
                format!(r#"{{"attempt":1,"parts":[{{"text":"a\u0000 \""}},{{"text":"","delta":{delta}}}]}}"#);
            assert_eq!((events[2].data.as_str(), events[2].task_key.as_str()), (facts.as_str(), "t0"));
            let read = store.plan(plan.plan_id).await.unwrap().unwrap();
            assert_eq!((read.kind, read.status), (PlanKind::RecordedChat, PlanStatus::Succeeded));
        }
    }
}

#[tokio::test]
async fn added_tasks_do_not_depend_on_the_batches_of_entries() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let mut read = Vec::new();
        for batch in [1, 2, 3, 4, 5, 100] {
            let all = new_plan(&["a", "b", "c", "b"]);
            let mut plan = Plan { kind: PlanKind::Planned, ..all.clone() };
            let mut added = plan.tasks.split_off(1);
            added[1].spec.start.approval =
                Some(ApprovalTerms { reason: "it writes".into(), ..ApprovalTerms::default() });
            let last: Vec<_> = added.split_off(2);
            let ended = |ordinal, second| Entry::TaskEnded {
                task: task_of(&plan, ordinal),
                status: TaskStatus::Succeeded,
                at: at(second),
                result: Ok(ActionResult::text("yes")),
            };
            let add = |first, second, tasks: &[Task]| Entry::TasksAdded {
                plan_id: plan.plan_id,
                first,
                at: at(second),
                tasks: tasks.into(),
            };
            let dispatched =
                |ordinal, second| Entry::TaskDispatched { task: task_of(&plan, ordinal), at: at(second) };
            let entries = [
                accepted(&plan),
                dispatched(0, 1),
                ended(0, 2),
                add(1, 2, &added),
                dispatched(1, 3),
                ended(1, 4),
                add(3, 5, &last),
                ended(3, 6),
                ended(2, 7),
                plan_ended(&plan, 8),
            ];
            for entries in entries.chunks(batch) {
                write(store, "me", entries).await.unwrap();
            }
            let mut known = store.plan(plan.plan_id).await.unwrap().unwrap();
            let events = store.events(plan.plan_id, 0, 100).await.unwrap();
            let ids: Vec<_> = known.tasks.iter().map(|task| task.task_id).collect();
            assert_eq!(ids, all.tasks.iter().map(|task| task.task_id).collect::<Vec<_>>());
            let nil = uuid::Uuid::nil();
            (known.plan_id, known.correlation_id) = (nil.into(), nil.into());
            known.tasks.iter_mut().for_each(|task| task.task_id = nil.into());
            let facts: Vec<_> =
                events.into_iter().skip(1).map(|event| (event.kind, event.task_key, event.data)).collect();
            read.push((known, facts));
        }
        let (plan, facts) = &read[0];
        assert_eq!((plan.kind, plan.status, plan.tasks.len()), (PlanKind::Planned, PlanStatus::Succeeded, 4));
        assert!(plan.tasks.iter().all(|task| task.status == TaskStatus::Succeeded), "{plan:?}");
        assert_eq!(plan.tasks[2].spec.start.approval.as_ref().unwrap().reason, "it writes");
        assert_eq!(
            facts[2],
            ("tasks_added".into(), String::new(), r#"{"tasks":2,"keys":["t1","t2"]}"#.into())
        );
        assert_eq!((facts[4].0.as_str(), facts[4].1.as_str()), ("task_ended", "t1"));
        for other in &read[1..] {
            assert_eq!(other, &read[0]);
        }
    }
}

#[tokio::test]
async fn terminal_state_never_changes() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = new_plan(&["a", "b"]);
        write(store, "me", &life(&plan)).await.unwrap();
        let known = store.plan(plan.plan_id).await.unwrap();
        let mut late = life(&plan).split_off(1);
        late.push(Entry::TaskEnded {
            task: task_of(&plan, 0),
            status: TaskStatus::Cancelled,
            at: at(50),
            result: Err(phoenix_domain::OrchestratorError::internal("late")),
        });
        write(store, "me", &late).await.unwrap();
        assert_eq!(store.plan(plan.plan_id).await.unwrap(), known);
    }
}

#[tokio::test]
async fn plan_listing_is_filtered_page_by_page() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plans: Vec<_> =
            (0..10).map(|n| new_plan(if n % 2 == 0 { &["a"] } else { &["b", "a"] })).collect();
        for plan in &plans {
            write(store, "me", &[accepted(plan)]).await.unwrap();
        }
        write(store, "me", &[plan_ended(&plans[3], 9)]).await.unwrap();
        let found = async |filter: PlanFilter| -> Vec<usize> {
            let found = store.plans(&PlanFilter { limit: 4, ..filter }).await.unwrap();
            let index = |id| plans.iter().position(|plan| plan.plan_id == id).unwrap();
            found.items.iter().map(|plan| index(plan.plan_id)).collect()
        };
        let all = PlanFilter::default();
        assert_eq!(found(all.clone()).await, [9, 8, 7, 6]);
        assert_eq!(found(PlanFilter { before: Some(plans[6].plan_id), ..all.clone() }).await, [5, 4, 3, 2]);
        assert_eq!(found(PlanFilter { status: Some(PlanStatus::Succeeded), ..all.clone() }).await, [3]);
        assert_eq!(found(PlanFilter { agent: "b".parse().ok(), ..all.clone() }).await, [9, 7, 5, 3]);
        let one = PlanFilter { correlation_id: Some(plans[2].correlation_id), ..all.clone() };
        assert_eq!(found(one).await, [2]);
        assert_eq!(found(PlanFilter { since: Some(at(1)), ..all.clone() }).await, [0; 0]);
        let oldest = PlanFilter { is_oldest_first: true, ..all.clone() };
        assert_eq!(found(oldest.clone()).await, [0, 1, 2, 3]);
        assert_eq!(found(PlanFilter { before: Some(plans[6].plan_id), ..oldest.clone() }).await, [7, 8, 9]);
        assert_eq!(found(PlanFilter { is_unfinished: true, ..all.clone() }).await, [9, 8, 7, 6]);
        let behind = PlanFilter { is_unfinished: true, before: Some(plans[1].plan_id), ..oldest.clone() };
        assert_eq!(found(behind).await, [2, 4, 5, 6], "the third one has ended");
        assert_eq!(
            found(PlanFilter { is_unfinished: true, agent: "b".parse().ok(), ..oldest }).await,
            [1, 5, 7, 9]
        );
        let counts = store.open_plans().await.unwrap();
        assert_eq!(counts.pending + counts.running, 9);
    }
}

#[tokio::test]
async fn plans_are_found_by_the_text_of_their_errors() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plans: Vec<_> = (0..6).map(|_| new_plan(&["a"])).collect();
        for (index, plan) in plans.iter().enumerate() {
            write(store, "me", &[accepted(plan)]).await.unwrap();
            let (code, message) = if index % 2 == 0 {
                (Code::Timeout, "50 % of Ärger_x")
            } else {
                (Code::Cancelled, "not needed")
            };
            let (plan_id, status) =
                (plan.plan_id, if index % 2 == 0 { PlanStatus::Failed } else { PlanStatus::Cancelled });
            let result = Err(OrchestratorError::new(code, message));
            if index > 0 {
                write(store, "me", &[Entry::PlanEnded { plan_id, status, at: at(9), result }]).await.unwrap();
            }
        }
        let found = async |text: &str, before| {
            let filter =
                PlanFilter { error_text: Some(text.into()), limit: 2, before, ..PlanFilter::default() };
            let page = store.plans(&filter).await.unwrap();
            let index = |id| plans.iter().position(|plan| plan.plan_id == id).unwrap();
            (page.items.iter().map(|plan| index(plan.plan_id)).collect::<Vec<_>>(), page.last)
        };
        assert_eq!(found("ärger", None).await, (vec![4, 2], None));
        assert_eq!(found("% of", None).await.0, [4, 2], "no pattern");
        assert_eq!(found("timeout", None).await.0, [4, 2], "the code");
        let (first, last) = found("needed", None).await;
        assert_eq!((first, last.is_some()), (vec![5, 3], true));
        assert_eq!(found("needed", last).await, (vec![1], None));
        assert_eq!(found("_y", None).await, (vec![], None));
    }
}

#[tokio::test]
async fn last_page_exactly_full_has_no_next() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plans: Vec<_> = (0..6).map(|_| new_plan(&["a"])).collect();
        for plan in &plans {
            write(store, "me", &[accepted(plan)]).await.unwrap();
        }
        for (limit, pages) in [(1, 6), (2, 3), (3, 2), (4, 2), (5, 2), (6, 1), (7, 1), (500, 1)] {
            let (mut before, mut seen, mut read) = (None, Vec::new(), 0);
            loop {
                let filter = PlanFilter { before, limit, ..PlanFilter::default() };
                let page = store.plans(&filter).await.unwrap();
                seen.extend(page.items.into_iter().map(|plan| plan.plan_id));
                read += 1;
                before = page.last;
                if before.is_none() {
                    break;
                }
            }
            let newest_first: Vec<_> = plans.iter().rev().map(|plan| plan.plan_id).collect();
            assert_eq!((read, seen), (pages, newest_first), "{limit} at a time");
        }
    }
}

#[tokio::test]
async fn plans_read_by_id_have_their_own_tasks() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plans = [new_plan(&["a", "b"]), new_plan(&["a"]), new_plan(&["a", "b"])];
        write(store, "me", &life(&plans[0])).await.unwrap();
        write(store, "me", &[accepted(&plans[1])]).await.unwrap();
        write(store, "me", &life(&plans[2])).await.unwrap();
        let missing = new_plan(&[]).plan_id;
        let wanted = [plans[2].plan_id, missing, plans[0].plan_id, plans[1].plan_id];
        let mut read = store.plans_by_id(&wanted).await.unwrap();
        read.sort_by_key(|(plan_id, _)| *plan_id);
        let read: Vec<_> = read.into_iter().map(|(plan_id, plan)| (plan_id, plan.unwrap())).collect();
        assert_eq!(read.len(), 3, "the existing ones");
        for (plan, (plan_id, known)) in plans.iter().zip(read) {
            assert_eq!((plan_id, known.plan_id), (plan.plan_id, plan.plan_id));
            assert_eq!(store.plan(plan_id).await.unwrap().as_ref(), Some(&known));
            let attempts: usize = known.tasks.iter().map(|task| task.attempts.len()).sum();
            assert_eq!(
                (known.tasks.len(), attempts),
                (plan.tasks.len(), if plan.tasks.len() == 2 { 3 } else { 0 })
            );
        }
        assert!(store.plans_by_id(&[]).await.unwrap().is_empty());
    }
}
