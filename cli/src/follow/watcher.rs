//! Follows one job from here to its end, and obeys Ctrl-C: waits for what happens, and carries out what follows from it.

use serde_json::Value;
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::control::{kill_pods, pods_path, suspend};
use super::ending::{Ending, Remains, Wish};
use super::failure;
use super::figures::Figures;
use super::label::Label;
use super::news::{News, Note};
use super::observe::{Seen, Subject, observe};
use super::outcome::{Before, Manner, Outcome, Report};
use super::phase::Phase;
use super::progress::Progress;
use super::scene::Scene;
use super::screen::Screen;
use super::signals::Signals;
use super::stream::{Choice, Line, Streams};
use super::words::Words;
use crate::api::{ApiError, query};
use crate::error::CliError;
use crate::output::style;
use crate::session::{Place, Session};
use crate::target::Found;

/// Observations waiting to be shown. Log readers wait when it is full, so that a flood of lines cannot fill the memory.
const QUEUE: usize = 1024;

struct Watcher<'a> {
    session: &'a Session,
    manner: Manner,
    started: Instant,
    scene: Scene,
    streams: Streams,
    screen: Screen,
    news: News,
    figures: Figures,
    words: Words,
    ending: Ending,
    /// Whether the pods were listed after the end.
    looked_again: bool,
    /// The reader of our stdout went away.
    reader_gone: bool,
    output_failed: bool,
}

