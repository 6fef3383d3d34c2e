//! Who says what to try next, and its settings.

use trainyard_tuner_core::fidelity::{Ladder, Policy};
use trainyard_tuner_core::objective::Objective;
use trainyard_tuner_core::population;
use trainyard_tuner_core::sampler::{
    Auto, Bohb, CmaEs, Evolve, Gp, Grid, Quasi, Random, Sampler, Tpe, bohb, cmaes, evolve, gp, tpe,
};
use trainyard_tuner_core::space::{Dimension, Space, nearest};

use super::table::Table;

/// Who says what to try next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Algorithm {
    /// [`Auto`].
    Auto,
    /// [`Random`].
    Random,
    /// [`Grid`].
    Grid,
    /// [`Quasi`].
    Quasi,
    /// [`Tpe`].
    Tpe(tpe::Settings),
    /// [`Gp`].
    Gp(gp::Settings),
    /// [`CmaEs`].
    CmaEs(cmaes::Settings),
    /// [`Evolve`].
    Evolve(evolve::Settings),
    /// [`population`].
    Population(population::Settings),
    /// [`Policy::Asha`].
    Asha(Model),
    /// [`Policy::Hyperband`]; with [`Model::Tpe`] it is BOHB.
    Hyperband(Model),
}

/// Who says what new configurations are, where trials first get a part of what they could use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Model {
    /// [`Random`].
    Random,
    /// [`Quasi`].
    Quasi,
    /// [`Bohb`].
    Tpe(bohb::Settings),
}

/// The names of algorithms.
const ALGORITHMS: [&str; 14] = [
    "auto",
    "tpe",
    "gp",
    "cmaes",
    "nsga2",
    "nsga3",
    "random",
    "quasi",
    "sobol",
    "grid",
    "asha",
    "hyperband",
    "bohb",
    "pbt",
];
/// What samplers of asha and hyperband are called.
const MODELS: [&str; 3] = ["random", "quasi", "tpe"];

impl Algorithm {
    /// The algorithm of a name, with its settings as they are by default. The error names those there are.
    pub fn named(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "random" => Ok(Self::Random),
            "grid" => Ok(Self::Grid),
            "quasi" | "sobol" => Ok(Self::Quasi),
            "tpe" => Ok(Self::Tpe(tpe::Settings::default())),
            "gp" => Ok(Self::Gp(gp::Settings::default())),
            "cmaes" => Ok(Self::CmaEs(cmaes::Settings::default())),
            "nsga2" => Ok(Self::Evolve(evolve::Settings::default())),
            "nsga3" => {
                let niching = evolve::Niching::Reference;
                Ok(Self::Evolve(evolve::Settings { niching, ..evolve::Settings::default() }))
            }
            "pbt" => Ok(Self::Population(population::Settings::default())),
            "asha" => Ok(Self::Asha(Model::Random)),
            "hyperband" => Ok(Self::Hyperband(Model::Random)),
            "bohb" => Ok(Self::Hyperband(Model::Tpe(bohb::Settings::default()))),
            _ => {
                let hint = nearest(name, ALGORITHMS).map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
                Err(format!("there is no algorithm \"{name}\"{hint}; there are {}", ALGORITHMS.join(", ")))
            }
        }
    }

    /// Why it cannot search this space for these objectives.
    pub(super) fn check(&self, space: &Space, objectives: &[Objective], has_ladder: bool) -> Result<(), String> {
        if has_ladder != self.policy().is_some() {
            return Err(if has_ladder {
                "[fidelity] is for asha, hyperband and bohb; for other algorithms there is [stopping]".to_owned()
            } else {
                format!("{} needs [fidelity]: what trials have more of the better they are", self.name())
            });
        }
        match self {
            Self::Grid => {
                let continuous = space.dimensions().position(|dimension| dimension == Dimension::Continuous);
                match continuous.map(|at| &space.parameters()[at].name) {
                    Some(name) => Err(format!("a grid needs values that can be counted: give `{name}` a step")),
                    None if space.size().is_none() => Err("the grid has more than 2^63 configurations".to_owned()),
                    None => Ok(()),
                }
            }
            Self::Gp(_) => one_objective("gp", objectives),
            Self::CmaEs(_) => one_objective("cmaes", objectives),
            Self::Population(_) => one_objective("pbt", objectives),
            Self::Asha(_) | Self::Hyperband(_) => one_objective(self.name(), objectives),
            Self::Auto | Self::Random | Self::Quasi | Self::Tpe(_) | Self::Evolve(_) => Ok(()),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Evolve(settings) if settings.niching == evolve::Niching::Reference => "nsga3",
            Self::Evolve(_) => "nsga2",
            Self::Random => "random",
            Self::Grid => "grid",
            Self::Quasi => "quasi",
            Self::Tpe(_) => "tpe",
            Self::Gp(_) => "gp",
            Self::CmaEs(_) => "cmaes",
            Self::Population(_) => "pbt",
            Self::Asha(_) => "asha",
            Self::Hyperband(Model::Tpe(_)) => "bohb",
            Self::Hyperband(_) => "hyperband",
        }
    }

    /// Who goes on, where trials first get a part of what they could use.
    pub(super) fn policy(&self) -> Option<Policy> {
        match self {
            Self::Asha(_) => Some(Policy::Asha),
            Self::Hyperband(_) => Some(Policy::Hyperband),
            Self::Auto
            | Self::Random
            | Self::Grid
            | Self::Quasi
            | Self::Tpe(_)
            | Self::Gp(_)
            | Self::CmaEs(_)
            | Self::Population(_)
            | Self::Evolve(_) => None,
        }
    }

    /// A sampler that knows nothing yet.
    #[must_use]
    pub(super) fn sampler(&self, ladder: Option<&Ladder>) -> Box<dyn Sampler> {
        match self {
            Self::Auto => Box::<Auto>::default(),
            Self::Evolve(settings) => Box::new(Evolve::new(*settings)),
            Self::Random | Self::Population(_) => Box::new(Random),
            Self::Grid => Box::new(Grid),
            Self::Quasi => Box::new(Quasi),
            Self::Tpe(settings) => Box::new(Tpe::new(*settings)),
            Self::Gp(settings) => Box::new(Gp::new(*settings)),
            Self::CmaEs(settings) => Box::new(CmaEs::new(*settings)),
            Self::Asha(model) | Self::Hyperband(model) => match (model, ladder) {
                (Model::Tpe(settings), Some(ladder)) => Box::new(Bohb::new(*settings, ladder.clone())),
                (Model::Quasi, _) => Box::new(Quasi),
                (Model::Random | Model::Tpe(_), _) => Box::new(Random),
            },
        }
    }
}

