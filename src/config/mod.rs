//! Text in, values or problems out.

pub mod model;
