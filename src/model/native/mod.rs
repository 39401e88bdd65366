//! The network on the CPU: our own kernels over plain slices, in buffers that are kept.
//!
//! Keys and values of every position stay from one pass to the next, so that a pass costs the rows it
//! computes and not the canvas. Each layer is: norm and quantise; queries, keys and values; rotate and
//! store; attend; project and add; norm and quantise; gate and up; silu, multiply and quantise; down
//! and add. Every thread works on its own part of each, and no part depends on how many there are.

mod linear;

use candle_core::{Device, Result};
use rayon::prelude::*;

use self::linear::{Input, Output, Product, share};
use super::embedding::Embedding;
use super::{EMBED_TOKENS, Loader, Rows};
use crate::kernels::{Isa, KeyValues, LANES, LazyRows, PANEL, copy_rows, rms_scales, silu};
use crate::model::config::Config;
use crate::weights::WeightsError;

/// A loaded network.
pub(super) struct Network {
    isa: Isa,
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    lm_head: Product, // D -> V
    rope: Rope,
    shape: Shape,
    buffers: Buffers,
}

#[derive(Clone, Copy)]
struct Shape {
    width: usize,    // D
    inner: usize,    // F
    vocab: usize,    // V
    heads: usize,    // H
    kv_heads: usize, // G
    head_dim: usize, // E
}

/// One transformer layer.
struct Layer {
    input_layernorm: RmsNorm,
    qkv_proj: Product, // D -> H·E, G·E, G·E
    o_proj: Product,   // H·E -> D
    post_attention_layernorm: RmsNorm,
    gate_up_proj: Product, // D -> F, F
    down_proj: Product,    // F -> D
    key_values: KeyValues,
}

struct RmsNorm {
    weight: Vec<f32>, // [D]
    eps: f32,
}

/// What a pass writes to, kept so that it is not allocated again.
#[derive(Default)]
struct Buffers {
    residual: Vec<f32>, // [R, D]
    scales: Vec<f32>,   // [R]
    queries: Vec<f32>,  // [G, R, H/G, E]
    attended: Vec<f32>, // [G, R, H/G, E]
    spare: Vec<f32>,
    input: Input,
    output: Output,
}

impl Network {
    pub fn load(
        config: &Config,
        isa: Isa,
        mut loader: Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let shape = Shape {
            width: config.hidden_size,
            inner: config.intermediate_size,
            vocab: config.vocab_size,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        };
        let (d, v) = (shape.width, shape.vocab);
        let embed_tokens = loader.embedding(EMBED_TOKENS, v, d)?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::load(config, shape, &format!("model.layers.{i}"), &mut loader))
            .collect::<std::result::Result<_, _>>()?;
        let norm = RmsNorm::load(config, "model.norm", &mut loader)?;
        let lm_head = if config.tie_word_embeddings {
            loader.tied(EMBED_TOKENS, &embed_tokens, v, d)?
        } else {
            loader.linear("lm_head", v, d)?
        };
        let lm_head = loader.built("lm_head.weight", Product::new(vec![lm_head]))?;
        loader.finish(config.tie_word_embeddings)?;
        Ok(Self {
            isa,
            embed_tokens,
            layers,
            norm,
            lm_head,
            rope: Rope::new(config),
            shape,
            buffers: Buffers::default(),
        })
    }

    /// Computes `rows` of the canvas `ids`, stores their keys and values, and makes `logits` the head's
    /// output at `rows.outputs`, `[outputs, V]`.
    pub fn forward(&mut self, ids: &[u32], rows: &Rows, logits: &mut Vec<f32>) -> Result<()> {
        rayon::scope(|_| self.forward_here(ids, rows, logits))
    }

    fn forward_here(&mut self, ids: &[u32], rows: &Rows, logits: &mut Vec<f32>) -> Result<()> {
        let (isa, shape, buffers) = (self.isa, self.shape, &mut self.buffers);
        let row_ids: Vec<u32> = rows.positions.iter().map(|&at| ids[at]).collect();
        let embedded = self.embed_tokens.forward(&row_ids, &Device::Cpu)?;
        buffers.residual = embedded
            .to_dtype(candle_core::DType::F32)?
            .flatten_all()?
            .to_vec1()?;
        self.rope.reserve(ids.len());

        let last = self.layers.len() - 1;
        for (number, layer) in self.layers.iter_mut().enumerate() {
            layer.attend(isa, shape, &self.rope, ids.len(), &rows.positions, buffers)?;
            if number == last {
                // Nothing behind this mixes positions: only rows that are asked for go on.
                buffers.keep(shape, rows.positions.len(), &rows.outputs);
            }
            layer.project(isa, shape, buffers)?;
            layer.feed_forward(isa, shape, buffers)?;
        }

        buffers.prepare_normed(isa, &self.norm, &self.lm_head);
        self.lm_head
            .multiply(isa, &buffers.input, &mut buffers.output)?;
        let count = buffers.output.rows();
        logits.resize(count * shape.vocab, 0.0);
        let each = share(count, 1);
        let parts = logits.par_chunks_mut(each * shape.vocab).enumerate();
        let product = buffers.output.values();
        parts.for_each(|(task, out)| copy_rows(product, count, shape.vocab, task * each, out));
        Ok(())
    }
}

