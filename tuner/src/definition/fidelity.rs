//! What trials have more of the better they are.

use trainyard_tuner_core::fidelity::Ladder;
use trainyard_tuner_core::space::Parameter;

use super::algorithm::range;
use super::table::Table;

/// Where checkpoints are, beside where the trial works.
const CHECKPOINTS: &str = "checkpoints";

/// What trials have more of the better they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Fidelity {
    /// The steps in which it grows.
    pub ladder: Ladder,
    /// The folder in which each configuration has one for its checkpoints.
    pub checkpoints: String,
}

/// The table `fidelity`, if there is one; the outer `None` stands for one that is wrong.
pub(super) fn read(top: &mut Table<'_, '_>, parameters: Option<&[Parameter]>) -> Option<Option<Fidelity>> {
    let Some(given) = top.get("fidelity") else { return Some(None) };
    let Some(file) = given.value.as_table() else {
        return top.wrong("fidelity", &given, "a table with min, max and parameter");
    };
    let mut table = Table::new(file, given.span.clone(), "fidelity", top.errors());
    let mut is_good = true;
    let parameter = table.text("parameter");
    is_good &= parameter.is_some() || file.get("parameter").is_none();
    if let Some((name, span)) = &parameter
        && parameters.into_iter().flatten().any(|known| known.name == *name)
    {
        let message = format!("`{name}` is among the parameters that are searched, too; a resource is not");
        table.error("parameter", span.clone(), message, None);
        is_good = false;
    }
    let mut needed = |table: &mut Table<'_, '_>, key: &'static str, expected: &str| {
        if table.get(key).is_none() {
            table.missing(key, expected);
        }
        let number = range(table, key, f64::MIN_POSITIVE, 1e15, &mut is_good);
        is_good &= number.is_some();
        number.unwrap_or(1.0)
    };
    let min = needed(&mut table, "min", "what a new configuration gets");
    let max = needed(&mut table, "max", "the most that a trial gets");
    let eta = range(&mut table, "eta", 1.1, 1e6, &mut is_good).unwrap_or(3.0);
    let checkpoints =
        table.text("checkpoints").map_or(CHECKPOINTS, |(folder, _)| folder).trim_end_matches('/').to_owned();
    if is_good && parameter.is_none() && (min.fract() != 0.0 || max.fract() != 0.0) {
        let message = "steps are whole numbers; give min and max as such, or name a parameter".to_owned();
        table.error("min", table.span_of("min"), message, None);
        is_good = false;
    }
    table.end();
    if !is_good {
        return None;
    }
    let ladder = Ladder::new(parameter.map(|(name, _)| name.to_owned()), min, max, eta);
    let ladder = ladder.map_err(|message| top.error("fidelity", given.span, message, None)).ok()?;
    Some(Some(Fidelity { ladder, checkpoints }))
}
