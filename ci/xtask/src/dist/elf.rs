//! Whether a program can run in any image of its architecture: its header is asked, not the tools that made it.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};

/// `e_machine` of an architecture (ELF specification, and the supplements of the two).
fn machine(architecture: &str) -> anyhow::Result<u16> {
    match architecture {
        "x86_64" => Ok(62),
        "aarch64" => Ok(183),
        other => bail!("expected x86_64 or aarch64, found {other}"),
    }
}

/// Program header that names an interpreter, which an image without a libc lacks.
const PT_INTERP: u32 = 3;

/// Checks a file.
pub fn check(path: &Path, architecture: &str) -> anyhow::Result<()> {
    let bytes = fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
    is_static(&bytes, machine(architecture)?).with_context(|| format!("{} cannot be shipped", path.display()))
}

/// A 64-bit little-endian executable for this machine without an interpreter.
fn is_static(file: &[u8], machine: u16) -> anyhow::Result<()> {
    ensure!(
        file.get(..6) == Some(b"\x7fELF\x02\x01"),
        "expected a 64-bit little-endian ELF file"
    );
    let found = number(file, 18, 2)?;
    ensure!(found == u64::from(machine), "expected machine {machine}, found {found}");
    let (table, size, count) = (number(file, 32, 8)?, number(file, 54, 2)?, number(file, 56, 2)?);
    ensure!(count > 0, "expected program headers, found none");
    for index in 0..count {
        let place = index.checked_mul(size).and_then(|offset| table.checked_add(offset));
        let place = place.context("expected program headers within the file")?;
        ensure!(
            number(file, usize::try_from(place)?, 4)? != u64::from(PT_INTERP),
            "expected a static program, found one that names an interpreter"
        );
    }
    Ok(())
}

/// A little-endian number of up to 8 bytes.
fn number(file: &[u8], place: usize, length: usize) -> anyhow::Result<u64> {
    let end = place.checked_add(length);
    let bytes = end.and_then(|end| file.get(place..end));
    let bytes = bytes.with_context(|| format!("expected {length} bytes at {place}, found the end of the file"))?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with program headers of these kinds.
    fn file(machine: u16, kinds: &[u32]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32] = 64;
        file[54] = 56;
        file[56] = u8::try_from(kinds.len()).expect("few");
        for kind in kinds {
            file.extend(kind.to_le_bytes());
            file.extend([0; 52]);
        }
        file
    }

    #[test]
    fn a_static_program_of_the_machine_can_be_shipped() {
        is_static(&file(183, &[1, 2, 1]), 183).expect("can be");
    }

    #[test]
    fn others_cannot() {
        let with_interpreter = file(183, &[6, PT_INTERP, 1]);
        let mut cut = file(183, &[1, 1]);
        cut.truncate(100);
        for (bad, why) in [
            (file(62, &[1]), "expected machine 183, found 62"),
            (with_interpreter, "interpreter"),
            (file(183, &[]), "found none"),
            (cut, "end of the file"),
            (b"#!/bin/sh\n".to_vec(), "ELF"),
            (Vec::new(), "ELF"),
        ] {
            let error = is_static(&bad, 183).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn this_very_program_is_of_this_machine_and_has_an_interpreter_or_not() {
        let own = std::env::current_exe().expect("has a path");
        if cfg!(target_os = "linux") {
            let other = if cfg!(target_arch = "x86_64") {
                "aarch64"
            } else {
                "x86_64"
            };
            let error = format!("{:#}", check(&own, other).expect_err("another machine's"));
            assert!(error.contains("expected machine"), "{error}");
        }
    }
}
