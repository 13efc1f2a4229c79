//! Whole lives of a fleet in one thread: the deciders of controller, trainer and agents under a virtual clock.
//!
//! One seed is one life: how many devices there are and what they are, which releases are bad and how, when processes die, which
//! messages are lost or come late, who lies. The shells here are those of a simulation, with a clock, disks and a network of
//! their own; what they ask are the deciders in `fieldfare-fleet` and `fieldfare-privacy`, which the real shells ask too. After
//! every step checkers look at what it has changed, and a life ends at the first promise that is broken. No map here has an order of
//! its own making, and nothing is drawn but from the seed, so that a seed always is the same life.

mod checks;
mod controller;
mod device;
mod dice;
mod faults;
mod ground;
mod hostile;
mod life;
mod message;
mod queue;
mod round;
mod setting;
mod trainer;

pub use checks::Broken;
pub use life::{Outcome, live};
