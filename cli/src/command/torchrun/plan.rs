//! What a torchrun command line comes to, with torchrun's defaults and refusals.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::option::{self, Given};

/// torchrun's own, where neither an option nor a variable says anything else.
const DEFAULT_PORT: i64 = 29500;
const SIGNALS: &str = "SIGTERM,SIGINT,SIGHUP,SIGQUIT";
const BACKENDS: [&str; 4] = ["static", "c10d", "etcd", "etcd-v2"];
/// Runs a script in the interpreter that was started for it, as `--run-path` asks.
const RUN_PATH: &str = "import runpy,sys; sys.argv=sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')";
/// Bits of a redirection.
const OUT: u8 = 1;
const ALL: u8 = 3;

/// All decisions of one node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Plan {
    pub(super) min_nodes: i64,
    pub(super) max_nodes: i64,
    /// A number, `auto`, `cpu` or `gpu`.
    pub(super) nproc_per_node: String,
    /// `None`: a name is made up.
    pub(super) run_id: Option<String>,
    pub(super) role: String,
    pub(super) rdzv_backend: String,
    pub(super) rdzv_endpoint: String,
    pub(super) rdzv_configs: BTreeMap<String, String>,
    pub(super) node_rank: i64,
    /// Where the ranks meet, in a static rendezvous.
    pub(super) master: Option<(String, u16)>,
    pub(super) max_restarts: i64,
    pub(super) local_addr: Option<String>,
    pub(super) logs: Logs,
    pub(super) signals_to_handle: String,
    pub(super) shutdown_timeout: i64,
    pub(super) virtual_local_rank: bool,
    /// What torchrun does not have: `auto` or `off`, and `report` or `restart`.
    #[serde(skip)]
    pub(super) spares: Option<String>,
    #[serde(skip)]
    pub(super) on_hang: Option<String>,
    /// The program, and its arguments.
    pub(super) command: Vec<String>,
    /// What was asked for and has no effect here, with the reason.
    #[serde(skip)]
    pub(super) without_effect: Vec<String>,
}

/// Where the output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Logs {
    pub(super) log_dir: Option<String>,
    pub(super) redirects: Streams,
    pub(super) tee: Streams,
    pub(super) local_ranks_filter: Option<BTreeSet<i64>>,
    pub(super) duplicate_stdout_filters: Vec<String>,
    pub(super) duplicate_stderr_filters: Vec<String>,
}

/// Bits (1 stdout, 2 stderr) for all local ranks, or for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Streams {
    All(u8),
    Each(BTreeMap<u32, u8>),
}

impl Default for Streams {
    fn default() -> Self {
        Self::All(0)
    }
}

impl Streams {
    /// Whether it asks for nothing.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::All(bits) => *bits == 0,
            Self::Each(ranks) => ranks.values().all(|bits| *bits == 0),
        }
    }

    /// `3`, or `0:3,1:0`, each number of one digit.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is neither a number from 0 to 3 nor a list like 0:3,1:1 of local ranks");
        let bits = |text: &str| match text.as_bytes() {
            [digit @ b'0'..=b'3'] => Some(digit - b'0'),
            _ => None,
        };
        if let Some(bits) = bits(text) {
            return Ok(Self::All(bits));
        }
        let pair = |pair: &str| {
            let (rank, value) = pair.split_once(':')?;
            let rank = if rank.len() == 1 { rank.parse::<u32>().ok()? } else { return None };
            Some((rank, bits(value)?))
        };
        text.split(',').map(pair).collect::<Option<_>>().map(Self::Each).ok_or_else(wrong)
    }
}

