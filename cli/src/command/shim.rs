//! `trainyard shim`: one supervised container. The node agent calls it; nobody else should.

use std::ffi::OsString;

use crate::error::CliError;

/// Handed on as they are: the agent and the shim are the same binary, so they agree.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments of the shim
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[expect(clippy::needless_pass_by_value, reason = "every command takes its arguments by value")]
pub(crate) fn run(args: Args) -> Result<std::process::ExitCode, CliError> {
    Ok(main(&args.rest))
}

pub(crate) fn main(rest: &[String]) -> std::process::ExitCode {
    trainyard_worker::shim::main(rest)
}

/// What the agent says behind `shim`, where nothing stands before it; nothing where this is another command, or is not for the shim.
pub(crate) fn arguments(words: impl Iterator<Item = OsString>) -> Option<Vec<String>> {
    let words: Option<Vec<String>> = words.skip(1).map(|word| word.into_string().ok()).collect();
    let (first, rest) = words.as_deref()?.split_first()?;
    let is_ours = first == "shim" && !rest.first().is_some_and(|word| word.starts_with('-'));
    is_ours.then(|| rest.to_vec())
}

#[cfg(test)]
mod tests {
    use super::arguments;

    #[test]
    fn what_the_agent_says_is_taken_as_it_is_and_all_else_is_left() {
        let of = |words: &[&str]| arguments(words.iter().map(Into::into));
        assert_eq!(of(&["trainyard", "shim"]), Some(vec![]));
        assert_eq!(of(&["trainyard", "shim", "beside", "{}", "-x"]).map(|rest| rest.len()), Some(3));
        for other in
            [&["trainyard"][..], &["trainyard", "up"], &["trainyard", "shim", "--help"], &["trainyard", "-v", "shim"]]
        {
            assert_eq!(of(other), None, "{other:?}");
        }
    }
}
