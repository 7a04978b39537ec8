//! Consumer groups by the classic protocol, and the offsets they commit. Offsets are durable; membership is not: after a
//! restart members find themselves unknown and join again, as they would after a move of their coordinator.

pub(crate) mod coordinator;
pub(crate) mod group;
pub(crate) mod member;
pub(crate) mod offsets;
