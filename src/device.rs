//! Where the network runs and in which precision.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device};

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

/// A precision asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// What suits the device.
    Auto,
    /// A fixed type.
    Fixed(DType),
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::Fixed(DType::F32)),
            "bf16" => Ok(Self::Fixed(DType::BF16)),
            "f16" => Ok(Self::Fixed(DType::F16)),
            _ => Err("expected auto, f32, bf16 or f16".into()),
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
    #[error(
        "the weights need {needed_gb:.1} GB of memory as {dtype}, and {free_gb:.1} GB are free"
    )]
    TooLarge {
        /// 10^9 bytes the weights take.
        needed_gb: f64,
        /// 10^9 bytes free.
        free_gb: f64,
        /// Their type.
        dtype: &'static str,
    },
}

impl DeviceError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotCompiled { feature, .. } => Some(format!(
                "build with `cargo build --release --features {feature}`, or leave --device at auto"
            )),
            Self::Unavailable { .. } => Some("--device cpu always works".into()),
            Self::TooLarge { dtype: "f32", .. } => {
                Some("--dtype bf16 halves that; --model tiny needs almost nothing".into())
            }
            Self::TooLarge { .. } => Some("--model tiny needs almost nothing".into()),
        }
    }
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// When this build does not support it, or the machine does not have it.
    pub fn open(self) -> Result<Device, DeviceError> {
        let not_compiled = |name, feature| Err(DeviceError::NotCompiled { name, feature });
        let opened = match self {
            Self::Auto => return Ok(best_device()),
            Self::Cpu => return Ok(Device::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => return not_compiled("CUDA", "cuda"),
            Self::Metal if !cfg!(feature = "metal") => return not_compiled("Metal", "metal"),
            Self::Cuda(number) => Device::new_cuda(number),
            Self::Metal => Device::new_metal(0),
        };
        opened.map_err(|source| DeviceError::Unavailable {
            choice: self,
            source: Box::new(source),
        })
    }
}

/// The first GPU of this build that answers, else the CPU.
fn best_device() -> Device {
    let gpu = if cfg!(feature = "cuda") {
        Device::new_cuda(0).ok()
    } else if cfg!(feature = "metal") {
        Device::new_metal(0).ok()
    } else {
        None
    };
    gpu.unwrap_or(Device::Cpu)
}

impl Precision {
    /// The type to load `parameters` weights in on `device`, of which `free_bytes` are free if that
    /// is known.
    ///
    /// On a GPU that is bf16, the type the models were trained in: Qwen2.5's activations overflow
    /// f16. On the CPU it is f32, where arithmetic is fastest, or bf16 where f32 does not fit.
    ///
    /// # Errors
    /// [`DeviceError::TooLarge`] when the weights do not fit.
    pub fn resolve(
        self,
        device: &Device,
        parameters: usize,
        free_bytes: Option<u64>,
    ) -> Result<DType, DeviceError> {
        let needed = |dtype: DType| (parameters * dtype.size_in_bytes()) as u64;
        let fits = |dtype: DType| free_bytes.is_none_or(|free| needed(dtype) < free);
        let dtype = match self {
            Self::Fixed(dtype) => dtype,
            Self::Auto if device.is_cpu() && fits(DType::F32) => DType::F32,
            Self::Auto => DType::BF16,
        };
        if !fits(dtype) {
            return Err(DeviceError::TooLarge {
                needed_gb: needed(dtype) as f64 / 1e9,
                free_gb: free_bytes.unwrap_or_default() as f64 / 1e9,
                dtype: dtype.as_str(),
            });
        }
        Ok(dtype)
    }
}

/// Memory that this process can still take on `device`, if that can be known.
pub fn free_memory_bytes(device: &Device) -> Option<u64> {
    if !device.is_cpu() {
        return None;
    }
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let container = system.cgroup_limits().map(|limits| limits.free_memory);
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
            let error = choice.open().unwrap_err();
            assert!(
                error
                    .hint()
                    .unwrap()
                    .contains(&format!("--features {feature}")),
                "{error}"
            );
        }
        assert!(DeviceChoice::Auto.open().unwrap().is_cpu());
    }

    #[test]
    fn precision_follows_the_memory() {
        let seven_billion = 7_000_000_000;
        let auto = |free| {
            Precision::Auto
                .resolve(&Device::Cpu, seven_billion, free)
                .ok()
        };
        assert_eq!(auto(Some(64 << 30)), Some(DType::F32));
        assert_eq!(auto(None), Some(DType::F32));
        assert_eq!(auto(Some(20 << 30)), Some(DType::BF16));
        assert_eq!(auto(Some(8 << 30)), None);
        let f32 = Precision::Fixed(DType::F32);
        let error = f32
            .resolve(&Device::Cpu, seven_billion, Some(20 << 30))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the weights need 28.0 GB of memory as f32, and 21.5 GB are free"
        );
        assert!(error.hint().unwrap().contains("bf16"));
    }
}
