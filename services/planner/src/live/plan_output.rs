//! Output of the tasks of a plan, and the plans that have some.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::{Mutex, MutexGuard};
use phoenix_domain::{PlanId, limits::MAX_OUTPUT_BYTES};
use phoenix_proto::{
    InvalidField,
    action::raw_json,
    executor::{TaskOutput, TaskProgress},
};
use tokio::sync::watch;

use super::buffer::{Buffer, Report};

/// Bytes of the output of all tasks. Beyond it, a task that says more loses what it said first.
const TOTAL_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that each task may keep in any case.
const GUARANTEED_BYTES: usize = 64 * 1024;

/// Output of the tasks that run here, by plan. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveOutputs(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    plans: Mutex<HashMap<PlanId, Weak<PlanOutput>>>,
    /// Bytes of all buffers.
    bytes: AtomicUsize,
}

/// Output of the tasks of one plan. It exists while the plan runs and has said something, or has a reader.
#[derive(Debug)]
pub(super) struct PlanOutput {
    shared: Arc<Shared>,
    plan_id: PlanId,
    /// The tasks that have said something, in the order of their first words.
    tasks: Mutex<Vec<Buffer>>,
    changes: watch::Sender<()>,
}

/// Records the output of one plan that runs here.
#[derive(Debug)]
pub(crate) struct Recorder {
    outputs: LiveOutputs,
    plan_id: PlanId,
    is_wanted: bool,
    /// Set by the first output.
    plan: OnceLock<Arc<PlanOutput>>,
}

impl LiveOutputs {
    /// A recorder for a plan. `is_wanted` tells whether agents are asked for output.
    pub(crate) fn recorder(&self, plan_id: PlanId, is_wanted: bool) -> Recorder {
        Recorder { outputs: self.clone(), plan_id, is_wanted, plan: OnceLock::new() }
    }

    /// The output of a plan, which may have none yet.
    pub(super) fn plan(&self, plan_id: PlanId) -> Arc<PlanOutput> {
        let mut plans = self.0.plans.lock();
        if let Some(plan) = plans.get(&plan_id).and_then(Weak::upgrade) {
            return plan;
        }
        let plan = Arc::new(PlanOutput {
            shared: Arc::clone(&self.0),
            plan_id,
            tasks: Mutex::default(),
            changes: watch::Sender::new(()),
        });
        plans.insert(plan_id, Arc::downgrade(&plan));
        plan
    }
}

impl Recorder {
    /// Whether agents are asked for output.
    pub(crate) const fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Records that an attempt of the task `key` started. What an earlier one has said is void.
    pub(crate) fn attempt_started(&self, key: &str, attempt: u32) {
        if let Some(plan) = self.plan.get() {
            plan.change(|tasks| {
                if let Some(task) = tasks.iter_mut().find(|task| task.key == key && task.attempt < attempt) {
                    task.restart(attempt);
                }
            });
        }
    }

    /// Records a part of a result of the task `key`.
    ///
    /// # Errors
    /// When the delta is not JSON.
    pub(crate) fn output(&self, key: &str, output: TaskOutput) -> Result<(), InvalidField> {
        let TaskOutput { attempt, data, delta_json } = output;
        let delta = if delta_json.is_empty() { None } else { Some(raw_json("delta_json", delta_json)?) };
        self.plan().change(|tasks| {
            if let Some(task) = task(tasks, key, attempt) {
                task.push(data, delta);
            }
        });
        Ok(())
    }

    /// Records the progress of the task `key`.
    pub(crate) fn progress(&self, key: &str, progress: TaskProgress) {
        let TaskProgress { attempt, message, progress, total } = progress;
        self.plan().change(|tasks| {
            if let Some(task) = task(tasks, key, attempt) {
                task.report(Report { attempt, message, progress, total });
            }
        });
    }

    fn plan(&self) -> &PlanOutput {
        self.plan.get_or_init(|| self.outputs.plan(self.plan_id))
    }
}

/// The buffer of a task for `attempt`; none when a later attempt has begun.
fn task<'t>(tasks: &'t mut Vec<Buffer>, key: &str, attempt: u32) -> Option<&'t mut Buffer> {
    let index = tasks.iter().position(|task| task.key == key).unwrap_or_else(|| {
        tasks.push(Buffer::new(key.to_owned(), attempt));
        tasks.len() - 1
    });
    let task = tasks.get_mut(index)?;
    if task.attempt < attempt {
        task.restart(attempt);
    }
    (task.attempt == attempt).then_some(task)
}

impl PlanOutput {
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub(super) fn tasks(&self) -> MutexGuard<'_, Vec<Buffer>> {
        self.tasks.lock()
    }

    /// Changes the output within the bounds, and wakes its readers.
    fn change(&self, change: impl FnOnce(&mut Vec<Buffer>)) {
        let mut tasks = self.tasks.lock();
        let before: usize = tasks.iter().map(|task| task.bytes).sum();
        change(&mut tasks);
        let others = self.shared.bytes.load(Relaxed).saturating_sub(before);
        let mut total: usize = tasks.iter().map(|task| task.bytes).sum();
        for task in tasks.iter_mut() {
            while task.bytes > MAX_OUTPUT_BYTES * 2
                || (others + total > TOTAL_BYTES && task.bytes > GUARANTEED_BYTES)
            {
                let was = task.bytes;
                if !task.drop_oldest() {
                    break;
                }
                total -= was - task.bytes;
            }
        }
        if total >= before {
            self.shared.bytes.fetch_add(total - before, Relaxed);
        } else {
            self.shared.bytes.fetch_sub(before - total, Relaxed);
        }
        drop(tasks);
        self.changes.send_replace(());
    }
}

