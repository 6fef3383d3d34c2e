//! torchrun's options, and how Python's argparse reads them: abbreviations, `PET_*` variables, and all that follows the
//! script's name belongs to the script.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Number,
    /// Separated by commas; a double comma is a comma.
    List,
    OneOf(&'static [&'static str]),
    /// Nothing.
    Flag,
}

/// One option. Its first long name is also its variable's: `--nproc-per-node` is `PET_NPROC_PER_NODE`.
struct Spec {
    short: Option<char>,
    name: &'static str,
    kind: Kind,
    /// Whether a `PET_*` variable gives it.
    variable: bool,
    help: &'static str,
}

const START_METHODS: &[&str] = &["spawn", "fork", "forkserver"];
const AFFINITY: &[&str] = &["node", "socket", "exclusive", "core-complex"];

const fn spec(name: &'static str, kind: Kind, help: &'static str) -> Spec {
    Spec { short: None, name, kind, variable: true, help }
}

const SPECS: [Spec; 33] = [
    spec("nnodes", Kind::Text, "Number of nodes, or MIN:MAX (1:1)"),
    spec("nproc-per-node", Kind::Text, "Ranks on this node: a number, auto, cpu or gpu (1)"),
    spec("rdzv-backend", Kind::Text, "static, c10d, etcd or etcd-v2 (static)"),
    spec("rdzv-endpoint", Kind::Text, "HOST:PORT of the node where the others meet"),
    spec("rdzv-id", Kind::Text, "Name of the job among all that meet there (none)"),
    spec("rdzv-conf", Kind::Text, "KEY=VALUE,… for the rendezvous: join_timeout, timeout, is_host"),
    spec("standalone", Kind::Flag, "This node alone; the other rendezvous options are ignored"),
    spec("max-restarts", Kind::Integer, "How often the ranks may be started again (0)"),
    spec("monitor-interval", Kind::Number, "No effect: deaths are seen at once"),
    spec("start-method", Kind::OneOf(START_METHODS), "No effect: scripts are started as programs"),
    spec("event-log-handler", Kind::Text, "No effect"),
    spec("role", Kind::Text, "ROLE_NAME of the ranks (default)"),
    Spec { short: Some('m'), ..spec("module", Kind::Flag, "The script is a Python module, as for python -m") },
    spec("no-python", Kind::Flag, "The script is a program of its own"),
    spec("run-path", Kind::Flag, "Run the script with runpy.run_path"),
    spec("log-dir", Kind::Text, "Folder for the files of --redirects and --tee"),
    Spec {
        short: Some('r'),
        ..spec("redirects", Kind::Text, "Output to files: 1 stdout, 2 stderr, 3 both, or RANK:N,… (0)")
    },
    Spec { short: Some('t'), ..spec("tee", Kind::Text, "Output to files and here; as --redirects (0)") },
    spec("local-ranks-filter", Kind::Text, "Show the output of these local ranks only"),
    spec(
        "duplicate-stdout-filters",
        Kind::List,
        "Copy teed lines of stdout that contain one of these to filtered_stdout.log",
    ),
    spec("duplicate-stderr-filters", Kind::List, "The same for stderr"),
    spec("node-rank", Kind::Integer, "This node's place among the nodes; static rendezvous only (0)"),
    spec("master-addr", Kind::Text, "Address of node 0; static rendezvous only (127.0.0.1)"),
    spec("master-port", Kind::Integer, "Port on node 0; static rendezvous only (29500)"),
    spec("local-addr", Kind::Text, "Where the other nodes reach this one"),
    Spec { variable: false, ..spec("logs-specs", Kind::Text, "Not supported: it names a Python class") },
    Spec { variable: false, ..spec("numa-binding", Kind::OneOf(AFFINITY), "No effect") },
    spec("signals-to-handle", Kind::Text, "Signals that are passed on (SIGTERM,SIGINT,SIGHUP,SIGQUIT)"),
    Spec {
        variable: false,
        ..spec("spares", Kind::OneOf(&["auto", "off"]), "Not of torchrun: interpreters ready for failed ranks (auto)")
    },
    Spec {
        variable: false,
        ..spec("on-hang", Kind::OneOf(&["report", "restart"]), "Not of torchrun: what to do about hangs (report)")
    },
    spec("shutdown-timeout", Kind::Integer, "Seconds that ranks may take to end before they are killed (30)"),
    spec("virtual-local-rank", Kind::Flag, "LOCAL_RANK=0 for all, each with its own GPU in CUDA_VISIBLE_DEVICES"),
    // Of torch.distributed.launch.
    Spec {
        variable: false,
        ..spec("use-env", Kind::Flag, "With --legacy-launch: do not pass --local-rank to the script")
    },
];

