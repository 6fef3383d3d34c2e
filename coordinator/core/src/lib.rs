
pub mod standin;
