//! Checkpoints in safetensors, one file or several, opened and cross-checked.
//!
//! Headers are checked against the shard index, each other and the file lengths before any tensor
//! is read. Format: <https://huggingface.co/docs/safetensors>.

use std::collections::BTreeMap;

use candle_core::DType;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorInfo};
use serde::Deserialize;

use super::checkpoint::{Checkpoint, Extent, is_buffer};
use super::stored::Stored;
use super::{Bytes, WeightsError};

/// `model.safetensors.index.json`: which shard holds which tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    file: String,
    weight_map: BTreeMap<String, String>, // tensor -> shard
}

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    /// [`WeightsError::Index`] when it is malformed or names no tensor.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self, WeightsError> {
        #[derive(Deserialize)]
        struct Raw {
            weight_map: BTreeMap<String, String>,
        }
        let fail = |reason: String| WeightsError::Index {
            file: file.into(),
            reason,
        };
        let raw: Raw = serde_json::from_slice(json).map_err(|error| fail(error.to_string()))?;
        if raw.weight_map.is_empty() {
            return Err(fail("weight_map is empty".into()));
        }
        Ok(Self {
            file: file.into(),
            weight_map: raw.weight_map,
        })
    }

    /// Names of the shards, sorted, each once.
    pub fn shards(&self) -> Vec<String> {
        let mut shards: Vec<String> = self.weight_map.values().cloned().collect();
        shards.sort();
        shards.dedup();
        shards
    }
}

impl Checkpoint {
    /// Opens `files` (name, bytes), which are all the shards that `index` names if there is one.
    ///
    /// # Errors
    /// A broken header or length, or shards and index that contradict each other.
    pub fn open(files: Vec<(String, Bytes)>, index: Option<&Index>) -> Result<Self, WeightsError> {
        let mut checkpoint = Self::empty();
        for (file, bytes) in files {
            add_shard(&mut checkpoint, file, bytes, index)?;
        }
        if let Some(index) = index {
            for (tensor, shard) in &index.weight_map {
                if !checkpoint.contains(tensor) {
                    return Err(WeightsError::Missing {
                        tensor: tensor.clone(),
                        files: format!("{shard}, where {} places it", index.file),
                    });
                }
            }
        }
        Ok(checkpoint)
    }
}

fn add_shard(
    checkpoint: &mut Checkpoint,
    file: String,
    bytes: Bytes,
    index: Option<&Index>,
) -> Result<(), WeightsError> {
    // Checks that the offsets are in order, match shapes and types, and end with the file.
    let (header_len, metadata) =
        SafeTensors::read_metadata(bytes.as_ref()).map_err(|source| WeightsError::Header {
            file: file.clone(),
            bytes: bytes.as_ref().len(),
            source,
        })?;
    let data_start = 8 + header_len; // an 8-byte length precedes the header
    let tensors = metadata.tensors();
    for tensor in tensors.keys() {
        check_against_index(&file, tensor, index)?;
    }
    let extents = tensors
        .into_iter()
        .map(|(tensor, info)| (tensor, extent(data_start, info)));
    checkpoint.add_file(file, bytes, extents)
}

fn extent(data_start: usize, info: &TensorInfo) -> Extent {
    Extent {
        range: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
        stored: match info.dtype {
            Dtype::F32 => Stored::Float(DType::F32),
            Dtype::F16 => Stored::Float(DType::F16),
            Dtype::BF16 => Stored::Float(DType::BF16),
            other => Stored::Other(format!("{other:?}")),
        },
        shape: info.shape.clone(),
        paired_heads: None,
    }
}

