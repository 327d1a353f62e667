//! `bottle` on a real engine. The parts must have been built (`cargo xtask build`), and a static busybox be there.

mod agents;
mod faults;
mod image;
mod living;
mod machine;
mod run;
mod site;
mod work;
