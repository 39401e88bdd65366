//! The network on the CPU: our own kernels over plain slices, in buffers that are kept.
//!
//! Keys and values of every position stay from one pass to the next, so that a pass costs the rows
//! it computes and not the canvas. Each layer is: norm and quantize; queries, keys and values;
//! rotate and store; attend; project and add; norm and quantize; gate and up; silu, multiply and
//! quantize; down and add. Every thread works on its own part of each, and no part depends on how
//! many there are.

mod buffers;
mod linear;
mod rope;

use std::ops::Range;

use candle_core::Result;
use rayon::prelude::*;

use self::buffers::Buffers;
use self::linear::{Product, share};
use self::rope::Rope;
use super::config::Config;
use super::embedding::Embedding;
use super::shared::{CanvasPass, Network, outputs};
use super::{Loader, Rows};
use crate::kernels::{Isa, KeyValues, TileKeyValues, attend_tiles, copy_rows, rms_scales};
use crate::weights::WeightsError;

/// Rows whose gate and up are in memory at a time: so many that reading the weights again costs
/// nothing beside the products, and twice as many as tiles of weights are kept unpacked for.
const MLP_ROWS: usize = 672;

/// A loaded network. Passes only read it.
pub(super) struct Weights {
    isa: Isa,
    shape: Shape,
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    lm_head: Product,   // D -> V
    inv_freq: Vec<f32>, // [E / 2]
}

/// What the passes over one canvas leave behind.
pub(super) struct State {
    key_values: Vec<KeyValues>, // [layers]
    rope: Rope,
    buffers: Buffers,
}

#[derive(Clone, Copy)]
struct Shape {
    width: usize,    // D
    vocab: usize,    // V
    heads: usize,    // H
    kv_heads: usize, // G
    head_dim: usize, // E
}

/// One transformer layer.
struct Layer {
    input_layernorm: RmsNorm,
    qkv_proj: Product,       // D -> H·E, G·E, G·E
    q_norm: Option<RmsNorm>, // of each head
    k_norm: Option<RmsNorm>,
    o_proj: Product, // H·E -> D
    post_attention_layernorm: RmsNorm,
    gate_up_proj: Product, // D -> F, F
    down_proj: Product,    // F -> D
}

struct RmsNorm {
    weight: Vec<f32>, // [D], or [E] of a head
    eps: f32,
}

impl Weights {
    pub fn load(
        config: &Config,
        isa: Isa,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let embed_tokens = loader.embedding()?;
        let layers = (0..config.num_hidden_layers)
            .map(|number| Layer::load(config, number, loader))
            .collect::<std::result::Result<_, _>>()?;
        let norm = RmsNorm::load(config, "model.norm", loader)?;
        let head = loader.head(&embed_tokens)?;
        let lm_head = loader.built(config.head_name(), Product::new(vec![head]))?;
        Ok(Self {
            isa,
            shape: Shape {
                width: config.hidden_size,
                vocab: config.vocab_size,
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
            },
            embed_tokens,
            layers,
            norm,
            lm_head,
            inv_freq: super::inv_freq(config),
        })
    }