/// Follows a job until it ends, is stopped, or is left.
pub(crate) async fn follow(
    session: &Session,
    found: Found,
    manner: Manner,
    before: Before,
) -> Result<Report, CliError> {
    let (to, from) = mpsc::channel(QUEUE);
    let _tasks = observe_all(session, &found, &to);
    let streams = Streams::new(session.api.clone(), found.name().to_owned(), Choice::default(), to);
    let here = !matches!(session.place, Place::Cluster(_));
    let cpus = here.then(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let mut watcher = Watcher {
        session,
        manner,
        started: before.started,
        scene: Scene::new(found),
        streams: streams.after(before.delivered),
        screen: Screen::new(),
        news: News::new(cpus, manner.owner),
        figures: Figures::default(),
        words: Words::default(),
        ending: Ending::new(manner.owner),
        looked_again: false,
        reader_gone: false,
        output_failed: false,
    };
    if let Some((signal, at_once)) = before.stop {
        watcher.stop(signal).await?;
        if at_once {
            watcher.kill(signal).await?;
        }
    }
    watcher.run(from).await
}

/// The job, its pods, and the events of its namespace. The tasks end with what is returned.
fn observe_all(session: &Session, found: &Found, to: &Sender<Seen>) -> JoinSet<()> {
    let namespace = found.namespace();
    let one = query(&format!("metadata.name={}", found.name()));
    let paths = [
        (Subject::Job, format!("{}?fieldSelector={one}", found.resource.collection(Some(namespace)))),
        (Subject::Pod, pods_path(found)),
        (Subject::Event, format!("/api/v1/namespaces/{namespace}/events")),
    ];
    let mut tasks = JoinSet::new();
    for (subject, path) in paths {
        tasks.spawn(observe(session.api.clone(), path, subject, to.clone()));
    }
    tasks
}

impl Watcher<'_> {
    async fn run(mut self, mut from: Receiver<Seen>) -> Result<Report, CliError> {
        let mut signals = Signals::new()?;
        let outcome = loop {
            if self.ending.has_ended() && !self.looked_again {
                self.looked_again = true;
                self.look_again().await?;
            }
            let now = Instant::now();
            if let Some(outcome) = self.ending.over(self.remains(), now) {
                break outcome;
            }
            let deadline = self.ending.deadline(now);
            let over = tokio::select! {
                biased;
                number = signals.next() => self.interrupted(number).await?,
                seen = from.recv() => match seen {
                    Some(seen) => {
                        self.see(seen)?;
                        self.reader_left().await?
                    }
                    // The streams hold a sender, so this cannot happen before the end.
                    None => Some(Outcome::Deleted),
                },
                () = sleep_until(deadline.unwrap_or(now)), if deadline.is_some() => self.ending.too_late(),
            };
            if let Some(outcome) = over {
                break outcome;
            }
        };
        self.screen.clear();
        Ok(self.report(outcome))
    }

    fn remains(&self) -> Remains {
        Remains { pods: self.scene.left(), logs: self.streams.any_open(), untold: !self.scene.says_suspended() }
    }

    /// The job's watch may be ahead of that of its pods: what they printed must not be missed.
    async fn look_again(&mut self) -> Result<(), CliError> {
        let mut list = match self.session.api.get(&pods_path(&self.scene.found)).await {
            // The server of another `trainyard run` goes when its job ends; what was seen until then must do.
            Err(ApiError::Transport(_)) => return Ok(()),
            list => list?,
        };
        for pod in list["items"].as_array_mut().into_iter().flatten() {
            self.see_pod(pod.take());
        }
        Ok(())
    }

    fn report(self, outcome: Outcome) -> Report {
        let scene = &self.scene;
        let mut failure = failure::first(scene.pods(), scene.found.name(), scene.had_one_pod());
        if let (Some(failure), Some(rank)) = (&mut failure, self.words.failed_rank())
            && matches!(failure.label, Label::Only | Label::Named(_))
        {
            failure.label = Label::Rank(rank);
        }
        Report {
            outcome,
            pod_uids: scene.pod_uids(),
            last_words: failure.as_ref().map(|failure| self.words.of(&failure.label)).unwrap_or_default(),
            failure,
            progress: self.figures.result(),
            took: self.started.elapsed(),
            before: Before { started: self.started, delivered: self.streams.delivered(), stop: self.ending.stop() },
            output_failed: self.output_failed,
            job: self.scene.found.object,
        }
    }

    fn see(&mut self, seen: Seen) -> Result<(), CliError> {
        let now = Instant::now();
        match seen {
            Seen::Present(Subject::Job, object) if self.scene.is_job(&object) => self.see_job(object),
            Seen::Present(Subject::Job, _) => {}
            Seen::Present(Subject::Pod, pod) => self.see_pod(pod),
            Seen::Present(Subject::Event, event) => {
                return self.news.of_event(&event, &self.scene).map_or(Ok(()), |note| self.tell(&note));
            }
            Seen::Gone(Subject::Job, object) if self.scene.is_job(&object) => self.ending.job_gone(now),
            Seen::Gone(Subject::Pod, pod) => self.scene.pod_gone(pod),
            Seen::Listed(Subject::Job, uids) if uids.is_empty() => self.ending.job_gone(now),
            Seen::Listed(Subject::Pod, uids) => self.scene.only_these_exist(&uids),
            Seen::Gone(Subject::Job | Subject::Event, _) | Seen::Listed(Subject::Job | Subject::Event, _) => {}
            // Three watches break together; one of them is enough to tell.
            Seen::Lost(Subject::Job, why) => {
                if matches!(self.session.place, Place::Server { .. }) {
                    self.ending.server_lost(now);
                }
                self.screen.say("warning:", style::CARE, &format!("{why}; the job goes on, trying again"))?;
            }
            Seen::Back(Subject::Job) => {
                self.ending.server_back();
                self.screen.say("Connected", style::GOOD, "the API server answers again")?;
            }
            Seen::Lost(Subject::Pod | Subject::Event, _) | Seen::Back(Subject::Pod | Subject::Event) => {}
            Seen::Line(line) => return self.see_line(line, now),
            Seen::LogEnded(key) => self.streams.ended(&key),
        }
        self.show()
    }

    fn see_job(&mut self, object: Value) {
        self.figures.take(Progress::of(&object["status"]["progress"]));
        self.scene.see_job(object);
        if let Some(outcome) = self.scene.outcome(self.manner.until_available) {
            self.ending.job_ended(outcome, Instant::now());
        }
    }

    fn see_pod(&mut self, pod: Value) {
        self.figures.take(Progress::of_pod(&pod));
        self.scene.see_pod(pod);
        let alone = self.scene.is_alone();
        // All pods are looked at again: with a second pod, the first one's lines need a name.
        for pod in self.scene.pods() {
            self.streams.look_at(pod, alone);
        }
    }

    fn see_line(&mut self, line: Line, now: Instant) -> Result<(), CliError> {
        if let Err(error) = self.screen.log(&line.label, &line.text) {
            self.no_output(&error)?;
        }
        self.ending.line_came(self.scene.left(), now);
        // Of a job that we did not start the first lines are old: their times mean nothing.
        let progress = self.manner.owner && self.figures.read(&line.label, &line.text, crate::view::now_ms());
        self.words.hear(line);
        // The phase cannot have changed by this.
        if progress { self.show() } else { Ok(()) }
    }

    /// Stdout takes no more lines. Without a reader we stop as any program in a pipe does; else the job is worth more than its output.
    fn no_output(&mut self, error: &std::io::Error) -> Result<(), CliError> {
        self.screen.mute();
        self.reader_gone = error.kind() == std::io::ErrorKind::BrokenPipe;
        self.output_failed = !self.reader_gone;
        if self.output_failed {
            let name = self.scene.found.name();
            let text = format!("cannot write the output: {error}; the job goes on, see `trainyard logs {name}`");
            self.screen.say("warning:", style::BAD, &text)?;
        }
        Ok(())
    }

    async fn reader_left(&mut self) -> Result<Option<Outcome>, CliError> {
        if std::mem::take(&mut self.reader_gone) && !self.ending.is_stopping() {
            return self.interrupted(SignalKind::pipe().as_raw_value()).await;
        }
        Ok(None)
    }

    /// Shows what is new, and the live line.
    fn show(&mut self) -> Result<(), CliError> {
        for note in self.news.of_scene(&self.scene, &self.words, self.ending.is_stopping()) {
            self.tell(&note)?;
        }
        let phase = self.news.phase();
        match (phase, self.figures.moving()) {
            (Phase::Running { .. }, Some(progress)) => self.screen.progress(&progress)?,
            (Phase::Ended(_) | Phase::Ending, _) => {}
            (
                Phase::Created
                | Phase::Queued { .. }
                | Phase::Starting { .. }
                | Phase::Running { .. }
                | Phase::BackingOff { .. }
                | Phase::Restarting { .. }
                | Phase::Suspended { .. },
                _,
            ) => self.screen.wait(&format!("{} {}", phase.word(), phase.detail())),
        }
        Ok(())
    }

    fn tell(&self, note: &Note) -> Result<(), CliError> {
        self.screen.say(note.word, note.style, &note.text)?;
        note.more.iter().try_for_each(|line| self.screen.more(line))?;
        Ok(())
    }

    /// First Ctrl-C: stop gracefully. Second: kill. Of a job that is not ours: leave.
    async fn interrupted(&mut self, signal: i32) -> Result<Option<Outcome>, CliError> {
        match self.ending.wish(signal, Instant::now()) {
            Wish::Leave(outcome) => return Ok(Some(outcome)),
            Wish::Same => {}
            Wish::Stop => {
                self.screen.say("Stopping", style::CARE, "all ranks get SIGTERM; Ctrl-C again kills them at once")?;
                self.stop(signal).await?;
            }
            Wish::Kill => {
                self.screen.say("Killing", style::BAD, "all ranks get SIGKILL")?;
                self.kill(signal).await?;
            }
        }
        Ok(None)
    }

    async fn stop(&mut self, signal: i32) -> Result<(), CliError> {
        self.ending.stops(signal, Instant::now());
        suspend(self.session, &self.scene.found).await?;
        self.look_again().await
    }

    async fn kill(&mut self, signal: i32) -> Result<(), CliError> {
        self.ending.kills(signal, Instant::now());
        kill_pods(self.session, &self.scene.found).await
    }
}
