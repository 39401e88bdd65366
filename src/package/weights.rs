//! A model's weights: fetched, with an adapter merged into them, loaded, or written quantized.

use std::path::Path;

use super::files::{self, read};
use super::gguf::Gguf;
use super::{Package, Source, called, foreign};
use crate::chat::ChatTemplate;
use crate::error::Error;
use crate::hub::{Foreign, HubOptions, ModelSpec, Progress, Snapshot};
use crate::model::arch::{EMBED_TOKENS, LLADA, name_of_llada};
use crate::model::lora::{Adapter, LoraError};
use crate::model::quantize::{QuantizeError, Report, quantize};
use crate::model::storage::Storage;
use crate::model::{Model, OnLoad, Target};
use crate::tokenizer::TokenRole;
use crate::weights::gguf::FileType;
use crate::weights::gguf::export::{Description, Vocabulary};
use crate::weights::{Checkpoint, Index};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER: &str = "adapter_model.safetensors";

impl Package {
    /// Makes the weights local, finding or downloading them, and checks that their headers fit
    /// together.
    ///
    /// # Errors
    /// When they cannot be had, are broken or contradict each other.
    pub fn fetch_weights(&self, progress: &mut dyn Progress) -> Result<Checkpoint, Error> {
        let mut weights = self.fetch_base(progress)?;
        if let Some((_, adapter)) = &self.adapter {
            adapter.apply(&mut weights);
        }
        Ok(weights)
    }

    fn fetch_base(&self, progress: &mut dyn Progress) -> Result<Checkpoint, Error> {
        let snapshot = match &self.source {
            Source::Snapshot(snapshot) => snapshot,
            Source::Gguf(gguf) => return Ok(gguf.checkpoint()?),
        };
        // One file with everything goes before an index, as transformers has it: what was saved
        // last over a checkpoint in shards. Shards that the index does not name are nobody's.
        let is_whole = |name: &String| name == WEIGHTS;
        let is_in_one = snapshot.folder_files(WEIGHTS).iter().any(is_whole);
        let index = match is_in_one {
            true => None,
            false => snapshot.optional(INDEX, progress)?,
        };
        let index = match index {
            Some(file) => Some(Index::from_json(INDEX, &read(&file)?)?),
            None => None,
        };
        let names = index
            .as_ref()
            .map_or_else(|| vec![WEIGHTS.to_string()], Index::shards);
        let files = snapshot.fetch(&names, progress);
        let files = files.map_err(|error| match &index {
            None => snapshot.explain(error),
            Some(_) => error,
        })?;
        let files = files::weights(names.into_iter().zip(&files))?;
        let checkpoint = Checkpoint::open(files, index.as_ref())?;
        match Foreign::of_tensors(checkpoint.names()) {
            Some(form) => Err(foreign(snapshot.describe(), form)),
            None if *self.config.family == LLADA => Ok(checkpoint.renamed(name_of_llada)?),
            None => Ok(checkpoint),
        }
    }

    /// Loads the network.
    ///
    /// # Errors
    /// When the weights do not belong to this configuration, or memory runs out.
    pub fn load(
        &self,
        weights: Checkpoint,
        target: &Target,
        on_load: OnLoad<'_>,
    ) -> Result<Model, Error> {
        Ok(Model::load(&self.config, weights, target, on_load)?)
    }

    /// Reads the adapter that is to be merged into the weights, downloading it if need be, and
    /// gives the name of the model that it says it was trained on.
    ///
    /// # Errors
    /// When it cannot be had or is not one of this model, and [`LoraError::Quantized`].
    pub fn adapt(
        &mut self,
        spec: &ModelSpec,
        options: &HubOptions,
        progress: &mut dyn Progress,
    ) -> Result<Option<&str>, Error> {
        if self.is_quantized() {
            let model = self.name();
            return Err(LoraError::Quantized { model }.into());
        }
        let names = [ADAPTER.to_owned()];
        let mut find = || -> Result<_, Error> {
            let found = Snapshot::adapter(spec, options);
            let snapshot = found.map_err(|error| spec.or_a_folder(error))?;
            let json = read(&snapshot.required(ADAPTER_CONFIG, progress)?)?;
            let files = snapshot.fetch(&names, progress)?;
            Ok((snapshot, json, files))
        };
        let (snapshot, json, files) = find().map_err(|error| Error::Package {
            model: "the adapter".to_owned(),
            source: error.into(),
        })?;
        let files = files::weights(names.into_iter().zip(&files))?;
        let adapter = Adapter::open(&json, Checkpoint::open(files, None)?, &self.config)?;
        let (_, adapter) = self.adapter.insert((snapshot.describe(), adapter));
        Ok(adapter.base.as_deref())
    }

    /// Memory of the CPU or a GPU that the weights take in the form they are stored in. They must
    /// be local.
    ///
    /// # Errors
    /// When their headers are broken or contradict each other.
    pub(crate) fn bytes_as_stored(&self, is_gpu: bool) -> Result<u64, Error> {
        let weights = self.fetch_weights(&mut ())?;
        let table = (EMBED_TOKENS, self.config.tie_word_embeddings);
        let held = |dtype| Storage::type_beside_blocks(dtype, is_gpu);
        Ok(weights.bytes_as_stored(table, held))
    }

    /// Writes the model, whose weights are `weights`, as `to` into a GGUF file, and says what
    /// became of each kind of tensor. `on_tensor` is told the bytes read so far and in all.
    ///
    /// # Errors
    /// When the weights are quantized already, the tokenizer has no place in a GGUF file, or the
    /// file cannot be written: an existing one is replaced only with `force`.
    pub fn quantize(
        &self,
        weights: Checkpoint,
        to: FileType,
        (file, force): (&Path, bool),
        on_tensor: &mut dyn FnMut(usize, usize),
    ) -> Result<Report, Error> {
        if let Source::Gguf(Gguf {
            blocks: Some(kind), ..
        }) = self.source
        {
            let name = self.name();
            return Err(QuantizeError::Quantized { name, kind }.into());
        }
        // Roles are the tokenizer's, as templates and samplers ask it; an end of text that the
        // configuration names besides is the file's second.
        let role = |role| self.tokenizer.special_id(role);
        let eos = role(TokenRole::Eos);
        let mut ends = self.config.eos_token_ids.iter().copied();
        let other_end = ends.find(|&id| Some(id) != eos);
        let eos_token_id = eos.or(other_end);
        let named = |token| self.tokenizer.token_to_id(token);
        let name = self.source.name();
        let vocabulary = Vocabulary::of(self.config.vocab_size, &self.tokenizer);
        let description = Description {
            // Where the files lie is nobody's business.
            name: called(&name),
            weights: to,
            vocabulary: &vocabulary.map_err(QuantizeError::from)?,
            bos_token_id: role(TokenRole::Bos),
            eos_token_id,
            eot_token_id: (other_end.filter(|_| eos.is_some()))
                .or_else(|| named("<|im_end|>"))
                .or_else(|| named("<|eot_id|>")),
            pad_token_id: role(TokenRole::Pad).or(self.config.pad_token_id),
            mask_token_id: self.mask_id,
            chat_template: self.chat_template.as_ref().map(ChatTemplate::source),
            shift_logits: self.config.shift_logits,
        };
        let written = quantize(
            &self.config,
            &description,
            weights,
            (file, force),
            on_tensor,
        );
        Ok(written?)
    }
}