    fn forward_here(&self, isa: Isa, passes: &mut [&mut CanvasPass<Box<State>>]) -> Result<()> {
        // Room to compute in, from the first of them for all.
        let spare = Buffers::new(isa, self.shape);
        let mut buffers = std::mem::replace(&mut passes[0].state.buffers, spare);
        buffers.isa = isa;
        let row_ids = passes.iter().flat_map(|pass| pass.row_ids());
        let row_ids: Vec<u32> = row_ids.collect();
        buffers.residual = self.embed_tokens.rows(&row_ids)?;
        let shape = self.shape;
        let group = row_ids.len() * shape.group();
        buffers.queries.resize(shape.kv_heads * group, 0.0);
        buffers.attended.resize(shape.kv_heads * group, 0.0);

        let last = self.layers.len() - 1;
        for (number, layer) in self.layers.iter().enumerate() {
            buffers.multiply_normed(0..row_ids.len(), &layer.input_layernorm, &layer.qkv_proj)?;
            let mut first = 0;
            for pass in passes.iter_mut() {
                let State {
                    key_values, rope, ..
                } = &mut *pass.state;
                rope.reserve(pass.rows.reach);
                key_values[number].reserve(pass.ids.len());
                self.store(
                    layer,
                    rope,
                    &pass.rows,
                    first,
                    &mut key_values[number],
                    &mut buffers,
                );
                self.attend(
                    layer,
                    &pass.rows.seen,
                    first,
                    &key_values[number],
                    &mut buffers,
                );
                first += pass.rows.indices.len();
            }
            if number == last {
                // Nothing behind this mixes positions: only rows that are asked for go on.
                buffers.keep(&outputs(passes.iter().map(|pass| &pass.rows)));
            }
            buffers.add_attended(&layer.o_proj)?;
            layer.add_mlp(&mut buffers)?;
        }

        buffers.multiply_normed(0..buffers.rows(), &self.norm, &self.lm_head)?;
        let (rows, product) = (buffers.output.rows(), buffers.output.values());
        let mut first = 0;
        for CanvasPass {
            rows: own,
            predicted,
            ..
        } in passes.iter_mut().map(|pass| &mut **pass)
        {
            let logits = &mut predicted.logits;
            logits.resize(own.outputs.len() * shape.vocab, 0.0);
            let each = share(own.outputs.len(), 1);
            let parts = logits.par_chunks_mut(each * shape.vocab).enumerate();
            parts.for_each(|(task, out)| {
                copy_rows(product, rows, shape.vocab, first + task * each, out);
            });
            first += own.outputs.len();
        }
        passes[0].state.buffers = buffers;
        Ok(())
    }

    /// Takes the queries, keys and values of the rows of a canvas, from `first` on, out of
    /// `output`, norms and rotates them, and stores the keys and values.
    fn store(
        &self,
        layer: &Layer,
        rope: &Rope,
        computed: &Rows,
        first: usize,
        key_values: &mut KeyValues,
        buffers: &mut Buffers,
    ) {
        let Shape {
            kv_heads,
            head_dim: e,
            ..
        } = self.shape;
        let Rows {
            indices, positions, ..
        } = computed;
        let (isa, group) = (self.isa, self.shape.group());
        let output = &buffers.output;
        let [q, k, v] = [0, 1, 2].map(|matrix| layer.qkv_proj.first_column(matrix));
        let scale = (e as f32).powf(-0.5);
        let all = buffers.queries.len() / kv_heads;
        let queries = buffers.queries.par_chunks_mut(all);
        let heads = key_values.heads_mut().par_iter_mut();
        heads
            .zip(queries)
            .enumerate()
            .for_each(|(g, (head, queries))| {
                let mut scratch = vec![0.0; 2 * e];
                let (key, value) = scratch.split_at_mut(e);
                let places = indices.iter().zip(positions).enumerate();
                let queries = queries[first * group..].chunks_exact_mut(group);
                for ((row, (&index, &position)), queries) in places.zip(queries) {
                    let row = first + row;
                    output.copy(row, k + g * e, key);
                    output.copy(row, v + g * e, value);
                    if let Some(norm) = &layer.k_norm {
                        norm.apply(isa, key);
                    }
                    rope.rotate(position, 1.0, key);
                    head.set(index, key, value);
                    output.copy(row, q + g * group, queries);
                    if let Some(norm) = &layer.q_norm {
                        norm.apply(isa, queries);
                    }
                    for query in queries.chunks_exact_mut(e) {
                        rope.rotate(position, scale, query);
                    }
                }
            });
    }

