//! A cluster by its kubeconfig: how to reach it, and what to say when it cannot be reached or does not let us in.

mod certificate;
mod forbidden;

use std::path::PathBuf;

use kube::client::AuthError;
use kube::config::{ExecConfig, KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::api::{self, Api};
use crate::arg::Global;
use crate::error::CliError;
use crate::session::{Place, Session, internal};
use trainyard_runtime_core::schema::closest;

/// Which cluster, and where the user wrote that down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The API server.
    pub(crate) url: String,
    /// The context's name.
    context: String,
    /// The kubeconfig, or the files that `KUBECONFIG` names.
    file: String,
    /// The user of the context.
    user: String,
    /// The program that makes the credentials, if there is one.
    plugin: Option<String>,
    /// When the client certificate expires, in seconds since the epoch, if there is one.
    expires: Option<i64>,
}

/// Connects to the cluster of the context that was asked for.
pub(crate) async fn connect(global: &Global) -> Result<Session, CliError> {
    let (kubeconfig, file) = read(global)?;
    let mut facts = Facts::of(&kubeconfig, global.context.as_deref(), file)?;
    let options = KubeConfigOptions { context: Some(facts.context.clone()), ..Default::default() };
    let unusable = |error: KubeconfigError| unusable(&facts.file, &error);
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(unusable)?;
    let namespace = global.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    facts.url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let exec = config.auth_info.exec.clone();
    facts.plugin = exec.as_ref().and_then(|exec| exec.command.clone());
    facts.expires = certificate::of(&config.auth_info).and_then(|pem| certificate::not_after(&pem));
    let client = kube::Client::try_from(config).map_err(|error| facts.no_client(error, exec.as_ref()))?;
    Ok(Session { api: Api::new(client), namespace, place: Place::Cluster(Box::new(facts)), embedded: None })
}

/// The kubeconfig that was asked for, and its name.
fn read(global: &Global) -> Result<(Kubeconfig, String), CliError> {
    let named = std::env::var("KUBECONFIG").ok().filter(|files| !files.is_empty());
    let (result, file) = match (&global.kubeconfig, named) {
        (Some(path), _) => (Kubeconfig::read_from(path), path.display().to_string()),
        (None, Some(files)) => (Kubeconfig::read(), files),
        (None, None) => (Kubeconfig::read(), "~/.kube/config".to_owned()),
    };
    result.map_err(|error| unusable(&file, &error)).map(|kubeconfig| (kubeconfig, file))
}

fn unusable(file: &str, error: &KubeconfigError) -> CliError {
    if let KubeconfigError::ReadConfig(source, path) = error {
        return CliError::File {
            verb: "read",
            path: PathBuf::from(path),
            source: std::io::Error::new(source.kind(), source.to_string()),
        };
    }
    CliError::Usage {
        message: format!("cannot use the kubeconfig {file}: {error}"),
        hint: "mend that file, or give another with --kubeconfig; `kubectl config view` shows what is in it".to_owned(),
    }
}

impl Facts {
    /// Looks the context up.
    fn of(kubeconfig: &Kubeconfig, wanted: Option<&str>, file: String) -> Result<Self, CliError> {
        let names: Vec<&str> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
        let list = if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
        let wanted = match wanted.or(kubeconfig.current_context.as_deref().filter(|name| !name.is_empty())) {
            Some(name) => name,
            None => {
                return Err(CliError::Usage {
                    message: format!("{file} does not say which context to use"),
                    hint: format!("choose one with --context: {list}"),
                });
            }
        };
        let Some(found) = kubeconfig.contexts.iter().find(|context| context.name == wanted) else {
            let near = closest(wanted, names.iter().copied());
            let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
            return Err(CliError::Usage {
                message: format!("there is no context `{wanted}` in {file}"),
                hint: format!("{near}{list}; another file is taken with --kubeconfig or KUBECONFIG"),
            });
        };
        let user = found.context.as_ref().and_then(|context| context.user.clone()).unwrap_or_default();
        Ok(Self { context: wanted.to_owned(), file, user, ..Self::default() })
    }

