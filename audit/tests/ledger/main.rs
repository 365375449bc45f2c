//! The ledger as others see it: the program, a killed writer, a disk without room, media that cannot be written.

#[cfg(test)]
mod cli;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod site;
