//! Container engines: podman and docker, driven by their command line.
//!
//! The engine's client runs under the shim like any program; it hands signals on, and its output is the container's.

use std::path::Path;

use crate::sandbox::Mount;

/// One run of a container.
pub(super) struct Run<'a> {
    pub(super) program: &'a Path,
    pub(super) name: String,
    pub(super) image: &'a str,
    /// As in the manifest: says whether the entrypoint is replaced.
    pub(super) command: &'a [String],
    /// Command and arguments, expanded.
    pub(super) argv: &'a [String],
    pub(super) env: &'a [(String, String)],
    pub(super) mounts: &'a [Mount],
    pub(super) hosts: &'a Path,
    pub(super) host_name: &'a str,
    pub(super) dir: Option<String>,
    pub(super) gpus: &'a [u32],
    pub(super) pull: &'a str,
}

/// The command that runs the container in the foreground.
pub(super) fn run_argv(run: &Run<'_>) -> Vec<String> {
    let mut argv: Vec<String> = vec![run.program.to_string_lossy().into_owned(), "run".into(), "--rm".into()];
    let mut option = |name: &str, value: &str| {
        argv.push(name.to_owned());
        argv.push(value.to_owned());
    };
    option("--name", &run.name);
    // All pods share the machine's network, as in process mode: one set of addresses and names for both.
    option("--network", "host");
    option("--ipc", "host");
    option("--hostname", run.host_name);
    option("--volume", &format!("{}:/etc/hosts:ro", run.hosts.display()));
    match run.pull {
        "Always" => option("--pull", "always"),
        "Never" => option("--pull", "never"),
        _ => option("--pull", "missing"),
    }
    for mount in run.mounts {
        let mode = if mount.read_only { "ro" } else { "rw" };
        option("--volume", &format!("{}:{}:{mode}", mount.source.display(), mount.target.display()));
    }
    // By name only: the values come from the client's own environment and stay out of the process list.
    for (key, _) in run.env {
        option("--env", key);
    }
    if let Some(dir) = &run.dir {
        option("--workdir", dir);
    }
    if !run.gpus.is_empty() {
        let list: Vec<String> = run.gpus.iter().map(ToString::to_string).collect();
        option("--gpus", &format!("\"device={}\"", list.join(",")));
    }
    let mut rest = run.argv;
    if !run.command.is_empty()
        && let Some((program, args)) = run.argv.split_first()
    {
        option("--entrypoint", program);
        rest = args;
    }
    argv.push(run.image.to_owned());
    argv.extend(rest.iter().cloned());
    argv
}

/// The command that takes a container away whose client was killed.
pub(super) fn remove_argv(run: &Run<'_>) -> Vec<String> {
    [run.program.to_string_lossy().as_ref(), "rm", "--force", &run.name].map(ToOwned::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn argv(command: &[&str], args: &[&str]) -> Vec<String> {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let command = own(command);
        let all: Vec<String> = command.iter().cloned().chain(own(args)).collect();
        let mounts = [Mount {
            volume: "v".into(),
            source: PathBuf::from("/h/v"),
            target: PathBuf::from("/data"),
            read_only: true,
        }];
        run_argv(&Run {
            program: Path::new("podman"),
            name: "trainyard-u-c-0".into(),
            image: "pytorch:1",
            command: &command,
            argv: &all,
            env: &[("SECRET".into(), "hidden".into())],
            mounts: &mounts,
            hosts: Path::new("/h/hosts"),
            host_name: "pod",
            dir: Some("/work".into()),
            gpus: &[0, 2],
            pull: "IfNotPresent",
        })
    }

    #[test]
    fn the_command_replaces_the_entrypoint() {
        let line = argv(&["python", "-u"], &["train.py"]).join(" ");
        assert!(line.ends_with("--entrypoint python pytorch:1 -u train.py"), "{line}");
        assert!(line.contains("--volume /h/v:/data:ro") && line.contains("--gpus \"device=0,2\""), "{line}");
    }

    #[test]
    fn arguments_alone_leave_the_entrypoint() {
        let line = argv(&[], &["--epochs", "3"]).join(" ");
        assert!(line.ends_with("pytorch:1 --epochs 3") && !line.contains("--entrypoint"), "{line}");
    }

    #[test]
    fn values_of_variables_stay_out_of_the_process_list() {
        let line = argv(&[], &[]).join(" ");
        assert!(line.contains("--env SECRET") && !line.contains("hidden"), "{line}");
    }
}