    /// `context `prod` of ~/.kube/config`.
    fn origin(&self) -> String {
        format!("context `{}` of {}", self.context, self.file)
    }

    /// Why there is no client: nearly always the program that should make the credentials.
    fn no_client(&self, error: kube::Error, exec: Option<&ExecConfig>) -> CliError {
        let plugin = self.plugin.as_deref().unwrap_or("a program");
        let install = exec.and_then(|exec| exec.install_hint.as_deref()).unwrap_or_default();
        let install = install.split_whitespace().collect::<Vec<_>>().join(" ");
        let unreachable = |message: String, hint: String| CliError::Unreachable { message, hint };
        let kube::Error::Auth(auth) = &error else {
            return internal("cannot make a connection from the kubeconfig")(error);
        };
        if let AuthError::AuthExecStart(source) = auth {
            return unreachable(
                format!("{} gets its credentials from `{plugin}`, which cannot be run: {source}", self.origin()),
                if install.is_empty() { format!("install `{plugin}`, or put it on the PATH") } else { install },
            );
        }
        if let AuthError::AuthExecRun { out, .. } = auth {
            let words = String::from_utf8_lossy(&out.stderr);
            let last = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            return unreachable(
                format!("`{plugin}`, which makes the credentials of {}, failed: {last}", self.origin()),
                format!("log in again with the tool that `{plugin}` belongs to"),
            );
        }
        unreachable(
            format!("no credentials for {}: {}", self.origin(), api::innermost(&error)),
            format!("look at user `{}` in {}", self.user, self.file),
        )
    }

    /// What to do about credentials that were not accepted.
    fn rejected(&self) -> String {
        let now = jiff::Timestamp::now().as_second();
        if let Some(expired) = self.expires.filter(|expires| *expires < now) {
            let when = jiff::Timestamp::from_second(expired).map_or_else(|_| String::new(), |at| format!(" on {at}"));
            return format!(
                "the client certificate of user `{}` in {} expired{when}: get a new kubeconfig from the cluster's administrator",
                self.user, self.file
            );
        }
        match &self.plugin {
            Some(plugin) => format!("log in again with the tool that `{plugin}` belongs to"),
            None => format!(
                "the token or certificate of user `{}` in {} is wrong or expired: log in again",
                self.user, self.file
            ),
        }
    }
}

/// Says of which cluster an error speaks, and what to do about it there.
pub(crate) fn located(error: CliError, place: &Place) -> CliError {
    let Place::Cluster(facts) = place else { return error };
    match error {
        CliError::Unreachable { message, hint } if hint == api::SILENT => CliError::Unreachable {
            message: format!("{message} ({}, {})", facts.url, facts.origin()),
            hint: format!(
                "check that {} is the right address and that you can reach it: VPN, proxy, firewall",
                facts.url
            ),
        },
        CliError::Unreachable { message, hint } => {
            CliError::Unreachable { message: format!("{message} ({}, {})", facts.url, facts.origin()), hint }
        }
        CliError::Refused { status: 401, .. } => CliError::Refused {
            message: format!("{} does not accept the credentials of {}", facts.url, facts.origin()),
            hint: Some(facts.rejected()),
            status: 401,
        },
        CliError::Refused { message, hint, status: 403 } => match forbidden::parse(&message) {
            Some(right) => CliError::Refused {
                message: format!("{} ({})", right.sentence(), facts.origin()),
                hint: Some(right.remedy()),
                status: 403,
            },
            None => CliError::Refused { message, hint, status: 403 },
        },
        other @ (CliError::Usage { .. }
        | CliError::Missing { .. }
        | CliError::File { .. }
        | CliError::Output(_)
        | CliError::Manifest { .. }
        | CliError::NotFound { .. }
        | CliError::Conflict { .. }
        | CliError::Refused { .. }
        | CliError::Simulation { .. }
        | CliError::Internal { .. }) => other,
    }
}
