//! The product as its users have it: `pinsched` as a process, from a DAG file to objects and results.

mod account;
mod commands;
mod desk;
mod disk;
mod interrupted;
mod kept;
mod killed;
mod mapped;
pub mod product;
mod refused;
mod slips;
mod terminal;
mod told;
mod told_why;
mod upkeep;
