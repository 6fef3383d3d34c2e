//! What to try next: search spaces, samplers and the record of trials of an experiment, without any input or output.
//!
//! - [`space`] says what is searched: parameters of all kinds, conditions, constraints.
//! - [`expression`] is the language of conditions and constraints.
//! - [`experiment`] is asked what to try and told what came of it; [`history`] keeps it, for one or more [`objective`]s.
//! - [`sampler`] has the algorithms; [`fidelity`] lets the better trials go on, [`stopping`] ends the worse ones early, and in a
//!   [`population`] they go on from each other.
//! - [`search`] is an experiment whose trials are kept elsewhere, and that goes on from there.
//! - [`budget`] says how much may be tried, [`template`] what a trial runs, [`metric`], [`observation`], [`log`] and [`event`] what it
//!   tells.
//! - [`analysis`] says what the trials tell together.
//! - [`control`] decides what is done about the objects of experiments and trials; [`manifest`] reads those of other systems.
//! - [`stream`] makes random numbers that can be made again.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod analysis;
pub mod budget;
pub mod control;
pub mod event;
pub mod experiment;
pub mod expression;
pub mod fidelity;
pub mod history;
pub mod log;
pub mod manifest;
pub mod metric;
pub mod objective;
pub mod observation;
pub mod pareto;
pub mod population;
pub mod sampler;
pub mod search;
pub mod space;
pub mod stopping;
pub mod stream;
pub mod template;
mod walk;
