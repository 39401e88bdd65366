//! Which settings follow from the model, the device and the mode.

use crate::diffusion::{
    Algorithm, Attention, Behind, Blocks, Decoding, Ending, FirstToken, Mode, Settings, Shaping,
    Steps,
};
use crate::model::Target;
use crate::package::Package;
use crate::tokenizer::TokenRole;

/// The settings for a model on a device: temperature and nucleus of its authors, everything else of
/// the mode, and seed 0. Fast-dLLM and d3LLM take the most probable tokens, of all, as evaluated
/// (`v1/dream/eval.py`): a call of `diffusion_generate` that says nothing of `top_k` cuts to 50,
/// which is transformers' default for every model. In holes that get longer and shorter every mode but the published
/// ones is [`Decoding::resizing`]: one token a forward, since two at once fill 87 % of single lines
/// instead of 92 %. A block-causal model has its authors' sampler in every mode: there is no
/// published figure on another.
pub(super) fn settings(
    mode: Mode,
    package: &Package,
    target: &Target,
    is_between: bool,
) -> Settings {
    let is_of_blocks = mode == Mode::Exact || package.config.attention != Attention::Full;
    if let Some(blocks) = package.config.family.blocks.filter(|_| is_of_blocks) {
        return Settings {
            isa: target.isa,
            ..of_blocks(blocks, package)
        };
    }
    let is_resizing = is_between && package.infilling.is_some();
    let is_for_llada = mode == Mode::FastDllm && !package.config.shift_logits;
    let decoding = match is_resizing && !mode.is_published() {
        true => Decoding::resizing(),
        false if is_for_llada => Decoding::fast_dllm_of_llada(),
        false => mode.decoding(!target.device.is_cpu()),
    };
    let shaping = match mode {
        Mode::FastDllm | Mode::D3llm => Shaping::temperature(0.0),
        _ => Shaping::nucleus(package.recipe.temperature as f32, package.recipe.top_p),
    };
    Settings {
        algorithm: decoding.usual_algorithm(),
        steps: Steps::OfTokens(if mode == Mode::FastDllm { 2 } else { 1 }),
        eps: 1e-3,
        shaping,
        alg_temp: None,
        seed: 0,
        ending: match mode.is_published() {
            true if mode != Mode::D3llm => Ending::FullCanvas,
            // What ends a text elsewhere is taken out here.
            false if is_resizing => Ending::AtStop(Vec::new()),
            _ => Ending::AtStop(package.stop_ids.clone()),
        },
        decoding,
        // Between texts the number of tokens is fixed and may be wrong, so that the first ones
        // revealed often do not fit the last. Published samplers look at no token twice.
        remask: match is_between && !is_resizing && !mode.is_published() {
            true => package.recipe.remask,
            false => 0,
        },
        deletes_rest: true,
        isa: target.isa,
    }
}

/// What the authors of a model do that fill blocks.
fn of_blocks(blocks: Blocks, package: &Package) -> Settings {
    let usual = Settings {
        steps: Steps::OfTokens(1),
        algorithm: Algorithm::MaskgitPlus,
        shaping: blocks.shaping(package.recipe.temperature as f32),
        ..Settings::reference(1)
    };
    let Attention::BlockCausal(size) = package.config.attention else {
        let decoding = Decoding {
            window: blocks.sub_block,
            order_temperature: blocks.order_temperature,
            blocks: Some(blocks),
            ..Decoding::default()
        };
        return Settings { decoding, ..usual };
    };
    let config_ids = &package.config.eos_token_ids;
    let of_tokenizer = package.tokenizer.special_id(TokenRole::Eos);
    let stop_ids = match of_tokenizer.filter(|_| blocks.is_padded) {
        Some(id) => vec![id], // dllm's configurations name another
        None if config_ids.is_empty() => package.stop_ids.clone(),
        None => config_ids.clone(),
    };
    Settings {
        ending: match blocks.behind_stop {
            Behind::Removed => Ending::InBlock(stop_ids),
            Behind::Kept | Behind::Repeated => Ending::AfterBlock(stop_ids),
        },
        decoding: Decoding {
            first_token: match package.config.shift_logits {
                true => FirstToken::Committed,
                false => FirstToken::Predicted,
            },
            ..Decoding::blocks(blocks, size)
        },
        ..usual
    }
}