fn one_objective(name: &str, objectives: &[Objective]) -> Result<(), String> {
    if objectives.len() > 1 {
        return Err(format!(
            "{name} has one objective; auto, tpe, nsga2, nsga3, random, quasi and grid may have several"
        ));
    }
    Ok(())
}

pub(super) fn read(top: &mut Table<'_, '_>) -> Option<Algorithm> {
    let has_ladder = top.get("fidelity").is_some();
    let Some(given) = top.get("algorithm") else {
        let bohb = Algorithm::Hyperband(Model::Tpe(bohb::Settings::default()));
        return Some(if has_ladder { bohb } else { Algorithm::Auto });
    };
    if let Some(name) = given.value.as_str() {
        return Algorithm::named(name).map_err(|message| top.error("algorithm", given.span, message, None)).ok();
    }
    let Some(file) = given.value.as_table() else {
        return top.wrong("algorithm", &given, "the name of an algorithm, or a table with name and settings");
    };
    let mut table = Table::new(file, given.span.clone(), "algorithm", top.errors());
    let Some((name, span)) = table.text("name") else {
        if file.get("name").is_none() {
            table.missing("name", &format!("one of {}", ALGORITHMS.join(", ")));
        }
        return None;
    };
    let read = match Algorithm::named(name) {
        Ok(Algorithm::Tpe(settings)) => tpe_settings(&mut table, settings).map(Algorithm::Tpe),
        Ok(Algorithm::Gp(settings)) => gp_settings(&mut table, settings).map(Algorithm::Gp),
        Ok(Algorithm::CmaEs(settings)) => cmaes_settings(&mut table, settings).map(Algorithm::CmaEs),
        Ok(Algorithm::Asha(model)) => model_settings(&mut table, model).map(Algorithm::Asha),
        Ok(Algorithm::Hyperband(Model::Tpe(settings))) => {
            bohb_settings(&mut table, settings).map(|settings| Algorithm::Hyperband(Model::Tpe(settings)))
        }
        Ok(Algorithm::Hyperband(model)) => model_settings(&mut table, model).map(Algorithm::Hyperband),
        Ok(Algorithm::Population(settings)) => population_settings(&mut table, settings).map(Algorithm::Population),
        Ok(Algorithm::Evolve(settings)) => evolve_settings(&mut table, settings).map(Algorithm::Evolve),
        Ok(other @ (Algorithm::Auto | Algorithm::Random | Algorithm::Grid | Algorithm::Quasi)) => Some(other),
        Err(message) => {
            table.error("name", span, message, None);
            None
        }
    };
    if read.is_some() {
        table.end();
    }
    read
}

/// A number between these, if it is given. One that is not is an error.
pub(super) fn range(
    table: &mut Table<'_, '_>,
    key: &'static str,
    least: f64,
    most: f64,
    is_good: &mut bool,
) -> Option<f64> {
    let number = table.number(key)?;
    if (least..=most).contains(&number) {
        return Some(number);
    }
    *is_good = false;
    table.error(key, table.span_of(key), format!("expected a number from {least} to {most}, found {number}"), None);
    None
}

