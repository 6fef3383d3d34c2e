
pub mod comm;
pub mod launch;