impl Layer {
    fn load(
        config: &Config,
        shape: Shape,
        name: &str,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        let (d, f, e) = (shape.width, shape.inner, shape.head_dim);
        let (q, kv) = (shape.heads * e, shape.kv_heads * e);
        let attn = |proj: &str| format!("{name}.self_attn.{proj}");
        let mlp = |proj: &str| format!("{name}.mlp.{proj}");
        let input_layernorm = RmsNorm::load(config, &format!("{name}.input_layernorm"), loader)?;
        let qkv = vec![
            loader.linear_with_bias(&attn("q_proj"), q, d)?,
            loader.linear_with_bias(&attn("k_proj"), kv, d)?,
            loader.linear_with_bias(&attn("v_proj"), kv, d)?,
        ];
        let o = vec![loader.linear(&attn("o_proj"), d, q)?];
        let gate_up = vec![
            loader.linear(&mlp("gate_proj"), f, d)?,
            loader.linear(&mlp("up_proj"), f, d)?,
        ];
        let down = vec![loader.linear(&mlp("down_proj"), d, f)?];
        let norm = format!("{name}.post_attention_layernorm");
        Ok(Self {
            input_layernorm,
            qkv_proj: loader.built(&attn("q_proj.weight"), Product::new(qkv))?,
            o_proj: loader.built(&attn("o_proj.weight"), Product::new(o))?,
            post_attention_layernorm: RmsNorm::load(config, &norm, loader)?,
            gate_up_proj: loader.built(&mlp("gate_proj.weight"), Product::new(gate_up))?,
            down_proj: loader.built(&mlp("down_proj.weight"), Product::new(down))?,
            key_values: KeyValues::new(shape.kv_heads, e),
        })
    }

    /// Stores the rows' keys and values, and lets their queries attend to the positions `0..len`:
    /// `residual` to `attended`.
    fn attend(
        &mut self,
        isa: Isa,
        shape: Shape,
        rope: &Rope,
        len: usize,
        positions: &[usize],
        buffers: &mut Buffers,
    ) -> Result<()> {
        buffers.prepare_normed(isa, &self.input_layernorm, &self.qkv_proj);
        self.qkv_proj
            .multiply(isa, &buffers.input, &mut buffers.output)?;
        self.key_values.reserve(len);

        let (rows, e) = (positions.len(), shape.head_dim);
        let group = shape.group();
        buffers.queries.resize(shape.kv_heads * rows * group, 0.0);
        buffers.attended.resize(shape.kv_heads * rows * group, 0.0);
        let output = &buffers.output;
        let [q, k, v] = [0, 1, 2].map(|matrix| self.qkv_proj.first_column(matrix));
        let scale = (e as f32).powf(-0.5);
        let queries = buffers.queries.par_chunks_mut(rows * group);
        let heads = self.key_values.heads_mut().par_iter_mut();
        heads
            .zip(queries)
            .enumerate()
            .for_each(|(g, (head, queries))| {
                let mut scratch = vec![0.0; 2 * e];
                let (key, value) = scratch.split_at_mut(e);
                for ((row, &position), queries) in positions
                    .iter()
                    .enumerate()
                    .zip(queries.chunks_exact_mut(group))
                {
                    output.copy(row, k + g * e, key);
                    output.copy(row, v + g * e, value);
                    rope.rotate(position, 1.0, key);
                    head.set(position, key, value);
                    output.copy(row, q + g * group, queries);
                    for query in queries.chunks_exact_mut(e) {
                        rope.rotate(position, scale, query);
                    }
                }
            });

        // Enough rows that a tile of queries is full, and enough tasks for all threads.
        let each = share(rows * shape.kv_heads, 8).min(rows) * group;
        let heads = self.key_values.heads().par_iter();
        let queries = buffers.queries.par_chunks(rows * group);
        let attended = buffers.attended.par_chunks_mut(rows * group);
        heads
            .zip(queries)
            .zip(attended)
            .for_each(|((head, queries), attended)| {
                let tasks = queries.par_chunks(each).zip(attended.par_chunks_mut(each));
                tasks.for_each(|(queries, attended)| head.attend(isa, len, queries, attended));
            });
        Ok(())
    }