fn check_against_index(
    file: &str,
    tensor: &str,
    index: Option<&Index>,
) -> Result<(), WeightsError> {
    let Some(index) = index else { return Ok(()) };
    let instead = match index.weight_map.get(tensor) {
        Some(shard) if shard == file => return Ok(()),
        None if is_buffer(tensor) => return Ok(()),
        Some(shard) => format!("places in {shard}"),
        None => "does not list".into(),
    };
    Err(WeightsError::NotInIndex {
        file: file.into(),
        tensor: tensor.into(),
        index: index.file.clone(),
        instead,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use safetensors::tensor::TensorView;

    /// Names and shapes of a file's tensors.
    type Tensors<'a> = &'a [(&'a str, &'a [usize])];

    /// A safetensors file of f32 tensors, leaked so that it can stand for embedded data.
    fn file(tensors: Tensors<'_>) -> Bytes {
        let data = vec![0u8; 4096];
        let views = tensors.iter().map(|(name, shape)| {
            let bytes = &data[..4 * shape.iter().product::<usize>()];
            (
                name.to_string(),
                TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap(),
            )
        });
        Bytes::Static(safetensors::serialize(views, None).unwrap().leak())
    }

    fn index(entries: &[(&str, &str)]) -> Index {
        let weight_map: BTreeMap<_, _> = entries.iter().copied().collect();
        let json = serde_json::json!({ "weight_map": weight_map }).to_string();
        Index::from_json("index.json", json.as_bytes()).unwrap()
    }

    fn open(
        files: &[(&str, Tensors<'_>)],
        index: Option<&Index>,
    ) -> Result<Checkpoint, WeightsError> {
        let files = files
            .iter()
            .map(|(name, tensors)| (name.to_string(), file(tensors)));
        Checkpoint::open(files.collect(), index)
    }

    fn refusal<T>(result: Result<T, WeightsError>) -> String {
        result.err().expect("refused").to_string()
    }

    #[test]
    fn tensors_are_found_checked_and_accounted_for() {
        let mut checkpoint = open(
            &[("a", &[("x", &[2, 3]), ("y", &[4])]), ("b", &[("z", &[1])])],
            None,
        )
        .unwrap();
        let mut take = |tensor: &str, shape: &[usize]| checkpoint.take_stored(tensor, shape);
        let x = take("x", &[2, 3]).unwrap();
        assert_eq!(x.load(DType::F32, &Device::Cpu).unwrap().dims(), [2, 3]);
        assert_eq!(refusal(take("w", &[1])), "tensor w is missing from a, b");
        assert_eq!(
            refusal(take("y", &[2, 2])),
            "a: tensor y has shape [4], but config.json makes it [2, 2]"
        );
        take("y", &[4]).unwrap();
        assert_eq!(
            refusal(checkpoint.finish()),
            "b holds tensor z, which this architecture does not have"
        );
    }

    #[test]
    fn shards_must_agree_with_the_index() {
        let index = index(&[("x", "a"), ("y", "b")]);
        let x: Tensors<'_> = &[("x", &[1])];
        let y: Tensors<'_> = &[("y", &[1])];
        assert_eq!(index.shards(), ["a", "b"]);
        open(&[("a", x), ("b", y)], Some(&index)).unwrap();
        assert_eq!(
            refusal(open(
                &[("a", x), ("b", &[("y", &[1]), ("w", &[1])])],
                Some(&index)
            )),
            "b holds tensor w, which index.json does not list"
        );
        assert_eq!(
            refusal(open(&[("a", y), ("b", x)], Some(&index))),
            "a holds tensor y, which index.json places in b"
        );
        assert_eq!(
            refusal(open(&[("a", x), ("b", &[])], Some(&index))),
            "tensor y is missing from b, where index.json places it"
        );
        assert_eq!(
            refusal(open(&[("a", x), ("b", x)], None)),
            "tensor x is in both a and b"
        );
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let Bytes::Static(whole) = file(&[("x", &[8, 8])]) else {
            unreachable!()
        };
        for len in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
            let result = Checkpoint::open(vec![("f".into(), Bytes::Static(&whole[..len]))], None);
            assert!(refusal(result).starts_with("f is not a whole safetensors file"));
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        for header in [
            r#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,99]}}"#,
            r#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}"#,
            r#"{"x":{"dtype":"F32","shape":[18446744073709551615,9],"data_offsets":[0,16]}}"#,
            r#"{"x":{"dtype":"F77","shape":[4],"data_offsets":[0,16]}}"#,
            r#"{"x":3}"#,
            "not json",
        ] {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.extend([0; 16]);
            let result = Checkpoint::open(vec![("f".into(), Bytes::Static(bytes.leak()))], None);
            assert!(
                refusal(result).starts_with("f is not a whole safetensors file"),
                "{header}"
            );
        }
        let huge = Bytes::Static(u64::MAX.to_le_bytes().to_vec().leak());
        assert!(Checkpoint::open(vec![("f".into(), huge)], None).is_err());
    }

    #[test]
    fn integer_weights_are_refused() {
        let data = [0u8; 4];
        let view = TensorView::new(Dtype::I8, vec![4], &data).unwrap();
        let bytes = safetensors::serialize([("x".to_string(), view)], None)
            .unwrap()
            .leak();
        let mut checkpoint =
            Checkpoint::open(vec![("f".into(), Bytes::Static(bytes))], None).unwrap();
        assert_eq!(
            refusal(checkpoint.take_stored("x", &[4])),
            "f: tensor x is stored as I8, which is not a type of weights known here"
        );
    }

    #[test]
    fn index_must_be_an_index() {
        for json in [
            "",
            "{}",
            r#"{"weight_map": {}}"#,
            r#"{"weight_map": {"x": 3}}"#,
        ] {
            assert!(Index::from_json("i", json.as_bytes()).is_err(), "{json}");
        }
    }
}