impl Drop for PlanOutput {
    fn drop(&mut self) {
        let bytes: usize = self.tasks.get_mut().iter().map(|task| task.bytes).sum();
        self.shared.bytes.fetch_sub(bytes, Relaxed);
        let mut plans = self.shared.plans.lock();
        // A new one may have taken its place.
        if plans.get(&self.plan_id).is_some_and(|plan| plan.strong_count() == 0) {
            plans.remove(&self.plan_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::reader::OutputReader, *};

    fn say(recorder: &Recorder, key: &str, attempt: u32, data: &str) {
        let output = TaskOutput { attempt, data: data.into(), delta_json: String::new() };
        recorder.output(key, output).unwrap();
    }

    /// Kind and facts of everything that can be read now.
    fn read(reader: &mut OutputReader) -> Vec<(String, serde_json::Value)> {
        std::iter::from_fn(|| reader.try_next(None))
            .map(|event| (event.kind, serde_json::from_str(&event.data).unwrap()))
            .collect()
    }

    fn outputs(found: &[(String, serde_json::Value)]) -> String {
        found.iter().filter_map(|(_, data)| data["text"].as_str()).collect()
    }

    #[test]
    fn late_reader_gets_everything_and_others_only_news() {
        let (live, plan_id) = (LiveOutputs::default(), PlanId::generate());
        let recorder = live.recorder(plan_id, true);
        let mut early = live.reader(plan_id);
        say(&recorder, "a", 1, "one ");
        say(&recorder, "a", 1, "two");
        let found = read(&mut early);
        assert_eq!(found.len(), 1, "joined");
        assert_eq!(found[0].1, serde_json::json!({"attempt": 1, "offset": 0, "text": "one two"}));
        let delta_json = r#"{"tool_calls":[]}"#.to_owned();
        recorder.output("a", TaskOutput { attempt: 1, data: "!".into(), delta_json }).unwrap();
        say(&recorder, "a", 1, " three");
        say(&recorder, "b", 1, "other");
        let found = read(&mut early);
        let facts: Vec<_> = found.iter().map(|(_, data)| data["offset"].as_u64().unwrap()).collect();
        assert_eq!(facts, [7, 0, 25], "offsets count texts and deltas");
        assert_eq!(outputs(&read(&mut live.reader(plan_id))).len(), "one two! threeother".len());
        assert!(
            recorder
                .output("a", TaskOutput { attempt: 1, data: String::new(), delta_json: "{".into() })
                .is_err()
        );
    }

    #[test]
    fn attempt_after_a_partial_answer_resets_its_readers() {
        let (live, plan_id) = (LiveOutputs::default(), PlanId::generate());
        let recorder = live.recorder(plan_id, true);
        recorder.attempt_started("a", 1);
        let (mut read_before, mut read_after) = (live.reader(plan_id), live.reader(plan_id));
        say(&recorder, "a", 1, "half");
        read(&mut read_before);
        recorder.attempt_started("a", 2);
        assert_eq!(read(&mut read_before), [("output_reset".into(), serde_json::json!({"attempt": 2}))]);
        say(&recorder, "a", 1, "too late");
        say(&recorder, "a", 2, "whole");
        for reader in [&mut read_before, &mut read_after] {
            assert_eq!(outputs(&read(reader)), "whole");
        }
    }

    #[test]
    fn buffers_are_bounded_and_freed() {
        let live = LiveOutputs::default();
        let plans: Vec<_> = (0..6).map(|_| PlanId::generate()).collect();
        let recorders: Vec<_> = plans.iter().map(|plan_id| live.recorder(*plan_id, true)).collect();
        let chunk = "x".repeat(32 * 1024);
        for recorder in &recorders {
            (0..600).for_each(|_| say(recorder, "a", 1, &chunk));
        }
        let bytes = live.0.bytes.load(Relaxed);
        assert!(bytes <= TOTAL_BYTES + 6 * GUARANTEED_BYTES && bytes > TOTAL_BYTES / 2, "{bytes}");
        let last = read(&mut live.reader(plans[5]));
        let end = last.last().unwrap().1["offset"].as_u64().unwrap() + 32 * 1024;
        assert_eq!(end, 600 * 32 * 1024, "the newest output is kept, and the offset shows the gap");
        drop(recorders);
        assert_eq!(live.0.bytes.load(Relaxed), 0);
        assert!(live.0.plans.lock().is_empty());
    }

    #[tokio::test]
    async fn reader_wakes_up_for_output_and_progress() {
        let (live, plan_id) = (LiveOutputs::default(), PlanId::generate());
        let recorder = live.recorder(plan_id, true);
        let mut reader = live.reader(plan_id);
        let waiting = tokio::spawn(async move { (reader.next().await, reader.next().await) });
        let progress =
            TaskProgress { attempt: 1, message: "m".into(), progress: Some(1.0), total: Some(2.5) };
        tokio::task::yield_now().await;
        say(&recorder, "a", 1, "text");
        recorder.progress("a", progress);
        let (first, second) = waiting.await.unwrap();
        assert_eq!((first.kind.as_str(), first.position), ("output", 0));
        assert_eq!((second.kind.as_str(), second.task_key.as_str()), ("progress", "a"));
        assert_eq!(second.data, r#"{"attempt":1,"message":"m","progress":1.0,"total":2.5}"#);
    }
}
