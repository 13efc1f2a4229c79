//! A full disk, a slow disk, no memory: what serves goes on, somebody says what is wrong, and work resumes when there is room.
//!
//! The small disks are tmpfs, mounted in a namespace of their own by whoever may do that: see [`alone`].

mod alone;
mod disk;
mod memory;
mod slow;
