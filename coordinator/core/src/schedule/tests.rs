//! Hand-written cases, and properties over worlds from seeds.

mod brute;
mod cases;
mod check;
mod closeness;
mod estimate;
mod option;
mod property;
mod quota;
mod world;
