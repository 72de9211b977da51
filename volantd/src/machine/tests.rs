//! Whole lives of VMs in a world that is made up: every step failing in turn, the daemon dying everywhere, and guests that misbehave.

mod configs;
mod faults;
mod guests;
mod lab;
mod lives;
mod pauses;
mod policies;
mod random;
mod world;
