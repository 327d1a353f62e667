//! `bottle verify`: whether a record is what the bundle said, from the first to the last line.

use bottle_launch::record;

use crate::args::VerifyArgs;
use crate::failure::Failure;
use crate::plan::print;

/// Reads a record and tells its last link: two copies with the same one are the same record.
pub fn verify(args: &VerifyArgs) -> Result<u8, Failure> {
    match record::read(&args.file) {
        Ok((events, chain)) => print(&format!("{} events, whole; last link {}\n", events.len(), chain.head())),
        Err(fault) => Err(Failure::Record {
            path: args.file.clone(),
            fault,
        }),
    }
}
