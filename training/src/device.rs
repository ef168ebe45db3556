//! Which device computes: the one file that knows of CUDA.
//! It chooses and refuses; how fast a device is and how it computes is burn's business.

use std::fmt;
use std::str::FromStr;

/// The operator's choice, written `auto`, `cpu`, `cuda:N` or `cuda:N-M`, the last two perhaps with `,bf16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU where build and machine have one, else the processor.
    #[default]
    Auto,
    /// The processor, through burn's Flex backend. As many threads as `RAYON_NUM_THREADS` says, else one a core.
    Cpu,
    /// NVIDIA GPUs of this machine.
    Cuda(Gpus),
}

/// NVIDIA GPUs by their numbers, which share each batch, and how they multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpus {
    /// The first one's number.
    pub first: usize,
    /// The last one's, at least `first`.
    pub last: usize,
    /// The numbers that are multiplied.
    pub precision: Precision,
}

impl Gpus {
    /// One GPU, in f32.
    pub fn one(index: usize) -> Self {
        Self {
            first: index,
            last: index,
            precision: Precision::F32,
        }
    }
}

/// What numbers the matrix products of a model are made of. Parameters, gradients, norms, softmax and losses are f32 with
/// either. The CPU's fused operations know f32 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// Factors and products rounded to bf16, sums as the device makes them: in f32 on tensor cores.
    Bf16,
}

/// The most GPUs that share a batch.
pub const MOST_GPUS: usize = 16;

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(Gpus { first, last, precision }) => {
                write!(f, "cuda:{first}")?;
                if last > first {
                    write!(f, "-{last}")?;
                }
                match precision {
                    Precision::F32 => Ok(()),
                    Precision::Bf16 => f.write_str(",bf16"),
                }
            }
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let refuse = || DeviceError::Unknown(text.to_owned());
        let (gpus, precision) = match text.strip_suffix(",bf16") {
            Some(gpus) => (gpus, Precision::Bf16),
            None => (text, Precision::F32),
        };
        let (first, last) = match gpus {
            "auto" if precision == Precision::F32 => return Ok(Self::Auto),
            "cpu" if precision == Precision::F32 => return Ok(Self::Cpu),
            "cuda" => (0, 0),
            _ => {
                let numbers = gpus.strip_prefix("cuda:").ok_or_else(refuse)?;
                let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
                let number = |text: &str| text.parse::<usize>().map_err(|_| refuse());
                (number(first)?, number(last)?)
            }
        };
        match first <= last && last - first < MOST_GPUS {
            true => Ok(Self::Cuda(Gpus { first, last, precision })),
            false => Err(refuse()),
        }
    }
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not a device's name.
    #[error(
        "`{0}` is not a device: write `auto`, `cpu`, `cuda:N` or `cuda:N-M`, where N and M are GPUs' numbers, and `,bf16` after them for products in bf16"
    )]
    Unknown(String),
    /// The build knows no CUDA.
    #[error(
        "device {0} was asked for, but this build has no CUDA: build with `--features cuda`, or set the device to `cpu`"
    )]
    NoCudaInBuild(DeviceChoice),
    /// The machine has no such GPU.
    #[error("device {0} cannot be used on this machine ({1}): look at `nvidia-smi`, or set the device to `cpu`")]
    NoCudaOnMachine(DeviceChoice, String),
}

#[cfg(feature = "engine")]
impl DeviceChoice {
    /// What `auto` stands for on this machine, and a line for the operator where a GPU was hoped for in vain. Other choices
    /// stand for themselves, and are not tried out.
    pub fn resolved(self) -> (Self, Option<String>) {
        let gpu = Self::Cuda(Gpus::one(0));
        match self {
            Self::Auto if cfg!(feature = "cuda") => match gpu.open() {
                Ok(_) => (gpu, None),
                Err(error) => (Self::Cpu, Some(format!("computing on the processor: {error}"))),
            },
            Self::Auto => (Self::Cpu, None),
            chosen => (chosen, None),
        }
    }

