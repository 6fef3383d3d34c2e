//! Images: looked for, and pulled where the manifest wants it, before a container starts. Pods do not wait for each
//! other's pulls, and a stop does not wait for any.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use crate::shim::now_ms;

/// The wait after the first failed pull; it doubles from there (Kubernetes' numbers).
const BACK_OFF_MS: i64 = 10_000;
const BACK_OFF_MAX_MS: i64 = 300_000;

/// Why a container has to wait for its image. The words are Kubernetes'.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum ImageError {
    #[error("Container image {0:?} is not present with pull policy of Never")]
    Never(String),
    #[error("Pulling image {0:?}")]
    Pulling(String),
    #[error("Failed to pull image {image:?}: {said}")]
    Failed { image: String, said: String },
}

impl ImageError {
    /// The reason that the container's status gives for waiting.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Never(_) => "ErrImageNeverPull",
            Self::Pulling(_) => "ContainerCreating",
            Self::Failed { .. } => "ErrImagePull",
        }
    }
}

#[derive(Clone, Debug)]
enum Pull {
    Running,
    Failed { said: String, failures: u32, retry_at_ms: i64 },
}

/// The pulls of an agent.
#[derive(Debug, Default)]
pub(super) struct Images {
    pulls: Arc<Mutex<BTreeMap<String, Pull>>>,
}

/// A call of the engine's client.
pub(super) struct Client<'a> {
    pub(super) program: &'a str,
    pub(super) env: &'a [(String, String)],
}

impl Client<'_> {
    fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.program);
        command.args(args).env_clear().envs(self.env.iter().map(|(key, value)| (key, value))).stdin(Stdio::null());
        command
    }

    async fn has(&self, image: &str) -> bool {
        let mut command = self.command(&["image", "inspect", "--format", "{{.Id}}", image]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().await.is_ok_and(|status| status.success())
    }
}

impl Images {
    /// Whether a container of this image can start now. An image that is there is used as it is, also under the policy
    /// Always: a machine may have no registry, and what was built here is what is meant.
    pub(super) async fn ready(&self, client: &Client<'_>, image: &str, policy: &str) -> Result<(), ImageError> {
        if client.has(image).await {
            self.lock().remove(image);
            return Ok(());
        }
        if policy == "Never" {
            return Err(ImageError::Never(image.to_owned()));
        }
        let failures = match self.lock().get(image) {
            Some(Pull::Running) => return Err(ImageError::Pulling(image.to_owned())),
            Some(Pull::Failed { said, retry_at_ms, .. }) if now_ms() < *retry_at_ms => {
                return Err(ImageError::Failed { image: image.to_owned(), said: said.clone() });
            }
            Some(Pull::Failed { failures, .. }) => *failures,
            None => 0,
        };
        self.pull(client, image, failures);
        Err(ImageError::Pulling(image.to_owned()))
    }

    fn pull(&self, client: &Client<'_>, image: &str, failures: u32) {
        self.lock().insert(image.to_owned(), Pull::Running);
        let (pulls, image) = (self.pulls.clone(), image.to_owned());
        let mut command = client.command(&["pull", &image]);
        tokio::spawn(async move {
            let said = match command.stdout(Stdio::null()).kill_on_drop(true).output().await {
                Ok(output) if output.status.success() => None,
                Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
                Err(error) => Some(error.to_string()),
            };
            let mut pulls = pulls.lock().unwrap_or_else(PoisonError::into_inner);
            match said {
                None => pulls.remove(&image),
                Some(said) => {
                    let wait = (BACK_OFF_MS << failures.min(8)).min(BACK_OFF_MAX_MS);
                    pulls.insert(
                        image,
                        Pull::Failed { said, failures: failures + 1, retry_at_ms: now_ms().saturating_add(wait) },
                    )
                }
            };
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Pull>> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
