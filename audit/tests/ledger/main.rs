//! The ledger as others see it: the program, a killed writer, a disk without room, media that cannot be written.

mod cli;
mod crash;
mod disk;
mod site;
