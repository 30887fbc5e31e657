//! How a connection is let in and where it is led: routes, PROXY headers, sources, queues, names.

mod bandwidth;
mod headers;
mod names;
mod queue;
pub(crate) mod routes;
mod sources;
