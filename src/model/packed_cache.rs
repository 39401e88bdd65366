//! Packed matrices on the disk, so that the next process maps them in place of packing them again.
//!
//! A file holds what became of one checkpoint:
//!
//! ```text
//! magic                                        filled up to 64 bytes
//! parts of the matrices, each from a multiple of 64 bytes on
//! index: JSON                                  key, and where each matrix lies
//! start and length of the index                two u64, little-endian
//! ```
//!
//! The key says what was packed, into which layout, and by which version of this program. A file
//! with another key is written anew, and so is one that is not whole or not what it should be.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Target;
use crate::atomic::{AtomicError, NewFile};
use crate::kernels::{Format, Holder, PackedMatrix};
use crate::weights::{Bytes, Checkpoint};

const MAGIC: &[u8] = b"diffucoder packed weights\n";
const ALIGNMENT: usize = 64;
/// Raised with every change of what packing makes of a matrix, which need not come with another
/// version of the program. A test tells when.
const LAYOUT: u32 = 1;
const TRAILER: usize = 16;
const ENDING: &str = "packed";

/// Where the packed matrices of a checkpoint are, or would be.
pub(super) struct Place {
    pub path: PathBuf,
    key: String,
    sources: Vec<PathBuf>,
}

impl Place {
    /// In this folder. `None` for a checkpoint that is not just files, or on a device that packs
    /// nothing.
    pub fn of(checkpoint: &Checkpoint, target: &Target, folder: &Path) -> Option<Self> {
        let files = checkpoint.files()?;
        let version = (LAYOUT, env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
        let key = format!("{version:?} {:?} {files:?}", target.storage);
        let sources: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
        let name = Sha256::digest(format!("{:?} {sources:?}", target.storage));
        let name: String = name[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let path = folder.join(format!("{name}.{ENDING}"));
        target
            .device
            .is_cpu()
            .then_some(Self { path, key, sources })
    }

    /// What is there, if it is whole and of this key.
    pub fn open(&self) -> Option<Packed> {
        let bytes = Bytes::map(&self.path).ok()?;
        let index = index(bytes.as_ref())?;
        (index.key == self.key).then(|| Packed {
            index,
            holder: Arc::new(bytes),
        })
    }

    /// Begins to write what is to be there.
    ///
    /// # Errors
    /// When there is no such folder and none can be made, or no file in it.
    pub fn begin(&self) -> Result<Packing, AtomicError> {
        if let Some(folder) = self.path.parent() {
            let mut builder = fs::DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            let made = builder.recursive(true).create(folder);
            made.map_err(|source| AtomicError::Io {
                path: folder.into(),
                source,
            })?;
            tidy_packed(folder);
        }
        let mut packing = Packing {
            file: NewFile::begin(&self.path, true)?,
            written: 0,
            index: Index {
                key: self.key.clone(),
                sources: self.sources.clone(),
                matrices: HashMap::new(),
            },
            failed: None,
        };
        packing.put(MAGIC);
        Ok(packing)
    }
}

#[derive(Serialize, Deserialize)]
struct Index {
    key: String,
    /// The files that were packed.
    sources: Vec<PathBuf>,
    matrices: HashMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    format: String,
    n: usize,
    k: usize,
    parts: [Range<usize>; 3],
}

/// Removes the packed weights in a folder whose files are gone: nobody else would, and they are as
/// large as those were. Gives the bytes that this frees.
pub fn tidy_packed(folder: &Path) -> u64 {
    let mut freed = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_packed = path.extension().is_some_and(|ending| ending == ENDING);
        let Some(bytes) = is_packed.then(|| Bytes::map(&path).ok()).flatten() else {
            continue;
        };
        let is_orphan = |index: Index| !index.sources.iter().all(|file| file.exists());
        if index(bytes.as_ref()).is_some_and(is_orphan) {
            let len = bytes.as_ref().len() as u64;
            drop(bytes);
            freed += fs::remove_file(path).map_or(0, |()| len); // nothing depends on it
        }
    }
    freed
}

fn index(file: &[u8]) -> Option<Index> {
    let (rest, trailer) = file.split_last_chunk::<TRAILER>()?;
    let [start, len] = [0, 8].map(|at| {
        let number = trailer[at..].first_chunk().copied().unwrap_or_default();
        usize::try_from(u64::from_le_bytes(number)).unwrap_or(usize::MAX)
    });
    let is_whole = rest.starts_with(MAGIC) && start.checked_add(len) == Some(rest.len());
    is_whole
        .then(|| serde_json::from_slice(&rest[start..]).ok())
        .flatten()
}

/// Matrices that are packed already.
pub(super) struct Packed {
    index: Index,
    holder: Holder,
}

impl Packed {
    /// The matrix `[n, k]` of this name, if it is there.
    pub fn matrix(&self, name: &str, shape: (usize, usize)) -> Option<PackedMatrix> {
        let entry = self.index.matrices.get(name)?;
        let format = Format::named(&entry.format)?;
        ((entry.n, entry.k) == shape)
            .then(|| PackedMatrix::of_parts(format, shape, &self.holder, entry.parts.clone()))
            .flatten()
    }
}

/// Writes matrices as they are packed.
pub(super) struct Packing {
    file: NewFile,
    written: usize,
    index: Index,
    /// Once something has failed, nothing more is written.
    failed: Option<io::Error>,
}

impl Packing {
    pub fn add(&mut self, name: &str, matrix: &PackedMatrix) {
        let parts = matrix.parts().map(|part| self.put(part));
        let entry = Entry {
            format: matrix.format().name().into(),
            n: matrix.n(),
            k: matrix.k(),
            parts,
        };
        self.index.matrices.insert(name.into(), entry);
    }

