//! Jobs with builds that do what a test says.

use std::sync::mpsc;
use std::time::Duration;

use super::*;

/// Builds that wait for a word, or for being stopped.
struct Yard {
    jobs: Arc<Jobs>,
    /// The builds that have begun.
    begun: Mutex<mpsc::Receiver<PathBuf>>,
    /// Lets one build end, well or not.
    end: mpsc::Sender<bool>,
}

impl Yard {
    fn new(max_running: usize) -> Self {
        let (begin, begun) = mpsc::channel();
        let (end, ends) = mpsc::channel::<bool>();
        let ends = Mutex::new(ends);
        let build = move |request: &Request, ui: &Ui, stop: watch::Receiver<bool>| {
            begin.send(request.config.clone()).unwrap();
            ui.note("building");
            loop {
                if *stop.borrow() {
                    return Err(BuildError::Interrupted);
                }
                let word = ends.lock().unwrap().recv_timeout(Duration::from_millis(1));
                match word {
                    Ok(true) => {
                        return Ok(Built {
                            artifact: "out".into(),
                            manifest: None,
                        });
                    }
                    Ok(false) => {
                        return Err(BuildError::NoOutputDirectory {
                            path: request.config.clone(),
                        });
                    }
                    Err(_) => {}
                }
            }
        };
        Self {
            jobs: Jobs::new(Box::new(build), max_running, 7),
            begun: Mutex::new(begun),
            end,
        }
    }

    fn submit(&self, config: &str, output: Option<&str>) -> Result<Arc<Job>, Refused> {
        self.jobs.submit(Request {
            config: config.into(),
            manifest: None,
            output: output.map(PathBuf::from),
            absolute_output: false,
        })
    }

    /// The next build that begins.
    fn begun(&self) -> String {
        let begun = self.begun.lock().unwrap();
        let path = begun.recv_timeout(Duration::from_mins(1)).unwrap();
        path.display().to_string()
    }

    fn phases(&self) -> Vec<Phase> {
        let jobs = self.jobs.list();
        jobs.iter().map(|job| job.status().phase).collect()
    }
}

#[tokio::test]
async fn jobs_run_one_after_the_other() {
    let yard = Yard::new(1);
    let one = yard.submit("one", Some("a")).unwrap();
    let two = yard.submit("two", Some("b")).unwrap();
    assert_eq!(
        (one.id.as_str(), two.id.as_str()),
        ("00000007-1", "00000007-2")
    );
    tokio::task::yield_now().await;
    assert_eq!(yard.begun(), "one");
    assert_eq!(yard.phases(), [Phase::Running, Phase::Queued]);
    yard.end.send(true).unwrap();
    let status = one.ended().await;
    assert_eq!(status.phase, Phase::Succeeded);
    assert_eq!(status.built.unwrap().artifact, Path::new("out"));
    yard.end.send(false).unwrap();
    let status = two.ended().await;
    assert_eq!(status.phase, Phase::Failed);
    assert_eq!(status.problem.unwrap().code, "not-found");
    assert_eq!(yard.begun(), "two");
    assert_eq!(yard.phases(), [Phase::Succeeded, Phase::Failed]);
    let entries = two.log.after(0).entries.into_iter();
    let kinds: Vec<String> = entries.map(|(_, entry)| format!("{entry:.24?}")).collect();
    assert_eq!(kinds.len(), 5, "{kinds:?}");
}

#[tokio::test]
async fn what_could_write_the_same_file_does_not_run_at_once() {
    let yard = Yard::new(3);
    let one = yard.submit("one", Some("dir/a")).unwrap();
    let same = yard.submit("same", Some("dir/a")).unwrap();
    let other = yard.submit("other", Some("dir/b")).unwrap();
    tokio::task::yield_now().await;
    let mut begun = [yard.begun(), yard.begun()];
    begun.sort();
    assert_eq!(begun, ["one", "other"]);
    assert_eq!(same.status().phase, Phase::Queued);
    // All three words at once: which build hears which is not said, and the third begins while the second may still run.
    for _ in 0..3 {
        yard.end.send(true).unwrap();
    }
    one.ended().await;
    other.ended().await;
    assert_eq!(same.ended().await.phase, Phase::Succeeded);
}

#[test]
fn an_artifact_without_a_name_lies_at_the_top() {
    let request = |output: Option<&str>| Request {
        config: "x".into(),
        manifest: None,
        output: output.map(PathBuf::from),
        absolute_output: false,
    };
    for (one, two, expected) in [
        (None, None, true),
        (None, Some("a"), true),
        (None, Some("dir/a"), false),
        (Some("a"), Some("a"), true),
        (Some("a"), Some("b"), false),
    ] {
        assert_eq!(
            request(one).collides_with(&request(two)),
            expected,
            "{one:?} {two:?}"
        );
        assert_eq!(
            request(two).collides_with(&request(one)),
            expected,
            "{one:?} {two:?}"
        );
    }
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let yard = Yard::new(1);
    for number in 0..=MAX_QUEUED {
        yard.submit(&number.to_string(), Some(&number.to_string()))
            .unwrap();
    }
    assert_eq!(
        yard.submit("late", Some("late")).unwrap_err(),
        Refused::QueueFull
    );
    let jobs = yard.jobs.list();
    assert_eq!(jobs.len(), MAX_QUEUED + 1);
    // A place becomes free.
    yard.jobs.cancel(&jobs[5]);
    assert_eq!(jobs[5].status().phase, Phase::Cancelled);
    yard.submit("later", Some("later")).unwrap();
    yard.jobs.end().await;
    let phases = yard.phases();
    assert!(
        phases.iter().all(|phase| *phase == Phase::Cancelled),
        "{phases:?}"
    );
    assert_eq!(yard.submit("x", None).unwrap_err(), Refused::Ending);
}

#[tokio::test]
async fn a_running_job_is_cancelled_once() {
    let yard = Yard::new(1);
    let job = yard.submit("one", None).unwrap();
    tokio::task::yield_now().await;
    yard.begun();
    yard.jobs.cancel(&job);
    let status = job.ended().await;
    assert_eq!(status.phase, Phase::Cancelled);
    assert_eq!(status.problem.unwrap().code, "cancelled");
    yard.jobs.cancel(&job);
    let rest = job.log.after(0);
    assert!(rest.ended);
    assert_eq!(
        rest.entries.last().unwrap().1,
        Entry::Phase(Phase::Cancelled)
    );
}

#[tokio::test]
async fn only_the_last_jobs_are_remembered() {
    let yard = Yard::new(1);
    let mut ids = Vec::new();
    for _ in 0..MAX_ENDED + 3 {
        let job = yard.submit("x", None).unwrap();
        yard.end.send(true).unwrap();
        job.ended().await;
        ids.push(job.id.clone());
    }
    // The last one may be on its way from those that run to those that ended.
    assert!(yard.jobs.list().len() <= MAX_ENDED + 1);
    assert!(yard.jobs.find(&ids[0]).is_none());
    assert!(yard.jobs.find(&ids[MAX_ENDED + 2]).is_some());
}

#[tokio::test]
async fn a_build_that_panics_is_a_bug() {
    let build = |_: &Request, _: &Ui, _: watch::Receiver<bool>| panic!("on purpose");
    let jobs = Jobs::new(Box::new(build), 1, 0);
    let request = Request {
        config: "x".into(),
        manifest: None,
        output: None,
        absolute_output: false,
    };
    let status = jobs.submit(request).unwrap().ended().await;
    assert_eq!(status.phase, Phase::Failed);
    assert_eq!(status.problem.unwrap().status, 500);
}
