//! One file per command: its arguments, and the straight line from them to the exit code.

pub(crate) mod apply;
pub(crate) mod completions;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod dry_run;
pub(crate) mod events;
pub(crate) mod example;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod init;
pub(crate) mod install;
pub(crate) mod kubeconfig;
pub(crate) mod launch;
pub(crate) mod logs;
pub(crate) mod operator;
pub(crate) mod preflight;
pub(crate) mod reference;
pub(crate) mod run;
pub(crate) mod shim;
pub(crate) mod simulate;
pub(crate) mod suspend;
pub(crate) mod top;
pub(crate) mod torchrun;
pub(crate) mod up;
pub(crate) mod validate;
pub(crate) mod version;