    /// Lets the queries of the rows of a canvas, from `first` on, attend, each to its first
    /// positions: in tiles where what they were made from is.
    fn attend(
        &self,
        layer: &Layer,
        seen: &[usize],
        first: usize,
        key_values: &KeyValues,
        buffers: &mut Buffers,
    ) {
        let (isa, heads) = (buffers.isa, key_values.heads());
        if !layer.qkv_proj.is_in_tiles(isa) {
            let attend = |g: usize, len, queries: &[f32], out: &mut [f32]| {
                heads[g].attend(isa, len, queries, out);
            };
            return self.attend_by(attend, seen, first, &buffers.queries, &mut buffers.attended);
        }
        let tiles = &mut buffers.tile_key_values;
        tiles.resize_with(heads.len(), TileKeyValues::default);
        let len = seen.iter().copied().max().unwrap_or_default();
        let filled = tiles.par_iter_mut().zip(heads);
        filled.for_each(|(tiles, head)| tiles.fill(isa, head, len));
        let attend = |g: usize, len, queries: &[f32], out: &mut [f32]| {
            attend_tiles(isa, &tiles[g], len, queries, out);
        };
        self.attend_by(attend, seen, first, &buffers.queries, &mut buffers.attended);
    }

    /// The same by a function of the number of a head of keys, of how many of them are seen, and of
    /// queries and their outputs.
    fn attend_by(
        &self,
        attend: impl Fn(usize, usize, &[f32], &mut [f32]) + Sync,
        seen: &[usize],
        first: usize,
        queries: &[f32],
        attended: &mut [f32],
    ) {
        let (kv_heads, group) = (self.shape.kv_heads, self.shape.group());
        let rows = seen.len();
        // Enough rows that a tile of queries is full, and enough tasks for all threads.
        let each = share(rows * kv_heads, 8).min(rows);
        let all = queries.len() / kv_heads;
        let part = first * group..(first + rows) * group;
        let heads = queries.par_chunks(all).zip(attended.par_chunks_mut(all));
        heads.enumerate().for_each(|(g, (queries, attended))| {
            let tasks = queries[part.clone()].par_chunks(each * group);
            let tasks = tasks.zip(attended[part.clone()].par_chunks_mut(each * group));
            tasks
                .zip(seen.par_chunks(each))
                .for_each(|((queries, attended), seen)| {
                    let mut row = 0;
                    for block in seen.chunk_by(|a, b| a == b) {
                        let part = row * group..(row + block.len()) * group;
                        attend(g, block[0], &queries[part.clone()], &mut attended[part]);
                        row += block.len();
                    }
                });
        });
    }
}

impl Network for Weights {
    type State = Box<State>;

    fn state(&self) -> Box<State> {
        Box::new(State::new(self))
    }

    fn forward(&self, passes: &mut [CanvasPass<Box<State>>]) -> Result<()> {
        let isa = |pass: &CanvasPass<_>| self.isa.for_rows(pass.rows.indices.len());
        let mut passes: Vec<_> = passes.iter_mut().collect();
        // Together go those that take the same kernels alone.
        passes.sort_by_key(|pass| isa(pass).has_tiles());
        rayon::scope(|_| {
            let groups = passes.chunk_by_mut(|a, b| isa(a) == isa(b));
            groups.into_iter().try_for_each(|passes| match passes {
                [] => Ok(()),
                [first, ..] => self.forward_here(isa(first), passes),
            })
        })
    }
}

impl State {
    pub fn new(weights: &Weights) -> Self {
        let shape = weights.shape;
        let key_values = || KeyValues::new(shape.kv_heads, shape.head_dim);
        Self {
            key_values: weights.layers.iter().map(|_| key_values()).collect(),
            rope: Rope::new(weights.inv_freq.clone()),
            buffers: Buffers::new(weights.isa, shape),
        }
    }

