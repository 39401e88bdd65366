//! Which settings follow from the model, the device and the mode.

use crate::diffusion::{Ending, Mode, Settings, Shaping, Steps};
use crate::model::Target;
use crate::package::Package;

/// The settings for a model on a device: temperature and nucleus of its authors, everything else of
/// the mode, and seed 0. Fast-dLLM has its own: temperature 0, and the 50 most probable tokens, to
/// which transformers' `GenerationConfig` cuts where nobody says otherwise.
pub(super) fn settings(
    mode: Mode,
    package: &Package,
    target: &Target,
    is_between: bool,
) -> Settings {
    let decoding = mode.decoding(!target.device.is_cpu());
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
            (Steps::OfTokens(1), Shaping::nucleus(temperature, 0.95))
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
            false => Ending::AtStop(package.stop_ids.clone()),
        },
        decoding,
        remask: mode.remask(is_between),
        isa: target.isa,
    }
}
