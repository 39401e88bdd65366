//! Which settings follow from the model, the device and the mode.

use crate::diffusion::{Decoding, Ending, Settings, Shaping, Steps};
use crate::model::Target;
use crate::package::Package;

/// How fast, and what it may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The published sampler, step for step: the whole canvas, to its end.
    Exact,
    /// Windows and thresholds, with everything computed anew for each window.
    Quality,
    /// Windows and thresholds, each token computed once with its final value.
    Fast,
}

impl Mode {
    /// All of them, in the order help texts list them.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Quality, Self::Fast];

    /// The name that flags and files have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Quality => "quality",
            Self::Fast => "fast",
        }
    }

    /// How the canvas is taken in parts.
    pub fn decoding(self, is_gpu: bool) -> Decoding {
        match self {
            Self::Exact => Decoding::default(),
            Self::Quality => Decoding::quality(),
            Self::Fast => Decoding::fast(usual_window(is_gpu)),
        }
    }

    /// How often each token is looked at again. Between texts the number of tokens is fixed and may
    /// be wrong, so that the first ones revealed often do not fit the last.
    pub fn remask(self, is_between: bool) -> usize {
        usize::from(is_between && self != Self::Exact)
    }

    /// The settings for a model on a device: temperature and nucleus of its authors, everything
    /// else of the mode, and seed 0.
    pub fn settings(self, package: &Package, target: &Target, is_between: bool) -> Settings {
        let decoding = self.decoding(!target.device.is_cpu());
        Settings {
            algorithm: decoding.usual_algorithm(),
            steps: Steps::OfTokens(1),
            eps: 1e-3,
            shaping: Shaping::nucleus(package.recipe.temperature as f32, 0.95),
            alg_temp: None,
            seed: 0,
            ending: match self {
                Self::Exact => Ending::FullCanvas,
                Self::Quality | Self::Fast => Ending::AtStop(package.stop_ids.clone()),
            },
            decoding,
            remask: self.remask(is_between),
            isa: target.isa,
        }
    }
}

/// Masks of a window where nobody says how many.
pub fn usual_window(is_gpu: bool) -> usize {
    match is_gpu {
        true => Decoding::GPU_WINDOW,
        false => Decoding::CPU_WINDOW,
    }
}
