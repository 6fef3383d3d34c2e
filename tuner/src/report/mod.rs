//! An experiment as one page of HTML: it needs no other file and no network, and a browser shows it from the disk.
//!
//! The page is a fixed text with the data as JSON in it. Its script draws the charts as SVG and writes texts only as texts, so that names
//! may hold anything; and the page's policy forbids to load or run anything else.

mod axis;
mod data;
mod settings;
#[cfg(test)]
mod tests;

use serde_json::Value as Json;

use crate::record::Record;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page of an experiment. `made_ms` is the time of day that it tells.
#[must_use]
pub fn html(record: &Record, made_ms: i64) -> String {
    let data = escaped(&data::of(record, made_ms));
    let title = format!("{} · Trainyard", record.name).replace('&', "&amp;").replace('<', "&lt;");
    let parts = [("/*style*/", STYLE), ("/*script*/", SCRIPT), ("/*title*/", &title), ("/*data*/", &data)];
    let mut page = String::with_capacity(PAGE.len() + STYLE.len() + SCRIPT.len() + data.len());
    let mut rest = PAGE;
    // In one pass: what is put in is not looked through.
    while let Some((at, (mark, part))) =
        parts.iter().filter_map(|one| Some((rest.find(one.0)?, one))).min_by_key(|(at, _)| *at)
    {
        page.push_str(&rest[..at]);
        page.push_str(part);
        rest = &rest[at + mark.len()..];
    }
    page.push_str(rest);
    page
}

/// JSON that may stand in an element `script`: no text in it can end that.
fn escaped(data: &Json) -> String {
    data.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}
