//! Progress of a run on standard error: a bar on a terminal, a line every few seconds elsewhere.

use std::{
    convert::Infallible,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{live::Live, load::Load};

const DRAW_INTERVAL: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Progress of a run.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    requests: Option<u64>,
    duration: Option<Duration>,
    problem_reported: bool,
}

impl Progress {
    pub(crate) fn start(load: &Load) -> Self {
        let length = load.requests.unwrap_or(100);
        let style = ProgressStyle::with_template("{bar:32} {percent:>3} %  {msg}");
        let bar = style.ok().filter(|_| io::stderr().is_terminal()).map(|style| {
            ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr()).with_style(style)
        });
        Self {
            bar,
            started: Instant::now(),
            requests: load.requests,
            duration: load.duration,
            problem_reported: false,
        }
    }

    /// Shows `live` until dropped.
    pub(crate) async fn follow(&mut self, live: &Live) -> Infallible {
        let mut line_due = self.started + LINE_INTERVAL;
        let mut every = tokio::time::interval(DRAW_INTERVAL);
        loop {
            every.tick().await;
            self.report_problem(live);
            match &self.bar {
                Some(bar) => self.draw(bar, live),
                None if Instant::now() >= line_due => {
                    line_due += LINE_INTERVAL;
                    self.line(&format!(
                        "{:>5.0} s: {}",
                        self.started.elapsed().as_secs_f64(),
                        self.state(live)
                    ));
                }
                None => {}
            }
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(mut self, live: &Live) {
        self.report_problem(live);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn draw(&self, bar: &ProgressBar, live: &Live) {
        let by_count = self.requests.map_or(0.0, |requests| live.sent() as f64 / requests.max(1) as f64);
        let by_time = self.duration.map_or(0.0, |duration| {
            self.started.elapsed().as_secs_f64() / duration.as_secs_f64().max(f64::MIN_POSITIVE)
        });
        let length = bar.length().unwrap_or_default();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the length"
        )]
        bar.set_position((by_count.max(by_time).min(1.0) * length as f64) as u64);
        bar.set_message(self.state(live));
        bar.tick();
    }

    fn state(&self, live: &Live) -> String {
        let (sent, failed) = (live.sent(), live.failed());
        let per_sec = sent as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        format!("{sent} sent, {failed} failed, {per_sec:.0} per second")
    }

    fn report_problem(&mut self, live: &Live) {
        if !self.problem_reported
            && let Some(problem) = live.problem()
        {
            self.problem_reported = true;
            self.line(problem);
        }
    }

    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => print_line(line),
        }
    }
}

/// One line on standard error. A failure to write it is ignored.
pub(crate) fn print_line(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