/// Ours, which torchrun does not have.
const LEGACY: &str = "--legacy-launch";
const PLAN: &str = "--trainyard-plan";

/// What was given, by the option's name, and the script with its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    values: BTreeMap<&'static str, String>,
    pub(super) script: String,
    pub(super) arguments: Vec<String>,
    /// The command was `python -m torch.distributed.launch`.
    pub(super) legacy: bool,
    /// Print what would be done.
    pub(super) plan: bool,
}

/// What the command line comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Run(Given),
    Help,
}

impl Given {
    /// The value of an option that takes one.
    pub(super) fn text(&self, name: &'static str) -> Option<&str> {
        debug_assert!(SPECS.iter().any(|spec| spec.name == name), "{name} is an option");
        self.values.get(name).map(String::as_str)
    }

    pub(super) fn integer(&self, name: &'static str) -> Option<i64> {
        self.text(name).and_then(integer)
    }

    pub(super) fn flag(&self, name: &'static str) -> bool {
        self.text(name).is_some()
    }

    pub(super) fn list(&self, name: &'static str) -> Vec<String> {
        const COMMA: &str = "<COMMA_PLACEHOLDER>";
        let Some(text) = self.text(name) else { return Vec::new() };
        text.replace(",,", COMMA).split(',').map(|item| item.replace(COMMA, ",")).collect()
    }
}