impl Plan {
    /// The straight line from what was given.
    pub(super) fn of(given: &Given, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let (min_nodes, max_nodes) = nodes(given.text("nnodes").unwrap_or("1:1"))?;
        let max_restarts = given.integer("max-restarts").unwrap_or(0);
        if max_restarts < 0 {
            return Err("--max-restarts must be 0 or more".to_owned());
        }
        let rendezvous = Rendezvous::of(given, max_nodes)?;
        let shutdown_timeout = match given.integer("shutdown-timeout") {
            Some(seconds) => seconds,
            None => match variable("TORCH_ELASTIC_SHUTDOWN_TIMEOUT") {
                Some(text) => {
                    option::integer(&text).ok_or(format!("TORCH_ELASTIC_SHUTDOWN_TIMEOUT={text} is not a number"))?
                }
                None => 30,
            },
        };
        if shutdown_timeout < 0 {
            return Err(format!("--shutdown-timeout must be 0 or more, not {shutdown_timeout}"));
        }
        if let Some(class) = given.text("logs-specs") {
            return Err(format!("--logs-specs {class} names a Python class, which this launcher cannot load"));
        }
        let text = |name, default: &str| given.text(name).unwrap_or(default).to_owned();
        Ok(Self {
            min_nodes,
            max_nodes,
            nproc_per_node: processes(given.text("nproc-per-node").unwrap_or("1"))?,
            run_id: rendezvous.run_id,
            role: text("role", "default"),
            rdzv_backend: rendezvous.backend,
            rdzv_endpoint: rendezvous.endpoint,
            rdzv_configs: rendezvous.configs,
            node_rank: given.integer("node-rank").unwrap_or(0),
            master: rendezvous.master,
            max_restarts,
            local_addr: given.text("local-addr").map(str::to_owned),
            logs: logs(given)?,
            signals_to_handle: text("signals-to-handle", SIGNALS),
            shutdown_timeout,
            virtual_local_rank: given.flag("virtual-local-rank"),
            spares: given.text("spares").map(str::to_owned),
            on_hang: given.text("on-hang").map(str::to_owned),
            command: command(given, &variable)?,
            without_effect: without_effect(given),
        })
    }
}

/// Where the nodes meet.
struct Rendezvous {
    backend: String,
    endpoint: String,
    run_id: Option<String>,
    configs: BTreeMap<String, String>,
    master: Option<(String, u16)>,
}

impl Rendezvous {
    fn of(given: &Given, max_nodes: i64) -> Result<Self, String> {
        let backend = given.text("rdzv-backend").unwrap_or("static");
        let endpoint = given.text("rdzv-endpoint").unwrap_or("");
        let port = given.integer("master-port");
        let configs = configs(given.text("rdzv-conf").unwrap_or(""))?;
        let alone = backend == "static" && endpoint.is_empty() && port.is_none() && max_nodes == 1;
        if given.flag("standalone") || alone {
            let endpoint = "localhost:0".to_owned();
            return Ok(Self { backend: "c10d".to_owned(), endpoint, run_id: None, configs, master: None });
        }
        if !BACKENDS.contains(&backend) {
            return Err(format!("--rdzv-backend {backend} is none of {}", BACKENDS.join(", ")));
        }
        let mut endpoint = endpoint.to_owned();
        let mut master = None;
        if backend == "static" {
            if endpoint.is_empty() {
                let address = given.text("master-addr").unwrap_or("127.0.0.1");
                endpoint = format!("{address}:{}", port.unwrap_or(DEFAULT_PORT));
            }
            let (host, port) = host_and_port(&endpoint)?;
            master = Some((host, port.ok_or(format!("the port is missing in {endpoint}; try --master-port"))?));
        }
        let run_id = Some(given.text("rdzv-id").unwrap_or("none").to_owned());
        Ok(Self { backend: backend.to_owned(), endpoint, run_id, configs, master })
    }
}

/// `host`, `host:port`, `[::1]:port`.
pub(super) fn host_and_port(endpoint: &str) -> Result<(String, Option<u16>), String> {
    let endpoint = endpoint.trim();
    if endpoint.is_empty() {
        return Ok(("localhost".to_owned(), None));
    }
    let bracketed = endpoint.starts_with('[') && endpoint.ends_with(']');
    let (host, port) = match endpoint.rsplit_once(':') {
        Some((host, port)) if !bracketed => (host, Some(port)),
        Some(_) | None => (endpoint, None),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || !host.chars().all(|c| c.is_alphanumeric() || "_.:-".contains(c)) {
        return Err(format!("'{host}' in the endpoint {endpoint} is neither a host's name nor an address"));
    }
    let port = port.map(|port| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        port.parse::<u16>()
            .ok()
            .filter(|_| digits)
            .ok_or(format!("the port of the endpoint {endpoint} is not a number below 65536"))
    });
    Ok((host.to_owned(), port.transpose()?))
}

/// `2`, or `1:4`.
fn nodes(text: &str) -> Result<(i64, i64), String> {
    let wrong = || format!("--nnodes {text} is neither a number nor MIN:MAX");
    let number = |text: &str| option::integer(text).ok_or_else(wrong);
    let (least, most) = match text.split_once(':') {
        Some((least, most)) => (number(least)?, number(most)?),
        None => (number(text)?, number(text)?),
    };
    match 0 < least && least <= most {
        true => Ok((least, most)),
        false => Err(format!("--nnodes {text}: the least must be more than 0 and no more than the most")),
    }
}

