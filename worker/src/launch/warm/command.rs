//! Which commands are Python programs that a spare can become.

/// Python modules that are launchers themselves: their ranks are not the process that we start.
const LAUNCHERS: [&str; 6] = [
    "torch.distributed.run",
    "torch.distributed.launch",
    "accelerate.commands.launch",
    "accelerate.launch",
    "deepspeed.launcher.runner",
    "deepspeed.launcher.launch",
];
/// Interpreter options without an argument that change how a program runs but not which. Others (`-c`, `-i`, `-x`, help
/// and version) mean that no program is run as usual.
const PLAIN: &str = "bBdEIOPqRsSuv";
/// Interpreter options with an argument.
const WITH_ARGUMENT: &str = "WX";

/// `python FLAGS script arguments…` or `python FLAGS -m module arguments…`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) interpreter: String,
    pub(super) flags: Vec<String>,
    pub(super) target: Target,
    pub(super) arguments: Vec<String>,
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A file.
    Script(String),
    /// `-m module`.
    Module(String),
}

impl Program {
    /// Nothing for a command that is not a plain Python program.
    pub(super) fn of(command: &[String]) -> Option<Self> {
        let (interpreter, rest) = command.split_first()?;
        if !is_python(interpreter) {
            return None;
        }
        let mut flags = Vec::new();
        let mut rest = rest.iter();
        loop {
            let word = rest.next()?;
            if word == "--check-hash-based-pycs" {
                flags.extend([word.clone(), rest.next()?.clone()]);
                continue;
            }
            let Some(letters) = word.strip_prefix('-').filter(|_| !word.starts_with("--")) else {
                let target = Target::Script(word.clone());
                let script = !word.starts_with('-') && !word.is_empty();
                return script.then(|| Self::new(interpreter, flags, target, rest));
            };
            match option(letters)? {
                Letters::Complete => flags.push(word.clone()),
                Letters::Argument => flags.extend([word.clone(), rest.next()?.clone()]),
                Letters::Module { before, module } => {
                    if !before.is_empty() {
                        flags.push(format!("-{before}"));
                    }
                    let module = if module.is_empty() { rest.next()?.clone() } else { module.to_owned() };
                    let launcher = LAUNCHERS.contains(&module.as_str());
                    return (!launcher).then(|| Self::new(interpreter, flags, Target::Module(module), rest));
                }
            }
        }
    }

    fn new<'a>(
        interpreter: &str,
        flags: Vec<String>,
        target: Target,
        arguments: impl Iterator<Item = &'a String>,
    ) -> Self {
        Self { interpreter: interpreter.to_owned(), flags, target, arguments: arguments.cloned().collect() }
    }
}

/// `python`, `python3`, `python3.12`, anywhere.
fn is_python(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or(program);
    let version = name.strip_prefix("python").unwrap_or("-");
    version.is_empty()
        || (version.starts_with('3') && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

enum Letters<'word> {
    /// Options only, with their argument if they have one.
    Complete,
    /// The next word belongs to it.
    Argument,
    /// `-m`, perhaps after other options, perhaps with the module in the same word.
    Module { before: &'word str, module: &'word str },
}

/// The word behind a dash. Nothing if it has an option that is not understood here.
fn option(letters: &str) -> Option<Letters<'_>> {
    if letters.is_empty() {
        return None; // Standard input.
    }
    for (at, letter) in letters.char_indices() {
        let after = &letters[at + letter.len_utf8()..];
        if letter == 'm' {
            return Some(Letters::Module { before: &letters[..at], module: after });
        } else if WITH_ARGUMENT.contains(letter) {
            return Some(if after.is_empty() { Letters::Argument } else { Letters::Complete });
        } else if !PLAIN.contains(letter) {
            return None;
        }
    }
    Some(Letters::Complete)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<Program> {
        Program::of(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn programs_are_taken_apart() {
        let program = of("/venv/bin/python3.11 -u -OW ignore -Xdev train.py -c conf.yaml").unwrap();
        assert_eq!(program.flags, ["-u", "-OW", "ignore", "-Xdev"]);
        assert_eq!(program.target, Target::Script("train.py".to_owned()));
        assert_eq!(program.arguments, ["-c", "conf.yaml"]);
        let program = of("python -um pkg.train --lr 1").unwrap();
        assert_eq!(program.flags, ["-u"]);
        assert_eq!(program.target, Target::Module("pkg.train".to_owned()));
        assert_eq!(program.arguments, ["--lr", "1"]);
        assert_eq!(of("python3 -mtrain").unwrap().target, Target::Module("train".to_owned()));
    }

    #[test]
    fn what_is_no_plain_program_is_left_alone() {
        for line in [
            "python",
            "python -",
            "python -c pass",
            "python -ic pass",
            "python -i train.py",
            "python --version",
            "python -m",
            "python -W",
            "python -m torch.distributed.run train.py",
            "python2.7 train.py",
            "python-config --libs",
            "sh -c python",
            "torchrun train.py",
            "pythonw train.py",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
        assert_eq!(Program::of(&[]), None);
    }
}
