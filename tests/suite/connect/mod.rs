//! Getting a backend: what fails on the way stays hidden while another one answers.

mod failing;
mod shortage;
mod slow;
mod source;