    /// Writes bytes and what is missing to the next multiple of [`ALIGNMENT`]; says where they are.
    fn put(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.written;
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        if self.failed.is_none() {
            let out = self.file.out();
            let written = out.write_all(bytes);
            let padded = written.and_then(|()| out.write_all(&[0; ALIGNMENT][..padding]));
            self.failed = padded.err();
        }
        self.written += bytes.len() + padding;
        start..start + bytes.len()
    }

    /// Writes the index, and gives the file its name.
    ///
    /// # Errors
    /// What failed, now or before.
    pub fn finish(mut self) -> Result<(), AtomicError> {
        let written = match self.failed.take() {
            Some(error) => Err(error),
            None => self.write_index(),
        };
        written.map_err(|source| AtomicError::Io {
            path: self.file.path().into(),
            source,
        })?;
        self.file.commit()
    }

    fn write_index(&mut self) -> io::Result<()> {
        let index = serde_json::to_vec(&self.index)?;
        let out = self.file.out();
        out.write_all(&index)?;
        for number in [self.written, index.len()] {
            out.write_all(&(number as u64).to_le_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::model::config::Config;
    use crate::model::storage::Quantization;

    fn bytes_of(matrix: &PackedMatrix) -> Vec<u8> {
        matrix.parts().concat()
    }

    /// Of every format, and of columns that are no whole panel.
    #[test]
    fn matrices_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            path: folder.path().join("below").join("it"),
            key: "key".into(),
            sources: Vec::new(),
        };
        let matrices: Vec<(String, PackedMatrix)> = Format::ALL
            .into_iter()
            .flat_map(|format| [1, 16, 37].map(|n| (format, n)))
            .map(|(format, n)| {
                let len = 256 / format.block_inputs() * format.block_bytes() * n * 2;
                let blocks: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
                let matrix = PackedMatrix::pack(format, &blocks, n, 512).unwrap();
                (format!("{format} {n}"), matrix)
            })
            .collect();
        let mut packing = place.begin().unwrap();
        for (name, matrix) in &matrices {
            packing.add(name, matrix);
        }
        assert!(place.open().is_none());
        packing.finish().unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let made = fs::metadata(folder.path().join("below")).unwrap();
            assert_eq!(made.permissions().mode() & 0o777, 0o700);
        }

        let packed = place.open().unwrap();
        for (name, matrix) in &matrices {
            let found = packed.matrix(name, (matrix.n(), 512)).unwrap();
            assert_eq!(bytes_of(&found), bytes_of(matrix), "{name}");
            assert_eq!(found.format(), matrix.format());
        }
        assert!(packed.matrix("q4_0 16", (16, 256)).is_none());
        assert!(packed.matrix("q4_0 2", (16, 512)).is_none());
        let other = Place {
            path: place.path.clone(),
            key: "other".into(),
            sources: Vec::new(),
        };
        assert!(other.open().is_none());
    }

