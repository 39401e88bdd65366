//! A model in GGUF: everything is in one file, or in its parts.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use super::{Package, Source, add_sampler, files};
use crate::error::Error;
use crate::hub::{HubError, ModelFile, ModelSpec, Progress, Snapshot, called};
use crate::model::arch;
use crate::model::config::Config;
use crate::tokenizer::TokenizerFiles;
use crate::weights::gguf::{GgmlType, GgufError, GgufFile, GgufTokenizer, PartName, parse_parts};
use crate::weights::{Bytes, Checkpoint, Stored, WeightsError};

/// The files of a model, all of them local.
pub(super) struct Gguf {
    /// What to call the model.
    pub name: String,
    /// Names and places: one, or all parts in order.
    files: Vec<(String, ModelFile)>,
    /// The block type that most of its numbers are in, if any are in blocks.
    pub blocks: Option<GgmlType>,
}

/// Whether a path names a GGUF file: by its ending, or by its first bytes.
pub(super) fn is_gguf(path: &Path) -> bool {
    let by_name = path
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    let by_magic = || {
        let mut magic = [0; 4];
        fs::File::open(path)
            .and_then(|mut file| file.read_exact(&mut magic))
            .is_ok()
            && magic == *b"GGUF"
    };
    path.is_file() && (by_name || by_magic())
}

impl Gguf {
    /// A file on this machine, with the other parts beside it if it is named as one.
    pub fn local(path: &Path) -> Result<Self, HubError> {
        let file = |path: &Path| {
            let name = path.display().to_string();
            (name, ModelFile::Path(path.to_owned()))
        };
        let name = path.file_name().and_then(|name| name.to_str());
        let files = match name.and_then(PartName::parse) {
            Some(part) => {
                let parts = part.all().into_iter();
                let (here, missing): (Vec<_>, Vec<_>) =
                    parts.partition(|name| path.with_file_name(name).is_file());
                HubError::parts_missing(&path.display().to_string(), missing)?;
                let here = here.iter().map(|name| path.with_file_name(name));
                here.map(|path| file(&path)).collect()
            }
            None => vec![file(path)],
        };
        Ok(Self {
            name: path.display().to_string(),
            files,
            blocks: None,
        })
    }

    /// Files of a snapshot, all of which are fetched: what describes the model is in the same
    /// file as its weights.
    pub fn fetch(
        snapshot: &Snapshot,
        names: &[String],
        progress: &mut dyn Progress,
    ) -> Result<Self, HubError> {
        let model = snapshot.describe();
        let name_of = |name: &String| format!("{model}/{name}");
        let fetched = snapshot.fetch(names, progress)?;
        Ok(Self {
            name: names.first().map(name_of).unwrap_or_default(),
            files: names.iter().map(name_of).zip(fetched).collect(),
            blocks: None,
        })
    }

    fn bytes(&self) -> Result<Vec<(String, Bytes)>, WeightsError> {
        let files = self.files.iter();
        files::weights(files.map(|(name, file)| (name.clone(), file)))
    }

    /// Calls `read` with the checked headers; errors get the name of the first file.
    fn with_headers<T>(
        &self,
        read: impl FnOnce(&GgufFile<'_>, &[GgufFile<'_>]) -> Result<T, GgufError>,
    ) -> Result<T, WeightsError> {
        let files = self.bytes()?;
        let parts = parse_parts(&files)?;
        let read = match parts.split_first() {
            Some((first, others)) => read(first, others),
            None => Err(GgufError::NotGguf {
                found: String::new(),
            }),
        };
        read.map_err(|source| WeightsError::Gguf {
            file: files
                .first()
                .map_or_else(String::new, |(name, _)| name.clone()),
            source: Box::new(source),
        })
    }

    pub fn checkpoint(&self) -> Result<Checkpoint, WeightsError> {
        Checkpoint::open_gguf(self.bytes()?, arch::checkpoint_name)
    }
}

/// The block type that most numbers are in.
fn blocks(parts: &[&GgufFile<'_>]) -> Option<GgmlType> {
    let mut counts = BTreeMap::new();
    for tensor in parts.iter().flat_map(|part| part.tensors()) {
        if !matches!(Stored::from(tensor.ggml_type), Stored::Float(_)) {
            *counts.entry(tensor.ggml_type).or_insert(0) += tensor.elements();
        }
    }
    let most = counts.into_iter().max_by_key(|(_, elements)| *elements);
    most.map(|(kind, _)| kind)
}

impl Package {
    pub(super) fn open_gguf(mut gguf: Gguf, spec: &ModelSpec) -> Result<Self, Error> {
        let called = called(&gguf.name);
        let (config, tokenizer, blocks, recipe) = gguf.with_headers(|first, others| {
            let mut config = Config::from_gguf_parts(first, others, called)?;
            let own_name = first.str_if_any("general.name")?;
            for name in own_name.into_iter().chain([called]) {
                add_sampler(&mut config, name);
            }
            let tokenizer = GgufTokenizer::read(first, config.vocab_size)?;
            config.shift_logits = tokenizer.shift_logits.unwrap_or(config.shift_logits);
            config.mask_token_id = tokenizer.mask_token_id;
            config.eos_token_ids.clone_from(&tokenizer.eos_token_ids);
            config.pad_token_id = tokenizer.pad_token_id;
            let parts: Vec<_> = std::iter::once(first).chain(others).collect();
            let recipe = spec.recipe(own_name);
            Ok((config, tokenizer, blocks(&parts), recipe))
        })?;
        gguf.blocks = blocks;
        let files = TokenizerFiles {
            vocab_json: Some(&tokenizer.vocab_json),
            merges_txt: Some(&tokenizer.merges_txt),
            tokenizer_config_json: Some(&tokenizer.tokenizer_config_json),
            split: tokenizer.split,
            ..TokenizerFiles::default()
        };
        Self::new(Source::Gguf(gguf), recipe, config, &files)
    }
}
