//! `trainyard reference`: the page docs/cli.md, made from the same definitions as `--help`.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};

use crate::arg::Cli;
use crate::error::CliError;
use crate::exit_code;

/// Print the reference page of the command line as Markdown.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> Result<u8, CliError> {
    std::io::Write::write_all(&mut std::io::stdout().lock(), page().as_bytes())?;
    Ok(0)
}

/// The whole page.
pub(crate) fn page() -> String {
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut page = String::from("# Command line reference\n\nMade by `trainyard reference`; do not edit.\n\n");
    paragraph(&mut page, root.get_long_about());
    block(&mut page, root.get_after_help());
    page.push_str("## Global options\n\n");
    options(&mut page, root.get_arguments().filter(|arg| arg.is_global_set()));
    page.push_str("## Exit codes\n\n");
    block(&mut page, Some(&exit_code::HELP.into()));
    for command in root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        section(&mut page, command, "trainyard");
    }
    // One newline at the end, as in every other page.
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

fn section(page: &mut String, command: &Command, parent: &str) {
    let name = format!("{parent} {}", command.get_name());
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    // Writing to a String cannot fail.
    let _ = write!(page, "## {name}\n\n```\n{usage}\n```\n\n");
    paragraph(page, command.get_long_about().or(command.get_about()));
    options(page, command.get_arguments().filter(|arg| !arg.is_global_set()));
    block(page, command.get_after_help());
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        section(page, inner, &name);
    }
}

fn paragraph(page: &mut String, text: Option<&clap::builder::StyledStr>) {
    if let Some(text) = text {
        let _ = write!(page, "{}\n\n", text.to_string().trim());
    }
}

fn block(page: &mut String, text: Option<&clap::builder::StyledStr>) {
    if let Some(text) = text {
        let _ = write!(page, "```\n{}\n```\n\n", text.to_string().trim_end());
    }
}

fn options<'a>(page: &mut String, arguments: impl Iterator<Item = &'a Arg>) {
    let mut any = false;
    let mut heading = None;
    for argument in arguments.filter(|arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version")) {
        if argument.get_help_heading() != heading && !argument.is_global_set() {
            heading = argument.get_help_heading();
            let _ = write!(page, "{}**{}**\n\n", if any { "\n" } else { "" }, heading.unwrap_or("Options"));
        }
        any = true;
        let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(page, "- `{}` {}{}", signature(argument), help.replace('\n', " "), notes(argument));
    }
    if any {
        page.push('\n');
    }
}

fn signature(argument: &Arg) -> String {
    let names = [argument.get_short().map(|c| format!("-{c}")), argument.get_long().map(|name| format!("--{name}"))];
    let names = names.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let takes_value = argument.get_action().takes_values();
    let value = argument.get_value_names().and_then(|names| names.first()).map_or("VALUE", |name| name.as_str());
    match (names.is_empty(), takes_value) {
        (true, _) => value.to_owned(),
        (false, true) => format!("{names} <{value}>"),
        (false, false) => names,
    }
}

fn notes(argument: &Arg) -> String {
    let defaults =
        argument.get_default_values().iter().filter_map(|value| value.to_str()).collect::<Vec<_>>().join(" ");
    let values = argument.get_possible_values();
    let takes_value = argument.get_action().takes_values();
    let names = values
        .iter()
        .filter(|v| !v.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect::<Vec<_>>()
        .join(", ");
    let env = argument.get_env().and_then(|name| name.to_str());
    let mut notes = String::new();
    if takes_value && !names.is_empty() {
        let _ = write!(notes, " (one of {names})");
    }
    if takes_value && !defaults.is_empty() {
        let _ = write!(notes, " (default `{defaults}`)");
    }
    if let Some(env) = env {
        let _ = write!(notes, " (environment: `{env}`)");
    }
    notes
}
