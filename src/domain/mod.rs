//! The rules of the house, pure: no IO, no clock, no SQL. What goes in is values, what comes out is decisions.

pub mod byte_size;
pub mod callbacks;
pub mod catchup;
pub mod check;
pub mod choice;
pub mod connection;
pub mod control;
pub mod dag;
pub mod diagnostic;
pub mod duration;
pub mod ids;
pub mod json_schema;
pub mod layout;
pub mod lineage;
pub mod mapping;
pub mod masking;
pub mod operator_kind;
pub mod outputs;
mod param_schema;
pub mod params;
pub mod plan;
pub mod reconcile;
pub mod record_headers;
pub mod retry;
pub mod run_state;
pub mod run_type;
pub mod schedule;
pub mod sinking;
pub mod source;
mod spec;
pub mod task_output;
pub mod task_state;
pub mod template;
pub mod trace;
pub mod trigger_rule;
mod yaml;

/// An instant in UTC, to the microsecond.
pub type Timestamp = chrono::DateTime<chrono::Utc>;