    /// `residual += o_proj(attended)`
    fn project(&self, isa: Isa, shape: Shape, buffers: &mut Buffers) -> Result<()> {
        let rows = buffers.rows(shape);
        let source = Attended {
            values: &buffers.attended,
            rows,
            group: shape.group(),
        };
        self.o_proj.prepare(isa, &mut buffers.input, rows, &source);
        self.o_proj
            .multiply(isa, &buffers.input, &mut buffers.output)?;
        buffers.add_output(shape);
        Ok(())
    }

    /// `residual += down_proj(silu(gate_proj(norm(residual))) · up_proj(norm(residual)))`
    fn feed_forward(&self, isa: Isa, shape: Shape, buffers: &mut Buffers) -> Result<()> {
        let rows = buffers.rows(shape);
        buffers.prepare_normed(isa, &self.post_attention_layernorm, &self.gate_up_proj);
        self.gate_up_proj
            .multiply(isa, &buffers.input, &mut buffers.output)?;
        let source = Gated {
            output: &buffers.output,
            up: self.gate_up_proj.first_column(1),
        };
        self.down_proj
            .prepare(isa, &mut buffers.input, rows, &source);
        self.down_proj
            .multiply(isa, &buffers.input, &mut buffers.output)?;
        buffers.add_output(shape);
        Ok(())
    }
}

/// The residual stream, normed.
struct Normed<'a> {
    residual: &'a [f32], // [R, D]
    scales: &'a [f32],   // [R]
    weight: &'a [f32],   // [D]
}

impl LazyRows for Normed<'_> {
    #[inline(always)]
    fn write(&self, row: usize, first: usize, values: &mut [f32]) {
        let xs = &self.residual[row * self.weight.len() + first..];
        for ((value, x), weight) in values.iter_mut().zip(xs).zip(&self.weight[first..]) {
            *value = x * self.scales[row] * weight;
        }
    }
}

/// What the heads attended to, side by side.
struct Attended<'a> {
    values: &'a [f32], // [G, R, group]
    rows: usize,
    group: usize, // H/G·E
}

impl LazyRows for Attended<'_> {
    #[inline(always)]
    fn write(&self, row: usize, first: usize, mut values: &mut [f32]) {
        let mut column = first;
        while !values.is_empty() {
            let (g, at) = (column / self.group, column % self.group);
            let count = (self.group - at).min(values.len());
            let (head, tail) = std::mem::take(&mut values).split_at_mut(count);
            let from = (g * self.rows + row) * self.group + at;
            head.copy_from_slice(&self.values[from..][..count]);
            (values, column) = (tail, column + count);
        }
    }
}

/// silu(gate) · up
struct Gated<'a> {
    output: &'a Output,
    up: usize, // first column of up
}

