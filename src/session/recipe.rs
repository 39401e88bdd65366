//! Which settings follow from the model, the device and the mode.

use crate::diffusion::{Decoding, Ending, Mode, Settings, Shaping, Steps};
use crate::model::Target;
use crate::package::Package;

/// The settings for a model on a device: temperature and nucleus of its authors, everything else of
/// the mode, and seed 0. Fast-dLLM has its own: temperature 0, and the 50 most probable tokens, to
/// which transformers' `GenerationConfig` cuts where nobody says otherwise. In holes that get longer
/// and shorter every mode but the published ones is [`Decoding::resizing`]: one token a forward,
/// since two at once fill 87 % of single lines instead of 92 %.
pub(super) fn settings(
    mode: Mode,
    package: &Package,
    target: &Target,
    is_between: bool,
) -> Settings {
    let is_resizing = is_between && package.infilling.is_some();
    let decoding = match is_resizing && !mode.is_published() {
        true => Decoding::resizing(),
        false => mode.decoding(!target.device.is_cpu()),
    };
    let (steps, shaping) = match mode {
        Mode::FastDllm => (
            Steps::OfTokens(2),
            Shaping {
                top_k: Some(50),
                ..Shaping::temperature(0.0)
            },
        ),
        _ => {
            let temperature = package.recipe.temperature as f32;
            let top_p = if is_resizing { 0.9 } else { 0.95 };
            (Steps::OfTokens(1), Shaping::nucleus(temperature, top_p))
        }
    };
    Settings {
        algorithm: decoding.usual_algorithm(),
        steps,
        eps: 1e-3,
        shaping,
        alg_temp: None,
        seed: 0,
        ending: match mode.is_published() {
            true => Ending::FullCanvas,
            // What ends a text elsewhere is taken out here.
            false if is_resizing => Ending::AtStop(Vec::new()),
            false => Ending::AtStop(package.stop_ids.clone()),
        },
        decoding,
        remask: mode.remask(is_between && !is_resizing),
        deletes_rest: true,
        isa: target.isa,
    }
}