/// A word of the command line as argparse sees it.
enum Word<'a> {
    /// An option, and the value that is glued to it.
    Option(&'static Spec, Option<&'a str>),
    /// A cluster of short options, `-mr3`.
    Short(&'a str),
    Ours(&'static str),
    Help,
    Argument,
    Unknown,
}

/// Reads the command line and the `PET_*` variables.
pub(super) fn parse(words: &[String], variable: impl Fn(&str) -> Option<String>) -> Result<Parsed, String> {
    let mut given = Given::default();
    let mut unknown = Vec::new();
    let mut at = 0;
    let mut script = None;
    while let Some(word) = words.get(at) {
        at += 1;
        if word == "--" {
            // Ends the options; what follows is the script.
            script = words.get(at).cloned();
            at += 1;
            break;
        }
        match classify(word)? {
            Word::Argument => {
                script = Some(word.clone());
                break;
            }
            Word::Help => return Ok(Parsed::Help),
            Word::Ours(LEGACY) => given.legacy = true,
            Word::Ours(_) => given.plan = true,
            Word::Unknown => unknown.push(word.clone()),
            Word::Option(spec, glued) => at += take(&mut given.values, spec, glued, words.get(at))?,
            Word::Short(cluster) => at += short(&mut given.values, cluster, words.get(at))?,
        }
    }
    given.script = script.ok_or("the following arguments are required: training_script, training_script_args")?;
    // argparse takes one `--` with the script.
    at += usize::from(words.get(at).is_some_and(|word| word == "--"));
    given.arguments = words.get(at..).unwrap_or_default().to_vec();
    add_variables(&mut given.values, variable)?;
    match unknown.is_empty() {
        true => Ok(Parsed::Run(given)),
        false => Err(format!("unrecognized arguments: {}", unknown.join(" "))),
    }
}

/// The help page.
pub(super) fn help() -> String {
    let mut text = "usage: trainyard torchrun [OPTIONS] SCRIPT [ARGUMENTS…]\n\nTakes torchrun's options and PET_* \
                    variables, and starts the ranks with Trainyard's launcher.\n\n"
        .to_owned();
    for spec in &SPECS {
        let short = spec.short.map(|short| format!("-{short}, ")).unwrap_or_default();
        let value = if spec.kind == Kind::Flag { "" } else { " VALUE" };
        let left = format!("{short}--{}{value}", spec.name);
        // Writing to a text does not fail.
        let _ = writeln!(text, "  {left:<36}{}", spec.help);
    }
    text.push_str(
        "\nThe names may also be written with underscores. PYTHON_EXEC names the interpreter (else python3).\n",
    );
    text
}

/// Variables of the options that were not given. A wrong one of an option that was given harms nobody.
fn add_variables(
    values: &mut BTreeMap<&'static str, String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<(), String> {
    for spec in SPECS.iter().filter(|spec| spec.variable) {
        let name = format!("PET_{}", spec.name.to_uppercase().replace('-', "_"));
        let Some(value) = variable(&name) else { continue };
        if spec.kind == Kind::Flag {
            match integer(&value) {
                Some(0) => {}
                Some(_) => drop(values.insert(spec.name, String::new())),
                None => return Err(format!("{name}={value} is not a number: 1 sets --{}, 0 does not", spec.name)),
            }
        } else if !values.contains_key(spec.name) {
            // argparse checks the type of a default that is a text, but not whether it is one of the choices.
            let checked = if matches!(spec.kind, Kind::OneOf(_)) { Ok(value) } else { checked(spec, &value) };
            values.insert(spec.name, checked.map_err(|error| format!("{error} (from {name})"))?);
        }
    }
    Ok(())
}

fn classify(word: &str) -> Result<Word<'_>, String> {
    if !word.starts_with('-') || word == "-" {
        return Ok(Word::Argument);
    }
    if word == "-h" || word == "--help" {
        return Ok(Word::Help);
    }
    if let Some(ours) = [LEGACY, PLAN].into_iter().find(|ours| *ours == word) {
        return Ok(Word::Ours(ours));
    }
    let (name, glued) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    if let Some(long) = name.strip_prefix("--") {
        let long_name = long.replace('_', "-");
        // Mixed forms (`--nproc-per_node`) are no names of torchrun's.
        let is_pure = !(long.contains('_') && long.contains('-'));
        if let Some(spec) = SPECS.iter().find(|spec| is_pure && spec.name == long_name) {
            return Ok(Word::Option(spec, glued));
        }
        let dashed = |spec: &&Spec| spec.name.starts_with(long);
        let underscored = |spec: &&Spec| spec.name.replace('-', "_").starts_with(long);
        let mut matching = SPECS.iter().filter(|spec| dashed(spec) || underscored(spec));
        return match (matching.next(), matching.next()) {
            (None, _) => Ok(if word.contains(' ') { Word::Argument } else { Word::Unknown }),
            (Some(spec), None) => Ok(Word::Option(spec, glued)),
            (Some(one), Some(other)) => {
                Err(format!("ambiguous option: {word} could match --{}, --{}", one.name, other.name))
            }
        };
    }
    if SPECS.iter().any(|spec| spec.short.is_some() && spec.short == name.chars().nth(1)) {
        return Ok(Word::Short(&word[1..]));
    }
    let is_number = word.len() > 1
        && word[1..].parse::<f64>().is_ok()
        && word.bytes().skip(1).all(|b| b.is_ascii_digit() || b == b'.');
    Ok(if is_number || word.contains(' ') { Word::Argument } else { Word::Unknown })
}

/// Sets an option. Returns how many words it took beyond its own.
fn take(
    values: &mut BTreeMap<&'static str, String>,
    spec: &'static Spec,
    glued: Option<&str>,
    next: Option<&String>,
) -> Result<usize, String> {
    if spec.kind == Kind::Flag {
        return match glued {
            Some(value) => Err(format!("argument --{}: ignored explicit argument '{value}'", spec.name)),
            None => {
                values.insert(spec.name, String::new());
                Ok(0)
            }
        };
    }
    let (value, taken) = match (glued, next) {
        (Some(value), _) => (value, 0),
        (None, Some(next)) if next != "--" && matches!(classify(next)?, Word::Argument) => (next.as_str(), 1),
        (None, _) => return Err(format!("argument --{}: expected one argument", spec.name)),
    };
    values.insert(spec.name, checked(spec, value)?);
    Ok(taken)
}