    /// What numbers the products of a model are made of.
    pub fn precision(&self) -> Precision {
        match self {
            Self::Auto | Self::Cpu => Precision::F32,
            Self::Cuda(gpus) => gpus.precision,
        }
    }

    /// Burn's device, tried out where it is a GPU; of several the first.
    pub fn open(&self) -> Result<burn::tensor::Device, DeviceError> {
        match self {
            Self::Auto => self.resolved().0.open(),
            Self::Cpu => Ok(burn::tensor::Device::flex()),
            Self::Cuda(gpus) => self.open_cuda(gpus.first),
        }
    }

    /// All of Burn's devices that share a batch, tried out where they are GPUs.
    pub fn open_all(&self) -> Result<Vec<burn::tensor::Device>, DeviceError> {
        match self {
            Self::Cuda(gpus) => (gpus.first..=gpus.last).map(|index| self.open_cuda(index)).collect(),
            Self::Auto | Self::Cpu => Ok(vec![self.open()?]),
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn open_cuda(&self, _: usize) -> Result<burn::tensor::Device, DeviceError> {
        Err(DeviceError::NoCudaInBuild(*self))
    }

    /// A missing driver or GPU shows as a panic inside of CUDA's bindings; it is turned into an error here, once, before
    /// anything was computed.
    #[cfg(feature = "cuda")]
    fn open_cuda(&self, index: usize) -> Result<burn::tensor::Device, DeviceError> {
        let refuse = |reason: String| Err(DeviceError::NoCudaOnMachine(*self, reason));
        if cfg!(target_os = "linux") && !DRIVER_FILES.iter().any(|file| std::path::Path::new(file).exists()) {
            return refuse(format!("there is no {}: no NVIDIA driver is loaded", DRIVER_FILES[0]));
        }
        let probe = std::panic::catch_unwind(|| {
            let device = burn::tensor::Device::cuda(index);
            let sum = burn::tensor::Tensor::<1>::ones([8], &device).sum().into_scalar::<f32>();
            (device, sum)
        });
        match probe {
            Ok((device, sum)) if sum == 8.0 => Ok(device),
            Ok((_, sum)) => refuse(format!("on GPU {index}, 1 added eight times gave {sum}")),
            Err(_) => refuse(format!("the driver or GPU {index} did not answer")),
        }
    }
}

/// One of these is there where an NVIDIA driver is loaded: on Linux itself, and on Linux under Windows. Asked for first,
/// because CUDA's bindings answer a missing driver with a panic and its trace.
#[cfg(feature = "cuda")]
const DRIVER_FILES: [&str; 2] = ["/dev/nvidiactl", "/dev/dxg"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read_back_from_their_printed_form() {
        let two = Gpus {
            first: 1,
            last: 2,
            precision: Precision::Bf16,
        };
        let gpus = [Gpus::one(0), Gpus::one(3), two].map(DeviceChoice::Cuda);
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu].into_iter().chain(gpus) {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!(gpus[2].to_string(), "cuda:1-2,bf16");
        for text in [
            "gpu",
            "cuda:",
            "cuda:x",
            "CPU ",
            "",
            "cpu,bf16",
            "cuda:2-1",
            "cuda:0-16",
            "cuda:0,f8",
        ] {
            assert_eq!(text.parse::<DeviceChoice>(), Err(DeviceError::Unknown(text.to_owned())));
        }
    }

    #[cfg(all(feature = "engine", not(feature = "cuda")))]
    #[test]
    fn auto_is_the_processor_in_a_build_without_cuda() {
        assert_eq!(DeviceChoice::Auto.resolved(), (DeviceChoice::Cpu, None));
        assert!(DeviceChoice::Auto.open().is_ok());
    }

    #[cfg(all(feature = "engine", not(feature = "cuda")))]
    #[test]
    fn cuda_in_a_build_without_it_is_a_clear_error() {
        let error = DeviceChoice::Cuda(Gpus::one(0)).open().unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
