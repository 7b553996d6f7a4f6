//! The jail from outside and from inside: real zygote, real workers, hostile code.

mod guests;
mod hostility;
mod processes;
mod rig;
mod walls;
