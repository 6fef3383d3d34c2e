//! `torchrun` in a manifest: our launcher takes its place, with the same flags.

use k8s_openapi::api::core::v1::{Container, EnvVar};
use serde_json::Value;

use super::recovery;
use crate::label;
use crate::model::{Role, Warning};
use crate::view::Config;

/// torchrun's variable for the interpreter that runs the script.
const INTERPRETER: &str = "PYTHON_EXEC";

/// How the user started torchrun.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    /// Words of it.
    words: usize,
    /// The interpreter that it would have used, where that is a path.
    python: Option<String>,
    /// `torch.distributed.launch`, which tells the script its local rank in an argument.
    legacy: bool,
    /// As the user wrote it.
    text: String,
}

/// Whether the job's annotation keeps torchrun.
pub(super) fn is_kept(job: &Value) -> bool {
    let annotations = job.pointer("/metadata/annotations");
    annotations.and_then(|all| all.get(label::TORCHRUN)).and_then(Value::as_str) == Some("keep")
}

/// Puts our launcher in torchrun's place in all roles, or, where it cannot be in all, in none. The launcher starts ranks again
/// by itself, so the node does not. Answers where the rendezvous is, and what to tell the user.
///
/// Not in containers: the user chose the image for its own torchrun, and ours may not run there.
pub(super) fn take_over<'config>(
    job: &Value,
    roles: &mut [Role],
    config: &'config Config,
) -> Option<(&'config str, Warning)> {
    config.rendezvous.as_ref()?;
    let mut ours = Vec::new();
    let mut at = Vec::new();
    for role in roles.iter().filter(|_| !is_kept(job)) {
        let pod = role.template.spec.as_ref()?;
        at.push(recovery::address(config, pod)?);
        let main = pod.containers.iter().find(|container| container.name == role.main_container)?;
        let mut container = main.clone();
        let note = replace(&mut container)?;
        ours.push((container, note));
    }
    // Where one of them needs the open door, all take it.
    let address =
        at.iter().copied().find(|at| Some(*at) != config.rendezvous.as_deref()).or_else(|| at.first().copied())?;
    let note = ours.first().map(|(_, note)| note.clone())?;
    for (role, (container, _)) in roles.iter_mut().zip(ours) {
        let pod = role.template.spec.get_or_insert_default();
        pod.restart_policy = Some("Never".to_owned());
        if let Some(main) = pod.containers.iter_mut().find(|main| main.name == container.name) {
            *main = container;
        }
    }
    Some((address, note))
}

/// Puts our launcher in torchrun's place, if that is what the container runs. Answers what to tell the user.
pub(super) fn replace(container: &mut Container) -> Option<Warning> {
    let command = container.command.clone().unwrap_or_default();
    let args = container.args.clone().unwrap_or_default();
    let argv: Vec<&str> = command.iter().chain(&args).map(String::as_str).collect();
    // Without a command the image has one, which is not known here.
    let found = find(&argv).filter(|_| !command.is_empty())?;
    let of_args = found.words.saturating_sub(command.len());
    let ours = ["trainyard", "torchrun"].into_iter().chain(found.legacy.then_some("--legacy-launch"));
    container.command = Some(ours.map(str::to_owned).chain(command.iter().skip(found.words).cloned()).collect());
    if of_args > 0 {
        container.args = Some(args.into_iter().skip(of_args).collect());
    }
    let env = container.env.get_or_insert_default();
    if let Some(python) = found.python.filter(|_| env.iter().all(|variable| variable.name != INTERPRETER)) {
        env.push(EnvVar { name: INTERPRETER.to_owned(), value: Some(python), value_from: None });
    }
    Some(Warning {
        reason: "TorchrunReplaced".to_owned(),
        message: format!(
            "`trainyard torchrun` runs in place of `{}`, with the same flags; the annotation `{}: keep` turns that off",
            found.text,
            label::TORCHRUN
        ),
    })
}

fn find(argv: &[&str]) -> Option<Found> {
    let program = *argv.first()?;
    let (folder, name) = program.rsplit_once('/').map_or((None, program), |(folder, name)| (Some(folder), name));
    if name == "torchrun" {
        let python = folder.map(|folder| format!("{folder}/python"));
        return Some(Found { words: 1, python, legacy: false, text: program.to_owned() });
    }
    if !is_python(name) {
        return None;
    }
    // Options of the interpreter itself, such as -u, may come before -m.
    let module = argv.iter().skip(1).position(|word| *word == "-m")? + 1;
    let only_flags = argv[1..module].iter().all(|word| word.starts_with('-') && !["-c", "-"].contains(word));
    let legacy = match *argv.get(module + 1)? {
        "torch.distributed.run" => false,
        "torch.distributed.launch" => true,
        _ => return None,
    };
    only_flags.then(|| Found {
        words: module + 2,
        python: folder.map(|_| program.to_owned()),
        legacy,
        text: argv[..module + 2].join(" "),
    })
}

/// `python`, `python3`, `python3.12`.
fn is_python(name: &str) -> bool {
    name.strip_prefix("python").is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        (!text.is_empty()).then(|| text.split(' ').map(str::to_owned).collect())
    }

    #[test]
    fn every_way_to_start_torchrun_becomes_ours() {
        for (command, args, new_command, new_args, python) in [
            ("torchrun --nnodes=2 train.py", "", "trainyard torchrun --nnodes=2 train.py", "", None),
            ("torchrun", "train.py --lr 1", "trainyard torchrun", "train.py --lr 1", None),
            ("/v/bin/torchrun a.py", "", "trainyard torchrun a.py", "", Some("/v/bin/python")),
            ("python -m torch.distributed.run a.py", "-x", "trainyard torchrun a.py", "-x", None),
            ("python3.12 -u -m torch.distributed.run", "a.py", "trainyard torchrun", "a.py", None),
            ("/v/python3", "-m torch.distributed.run a.py", "trainyard torchrun", "a.py", Some("/v/python3")),
            ("python -m torch.distributed.launch a.py", "", "trainyard torchrun --legacy-launch a.py", "", None),
        ] {
            let mut container = Container { command: words(command), args: words(args), ..Container::default() };
            let told = replace(&mut container).unwrap();
            assert_eq!(told.reason, "TorchrunReplaced");
            assert_eq!(container.command, words(new_command), "{command}");
            assert_eq!(container.args.filter(|args| !args.is_empty()), words(new_args), "{command}");
            let env = container.env.unwrap_or_default();
            assert_eq!(env.first().and_then(|variable| variable.value.as_deref()), python, "{command}");
        }
    }

    #[test]
    fn other_commands_stay_as_they_are() {
        for (command, args) in [
            ("python train.py", ""),
            ("python train.py -m torch.distributed.run", ""),
            ("python -m torch.utils.bottleneck x.py", ""),
            ("bash -c torchrun", ""),
            ("mytorchrun x.py", ""),
            ("", "torchrun x.py"),
            ("python -c code -m torch.distributed.run", ""),
        ] {
            let before = Container { command: words(command), args: words(args), ..Container::default() };
            let mut container = before.clone();
            assert_eq!(replace(&mut container), None, "{command}");
            assert_eq!(container, before);
        }
    }

    #[test]
    fn the_users_own_interpreter_stays() {
        let own = EnvVar { name: INTERPRETER.to_owned(), value: Some("pypy".to_owned()), value_from: None };
        let mut container =
            Container { command: words("/v/bin/torchrun a.py"), env: Some(vec![own.clone()]), ..Container::default() };
        replace(&mut container).unwrap();
        assert_eq!(container.env, Some(vec![own]));
    }
}
