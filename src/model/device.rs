//! Where the network runs.

use std::fmt;
use std::str::FromStr;

use candle_core::{Device, DeviceLocation};

use super::storage::{Storage, TooLarge};
use super::tensor::self_test::wrong_form;

/// A device asked for: `auto`, `cpu`, `cuda`, `cuda:1`, `metal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that this build supports and this machine has, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU by number.
    Cuda(usize),
    /// An Apple GPU.
    Metal,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            None if text == "metal" => Ok(Self::Metal),
            Some(("cuda", number)) => number
                .parse()
                .map(Self::Cuda)
                .map_err(|_| format!("`{number}` is not a GPU number")),
            _ => Err("expected auto, cpu, cuda, cuda:N or metal".into()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The cargo feature is off.
    #[error("this build of diffucoder has no {name} support")]
    NotCompiled {
        /// "CUDA" or "Metal".
        name: &'static str,
        /// Its cargo feature.
        feature: &'static str,
    },
    /// The feature is on, but the device does not answer.
    #[error("cannot use device {choice}")]
    Unavailable {
        /// The device asked for.
        choice: DeviceChoice,
        /// Why.
        #[source]
        source: Box<candle_core::Error>,
    },
    /// The weights are larger than the free memory.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The device answers, and what it computes is wrong.
    #[error("device {choice} computes wrong products with {form} weights")]
    Wrong {
        /// The device.
        choice: DeviceChoice,
        /// How the weights are held.
        form: String,
    },
}

impl DeviceChoice {
    /// Opens the device; with [`Self::Auto`] the CPU, and why, where a GPU that this build is for
    /// does not answer.
    ///
    /// # Errors
    /// When this build does not support it, or the machine does not have it.
    pub fn open(self) -> Result<(Device, Option<DeviceError>), DeviceError> {
        let not_compiled = |name, feature| Err(DeviceError::NotCompiled { name, feature });
        let opened = match self {
            Self::Auto if cfg!(feature = "cuda") => return Ok(else_cpu(Self::Cuda(0).open())),
            Self::Auto if cfg!(feature = "metal") => return Ok(else_cpu(Self::Metal.open())),
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
            Self::Metal if !cfg!(feature = "metal") => return not_compiled("Metal", "metal"),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => super::card::open(number),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => return not_compiled("CUDA", "cuda"),
            Self::Metal => Device::new_metal(0),
        };
        opened.map(|device| (device, None)).map_err(|source| {
            let source = Box::new(source);
            DeviceError::Unavailable {
                choice: self,
                source,
            }
        })
    }

    /// The choice that is this device.
    pub fn of(device: &Device) -> Self {
        match device.location() {
            DeviceLocation::Cpu => Self::Cpu,
            DeviceLocation::Cuda { gpu_id } => Self::Cuda(gpu_id),
            DeviceLocation::Metal { .. } => Self::Metal,
        }
    }
}

/// What was opened, or the CPU and why.
fn else_cpu(
    opened: Result<(Device, Option<DeviceError>), DeviceError>,
) -> (Device, Option<DeviceError>) {
    opened.unwrap_or_else(|error| (Device::Cpu, Some(error)))
}

/// That products with weights in this form come out right on `device`, which takes a moment there;
/// what the CPU computes is tested elsewhere.
///
/// # Errors
/// [`DeviceError::Wrong`], or [`DeviceError::Unavailable`] when the device fails.
pub(crate) fn check_products(device: &Device, storage: Storage) -> Result<(), DeviceError> {
    if device.is_cpu() {
        return Ok(());
    }
    let choice = DeviceChoice::of(device);
    match wrong_form(device, storage) {
        Ok(None) => Ok(()),
        Ok(Some(form)) => Err(DeviceError::Wrong { choice, form }),
        Err(source) => Err(DeviceError::Unavailable {
            choice,
            source: Box::new(source),
        }),
    }
}

/// What `device` is, for people: a card's name, compute capability and memory. Nothing of others.
pub fn description(device: &Device) -> Option<String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(card) => super::card::description(card),
        _ => None,
    }
}

/// Memory that this process can still take for weights on `device`, if that can be known.
pub fn free_memory_bytes(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(card) = device {
        return super::card::free_memory_bytes(card);
    }
    if !device.is_cpu() {
        return None;
    }
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    if system.total_memory() == 0 {
        return None; // it could not be read, and what follows would panic
    }
    // Files that are kept in memory count as used in a container, but make room when it is needed:
    // a model that was just read would not fit a second time.
    let container = system
        .cgroup_limits()
        .map(|limits| limits.total_memory.saturating_sub(limits.rss));
    let machine = system.available_memory();
    Some(container.map_or(machine, |container| container.min(machine))).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for name in ["gpu", "cuda:", "cuda:x", "cpu:1", ""] {
            assert!(name.parse::<DeviceChoice>().is_err(), "{name}");
        }
    }

    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    #[test]
    fn a_build_without_gpu_support_says_so() {
        for (choice, feature) in [
            (DeviceChoice::Cuda(0), "cuda"),
            (DeviceChoice::Metal, "metal"),
        ] {
            match choice.open().unwrap_err() {
                DeviceError::NotCompiled { feature: named, .. } => assert_eq!(named, feature),
                error => panic!("{error}"),
            }
        }
        let (device, fell_back) = DeviceChoice::Auto.open().unwrap();
        assert!(device.is_cpu() && fell_back.is_none());
    }

    #[test]
    fn a_gpu_that_does_not_answer_is_not_passed_over_in_silence() {
        let choice = DeviceChoice::Cuda(0);
        let source = Box::new(candle_core::Error::Msg("no driver".into()));
        let (device, fell_back) = else_cpu(Err(DeviceError::Unavailable { choice, source }));
        assert!(device.is_cpu());
        assert_eq!(fell_back.unwrap().to_string(), "cannot use device cuda:0");
    }
}
