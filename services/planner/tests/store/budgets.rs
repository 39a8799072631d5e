//! Reservations of budgets, and what becomes of them.

use std::sync::Arc;

use phoenix_domain::{
    PlanId,
    budget::{Account, Amounts, Each, Limits, Resource, Room, Scope},
};
use phoenix_planner::store::{
    Balance, Call, Charge, Entry, JournalError, Store, TaskRef, Use, Verdict, is_granted,
};

use crate::{accepted, at, life, new_plan, stores, take_over, write};

/// Second of a day.
const NOON: i64 = 43_200;

const DAY: i64 = 86_400;

fn agent(second: i64) -> Account {
    Scope::Agent("a".parse().unwrap()).account(at(second))
}

/// A charge of one call, ten tokens and a minute.
fn charge(account: Account, limits: [Option<u64>; 4]) -> Charge {
    let limits = Limits::new(limits);
    Charge { account, limits, wanted: limits.reservation(Each::new([0, 10, 1, 60_000])) }
}

/// A call of a new plan.
fn call() -> Call {
    Call { task: TaskRef { plan_id: PlanId::generate(), ordinal: 0 }, number: 1 }
}

fn used(account: &Account, amounts: [u64; 4]) -> [Use; 1] {
    [(account.clone(), Each::new(amounts))]
}

async fn balance(store: &dyn Store, account: &Account) -> Balance {
    store.balances(std::slice::from_ref(account)).await.unwrap()[0]
}

async fn reserve(store: &dyn Store, call: Call, charges: &[Charge]) -> Vec<Verdict> {
    store.reserve("me", call, charges, at(NOON)).await.unwrap()
}

#[tokio::test]
async fn parallel_calls_of_two_planners_get_exactly_the_limit() {
    for fresh in stores().await {
        let store = &fresh.store;
        store.register("other").await.unwrap();
        let tries = (0..40).map(|n| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let charges = [charge(agent(NOON), [None, None, Some(7), None])];
                let planner = if n % 2 == 0 { "me" } else { "other" };
                let call = call();
                let verdicts = loop {
                    // A conflict of transactions is an error of the database; the journal repeats it.
                    match store.reserve(planner, call, &charges, at(NOON)).await {
                        Err(JournalError::Database(_)) => tokio::task::yield_now().await,
                        verdicts => break verdicts.unwrap(),
                    }
                };
                is_granted(&verdicts)
            })
        });
        let mut granted = 0;
        for tried in tries.collect::<Vec<_>>() {
            granted += u64::from(tried.await.unwrap());
        }
        assert_eq!(granted, 7);
        assert_eq!(balance(&**store, &agent(NOON)).await.reserved[Resource::Calls], 7);
    }
}

#[tokio::test]
async fn settled_call_counts_what_it_used() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let (account, call) = (agent(NOON), call());
        let charges = [charge(account.clone(), [None, Some(25), Some(9), Some(100_000)])];
        let first = reserve(store, call, &charges).await;
        assert_eq!(first[0].room, Room::Enough(Each::new([0, 10, 1, 60_000])));
        assert_eq!(reserve(store, call, &charges).await[0].room, first[0].room, "a repeated call");
        let second = Call { number: 2, ..call };
        let rest = reserve(store, second, &charges).await;
        assert_eq!(rest[0].room, Room::Enough(Each::new([0, 10, 1, 40_000])), "the time that is left");
        let late = reserve(store, Call { number: 3, ..call }, &charges).await;
        assert_eq!(late[0].room, Room::Later(Resource::Tokens));
        let before = balance(store, &account).await;
        assert_eq!(before.reserved, Each::new([0, 20, 2, 100_000]));
        for _ in 0..2 {
            store.settle("me", call, &used(&account, [0, 3, 1, 500]), at(NOON)).await.unwrap();
            let after = balance(store, &account).await;
            assert_eq!(
                (after.used, after.reserved),
                (Each::new([0, 3, 1, 500]), Each::new([0, 10, 1, 40_000]))
            );
        }
        store.settle("me", second, &[], at(NOON)).await.unwrap();
        assert_eq!(balance(store, &account).await.reserved, Amounts::default(), "a call that did not start");
        let other = Scope::Provider("lab".into()).account(at(NOON));
        reserve(store, second, &charges).await;
        store.settle("me", second, &used(&other, [5, 0, 1, 0]), at(NOON)).await.unwrap();
        assert_eq!(
            balance(store, &other).await.used[Resource::Cost],
            5,
            "an account that nothing was reserved in"
        );
    }
}

