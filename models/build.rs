//! Puts the built-in model's weights together again.
//!
//! They are kept as `model.safetensors.planes`: the header of a safetensors file, then the high
//! bytes of all its bfloat16 numbers, then the low ones. A package compresses that to 8.9 MB, and
//! the file itself to 10.1 MB: more than crates.io takes. `training/planes.py` makes either of the
//! other.

use std::path::PathBuf;
use std::{env, fs, io};

const PLANES: &str = "models/tiny/model.safetensors.planes";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=models/build.rs");
    println!("cargo::rerun-if-changed={PLANES}");
    let bytes = fs::read(PLANES)?;
    let whole = join(&bytes).ok_or_else(|| io::Error::other(format!("{PLANES} is damaged")))?;
    let folder = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("no OUT_DIR"))?;
    fs::write(PathBuf::from(folder).join("model.safetensors"), whole)
}

/// The file that the planes were made of.
fn join(bytes: &[u8]) -> Option<Vec<u8>> {
    let length = u64::from_le_bytes(*bytes.first_chunk()?);
    let (header, planes) = bytes.split_at_checked(usize::try_from(length).ok()?.checked_add(8)?)?;
    let (high, low) = planes.split_at(planes.len() / 2);
    let mut whole = header.to_vec();
    whole.extend(low.iter().zip(high).flat_map(|(low, high)| [*low, *high]));
    Some(whole)
}