impl LazyRows for Gated<'_> {
    #[inline(always)]
    fn write(&self, row: usize, first: usize, values: &mut [f32]) {
        for (i, values) in values.chunks_mut(PANEL).enumerate() {
            let column = first + i * PANEL;
            let gate = self.output.panel(row, column);
            let up = self.output.panel(row, self.up + column);
            for ((value, gate), up) in values.iter_mut().zip(silu(*gate)).zip(up) {
                *value = gate * up;
            }
        }
    }
}

impl Shape {
    /// Numbers of the query heads that share a head of keys and values: H/G·E.
    fn group(self) -> usize {
        self.heads / self.kv_heads * self.head_dim
    }
}

impl Buffers {
    /// Rows of the residual stream.
    fn rows(&self, shape: Shape) -> usize {
        self.residual.len() / shape.width
    }

    /// Makes `norm(residual)` the input of a product.
    fn prepare_normed(&mut self, isa: Isa, norm: &RmsNorm, product: &Product) {
        let d = norm.weight.len();
        let (residual, scales) = (&self.residual, &mut self.scales);
        let rows = residual.len() / d;
        scales.resize(rows, 0.0);
        let each = share(rows, 8);
        let parts = scales
            .par_chunks_mut(each)
            .zip(residual.par_chunks(each * d));
        parts.for_each(|(scales, xs)| rms_scales(isa, xs, norm.eps, scales));
        let source = Normed {
            residual,
            scales: &self.scales,
            weight: &norm.weight,
        };
        product.prepare(isa, &mut self.input, rows, &source);
    }

    /// `residual += output`
    fn add_output(&mut self, shape: Shape) {
        let (d, output) = (shape.width, &self.output);
        let each = share(self.residual.len() / d, 4);
        let parts = self.residual.par_chunks_mut(each * d).enumerate();
        parts.for_each(|(task, part)| {
            for (row, xs) in part.chunks_exact_mut(d).enumerate() {
                for (panel, xs) in xs.chunks_mut(LANES).enumerate() {
                    let added = output.panel(task * each + row, panel * PANEL);
                    for (x, added) in xs.iter_mut().zip(added) {
                        *x += added;
                    }
                }
            }
        });
    }

    /// Goes on with these of `rows` rows, in this order.
    fn keep(&mut self, shape: Shape, rows: usize, kept: &[usize]) {
        let mut pick = |from: &mut Vec<f32>, width: usize| {
            self.spare.clear();
            for part in from.chunks_exact(rows * width) {
                for row in kept {
                    self.spare.extend(&part[row * width..][..width]);
                }
            }
            std::mem::swap(from, &mut self.spare);
        };
        pick(&mut self.residual, shape.width);
        pick(&mut self.attended, shape.group());
    }
}

impl RmsNorm {
    fn load(
        config: &Config,
        name: &str,
        loader: &mut Loader<'_>,
    ) -> std::result::Result<Self, WeightsError> {
        Ok(Self {
            weight: loader.vector(&format!("{name}.weight"), config.hidden_size)?,
            eps: config.rms_norm_eps as f32,
        })
    }
}

/// Rotary position embedding, the half-rotation kind (`rotate_half` in the reference).
struct Rope {
    inv_freq: Vec<f32>,     // [E / 2]
    cos_sin: Vec<[f32; 2]>, // [positions, E / 2]
}

impl Rope {
    fn new(config: &Config) -> Self {
        Self {
            inv_freq: super::inv_freq(config),
            cos_sin: Vec::new(),
        }
    }

    /// Makes the angles of the positions `0..len`, in float32 as the reference does.
    fn reserve(&mut self, len: usize) {
        for position in self.cos_sin.len() / self.inv_freq.len()..len {
            let angles = self.inv_freq.iter().map(|freq| position as f32 * freq);
            self.cos_sin
                .extend(angles.map(|angle| [angle.cos(), angle.sin()]));
        }
    }

    /// Rotates a head `[E]` and scales it.
    fn rotate(&self, position: usize, scale: f32, head: &mut [f32]) {
        let half = self.inv_freq.len();
        let (first, second) = head.split_at_mut(half);
        let angles = &self.cos_sin[position * half..][..half];
        for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(angles) {
            (*a, *b) = (scale * (*a * cos - *b * sin), scale * (*b * cos + *a * sin));
        }
    }
}