/// `-m`, `-r3`, `-r 3`, `-r=3`, `-mr3`.
fn short(values: &mut BTreeMap<&'static str, String>, cluster: &str, next: Option<&String>) -> Result<usize, String> {
    let mut rest = cluster;
    loop {
        let Some(letter) = rest.chars().next() else { return Ok(0) };
        let spec = SPECS.iter().find(|spec| spec.short == Some(letter));
        let spec = spec.ok_or_else(|| format!("argument -{}: ignored explicit argument '{rest}'", &cluster[..1]))?;
        rest = &rest[letter.len_utf8()..];
        if spec.kind != Kind::Flag {
            let glued = (!rest.is_empty()).then(|| rest.strip_prefix('=').unwrap_or(rest));
            return take(values, spec, glued, next);
        }
        take(values, spec, None, None)?;
    }
}

/// The value if it is of the option's kind.
fn checked(spec: &Spec, value: &str) -> Result<String, String> {
    let wrong = |what: &str| Err(format!("argument --{}: invalid {what} value: '{value}'", spec.name));
    match spec.kind {
        Kind::Integer if integer(value).is_none() => wrong("int"),
        Kind::Number if value.trim().parse::<f64>().is_err() => wrong("float"),
        Kind::OneOf(choices) if !choices.contains(&value) => {
            Err(format!("argument --{}: invalid choice: '{value}' (choose from {})", spec.name, choices.join(", ")))
        }
        Kind::Text | Kind::Integer | Kind::Number | Kind::List | Kind::OneOf(_) | Kind::Flag => Ok(value.to_owned()),
    }
}

/// A number as Python's `int()` reads it: with spaces around it, a sign, and single underscores between digits.
pub(super) fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let whole = !digits.is_empty()
        && digits.split('_').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    if whole { text.replace('_', "").parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn given(line: &str, variables: &[(&str, &str)]) -> Result<Given, String> {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        match parse(&words(line), variable)? {
            Parsed::Run(given) => Ok(given),
            Parsed::Help => Err("help".to_owned()),
        }
    }

    #[test]
    fn all_forms_of_an_option_are_one() {
        for line in ["--nproc-per-node 4 t.py", "--nproc_per_node=4 t.py", "--nproc 4 t.py"] {
            assert_eq!(given(line, &[]).unwrap().text("nproc-per-node"), Some("4"), "{line}");
        }
        for line in ["-r3 t.py", "-r 3 t.py", "-r=3 t.py", "-mr3 t.py", "--redirects 3 t.py"] {
            assert_eq!(given(line, &[]).unwrap().text("redirects"), Some("3"), "{line}");
        }
    }

    #[test]
    fn what_follows_the_script_is_the_scripts() {
        let given = given("--nnodes 1 t.py --nnodes 2 -m -- x", &[]).unwrap();
        assert_eq!((given.script.as_str(), given.text("nnodes")), ("t.py", Some("1")));
        assert_eq!(given.arguments, words("--nnodes 2 -m -- x"));
    }

    #[test]
    fn variables_stand_behind_the_command_line() {
        let variables =
            [("PET_NNODES", "3"), ("PET_MODULE", "1"), ("PET_STANDALONE", "0"), ("PET_MAX_RESTARTS", " 1_0 ")];
        let given = |line| given(line, &variables).unwrap();
        assert_eq!(given("t").text("nnodes"), Some("3"));
        assert_eq!(given("--nnodes 1 t").text("nnodes"), Some("1"));
        assert_eq!((given("t").flag("module"), given("t").flag("standalone")), (true, false));
        assert_eq!(given("t").integer("max-restarts"), Some(10));
    }

    #[test]
    fn what_torchrun_refuses_is_refused() {
        for line in [
            "--nope t.py",
            "--max-restarts x t.py",
            "--max-restarts",
            "--start-method thread t.py",
            "--m t.py",
            "-q t.py",
        ] {
            assert!(given(line, &[]).is_err(), "{line}");
        }
        assert!(given("t.py", &[("PET_MAX_RESTARTS", "x")]).is_err());
        assert!(given("t.py", &[("PET_STANDALONE", "yes")]).is_err());
        assert_eq!(given("--help", &[]), Err("help".to_owned()));
    }
}