    /// Moves keys and values of the positions `moved`, and rotates the keys on by as many.
    pub fn move_cached(&mut self, moved: Range<usize>, by: isize) {
        let Self {
            key_values, rope, ..
        } = self;
        rope.reserve(by.unsigned_abs() + 1);
        for key_values in key_values {
            key_values.reserve(moved.end.saturating_add_signed(by));
            let (e, heads) = (key_values.head_dim(), key_values.heads_mut());
            heads.par_iter_mut().for_each(|head| {
                let mut scratch = vec![0.0; 2 * e];
                let (key, value) = scratch.split_at_mut(e);
                let mut move_one = |from: usize| {
                    head.get(from, key, value);
                    rope.turn(by, key);
                    head.set(from.saturating_add_signed(by), key, value);
                };
                match by > 0 {
                    true => moved.clone().rev().for_each(&mut move_one),
                    false => moved.clone().for_each(&mut move_one),
                }
            });
        }
    }
}

impl Layer {
    fn load(
        config: &Config,
        number: usize,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let name = |part: &str| format!("model.layers.{number}.{part}");
        let qkv = ["q_proj", "k_proj", "v_proj"].map(|proj| name(&format!("self_attn.{proj}")));
        let gate_up = [name("mlp.gate_proj"), name("mlp.up_proj")];
        let post_attention_layernorm = name("post_attention_layernorm");
        Ok(Self {
            input_layernorm: RmsNorm::load(config, &name("input_layernorm"), loader)?,
            qkv_proj: product(&qkv, loader)?,
            q_norm: RmsNorm::load_if_any(config, &name("self_attn.q_norm"), loader)?,
            k_norm: RmsNorm::load_if_any(config, &name("self_attn.k_norm"), loader)?,
            o_proj: product(&[name("self_attn.o_proj")], loader)?,
            post_attention_layernorm: RmsNorm::load(config, &post_attention_layernorm, loader)?,
            gate_up_proj: product(&gate_up, loader)?,
            down_proj: product(&[name("mlp.down_proj")], loader)?,
        })
    }

    /// `residual += down_proj(silu(gate_proj(norm(residual))) · up_proj(norm(residual)))`, some
    /// rows at a time: gate and up of a long canvas are many times the rest.
    fn add_mlp(&self, buffers: &mut Buffers) -> Result<()> {
        let rows = buffers.rows();
        let each = rows.div_ceil(rows.div_ceil(MLP_ROWS).max(1)).max(1);
        for first in (0..rows).step_by(each) {
            let some = first..rows.min(first + each);
            buffers.multiply_normed(some, &self.post_attention_layernorm, &self.gate_up_proj)?;
            buffers.add_gated(first, self.gate_up_proj.first_column(1), &self.down_proj)?;
        }
        Ok(())
    }
}

/// Projections of the same input, side by side.
fn product(
    names: &[String],
    loader: &mut Loader<'_>,
) -> std::result::Result<Product, WeightsError> {
    let parts = names.iter().map(|name| loader.linear(name));
    let parts = parts.collect::<std::result::Result<_, _>>()?;
    loader.built(&format!("{}.weight", names[0]), Product::new(parts))
}

impl Shape {
    /// Numbers of the query heads that share a head of keys and values: H/G·E.
    fn group(self) -> usize {
        self.heads / self.kv_heads * self.head_dim
    }
}

impl RmsNorm {
    fn load(
        config: &Config,
        name: &str,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        Ok(Self {
            weight: loader.vector(&format!("{name}.weight"))?,
            eps: config.rms_norm_eps as f32,
        })
    }

    /// `None` for a network without it.
    fn load_if_any(
        config: &Config,
        name: &str,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Option<Self>, WeightsError> {
        match loader.has(name) {
            true => Self::load(config, name, loader).map(Some),
            false => Ok(None),
        }
    }

    /// Norms some heads `[heads, E]`, each by itself.
    fn apply(&self, isa: Isa, heads: &mut [f32]) {
        for head in heads.chunks_exact_mut(self.weight.len()) {
            let mut scale = [0.0];
            rms_scales(isa, head, self.eps, &mut scale);
            for (x, weight) in head.iter_mut().zip(&self.weight) {
                *x *= scale[0] * weight;
            }
        }
    }
}