#[tokio::test]
async fn refused_call_reserves_nothing_anywhere() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = Scope::Plan(PlanId::generate()).account(at(NOON));
        let charges = [
            charge(plan.clone(), [None, None, Some(5), None]),
            charge(agent(NOON), [None, None, Some(0), None]),
        ];
        let verdicts = reserve(store, call(), &charges).await;
        assert!(!is_granted(&verdicts));
        assert!(matches!(verdicts[0].room, Room::Enough(_)));
        assert_eq!(verdicts[1].room, Room::Exhausted(Resource::Calls));
        assert_eq!(balance(store, &plan).await, Balance::default());
    }
}

#[tokio::test]
async fn account_of_the_next_day_is_a_new_one() {
    for fresh in stores().await {
        let store = &*fresh.store;
        for day in 0..3 {
            let second = NOON + day * DAY;
            let charges = [charge(agent(second), [None, None, Some(1), None])];
            let verdicts = store.reserve("me", call(), &charges, at(second)).await.unwrap();
            assert!(is_granted(&verdicts), "day {day}");
            let again = store.reserve("me", call(), &charges, at(second + 1)).await.unwrap();
            assert_eq!(again[0].room, Room::Exhausted(Resource::Calls));
        }
        // A call that ends on the next day is counted on the day that it began.
        let (first, call) = (agent(NOON + 9 * DAY), call());
        let charges = [charge(first.clone(), [None, None, Some(1), None])];
        store.reserve("me", call, &charges, at(NOON + 9 * DAY)).await.unwrap();
        store.settle("me", call, &used(&first, [0, 0, 1, 0]), at(NOON + 10 * DAY)).await.unwrap();
        assert_eq!(balance(store, &first).await.used[Resource::Calls], 1);
        assert_eq!(balance(store, &agent(NOON + 10 * DAY)).await, Balance::default());
    }
}

#[tokio::test]
async fn reservation_of_a_dead_planner_is_used_up() {
    for fresh in stores().await {
        let store = &*fresh.store;
        store.register("heir").await.unwrap();
        let charges = [charge(agent(NOON), [None, Some(100), Some(9), None])];
        let calls = [call(), call()];
        for call in calls {
            assert!(is_granted(&reserve(store, call, &charges).await));
        }
        let mut dead = store.planners().await.unwrap();
        dead.retain(|heartbeat| heartbeat.planner == "me");
        for _ in 0..2 {
            take_over(store, "heir", &dead).await;
            let after = balance(store, &agent(NOON)).await;
            assert_eq!((after.used, after.reserved), (Each::new([0, 20, 2, 120_000]), Amounts::default()));
        }
        let late = store.reserve("me", call(), &charges, at(NOON)).await;
        assert!(matches!(late, Err(JournalError::Fenced)), "{late:?}");
        let late = store.settle("me", calls[0], &[], at(NOON)).await;
        assert!(matches!(late, Err(JournalError::Fenced)), "{late:?}");
    }
}

#[tokio::test]
async fn budget_of_a_plan_is_read_as_it_was_written() {
    for fresh in stores().await {
        let store = &*fresh.store;
        for batch in [1, 3, 100] {
            let mut plan = new_plan(&["a", "b"]);
            plan.budget = Limits::new([Some(2_500_000_000), None, Some(7), None]);
            for entries in life(&plan).chunks(batch) {
                write(store, "me", entries).await.unwrap();
            }
            assert_eq!(store.plan(plan.plan_id).await.unwrap().unwrap().budget, plan.budget);
            let mut chat = new_plan(&["a"]);
            chat.budget = plan.budget;
            let entries: Vec<Entry> = [accepted(&chat)].into_iter().chain(life(&chat).drain(1..7)).collect();
            write(store, "me", &entries).await.unwrap();
            assert_eq!(store.plan(chat.plan_id).await.unwrap().unwrap().budget, chat.budget);
        }
    }
}