    #[test]
    fn what_was_made_of_files_that_are_gone_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        fs::write(&one, "").unwrap();
        fs::write(&other, "").unwrap();
        let place = |name: &str, sources: &[&PathBuf]| Place {
            path: folder.path().join(name).with_extension(ENDING),
            key: "key".into(),
            sources: sources.iter().map(|&file| file.clone()).collect(),
        };
        let [a, b] = [place("a", &[&one]), place("b", &[&one, &other])];
        for place in [&a, &b] {
            place.begin().unwrap().finish().unwrap();
        }
        assert!(a.open().is_some() && b.open().is_some());
        fs::remove_file(&other).unwrap();
        place("c", &[&one]).begin().unwrap().finish().unwrap();
        assert!(a.open().is_some() && b.open().is_none() && !b.path.exists());
    }

    /// Where this fails the layout has changed, or what the weights are quantized to: raise
    /// [`LAYOUT`], or files of the one before would be read as this one.
    #[test]
    fn the_layout_is_the_one_that_its_number_says() {
        let mut hash = Sha256::new();
        for format in Format::ALL {
            let len = 512 / format.block_inputs() * format.block_bytes() * 37;
            let blocks: Vec<u8> = (0..len).map(|i| (i * i % 251) as u8).collect();
            let matrix = PackedMatrix::pack(format, &blocks, 37, 512).unwrap();
            hash.update(bytes_of(&matrix));
        }
        let numbers: Vec<f32> = (0..512)
            .map(|i| ((i * i % 251) as f32 - 125.0) / 64.0)
            .collect();
        for format in Quantization::FORMATS {
            hash.update(format.quantize(Isa::SCALAR, &numbers).unwrap());
        }
        let hash: String = hash.finalize()[..8]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!((LAYOUT, &*hash), (1, "8b35670df2cc8cbf"));
    }

    /// Whatever the file holds, nothing is read from outside it, and no half of it is used.
    #[test]
    fn a_file_cut_or_changed_anywhere_is_no_cache_or_has_matrices_of_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            path: folder.path().join("it"),
            key: "key".into(),
            sources: Vec::new(),
        };
        let blocks = vec![1; 18 * 16];
        let matrix = PackedMatrix::pack(Format::Q4_0, &blocks, 16, 32).unwrap();
        let mut packing = place.begin().unwrap();
        packing.add("m", &matrix);
        packing.finish().unwrap();
        let whole = fs::read(&place.path).unwrap();
        for len in 0..whole.len() {
            fs::write(&place.path, &whole[..len]).unwrap();
            assert!(place.open().is_none(), "{len}");
        }
        let data = ALIGNMENT + bytes_of(&matrix).len().next_multiple_of(ALIGNMENT);
        for at in data..whole.len() {
            for change in [1, 0x10, 0x80] {
                let mut changed = whole.clone();
                changed[at] ^= change;
                fs::write(&place.path, &changed).unwrap();
                let found = place.open().and_then(|packed| packed.matrix("m", (16, 32)));
                assert!(found.is_none_or(|m| bytes_of(&m).len() == bytes_of(&matrix).len()));
            }
        }
    }

    #[test]
    fn only_files_on_a_cpu_have_a_place() {
        let json = serde_json::json!({
            "model_type": "Dream", "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 50, "rms_norm_eps": 1e-6, "max_position_embeddings": 256,
        });
        let config = Config::from_json(json.to_string().as_bytes()).unwrap();
        let made = Checkpoint::synthetic(&config, Some(Format::Q8_0)).unwrap();
        let target = Target::cpu(candle_core::DType::F32);
        assert!(Place::of(&made, &target, Path::new("/")).is_none());
    }
}