fn processes(text: &str) -> Result<String, String> {
    match option::integer(text) {
        Some(count) if count > 0 => Ok(count.to_string()),
        Some(_) => Err(format!("--nproc-per-node {text}: at least one rank is needed")),
        None if ["auto", "cpu", "gpu"].contains(&text) => Ok(text.to_owned()),
        None => Err(format!("--nproc-per-node {text} is neither a number nor auto, cpu or gpu")),
    }
}

/// `key=value,key=value`.
fn configs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (key.trim(), value.trim());
        match key.is_empty() || value.is_empty() {
            true => Err(format!("--rdzv-conf {text}: '{pair}' is not KEY=VALUE")),
            false => Ok((key.to_owned(), value.to_owned())),
        }
    };
    text.split(',').map(pair).collect()
}

fn logs(given: &Given) -> Result<Logs, String> {
    let streams = |name| {
        let parsed = Streams::parse(given.text(name).unwrap_or("0"));
        parsed.map_err(|error| format!("--{name} {error}"))
    };
    let ranks = given.text("local-ranks-filter").filter(|text| !text.is_empty()).map(|text| {
        let ranks: Option<BTreeSet<i64>> = text.split(',').map(option::integer).collect();
        ranks.ok_or(format!("--local-ranks-filter {text} is not a list of local ranks like 0,1,2"))
    });
    Ok(Logs {
        log_dir: given.text("log-dir").filter(|dir| !dir.is_empty()).map(str::to_owned),
        redirects: streams("redirects")?,
        tee: streams("tee")?,
        local_ranks_filter: ranks.transpose()?,
        duplicate_stdout_filters: given.list("duplicate-stdout-filters"),
        duplicate_stderr_filters: given.list("duplicate-stderr-filters"),
    })
}

fn command(given: &Given, variable: &impl Fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
    let use_env = given.flag("use-env");
    if use_env && !given.legacy {
        return Err("unrecognized arguments: --use-env".to_owned());
    }
    let python = || variable("PYTHON_EXEC").unwrap_or_else(|| "python3".to_owned());
    let script = given.script.clone();
    let mut command = if given.flag("run-path") {
        vec![python(), "-u".to_owned(), "-c".to_owned(), RUN_PATH.to_owned(), script]
    } else if given.flag("no-python") {
        if given.flag("module") {
            return Err("Don't use both the '--no-python' flag and the '--module' flag at the same time.".to_owned());
        }
        if given.legacy && !use_env {
            return Err("When using the '--no-python' flag, you must also set the '--use-env' flag.".to_owned());
        }
        vec![script]
    } else {
        let mut command = vec![python(), "-u".to_owned()];
        command.extend(given.flag("module").then(|| "-m".to_owned()));
        command.push(script);
        command
    };
    if given.legacy && !use_env {
        command.push("--local-rank=${local_rank}".to_owned());
    }
    command.extend(given.arguments.iter().cloned());
    Ok(command)
}

/// Options that were given and change nothing, each with the reason.
fn without_effect(given: &Given) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut say = |name: &'static str, why: &str| {
        if given.text(name).is_some() {
            words.push(format!("--{name}: {why}"));
        }
    };
    say("monitor-interval", "deaths are seen at once");
    say("start-method", "scripts are started as programs");
    say("event-log-handler", "there are no Python handlers here");
    say("numa-binding", "ranks are not bound to processors");
    let redirected = ["redirects", "tee"].iter().any(|name| given.text(name).is_some_and(|text| text != "0"));
    if given.text("log-dir").is_some() && !redirected {
        words.push("--log-dir: without --redirects or --tee nothing is written to files".to_owned());
    }
    let teed = |bits: u8| {
        Streams::parse(given.text("tee").unwrap_or("0")).is_ok_and(|tee| match tee {
            Streams::All(all) => all & bits != 0,
            Streams::Each(each) => each.values().any(|one| one & bits != 0),
        })
    };
    for (name, bits) in [("duplicate-stdout-filters", OUT), ("duplicate-stderr-filters", ALL - OUT)] {
        if given.text(name).is_some_and(|text| !text.is_empty()) && !teed(bits) {
            words.push(format!("--{name}: only what --tee copies is looked at"));
        }
    }
    words
}