fn tpe_settings(table: &mut Table<'_, '_>, mut settings: tpe::Settings) -> Option<tpe::Settings> {
    let mut is_good = true;
    if let Some(startup) = range(table, "startup", 0.0, 1e6, &mut is_good) {
        settings.startup = startup as usize;
    }
    if let Some(candidates) = range(table, "candidates", 1.0, 1e4, &mut is_good) {
        settings.candidates = candidates as usize;
    }
    if let Some(gamma) = range(table, "gamma", 1e-3, 1.0, &mut is_good) {
        settings.gamma = gamma;
    }
    if let Some(weight) = range(table, "prior_weight", 1e-6, 1e6, &mut is_good) {
        settings.prior_weight = weight;
    }
    is_good.then_some(settings)
}

fn evolve_settings(table: &mut Table<'_, '_>, mut settings: evolve::Settings) -> Option<evolve::Settings> {
    let mut is_good = true;
    if let Some(population) = range(table, "population", 2.0, 1e4, &mut is_good) {
        settings.population = population as usize;
    }
    if let Some(startup) = range(table, "startup", 1.0, 1e6, &mut is_good) {
        settings.startup = startup as usize;
    }
    if let Some(crossover) = range(table, "crossover", 0.0, 1.0, &mut is_good) {
        settings.crossover = crossover;
    }
    settings.mutation = range(table, "mutation", 0.0, 1.0, &mut is_good).or(settings.mutation);
    is_good.then_some(settings)
}

fn population_settings(table: &mut Table<'_, '_>, mut settings: population::Settings) -> Option<population::Settings> {
    let mut is_good = true;
    if let Some(members) = range(table, "population", 2.0, 1e5, &mut is_good) {
        settings.members = members as u64;
    }
    if let Some(truncation) = range(table, "truncation", 0.0, 0.5, &mut is_good) {
        settings.truncation = truncation;
    }
    settings.resample = range(table, "resample", 0.0, 1.0, &mut is_good);
    is_good.then_some(settings)
}

fn gp_settings(table: &mut Table<'_, '_>, mut settings: gp::Settings) -> Option<gp::Settings> {
    let mut is_good = true;
    if let Some(startup) = range(table, "startup", 0.0, 1e6, &mut is_good) {
        settings.startup = startup as usize;
    }
    is_good.then_some(settings)
}

fn cmaes_settings(table: &mut Table<'_, '_>, mut settings: cmaes::Settings) -> Option<cmaes::Settings> {
    let mut is_good = true;
    if let Some(sigma) = range(table, "sigma", 1e-6, 1.0, &mut is_good) {
        settings.sigma = Some(sigma);
    }
    if let Some(population) = range(table, "population", 2.0, 1e5, &mut is_good) {
        settings.population = Some(population as usize);
    }
    match table.text("restart") {
        None => {}
        Some(("none", _)) => settings.restart = cmaes::Restart::None,
        Some(("ipop", _)) => settings.restart = cmaes::Restart::Ipop,
        Some(("bipop", _)) => settings.restart = cmaes::Restart::Bipop,
        Some((other, span)) => {
            let message = format!("expected \"none\", \"ipop\" or \"bipop\", found \"{other}\"");
            table.error("restart", span, message, None);
            is_good = false;
        }
    }
    is_good.then_some(settings)
}

/// Who says what new configurations are.
fn model_settings(table: &mut Table<'_, '_>, without: Model) -> Option<Model> {
    match table.text("sampler") {
        None => table.get("sampler").is_none().then_some(without),
        Some(("random", _)) => Some(Model::Random),
        Some(("quasi" | "sobol", _)) => Some(Model::Quasi),
        Some(("tpe", _)) => bohb_settings(table, bohb::Settings::default()).map(Model::Tpe),
        Some((other, span)) => {
            let hint = nearest(other, MODELS).map(|name| format!("did you mean \"{name}\"?"));
            table.error("sampler", span, format!("expected one of {}, found \"{other}\"", MODELS.join(", ")), hint);
            None
        }
    }
}

fn bohb_settings(table: &mut Table<'_, '_>, mut settings: bohb::Settings) -> Option<bohb::Settings> {
    let mut is_good = true;
    if let Some(random) = range(table, "random", 0.0, 1.0, &mut is_good) {
        settings.random = random;
    }
    if let Some(candidates) = range(table, "candidates", 1.0, 1e4, &mut is_good) {
        settings.candidates = candidates as usize;
    }
    if let Some(gamma) = range(table, "gamma", 1e-3, 1.0, &mut is_good) {
        settings.gamma = gamma;
    }
    is_good.then_some(settings)
}
