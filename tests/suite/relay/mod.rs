//! What comes out is what went in, and ends as it ended: rows DI-1 to DI-9.

mod backpressure;
mod bulk;
mod early_answer;
mod fidelity;
mod half_close;
mod small;
